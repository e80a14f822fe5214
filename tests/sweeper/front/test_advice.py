from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.front.advice import advice
from sweeper.records import TrialRecord
from sweeper.spec.spec import Spec, load_spec
from tests.helpers.fronts import front_of_trials
from tests.helpers.reports import make_untouched
from trainables.records import Point

SPEC = """\
sets: {world: {kind: world}}
train: {set: world}
evaluate: {search: {sets: [world]}, test: {sets: [world]}}
goals: {clean_accuracy: {floor: untouched - 0.1}}
paint: null
points: []
parameters:
  objective: cross_entropy
  lambda_reg: {low: 0.1, high: 10.0, log: true}
  weight_decay: {low: 0.0, high: 1.0}
  tune: {choices: [transform, visual]}
  learning_rate:
    - {when: {tune: transform}, low: 1e-3, high: 1e-1, log: true}
    - {when: {tune: visual}, low: 1e-5, high: 1e-3, log: true}
"""
UNTOUCHED = make_untouched(pairs=1280, embed_dim=64, image_parameters=1_330_000)


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return load_spec(tmp_path / "spec.yaml")


def trial(number: int, clean: float, robust: float, **changes: Any) -> TrialRecord:
    parameters = {"objective": "cross_entropy", "lambda_reg": 1.0, "weight_decay": 0.5, "tune": "visual"}
    values = {"clean_accuracy": clean, "robust_accuracy": robust}
    return TrialRecord(
        number=number,
        state="complete",
        parameters={**parameters, "learning_rate": 1e-4, **changes},
        seed=number,
        values=values,
        points=(Point(weights="last", strength=1.0, values=values),),
    )


def said(spec: Spec, trials: Sequence[TrialRecord]) -> list[str]:
    front = front_of_trials(trials, bounds=spec.bounds(UNTOUCHED.goals), untouched=UNTOUCHED)
    return advice(spec, front, trials, UNTOUCHED)


def test_a_front_inside_all_ranges_needs_no_advice(spec: Spec) -> None:
    assert said(spec, [trial(0, 0.9, 0.5), trial(1, 0.88, 0.6, learning_rate=2e-4)]) == []
    assert said(spec, []) == []


def test_a_front_at_the_end_of_a_range_says_what_widens_it(spec: Spec) -> None:
    lines = said(
        spec,
        [
            trial(0, 0.92, 0.5, learning_rate=9.5e-4),
            trial(1, 0.88, 0.6, learning_rate=1e-3, weight_decay=0.99),
            trial(2, 0.86, 0.61, tune="transform", learning_rate=1e-2, weight_decay=1.0),
            trial(3, 0.5, 0.4, lambda_reg=0.1),  # not on the front
        ],
    )
    assert lines == [
        "weight_decay: 2 of 3 trials on the front lie at the high end of its range (0.99, 1 of 0 to 1); widen it in "
        "another sweep: `sweeper run SPEC --set parameters.weight_decay.high=2 --name spec-2`",
        "learning_rate[visual]: 2 of 2 trials on the front lie at the high end of its range (0.00095, 0.001 of 1e-05 "
        "to 0.001); widen it in another sweep: "
        "`sweeper run SPEC --set parameters.learning_rate.1.high=0.01 --name spec-2`",
    ]


def test_a_baseline_outside_a_range_says_nothing_about_it(spec: Spec) -> None:
    paint = replace(trial(0, 0.9, 0.5, lambda_reg=0.0, learning_rate=0.5), baseline="paint")
    assert said(spec, [paint, trial(1, 0.88, 0.6)]) == []


def test_what_is_advised_can_be_set(spec: Spec, tmp_path: Path) -> None:
    for line in said(spec, [trial(0, 0.92, 0.5, learning_rate=1e-5, lambda_reg=0.1)]):
        setting = line.split("--set ")[1].split(" ")[0]
        wider = load_spec(tmp_path / "spec.yaml", [setting])
        assert wider.parameters != spec.parameters


def test_rates_that_are_too_low_or_too_high_are_told(spec: Spec) -> None:
    low = [trial(number, 0.9, 0.3 + 0.001 * number) for number in range(5)]
    assert said(spec, low)[0] == (
        "learning rate too low: robust accuracy (attacked images) never left the untouched model's 0.300; run again: "
        "`sweeper run SPEC --set parameters.learning_rate=auto --name spec-2`"
    )
    high = [trial(0, 0.9, 0.5), trial(1, 0.4, 0.2), trial(2, 0.3, 0.2)]
    assert said(spec, high) == [
        "learning rate too high: 2 of 3 trials failed or lost more clean accuracy than the floor allows; run again: "
        "`sweeper run SPEC --set parameters.learning_rate=auto --name spec-2`"
    ]
    assert said(spec, [*low, trial(9, 0.9, 0.5)]) == []


def test_where_rates_are_found_by_themselves_a_range_beyond_them_is_advised(spec: Spec, tmp_path: Path) -> None:
    auto = load_spec(tmp_path / "spec.yaml", ["parameters.learning_rate=auto"])
    (line,) = said(auto, [trial(0, 0.9, 0.3, learning_rate=2e-3), trial(1, 0.9, 0.305, learning_rate=1e-4)])
    assert line.endswith("give parameters.learning_rate a range above 0.002")
    (line,) = said(auto, [trial(0, 0.5, 0.6, learning_rate=2e-3), trial(1, 0.4, 0.6, learning_rate=1e-4)])
    assert line.endswith("give parameters.learning_rate a range below 0.0001")
