"""The second look of real trials, without Ray: what is measured, once, and what the sweep's folder says of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sweeper.front.confirm import plan
from sweeper.front.load import load_front
from sweeper.front.rendering.table import summary
from sweeper.front.second_look import UNTOUCHED, pooled
from sweeper.jobs import Job, Outcome, SecondLookJob
from sweeper.models.export import export_point
from sweeper.preflight.check import check_model_and_images
from sweeper.records import Front, Retraining, TrialRecord
from sweeper.run.measurements import Measurements
from sweeper.run.signals import SessionInterrupted
from sweeper.search.scheduler import NoLimits
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.finished_sweep import SPEC, InProcessSlots, begun_sweep, measurements_of, search
from tests.helpers.tiny import write_clip
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import untouched_policy
from trainables.records import SecondLook
from trainables.tasks.known import open_context

LOOKED = (
    SPEC.replace("validation: 60", "validation: 150")
    .replace("search: {sets: [world]}", "search: {sets: [world], images: 60}, second_look: {margin: 0.05, images: 70}")
    .replace("trials: 2", "trials: 4")
)

ATTRIBUTE = """\
task: attribute
model: {architecture: world, shear: 1.0}
sets: {world: {kind: world, train: 200, validation: 300, test: 100, templates: ["a photo of a {}"]}}
train: {set: world}
attribute: {name: colour, prompts: ["a photo of a {value} {content}"], top: 10}
baselines: [projection]
evaluate: {search: {sets: [world], images: 120}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
parameters: {objective: dpo, beta_m0: 1.0, tune: transform, learning_rate: 0.01}
search: {trials: 2}
training: {epochs: 2, global_batch_size: 64}
"""


def read(folder: SweepFolder, spec: Spec) -> Front:
    front = load_front(folder, spec, read_trials(folder, spec))
    assert front is not None
    return front


def looked_at(slots: InProcessSlots) -> list[Job]:
    return [job for job in slots.jobs if isinstance(job, SecondLookJob)]


def lines(folder: SweepFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder.path / "second_look.jsonl").read_text().splitlines()]


def test_points_near_the_front_are_measured_once_on_images_that_the_search_did_not_see(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, LOOKED)
    untouched = folder.untouched()
    assert untouched is not None
    assert (untouched.validation_images, untouched.unseen_images) == ([60], [70]), "at most 70 of the other 90"
    trials = search(folder, spec, slots)
    by_search = read(folder, spec)
    assert by_search.second_look is None and all(point.images == 60 for point in by_search.points)
    told = io.StringIO()
    measurements_of(folder, spec, slots, told).second_look(trials, spec)
    after = read(folder, spec)
    looked = after.second_look
    assert looked is not None and looked.images == 70
    assert looked.points == len(looked_at(slots)) - 1, "and the untouched model"
    assert f"second look: {looked.points} points on 70 further validation images" in told.getvalue()
    members = sum(point.member for point in after.points)
    new = f"{looked.new} of {members} members {'is' if looked.new == 1 else 'are'} new"
    assert f"second look: {new}\n" in told.getvalue() and summary(after).endswith(new)
    *of_points, end = lines(folder)
    assert end == {"complete_trials": 4}
    assert all(line["images"] == [70] for line in of_points)
    assert len({(line["trial"], line["weights"], line["strength"]) for line in of_points}) == len(of_points)
    recorded = folder.second_looks().points
    shown = [point for point in (*after.points, *after.others) if point.point_name in recorded]
    assert len(shown) == len(recorded) and all(point.images == 130 for point in shown)
    of_search = {
        (trial.number, point.weights, point.strength): point.values for trial in trials for point in trial.points
    } | {UNTOUCHED: untouched.goals}
    for point in shown:
        name = point.point_name
        assert point.validation == pytest.approx(pooled(of_search[name], [60], recorded[name]))
    assert all(point.point_name in recorded for point in after.points if point.member)

    measurements_of(folder, spec, slots).second_look(trials, spec)
    assert len(looked_at(slots)) == len(of_points), "nothing is measured twice"
    assert lines(folder) == [*of_points, end]

    chosen = next(point for point in after.points if point.member)
    measurements_of(folder, spec, slots).on_test({UNTOUCHED: {}, chosen.point_name: chosen.parameters}, variants=False)
    export_point(folder, spec, read(folder, spec), chosen, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "sweeper.json").read_text())
    assert record["validation"] == chosen.validation


def test_both_measurements_are_that_of_all_validation_images(tmp_path: Path) -> None:
    """Without a cap the search sees 150 images; with one they are 60 of the search and 90 of the second look."""
    keep = "keep: {sign_reading: 0.0, reference_kl: 9.0, robust_accuracy/unseen_font: 0.0, world/clean_accuracy: 0.0}\n"
    text = LOOKED.replace("images: 70", "images: 4000").replace('"local-dir:clip"', "world") + keep
    whole = text.replace("search: {sets: [world], images: 60}", "search: {sets: [world]}")
    measured = []
    for name, of_text in (("parts", text), ("whole", whole)):
        (tmp_path / f"{name}.yaml").write_text(of_text)
        task = load_spec(tmp_path / f"{name}.yaml").task_settings()
        context = open_context(task, data_seed=3, cache=tmp_path / "cache", device=torch.device("cpu"))
        policy, group, measures = untouched_policy(context), WorkerGroup(device=context.device), context.measures
        values = measures.validation(context, policy, group).values | measures.kept(context, policy, group)
        counts = context.data.validation_images(), context.data.unseen_images()
        if name == "whole":
            assert counts == ([150], [0])
        else:
            assert counts == ([60], [90])
            looked = measures.second_look(context, policy, group)
            assert looked.keys() == values.keys()
            values = pooled(values, [60], SecondLook(values=looked, images=[90]))
        measured.append(values)
    parts, all_images = measured
    of_every_image = ("clean_accuracy", "robust_accuracy", "world/clean_accuracy", "robust_accuracy/unseen_font")
    assert {name: parts[name] for name in of_every_image} == pytest.approx(
        {name: all_images[name] for name in of_every_image}
    )
    assert parts["reference_kl"] == pytest.approx(all_images["reference_kl"], abs=1e-9)


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_second_look_that_was_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, LOOKED)
    trials, by_search = search(folder, spec, slots), read(folder, spec)

    class DyingFolder(SweepFolder):
        def append_second_look(self, point: tuple, looked: SecondLook) -> None:  # type: ignore[type-arg]
            if len(self.second_looks().points) == 2:
                raise Killed
            super().append_second_look(point, looked)

    with pytest.raises(Killed):
        measurements_of(DyingFolder(folder.storage, folder.name), spec, slots).second_look(trials, spec)
    assert len(folder.second_looks().points) == 2
    assert read(folder, spec) == by_search, "no mixture of both"
    again = InProcessSlots(folder, spec)
    measurements_of(folder, spec, again).second_look(trials, spec)
    assert len(looked_at(again)) == len(looked_at(slots)) - 2
    assert read(folder, spec).second_look is not None


def test_an_interrupted_measurement_ends_the_session(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, LOOKED)
    trials = search(folder, spec, slots)

    class InterruptedSlots(InProcessSlots):
        def submit(self, job: Job):  # type: ignore[no-untyped-def]
            future = super().submit(job)
            future._result = Outcome(kind="interrupted")
            return future

    with pytest.raises(SessionInterrupted):
        measurements_of(folder, spec, InterruptedSlots(folder, spec)).second_look(trials, spec)
    assert not folder.second_looks().points


def test_further_trials_have_a_further_second_look_of_what_is_missing(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, LOOKED)
    more = spec.with_trials(6)
    trials = search(folder, spec, slots)
    measurements_of(folder, spec, slots).second_look(trials, spec)
    first = folder.second_looks().points
    trials = search(folder, more, slots)
    assert len(trials) == 6
    assert read(folder, more).second_look is None, "the new points have been seen by the search alone"
    measurements_of(folder, more, slots).second_look(trials, more)
    second = folder.second_looks().points
    assert all(second[name] == looked for name, looked in first.items())
    assert len(looked_at(slots)) == len(second), "each once"
    front = read(folder, more)
    assert front.second_look is not None and front.second_look.points == len(second) - 1
    assert [line for line in lines(folder) if "complete_trials" in line] == [
        {"complete_trials": 4}, {"complete_trials": 6},
    ]  # fmt: skip


class LookThenConfirm(NoLimits):
    """The control of a sweep without limits that has a confirm phase of one member."""

    def __init__(self, folder: SweepFolder, spec: Spec, measurements: Measurements) -> None:
        self._folder, self._spec, self._measurements = folder, spec, measurements
        self.asked = 0

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining] | None:
        self.asked += 1
        if not self._measurements.look_again(trials, self._spec):
            return None
        front, confirm = read(self._folder, self._spec), self._spec.confirm
        assert front.second_look is not None and confirm is not None
        return plan(front, trials, confirm, seed=0, most=2).missing


def test_members_that_are_trained_again_were_looked_at_and_so_are_their_retrainings(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, LOOKED + "confirm: {members: 1, seeds: 2, share: 0.4}\n")
    measurements = measurements_of(folder, spec, slots)
    control = LookThenConfirm(folder, spec, measurements)
    trials = search(folder, spec, slots, control)
    assert control.asked > 1, "the confirm phase waits for the second look"
    retrainings = [trial for trial in trials if trial.confirms is not None]
    assert len(retrainings) == 2
    front = read(folder, spec)
    before = folder.second_looks().points.keys()
    measurements.confirm(front, trials, spec)
    after = read(folder, spec)
    assert after.second_look == front.second_look, "retrainings are no points of the front"
    looks, confirmed = folder.second_looks().points, [point for point in after.points if point.confirmation]
    assert {number for number, _, _ in looks.keys() - before} == {trial.number for trial in retrainings}
    for point in confirmed:
        of_seeds = [
            pooled(of_trial.values, [60], looks[trial.number, of_trial.weights, of_trial.strength])
            for trial in retrainings
            for of_trial in trial.points
            if (of_trial.weights, of_trial.strength) == (point.weights, point.strength)
        ]
        assert point.confirmation is not None and point.confirmation.validation is not None
        for goal, value in point.confirmation.validation.items():
            assert value == pytest.approx(sum(values[goal] for values in of_seeds) / 2)
    count = len(looked_at(slots))
    measurements.confirm(front, trials, spec)
    assert len(looked_at(slots)) == count == len(looks)


@pytest.mark.parametrize("without", ["images: 150}", "images: 60}, second_look: null"])
def test_without_further_images_there_is_none(tmp_path: Path, without: str) -> None:
    text = LOOKED.replace("images: 60}, second_look: {margin: 0.05, images: 70}", without)
    assert text != LOOKED
    folder, spec, slots = begun_sweep(tmp_path, text)
    untouched = folder.untouched()
    assert untouched is not None and untouched.unseen_images == [0]
    trials = search(folder, spec, slots)
    measurements_of(folder, spec, slots).second_look(trials, spec)
    assert not looked_at(slots) and not (folder.path / "second_look.jsonl").exists()
    assert read(folder, spec).second_look is None


def test_check_says_what_the_choice_will_rest_on(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", "vit")
    (tmp_path / "demo.yaml").write_text(LOOKED)

    def told(*changes: str) -> str:
        lines: list[str] = []
        check_model_and_images(load_spec(tmp_path / "demo.yaml", ["model.allow_chance=true", *changes]), lines.append)
        return "\n".join(lines)

    assert "second look: 70 further validation images" in told()
    assert "130 validation images with those of the second look: more than 72 % of what the search" in told()
    without = told("evaluate.search.images=150")
    assert "no second look: the search sees all 150 validation images of world; for one, have more" in without
    assert "150 validation images and no second look: more than 72 % of what the search gains late" in without
    assert "no second look: evaluate.second_look is null" in told("evaluate.second_look=null")


def test_a_sweep_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, LOOKED)
    record = json.loads((folder.path / "untouched.json").read_text())
    del record["unseen_images"]
    folder.write_json("untouched.json", record)
    resolved = json.loads((folder.path / "spec.resolved.json").read_text())
    del resolved["evaluate"]["second_look"]
    assert Spec.from_resolved(resolved).evaluate.second_look is not None
    measurements_of(folder, spec, slots).second_look(search(folder, spec, slots), spec)
    assert not looked_at(slots) and read(folder, spec).second_look is None


def test_an_attribute_is_looked_at_again(tmp_path: Path) -> None:
    folder, spec, slots = begun_sweep(tmp_path, ATTRIBUTE)
    trials = search(folder, spec, slots)
    measurements_of(folder, spec, slots).second_look(trials, spec)
    untouched, recorded = folder.untouched(), folder.second_looks().points
    assert untouched is not None and untouched.unseen_images == [180]
    assert recorded[UNTOUCHED].values.keys() == untouched.goals.keys()
    front = read(folder, spec)
    assert front.second_look is not None and front.second_look.points > 0
    shown = next(point for point in front.points if point.trial is None)
    assert shown.images == 300
    assert shown.validation == pytest.approx(pooled(untouched.goals, [120], recorded[UNTOUCHED]))
