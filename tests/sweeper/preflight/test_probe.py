"""What is probed of a sweep, and what is made of the measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.preflight.probe import (
    Scope,
    cost_lines,
    epochs_of,
    most_look_s,
    scopes,
    stopped_cost_s,
    trial_cost,
)
from sweeper.search.sampler import Suggester
from sweeper.spec.quantities import parse_price
from sweeper.spec.spec import Spec, load_spec
from tests.helpers.finished_sweep import SPEC
from tests.helpers.pretended_search import make_spec
from tests.helpers.tiny import write_clip
from trainables.records import TrialTiming
from trainables.settings.parameters import Parameters
from trainables.tasks.known import open_context
from trainables.training.timing import probe_trial

SEARCHED = """\
sets:
  world: {kind: world, train: 64, validation: 60, test: 40}
train: {set: world, copies: 4}
attack: {recipe: sign}
evaluate: {search: {sets: [world]}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
parameters:
  objective: {choices: [dpo, cross_entropy, kto]}
  beta: {when: {objective: [dpo, kto]}, low: 0.1, high: 2.0}
  tune: {choices: [transform, last_blocks]}
  rank: {when: {tune: transform}, low: 4, high: 32}
  blocks: {when: {tune: last_blocks}, choices: [1, 2]}
  copies: {choices: [1, 2, 3]}
  learning_rate:
    - {when: {tune: transform}, low: 1.0e-3, high: 1.0e-1, log: true}
    - {when: {tune: last_blocks}, low: 1.0e-6, high: 1.0e-4, log: true}
search: {trials: 11}
training: {epochs: 3}
"""


def searched(folder: Path, *changes: str) -> Spec:
    (folder / "demo.yaml").write_text(SEARCHED)
    return load_spec(folder / "demo.yaml", changes)


def test_each_scope_is_probed_at_its_costliest_corner_and_weighs_what_it_will(tmp_path: Path) -> None:
    transform, last_blocks, visual = scopes(searched(tmp_path))
    assert transform.parameters == {
        "objective": "kto", "beta": 0.1, "tune": "transform", "rank": 32, "copies": 3, "learning_rate": 1e-3,
    }  # fmt: skip
    assert last_blocks.parameters["blocks"] == 2 and last_blocks.parameters["learning_rate"] == 1e-6
    assert visual.parameters["objective"] == "cross_entropy", "PAINT's, which the space does not hold"
    assert [scope.share for scope in (transform, last_blocks, visual)] == pytest.approx([5 / 11, 5 / 11, 1 / 11])
    assert [scope.pairs_share for scope in (transform, last_blocks, visual)] == pytest.approx([2 / 3, 2 / 3, 1])


def timed(steps: int) -> TrialTiming:
    """Two seconds a step, five an evaluation."""
    return TrialTiming(
        steps=steps,
        images_per_step=32.0,
        step_s=2.0,
        evaluation_s=5.0,
        micro_batch_size=None,
        peak_bytes=1,
        total_bytes=2,
    )


def test_a_second_look_costs_at_most_an_evaluation_of_every_point_on_its_images(tmp_path: Path) -> None:
    spec = searched(tmp_path)
    transform, last_blocks, visual = scopes(spec)
    none = [(scope, timed(steps=10)) for scope in (transform, last_blocks, visual)]
    assert most_look_s(spec, none, slots=2) == 0.0
    looked = [(scope, replace(timing, unseen_share=2.0)) for scope, timing in none]
    points = 1 + 11 * 3  # the untouched model; strengths 0.5 and 1.0, and averaged, of 11 trials
    assert most_look_s(spec, looked, slots=2) == pytest.approx(points / 2 * 2.0 * 5.0)


def test_what_a_trial_costs_with_and_without_stopping(tmp_path: Path) -> None:
    scope = Scope(tune="visual", share=1.0, parameters={}, pairs_share=0.5)
    timing = timed(steps=100)
    plain = trial_cost(searched(tmp_path), scope, timing)
    assert (plain.train_s, plain.evaluation_s) == (100.0, 5.0 * (3 + 2))  # epochs; strength 0.5 and averaged
    assert stopped_cost_s(searched(tmp_path), plain) == 125.0
    stopped = searched(tmp_path, "stopping.kind=moasha")
    cost = trial_cost(stopped, scope, timing)
    assert cost.evaluation_s == 5.0 * (3 + 2 + 2)
    share = 1 / 9 + (2 / 9) / 2 + (2 / 3) / 4
    assert stopped_cost_s(stopped, cost) == pytest.approx(share * (100.0 + 25.0) + 10.0 / 4)


@pytest.mark.parametrize(
    ("epochs", "least", "mean", "most"),
    [
        ("{choices: [1, 3, 9]}", 1, 13 / 3, 9),
        ("{low: 2, high: 10}", 2, 6.0, 10),
        ("[{when: {tune: transform}, choices: [1, 2]}, {when: {tune: last_blocks}, value: 8}]", 1, 1.5, 2),
        ("{value: 7, when: {tune: transform}}", 7, 7.0, 7),
        ("{value: 7, when: {tune: last_blocks}}", 3, 3.0, 3),
    ],
)
def test_epochs_are_probed_at_their_most_and_forecast_at_their_mean(
    tmp_path: Path, epochs: str, least: int, mean: float, most: int
) -> None:
    spec = searched(tmp_path, f"parameters.epochs={epochs}", "stopping.kind=moasha")
    transform, _, visual = scopes(spec)
    assert transform.parameters.get("epochs", 3) == most
    drawn = epochs_of(spec, transform)
    assert (drawn.least, drawn.mean, drawn.most) == (least, pytest.approx(mean), most)
    assert epochs_of(spec, visual).mean == 3, "PAINT has the epochs of the spec"
    cost = trial_cost(spec, transform, timed(steps=4 * most))
    assert cost.train_s == pytest.approx(4 * mean * 2.0 * 2 / 3)  # two thirds of the pairs
    assert cost.evaluation_s == pytest.approx((mean + 2 + 2) * 5.0)
    shortest, longest = (trial_cost(spec, transform, timed(steps=4 * most), number) for number in (least, most))
    assert longest.train_s / shortest.train_s == pytest.approx(most / least)
    assert shortest.evaluation_s == (least + 2 + 2) * 5.0
    share = 1 / 9 + (2 / 9) / 2 + (2 / 3) / 4
    assert stopped_cost_s(spec, cost) == pytest.approx(share * (cost.train_s + (mean + 2) * 5.0) + 10.0 / 4)


def test_the_mean_of_a_logarithmic_range_is_that_of_what_is_drawn_at_random(tmp_path: Path) -> None:
    spec = searched(tmp_path, "parameters.epochs={low: 1, high: 27, log: true}")
    suggester = Suggester(spec.parameters, directions=["maximize"] * 2, sampler="random", startup_trials=1)
    drawn = [int(suggester.suggest(seed).parameters["epochs"]) for seed in range(1000)]
    assert epochs_of(spec, scopes(spec)[0]).mean == pytest.approx(sum(drawn) / len(drawn), rel=0.1)


def out_of_memory_above_20_images(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    if torch.is_grad_enabled() and len(inputs[0]) > 20:
        raise torch.OutOfMemoryError("pretended")


@pytest.mark.parametrize("scope", [{"tune": "transform", "rank": 12, "epochs": 1000}, {"tune": "visual"}])
def test_a_probed_trial_is_timed_and_the_model_is_left_as_it_was(tmp_path: Path, scope: dict[str, Any]) -> None:
    write_clip(tmp_path / "clip", "vit")
    (tmp_path / "demo.yaml").write_text(SPEC)
    spec = load_spec(
        tmp_path / "demo.yaml",
        [f"training.epochs={1 if 'epochs' in scope else 1000}", "sets.world.train=32", "sets.world.validation=40"],
    )
    context = open_context(spec.task_settings(), data_seed=0, cache=tmp_path / "cache", device=torch.device("cpu"))
    before = {name: value.clone() for name, value in context.clip.model.state_dict().items()}
    parameters = Parameters(objective="dpo", beta=0.5, learning_rate=1e-3, **scope)
    if parameters.tune == "visual":
        small = context.clip.model.visual.ln_post.register_forward_pre_hook(out_of_memory_above_20_images)
    timing = probe_trial(context, parameters, seconds=0.1, folder=tmp_path / "scratch")
    if parameters.tune == "visual":
        small.remove()
        assert timing.micro_batch_size == 8
    pairs = len(context.data.pairs.attacked.labels)
    assert timing.steps == 1000 * -(-pairs // 16)
    assert timing.images_per_step == pytest.approx(2 * pairs / -(-pairs // 16))
    assert timing.step_s > 0 and timing.evaluation_s > 0
    assert 0 < timing.peak_bytes < timing.total_bytes
    assert all(torch.equal(value, before[name]) for name, value in context.clip.model.state_dict().items())


def test_the_forecast_in_money_fits_a_terminal() -> None:
    spec = make_spec(until="noise_floor")
    assert cost_lines(spec, 120.0, 60.0, "gpu-h", parse_price("2.5EUR")) == [
        "  cost: about 300.00 EUR, at 2.50 EUR per gpu-h",
        "  saved by stopping: about 60 gpu-h (150.00 EUR)",
        "  less if the search ends at its noise floor before the last trial",
    ]
    assert cost_lines(make_spec(), 120.0, 0.0, "gpu-h", None) == []
