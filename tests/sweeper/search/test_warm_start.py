"""What a new sweep takes from an earlier one, and what it says it leaves behind."""

from __future__ import annotations

from typing import Any

from sweeper.records import TrialRecord
from sweeper.search.sampler import PriorTrial
from sweeper.search.warm_start import prior_trials
from sweeper.spec.bounds import Bounds
from sweeper.spec.space import Space
from tests.helpers.goals import TYPOGRAPHIC, floors
from tests.helpers.reports import make_untouched

SPACE = Space.parse(
    {
        "objective": {"choices": ["dpo", "cross_entropy"]},
        "beta": {"when": {"objective": "dpo"}, "low": 0.1, "high": 2.0, "log": True},
        "tune": {"choices": ["transform", "visual"]},
        "rank": {"when": {"tune": "transform"}, "choices": [16, 32]},
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "weight_decay": {"low": 0.0, "high": 0.1},
        "lambda_reg": 1.0,
    }
)
UNTOUCHED = make_untouched()
DPO = {"objective": "dpo", "beta": 1.0, "tune": "visual", "learning_rate": 1e-3}


def trial(number: int, state: str = "complete", confirms: int | None = None, **parameters: Any) -> TrialRecord:
    values = {"clean_accuracy": 0.85, "robust_accuracy": 0.5} if state == "complete" else None
    given = {**DPO, **parameters}
    given = {name: value for name, value in given.items() if value is not None}
    return TrialRecord(
        number=number,
        state=state,
        parameters=given,
        seed=0,
        values=values,
        confirms=confirms,  # type: ignore[arg-type]
    )


def learned(trials: list[TrialRecord], bounds: Bounds = (), **before: Any) -> tuple[list[PriorTrial], list[str]]:
    """What a new sweep learns from ``trials``; ``before``: how the earlier sweep's untouched model differs."""
    return prior_trials(
        "old",
        trials,
        space=SPACE,
        goals=TYPOGRAPHIC,
        bounds=bounds,
        untouched=UNTOUCHED,
        before=make_untouched(**before),
    )


def test_parameters_are_matched_by_name_and_defaults_fill_in() -> None:
    priors, notes = learned([trial(0), trial(1, objective="cross_entropy", beta=None, tune="transform", rank=16)])
    assert [prior.parameters for prior in priors] == [
        {**DPO, "weight_decay": 0.0, "lambda_reg": 1.0},
        {
            "objective": "cross_entropy", "tune": "transform", "rank": 16, "learning_rate": 1e-3, "weight_decay": 0.0,
            "lambda_reg": 1.0,
        },
    ]  # fmt: skip
    assert all(SPACE.place(prior.parameters).parameters == prior.parameters for prior in priors)
    assert [prior.values for prior in priors] == [(0.85, 0.5)] * 2
    assert notes == ["warm start: 2 of 2 finished trials of old are used by the search"]


def test_what_is_left_behind_is_said_with_the_reason() -> None:
    priors, notes = learned(
        [
            trial(0),
            trial(1, beta=5.0),
            trial(2, beta=7.0),
            trial(3, lambda_reg=2.0),  # fixed at 1.0 here
            trial(4, label_smoothing=0.1),  # no parameter here, and not at its default there
            trial(5, label_smoothing=0.0),
            trial(6, objective="ipo"),
            trial(7, state="failed"),
            trial(8, state="stopped"),
            trial(9, confirms=0),
        ]
    )
    assert len(priors) == 2
    assert notes == [
        "warm start: 2 of 7 finished trials of old are used by the search",
        "warm start: 2 not used: `beta` was not a number from 0.1 to 2.0",
        "warm start: 1 not used: `lambda_reg` cannot have the earlier value in the new space",
        "warm start: 1 not used: `label_smoothing` cannot have the earlier value in the new space",
        "warm start: 1 not used: `objective` was not one of dpo, cross_entropy",
    ]


def test_goals_count_from_the_untouched_model_of_each_sweep() -> None:
    bounds = floors(clean_accuracy=UNTOUCHED.goals["clean_accuracy"] - 0.02)
    before: dict[str, Any] = {"goals": {"clean_accuracy": 0.8, "robust_accuracy": 0.4}, "weights_digest": "other"}
    priors, notes = learned([trial(0)], bounds, **before)
    assert [round(value, 9) for value in priors[0].values] == [0.95, 0.4]
    assert priors[0].violation == 0.0
    assert notes[1:] == ["warm start: old had another model; its goals count from its own untouched model"]
    priors, notes = learned([trial(0)], bounds)
    assert round(priors[0].violation, 9) == 0.03 and len(notes) == 1
