"""The attribute task from its sweep to an exported model, whose bias is then measured and compared like any other's."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.front.export_record import ExportRecord
from sweeper.front.load import load_front
from sweeper.front.pick import pick
from sweeper.front.rendering.table import table
from sweeper.front.rendering.writer import write_front
from sweeper.models.export import export_point
from sweeper.models.model_card import model_card
from sweeper.records import Front, FrontPoint
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.finished_sweep import finished_sweep
from tests.helpers.output import assert_json_fits
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import untouched_policy
from trainables.evaluation.retrieved import Retrieved
from trainables.settings.attribute import AttributeSettings
from trainables.tasks.known import open_context

SPEC = """\
name: colour
task: attribute
model: {architecture: world, shear: 1.0}
sets: {world: {kind: world, train: 800, validation: 600, test: 400, templates: ["a photo of a {}"]}}
train: {set: world}
attribute: {name: colour, top: 10}
evaluate: {search: {sets: [world]}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
goals: {content_accuracy: {floor: untouched - 0.05}, max_skew_at_10: {ceiling: untouched}}
keep: {worst_group_accuracy: untouched - 0.5, attribute_accuracy: 0.4}
parameters:
  target: {choices: [flipped, equal]}
  objective: {when: {target: flipped}, choices: [cross_entropy]}
  tune: transform
  penalty: 0.01
  learning_rate: 0.02
points:
  - {target: equal}
  - {target: flipped, objective: cross_entropy}
search: {trials: 5}
training: {epochs: 6, global_batch_size: 256, warmup_share: 0.1}
"""
DATA = """\
sets: {world: {kind: world, test: 400, templates: ["a photo of a {}"]}}
attribute: {name: colour, top: 10}
"""

Finished = tuple[SweepFolder, Spec, Front]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, spec = finished_sweep(tmp_path_factory.mktemp("attribute"), SPEC)
    front = load_front(folder, spec, read_trials(folder, spec))
    assert front is not None
    return folder, spec, front


def members(front: Front) -> list[FrontPoint]:
    return [point for point in front.points if point.member]


def test_the_front_is_of_content_against_skew_and_keeps_what_must_be_kept(finished: Finished) -> None:
    _, _, front = finished
    untouched = next(point for point in front.points if point.trial is None)
    assert members(front)
    for point in members(front):
        assert point.validation["max_skew_at_10"] < untouched.validation["max_skew_at_10"]
        assert point.validation["attribute_accuracy"] >= 0.4, "reversed points are left out"
    reversed_points = [point for point in front.others if point.validation["attribute_accuracy"] < 0.05]
    assert reversed_points, "they are recorded all the same"
    skews = [point.validation["max_skew_at_10"] for point in members(front)]
    assert skews == sorted(skews, reverse=True), "from the most accurate to the least biased"
    assert front.reference_point[1] == untouched.validation["max_skew_at_10"]
    by_name = {point.name for point in front.points}
    assert {"untouched", "projection", "closed_form", "balanced"} & by_name >= {"untouched", "projection"}


def test_a_point_is_picked_by_a_rule_in_the_direction_of_its_goal(finished: Finished) -> None:
    _, _, front = finished
    least = pick(front, "min max_skew_at_10 where content_accuracy>=0.8")
    assert least.validation["max_skew_at_10"] <= min(point.validation["max_skew_at_10"] for point in members(front))
    with pytest.raises(UserError, match="max_skew_at_10 is minimized; write `min max_skew_at_10`"):
        pick(front, "max max_skew_at_10")


def test_table_and_files_speak_of_the_goals_of_the_task(finished: Finished, tmp_path: Path) -> None:
    folder, _, front = finished
    text = table(front, "table")
    assert "validation content" in text and "test skew (95 %)" in text and "equal" in text and "projection" in text
    assert "over (content" in text and "skew" in text.splitlines()[-1]
    write_front(front, tmp_path, folder.retrieved_path)
    for name in ("curves.png", "concept.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert (tmp_path / "front.html").read_text().count("<img alt=") == 2
    assert "MaxSkew among the best 10 retrievals" in (tmp_path / "front.html").read_text()
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_an_exported_point_has_the_bias_that_the_sweep_measured(finished: Finished, tmp_path: Path) -> None:
    folder, spec, front = finished
    chosen = next(point for point in members(front) if point.values is not None and point.strength != 0.5)
    export_point(folder, spec, front, chosen, tmp_path / "model")
    (tmp_path / "data.yaml").write_text(DATA)
    done = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "model"), "--data", str(tmp_path / "data.yaml"), "--format", "json"]
    )
    assert done.exit_code == 0, done.output
    measured = {row["metric"]: row for row in assert_json_fits("evaluate, attribute", done.stdout)}
    assert chosen.values is not None
    for metric in ("content_accuracy", "attribute_accuracy", "max_skew_at_10", "ndkl_at_10"):
        assert measured[metric]["value"] == pytest.approx(chosen.values[metric], abs=0.01), metric
    skew = measured["max_skew_at_10"]
    assert skew["low"] <= skew["value"] <= skew["high"] and measured["ndkl_at_10"]["low"] is None
    card = (tmp_path / "model" / "README.md").read_text()
    assert "whose notion of colour was changed" in card and "arXiv 2509.07596" in card
    assert "| max_skew_at_10 |" in card


def test_names_are_text_in_a_model_card_and_its_code(finished: Finished, tmp_path: Path) -> None:
    folder, spec, front = finished
    export_point(folder, spec, front, members(front)[0], tmp_path / "model")
    assert isinstance(spec, AttributeSettings)
    evil, path = "</b><img src=x onerror=alert(1)> | [x](javascript:y)\n# z", 'a"\n```\nimport nothing #'
    attribute = spec.attribute.model_copy(update={"name": evil})
    model = spec.model.model_copy(update={"architecture": evil})
    named = spec.model_copy(update={"attribute": attribute, "model": model})
    card = model_card(ExportRecord.read(tmp_path / "model"), named, path, None)
    assert "<img" not in card and "\n# z" not in card and "\\[x\\](javascript" in card
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    written = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert path in [node.value for node in written]


def test_two_models_are_compared_on_the_same_images(finished: Finished, tmp_path: Path) -> None:
    folder, spec, front = finished
    chosen = min(members(front), key=lambda point: point.validation["max_skew_at_10"])
    export_point(folder, spec, front, chosen, tmp_path / "model")
    (tmp_path / "data.yaml").write_text(DATA)
    model, data = str(tmp_path / "model"), str(tmp_path / "data.yaml")
    done = CliRunner().invoke(app, ["compare", "world", model, "--data", data, "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = {(row["view"], row["measure"]): row for row in assert_json_fits("compare", done.stdout)}
    assert set(rows) == {("clean", "accuracy"), ("attribute", "accuracy"), ("retrieval", "max_skew_at_10")}
    skew = rows["retrieval", "max_skew_at_10"]
    assert skew["difference"] == pytest.approx(skew["second"] - skew["first"])
    assert skew["low"] <= skew["difference"] <= skew["high"]
    alike = CliRunner().invoke(app, ["compare", model, model, "--data", data, "--format", "json"])
    same = {(row["view"], row["measure"]): row for row in json.loads(alike.stdout)}["retrieval", "max_skew_at_10"]
    assert (same["difference"], same["low"], same["high"]) == (0.0, 0.0, 0.0)


def test_the_untouched_model_is_measured_alike_by_a_sweep_and_by_evaluate(finished: Finished, tmp_path: Path) -> None:
    _, spec, front = finished
    settings = spec.task_settings()
    plain = settings.model_copy(update={"model": settings.model.model_copy(update={"shear": None})})
    context = open_context(plain, data_seed=0, cache=tmp_path / "cache", device=torch.device("cpu"))
    values = context.measures.test(context, untouched_policy(context), WorkerGroup(), variants=True).values
    (tmp_path / "data.yaml").write_text(DATA)
    done = CliRunner().invoke(app, ["evaluate", "world", "--data", str(tmp_path / "data.yaml"), "--format", "json"])
    measured = {row["metric"]: row["value"] for row in json.loads(done.stdout)}
    assert set(measured) == set(values) - {"reference_kl"}
    assert np.allclose([measured[metric] for metric in measured], [values[metric] for metric in measured], atol=1e-3)


def test_sets_without_the_attribute_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(
        DATA.replace("kind: world", "kind: image_folder").replace("test: 400", "test: x")
    )
    done = CliRunner().invoke(app, ["evaluate", "world", "--data", str(tmp_path / "data.yaml")])
    assert isinstance(done.exception, UserError)


def test_what_is_drawn_of_a_point(finished: Finished) -> None:
    folder, _, front = finished
    untouched = next(point for point in front.points if point.trial is None)
    projected = next(point for point in front.points if point.parameters.get("start") == "projection")
    before, after = (Retrieved.read(folder.retrieved_path(point.point_name)) for point in (untouched, projected))
    assert before.images.shape == (4, 12, 48, 48, 3) and before.value_names == ("red", "blue")
    assert before.queries[0] == "a photo of a star"
    assert np.allclose(before.singular_values, 1, atol=1e-5), "the untouched model is W = I"
    assert before.concept_shares.sum() == pytest.approx(1, abs=1e-4)
    assert after.singular_values[-1] < 1e-3 < 0.99 < after.singular_values[-2], "one direction is gone"
    assert after.concept_shares[-1] > 0.5, "and it is the concept's"
