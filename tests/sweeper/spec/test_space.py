"""The search space: what it draws, what it refuses, and where it places a point."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.spec.domains import Choices, Domain, Range
from sweeper.spec.middle import anchors
from sweeper.spec.problems import ProblemsError
from sweeper.spec.space import Placed, Space
from trainables.settings.parameters import Parameters

RAW: dict[str, Any] = {
    "learning_rate": [
        {"when": {"tune": "transform"}, "low": 1e-4, "high": 1e-1, "log": True},
        {"when": {"tune": ["last_blocks", "visual"]}, "low": 1e-6, "high": 1e-4, "log": True},
    ],
    "objective": {"choices": ["dpo", "ipo", "kto", "cross_entropy"]},
    "beta": [
        {"when": {"objective": ["dpo", "kto"]}, "low": 0.05, "high": 5.0, "log": True},
        {"when": {"objective": "ipo"}, "low": 0.005, "high": 0.5, "log": True},
    ],
    "label_smoothing": {
        "when": {"objective": "dpo", "tune": ["visual", "transform"]},
        "low": 0.0,
        "high": 0.4,
        "step": 0.1,
    },
    "lambda_reg": {"low": 0, "high": 10.0},
    "tune": {"choices": ["transform", "last_blocks", "visual"]},
    "blocks": {"choices": [1, 2, 4], "when": {"tune": "last_blocks"}},
    "rank": {"low": 16, "high": "embed_dim", "log": True, "when": {"tune": "transform"}},
    "weight_decay": 0.0,
}
SPACE = Space.parse(RAW, embed_dim=64)


def sample(generator: random.Random) -> dict[str, Any]:
    def suggest(name: str, domain: Choices | Range) -> Any:
        if isinstance(domain, Choices):
            return generator.choice(domain.values)
        if domain.step is not None:
            return domain.low + domain.step * generator.randrange(round((domain.high - domain.low) / domain.step) + 1)
        return (
            generator.randint(domain.low, domain.high) if domain.integer else generator.uniform(domain.low, domain.high)
        )

    return SPACE.draw(suggest)


@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_everything_drawn_is_a_trial_and_has_a_place(seed: int) -> None:
    drawn = sample(random.Random(seed))
    Parameters.model_validate(drawn)
    assert ("rank" in drawn) == (drawn["tune"] == "transform")
    assert ("blocks" in drawn) == (drawn["tune"] == "last_blocks")
    assert ("beta" in drawn) == (drawn["objective"] != "cross_entropy")
    assert ("label_smoothing" in drawn) == (drawn["objective"] == "dpo" and drawn["tune"] != "last_blocks")
    placed = SPACE.place(drawn)
    assert placed.parameters == drawn
    assert SPACE.draw(lambda name, domain: placed.located[name]) == drawn
    domains = SPACE.domains(reversed(placed.located))
    assert list(domains) == list(placed.located)
    assert all(domains[name].match(value) == value for name, value in placed.located.items())


def test_each_branch_has_its_own_name_and_range() -> None:
    asked: dict[str, Domain] = {}
    for objective in ("dpo", "ipo", "kto", "cross_entropy"):
        for tune in ("transform", "last_blocks", "visual"):
            wanted = {"objective": objective, "tune": tune}

            def suggest(name: str, domain: Choices | Range, wanted: dict[str, str] = wanted) -> Any:
                asked[name] = domain
                return wanted.get(name, domain.examples()[0])

            SPACE.draw(suggest)
    assert asked == {
        "objective": Choices(("dpo", "ipo", "kto", "cross_entropy")),
        "tune": Choices(("transform", "last_blocks", "visual")),
        "beta[dpo,kto]": Range(0.05, 5.0, log=True),
        "beta[ipo]": Range(0.005, 0.5, log=True),
        "learning_rate[transform]": Range(1e-4, 1e-1, log=True),
        "learning_rate[last_blocks,visual]": Range(1e-6, 1e-4, log=True),
        "label_smoothing": Range(0.0, 0.4, step=0.1),
        "lambda_reg": Range(0.0, 10.0),
        "blocks": Choices((1, 2, 4)),
        "rank": Range(16, 64, log=True),
    }
    assert asked["rank"].integer and not asked["lambda_reg"].integer  # type: ignore[union-attr]


def test_branches_on_several_parameters_are_named_in_full() -> None:
    raw = {
        "objective": "dpo",
        "tune": {"choices": ["transform", "visual"]},
        "learning_rate": 1e-3,
        "beta": [
            {"when": {"tune": "transform", "objective": "dpo"}, "low": 0.1, "high": 1.0},
            {"when": {"tune": "visual"}, "value": 0.5},
        ],
    }
    names = [branch.name for branch in Space.parse(raw).branches["beta"]]
    assert names == ["beta[tune=transform;objective=dpo]", "beta[tune=visual]"]
    assert Space.parse(raw).draw(lambda name, domain: "visual")["beta"] == 0.5


def test_a_point_gets_the_fixed_parameters_and_the_domains_types() -> None:
    point = {"objective": "kto", "tune": "visual", "learning_rate": 2e-5, "beta": 1, "lambda_reg": 1}
    placed = SPACE.place(point)
    assert placed == Placed(
        parameters={**point, "weight_decay": 0.0},
        located={
            "objective": "kto", "tune": "visual", "learning_rate[last_blocks,visual]": 2e-5, "beta[dpo,kto]": 1.0,
            "lambda_reg": 1.0,
        },
    )  # fmt: skip
    assert isinstance(placed.parameters["beta"], float) and isinstance(placed.located["beta[dpo,kto]"], float)
    assert SPACE.place({**point, "weight_decay": 0}) == placed


POINT = {"objective": "dpo", "tune": "transform", "learning_rate": 1e-2, "beta": 1.0, "lambda_reg": 1.0, "rank": 16}
POINT["label_smoothing"] = 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"beta": 9}, r"`beta\[dpo,kto\]` is a number from 0.05 to 5.0, not 9"),
        ({"objective": "ipo"}, r"`beta\[ipo\]` is a number from 0.005 to 0.5, not 1.0"),
        ({"beta": True}, "not true"),
        ({"rank": 16.5}, "a whole number from 16 to 64"),
        ({"rank": None}, "`rank` is a whole number from 16 to 64, not null"),
        ({"label_smoothing": 0.15}, "in steps of 0.1"),
        ({"tune": "all"}, "one of transform, last_blocks, visual"),
        ({"blocks": 2}, "`blocks` does not apply with tune 'transform'"),
        ({"weight_decay": 0.1}, "`weight_decay` is always 0.0, not 0.1"),
        ({"lerning_rate": 1}, "unknown parameter `lerning_rate`; did you mean `learning_rate`"),
        ({"penalty": 0.1}, "`penalty` is not among `parameters`"),
    ],
)
def test_a_point_outside_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    assert SPACE.place(POINT).parameters == {**POINT, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=reason):
        SPACE.place({**POINT, **change})


def test_a_point_must_name_every_searched_parameter() -> None:
    for name in POINT:
        with pytest.raises(ValueError, match="needs a value|does not apply"):
            SPACE.place({key: value for key, value in POINT.items() if key != name})


def test_the_raw_form_makes_the_same_space() -> None:
    again = Space.parse(SPACE.raw)
    assert again == SPACE and again.branches == SPACE.branches
    assert SPACE.raw["rank"]["high"] == 64


CHANGES: list[tuple[dict[str, Any], tuple[Any, ...], str]] = [
    ({"tuen": "visual"}, ("tuen",), "unknown parameter `tuen`; did you mean `tune`?"),
    ({"tune": {"choices": ["transform", "all"]}}, ("learning_rate",), "`learning_rate` has no value"),
    ({"blocks": None}, (), "tune last_blocks needs `blocks`"),
    ({"blocks": {"choices": [1, 2]}}, ("blocks",), "`blocks` applies to tune last_blocks only"),
    ({"rank": {"low": 16, "high": 65, "when": {"tune": "transform"}}}, ("rank", "high"), "65 is above 64"),
    ({"rank": {"choices": [8, "embed"], "when": {"tune": "transform"}}}, ("rank", "choices", 1), "a whole number"),
    ({"beta": {"low": 0.1, "high": 1}}, ("beta",), "objective cross_entropy has no `beta`"),
    ({"beta": {"low": 0.1, "high": 1, "when": {"objective": "dpo"}}}, (), "objective ipo needs `beta`"),
    ({"lambda_reg": {"low": 3, "high": 3}}, ("lambda_reg", "low"), "write it as a plain value"),
    ({"lambda_reg": {"low": 0, "high": 1, "log": True}}, ("lambda_reg", "low"), "a log range starts above 0"),
    ({"lambda_reg": {"low": 0, "high": 1, "log": "yes"}}, ("lambda_reg", "log"), "`log` is true or false"),
    ({"lambda_reg": {"low": 1, "high": 9, "log": True, "step": 2}}, ("lambda_reg", "step"), "drop one of the two"),
    ({"lambda_reg": {"low": 0, "high": 1.0, "step": 0.3}}, ("lambda_reg", "high"), "end, for instance, at 0.9"),
    ({"lambda_reg": {"low": 0, "high": 4, "step": 0.5}}, ("lambda_reg", "step"), "between whole bounds are whole"),
    ({"lambda_reg": {"low": 0, "high": 4, "step": 0}}, ("lambda_reg", "step"), "`step` must be above 0"),
    ({"lambda_reg": {"low": 0, "high": float("inf")}}, ("lambda_reg", "high"), "must be a finite number"),
    ({"lambda_reg": float("nan")}, ("lambda_reg",), "finite"),
    ({"lambda_reg": {"high": 4}}, (), "has a `high` but no `low`"),
    ({"lambda_reg": {"low": 0, "high": 4, "max": 5}}, ("lambda_reg", "max"), "unknown key `max`"),
    ({"lambda_reg": {"choices": [1, 1.0]}}, ("lambda_reg", "choices", 1), "stands there twice"),
    ({"lambda_reg": {"choices": [[1]]}}, ("lambda_reg", "choices", 0), "a choice is text or a number"),
    ({"lambda_reg": {"value": {"low": 1, "high": 2}}}, ("lambda_reg", "value"), "one plain value"),
    ({"lambda_reg": True}, ("lambda_reg",), "is true; write a value"),
    ({"lambda_reg": [0.1, 1.0]}, ("lambda_reg",), "to choose write {choices: [...]}"),
    ({"weight_decay": {"when": 3, "low": 0.0, "high": 1.0}}, ("weight_decay", "when"), "`when` is a mapping"),
    ({"weight_decay": {"when": {"lambda_reg": 1}, "value": 1}}, ("weight_decay", "when", "lambda_reg"), "is a range"),
    ({"weight_decay": {"when": {"blocks": 3}, "value": 1}}, ("weight_decay", "when", "blocks"), "`blocks` is never 3"),
    ({"weight_decay": {"when": {"penalty": 3}, "value": 1}}, ("weight_decay", "when", "penalty"), "not a parameter"),
    (
        {
            "objective": {"value": "dpo", "when": {"tune": "visual"}},
            "tune": {"value": "visual", "when": {"objective": "dpo"}},
        },
        ("objective",),
        "the conditions of `objective`, `tune` depend on each other",
    ),
    (
        {"beta": [{"when": {"objective": ["dpo"]}, "value": 1}, {"when": {"objective": ["ipo", "dpo"]}, "value": 1}]},
        ("beta", 1),
        "can apply at once",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "path", "message"), CHANGES, ids=[str(change)[:50] for change, _, _ in CHANGES])
def test_a_space_that_makes_no_sense_is_refused(change: dict[str, Any], path: tuple[Any, ...], message: str) -> None:
    raw = {name: value for name, value in {**RAW, **change}.items() if value is not None}
    with pytest.raises(ProblemsError) as caught:
        Space.parse(raw, embed_dim=64)
    assert any(p.path[: len(path)] == path and message in p.message for p in caught.value.problems), (
        caught.value.problems
    )


def test_an_unknown_embedding_width_cannot_be_a_bound() -> None:
    with pytest.raises(ProblemsError, match="embedding width is not known here; write the number"):
        Space.parse(RAW, embed_dim=None)
    with pytest.raises(ProblemsError, match="mapping from parameter names"):
        Space.parse(["objective"])


def test_a_condition_on_something_that_does_not_apply_is_false() -> None:
    raw = {
        "objective": "cross_entropy",
        "tune": {"choices": ["visual", "last_blocks"]},
        "blocks": {"choices": [1, 2], "when": {"tune": "last_blocks"}},
        "learning_rate": 1e-3,
        "weight_decay": {"when": {"blocks": 2}, "low": 0.0, "high": 0.1},
    }
    space = Space.parse(raw)
    drawn = {
        tune: space.draw(lambda name, domain, tune=tune: tune if name == "tune" else domain.examples()[-1])
        for tune in ("visual", "last_blocks")
    }
    assert "weight_decay" not in drawn["visual"]
    assert drawn["last_blocks"]["weight_decay"] == 0.1


def test_fixing_the_objective_leaves_the_other_branches_unused() -> None:
    space = Space.parse({**RAW, "objective": "ipo"}, embed_dim=64)
    names: list[str] = []
    space.draw(lambda name, domain: names.append(name) or domain.examples()[0])  # type: ignore[func-returns-value]
    assert "beta[ipo]" in names and "objective" not in names


GRID_VALUES: dict[str, list[Any]] = {
    "objective": ["dpo", "ipo", "kto", "cross_entropy"],
    "tune": ["visual", "last_blocks", "transform"],
    "beta": [0.01, 0.5, 1.0],
    "lambda_reg": [0.0, 0.3, 2.0],
    "blocks": [1, 2, 4],
    "rank": [16, 32],
    "copies": [1, 3],
}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_grid_is_the_whole_product_under_the_conditions(data: st.DataObject) -> None:
    chosen = {
        name: data.draw(st.lists(st.sampled_from(values), min_size=1, unique=True), label=name)
        for name, values in GRID_VALUES.items()
    }
    ipo_betas = data.draw(st.lists(st.sampled_from([0.005, 0.02]), min_size=1, unique=True))
    raw: dict[str, Any] = {name: {"choices": chosen[name]} for name in ("lambda_reg", "objective", "copies")}
    raw["rank"] = {"when": {"tune": "transform"}, "choices": chosen["rank"]}
    raw["beta"] = [
        {"when": {"objective": ["dpo", "kto"]}, "choices": chosen["beta"]},
        {"when": {"objective": "ipo"}, "choices": ipo_betas},
    ]
    raw["blocks"] = {"when": {"tune": "last_blocks"}, "choices": chosen["blocks"]}
    raw |= {"tune": {"choices": chosen["tune"]}, "learning_rate": 1e-3}
    expected = []
    for objective, tune in itertools.product(chosen["objective"], chosen["tune"]):
        betas = {"ipo": ipo_betas, "cross_entropy": [None]}.get(objective, chosen["beta"])
        blocks = chosen["blocks"] if tune == "last_blocks" else [None]
        ranks = chosen["rank"] if tune == "transform" else [None]
        for values in itertools.product(betas, blocks, ranks, chosen["lambda_reg"], chosen["copies"]):
            combination = dict(zip(("beta", "blocks", "rank", "lambda_reg", "copies"), values, strict=True))
            combination |= {"objective": objective, "tune": tune, "learning_rate": 1e-3}
            expected.append({name: value for name, value in combination.items() if value is not None})
    space = Space.parse(raw)
    grid = space.grid()
    key = lambda combination: sorted((name, str(value)) for name, value in combination.items())  # noqa: E731
    assert sorted(grid, key=key) == sorted(expected, key=key)
    assert grid == space.grid() == Space.parse(space.raw).grid()
    for combination in grid:
        Parameters.model_validate(combination)
        assert space.place(combination).parameters == combination


def test_the_order_of_a_grid_is_that_of_the_file() -> None:
    raw = {
        "objective": {"choices": ["kto", "cross_entropy"]},
        "beta": {"when": {"objective": "kto"}, "choices": [1.5, 0.1]},
        "lambda_reg": {"choices": [2, 1]},
        "tune": "visual",
        "learning_rate": 1e-4,
    }
    grid = [(point["objective"], point.get("beta"), point["lambda_reg"]) for point in Space.parse(raw).grid()]
    assert grid == [
        ("kto", 1.5, 2), ("kto", 1.5, 1), ("kto", 0.1, 2), ("kto", 0.1, 1),
        ("cross_entropy", None, 2), ("cross_entropy", None, 1),
    ]  # fmt: skip


def test_anchors_are_the_middle_and_both_ends_of_lambda_for_each_scope() -> None:
    raw: dict[str, Any] = {
        "objective": {"choices": ["dpo", "cross_entropy"]},
        "beta": {"when": {"objective": "dpo"}, "low": 0.1, "high": 10.0, "log": True},
        "lambda_reg": {"low": 0.01, "high": 1.0, "log": True},
        "tune": {"choices": ["visual", "transform"]},
        "rank": {"when": {"tune": "transform"}, "low": 16, "high": 64, "step": 16},
        "learning_rate": [
            {"when": {"tune": "transform"}, "low": 1e-3, "high": 1e-1, "log": True},
            {"when": {"tune": "visual"}, "low": 1e-5, "high": 3e-5},
        ],
        "weight_decay": {"choices": [0.0, 0.1, 0.2]},
    }
    space = Space.parse(raw)
    points = anchors(space)
    assert all(space.place(anchor).parameters == anchor for anchor in points)
    assert {anchor["objective"] for anchor in points} == {"cross_entropy"}
    assert [(anchor["tune"], round(float(anchor["lambda_reg"]), 9)) for anchor in points] == [
        ("transform", 0.1), ("transform", 1.0), ("transform", 0.01), ("visual", 0.1), ("visual", 1.0), ("visual", 0.01),
    ]  # fmt: skip
    ranks = {(anchor.get("rank"), round(float(anchor["learning_rate"]), 9)) for anchor in points}
    assert ranks == {(48, 0.01), (None, 2e-5)}
    assert {anchor["weight_decay"] for anchor in points} == {0.1}
    lone = anchors(Space.parse({**raw, "objective": "dpo", "lambda_reg": 0.5, "tune": "visual"}))
    assert [(anchor["objective"], anchor["beta"], anchor["lambda_reg"]) for anchor in lone] == [("dpo", 1.0, 0.5)]


@given(low=st.floats(1e-6, 10.0), ratio=st.floats(1.001, 1e6), log=st.booleans(), position=st.floats(0.0, 1.0))
def test_every_position_of_a_range_lies_in_it(low: float, ratio: float, log: bool, position: float) -> None:
    domain = Range(low, low * ratio, log)
    assert domain.match(domain.at(position)) is not None
    assert domain.at(0.0) == pytest.approx(low) and domain.at(1.0) == pytest.approx(low * ratio)
    steps = Range(3, 33, step=5)
    assert steps.match(steps.at(position)) is not None


def test_a_grid_has_no_ranges_that_could_be_drawn_and_an_end() -> None:
    with pytest.raises(ProblemsError) as caught:
        SPACE.grid()
    assert {problem.path for problem in caught.value.problems} == {
        ("learning_rate", 0), ("learning_rate", 1), ("beta", 0), ("beta", 1), ("label_smoothing",), ("lambda_reg",),
        ("rank",),
    }  # fmt: skip
    assert all("is a range; a grid tries choices" in problem.message for problem in caught.value.problems)
    fixed = {**RAW, "objective": "cross_entropy", "tune": "last_blocks", "learning_rate": 1e-4, "lambda_reg": 1.0}
    assert [point["blocks"] for point in Space.parse(fixed, embed_dim=64).grid()] == [1, 2, 4]
    many = {name: {"choices": [i / 100 for i in range(60)]} for name in ("lambda_reg", "weight_decay", "penalty")}
    endless = {**many, "objective": "cross_entropy", "tune": "transform", "learning_rate": 1e-3}
    with pytest.raises(ProblemsError, match="more than 100000 combinations"):
        Space.parse(endless).grid()
