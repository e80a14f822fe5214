"""What a sweep is charged, when it may begin another trial, and how it is forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cli.options import option_price, option_seconds, with_budget
from sweeper.errors import UserError
from sweeper.records import TrialRecord
from sweeper.run.budget import BudgetLedger, EndedTrial, Forecast, Session, Usage, time_saved_s, trial_costs
from sweeper.run.expected_cost import CostModel, MeasuringPace
from sweeper.run.usage import EVALUATIONS_PER_POINT, POINTS_ON_TEST, SAVE_S, UsageMeter
from sweeper.run.usage_file import read_usage
from sweeper.run.usage_text import live_line, usage_line, value_lines
from sweeper.spec.quantities import Budget, Price, parse_budget, parse_price, parse_time
from sweeper.spec.spec import load_spec, spec_difference
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.reports import make_report
from tests.sweeper.search.test_simulator import make_spec

HOUR_S = 3600.0
seconds = st.floats(0, 1e5, allow_subnormal=False)


def trial(number: int, state: Any = "complete", cost_s: float | None = None, **about: Any) -> TrialRecord:
    return TrialRecord(**{"number": number, "state": state, "parameters": {}, "seed": 0, "cost_s": cost_s, **about})


def test_slots_of_a_node_that_has_left_are_not_charged() -> None:
    ledger = BudgetLedger(slots=4, devices_per_slot=2.0, now_s=100.0, budget=Budget(1.0, "gpu"))
    assert ledger.used_device_s(110.0) == 80.0
    ledger.hold(1, 110.0)
    assert ledger.used_device_s(120.0) == 100.0
    assert ledger.left_s(120.0) == (3600.0 - 100.0) / 2
    ledger.hold(0, 120.0)
    assert ledger.used_device_s(500.0) == 100.0
    ledger.hold(4, 500.0)
    assert (ledger.used_device_s(510.0), ledger.slot_s(510.0)) == (180.0, 90.0)


@pytest.mark.parametrize(
    ("text", "hours", "device"), [("200gpu-h", 200.0, "gpu"), ("12.5cpu-h", 12.5, "cpu"), (" .5 gpu-h ", 0.5, "gpu")]
)
def test_budgets_are_read(text: str, hours: float, device: str) -> None:
    budget = parse_budget(text)
    assert (budget.hours, budget.device) == (hours, device)
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize("text", ["200", "200h", "gpu-h", "-3gpu-h", "1e3gpu-h", "3tpu-h", "0gpu-h", ""])
def test_what_is_no_budget_is_answered_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"\d+(gpu|cpu)-h"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "in_seconds"),
    [("8h", 28800.0), ("90m", 5400.0), ("2h30m", 9000.0), ("1h 0.5m 3s", 3633.0), ("1.5h", 5400.0)],
)
def test_times_are_read(text: str, in_seconds: float) -> None:
    assert parse_time(text) == in_seconds


@pytest.mark.parametrize("text", ["8", "30m2h", "-1h", "0h", "", "h", "2d"])
def test_what_is_no_time_is_answered_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="2h30m"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "price", "ten_hours"),
    [
        ("2.49", Price(2.49, "$"), "$24.90"),
        ("2.49EUR", Price(2.49, "EUR"), "24.90 EUR"),
        ("€ 250", Price(250.0, "€"), "€2,500.00"),
        (".00001 GBP", Price(0.00001, "GBP"), "0.0001 GBP"),
    ],
)
def test_prices_are_read(text: str, price: Price, ten_hours: str) -> None:
    assert parse_price(text) == price == parse_price(str(price))
    assert price.of(10.0) == ten_hours


@pytest.mark.parametrize("text", ["", "free", "0", "-1", "$2EUR", "2.49euro", "2,49", "nan"])
def test_what_is_no_price_is_answered_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"2\.49"):
        parse_price(text)
    with pytest.raises(UserError, match=r"--price .* is not a price; write .* 2\.49"):
        option_price(text)


def test_options_and_specs_that_are_wrong_are_answered_with_the_rule(tmp_path: Path) -> None:
    spec = make_spec(limits={"budget": "12cpu-h"})
    assert with_budget(spec, None) is spec
    assert with_budget(spec, "300 gpu-h").limits.budget == "300gpu-h"
    assert spec_difference(spec, with_budget(spec, "300gpu-h")) == [], "a resumed sweep may have another budget"
    with pytest.raises(UserError, match=r"--budget 3: is not a budget; .* 200gpu-h"):
        with_budget(spec, "3")
    with pytest.raises(UserError, match=r"--time 8: is not a time; .* 2h30m"):
        option_seconds("--time", "8")
    (tmp_path / "demo.yaml").write_text("limits: {budget: 200h}\n")
    with pytest.raises(UserError, match=r"demo\.yaml:1:\d+: `limits\.budget`: '200h' is not a budget"):
        load_spec(tmp_path / "demo.yaml")


def ledger_of(**about: Any) -> BudgetLedger:
    return BudgetLedger(**{"slots": 4, "devices_per_slot": 0.5, "now_s": 1000.0, **about})


def ended(*costs_s: float) -> list[EndedTrial]:
    """Return trials of one epoch."""
    return [EndedTrial(cost_s=cost_s, epochs=1) for cost_s in costs_s]


def test_slots_are_charged_from_the_start_idle_or_not() -> None:
    taken = ledger_of(before_device_s=100.0)
    assert taken.used_device_s(1000.0) == 100.0
    assert taken.used_device_s(1060.0) == 100.0 + 4 * 0.5 * 60


def test_a_trial_begins_only_if_a_mean_one_fits() -> None:
    ledger = ledger_of(
        budget=Budget(1.0, "gpu"), ended=ended(600.0, 200.0)
    )  # a mean of 400 s; 2 GPUs use it up in 1800 s
    assert ledger.may_start(1000.0 + 1400)
    assert not ledger.may_start(1000.0 + 1401)
    ledger.trial_started(2, 1000.0, epochs=1)
    ledger.trial_ended(2, 100.0, epochs=1)  # a mean of 300 s
    assert ledger.may_start(1000.0 + 1401)
    assert not ledger.used_up(1000.0 + 1799.9)
    assert ledger.used_up(1000.0 + 1800)


def test_a_share_of_the_budget_may_be_kept_for_later() -> None:
    ledger = ledger_of(budget=Budget(1.0, "gpu"))
    assert ledger.may_start(1000.0 + 1439, share=0.8)
    assert not ledger.may_start(1000.0 + 1441, share=0.8)
    assert ledger.may_start(1000.0 + 1441)


def test_before_any_trial_has_ended_one_begins_while_anything_is_left() -> None:
    ledger = ledger_of(budget=Budget(1.0, "gpu"))
    assert ledger.may_start(1000.0 + 1799)
    assert not ledger.may_start(1000.0 + 1800)


def test_an_interrupted_trial_does_not_count_as_the_cost_of_one() -> None:
    ledger = ledger_of()
    ledger.trial_started(0, 1000.0, epochs=1)
    ledger.trial_ended(0, None, epochs=1)
    assert ledger.mean_s is None


def test_the_time_belongs_to_this_go_and_the_budget_to_the_sweep() -> None:
    timed = ledger_of(before_device_s=1e9, time_s=60.0)
    assert timed.may_start(1059.0)
    assert timed.used_up(1060.0)
    spent = ledger_of(before_device_s=HOUR_S, budget=Budget(1.0, "gpu"), time_s=60.0)
    assert spent.used_up(1000.0)


@given(
    slots=st.integers(1, 50),
    share=st.floats(0.1, 8),
    hours=st.floats(0.01, 1000),
    goes_s=st.lists(seconds, max_size=6),
)
def test_however_often_a_sweep_is_resumed_it_is_interrupted_when_its_budget_is_used(
    slots: int, share: float, hours: float, goes_s: list[float]
) -> None:
    """Goes of any length: the sum of what they take is the budget at most, but for the last instant."""
    before_device_s, budget = 0.0, Budget(hours, "gpu")
    for wall_s in goes_s:
        ledger = BudgetLedger(
            slots=slots, devices_per_slot=share, now_s=0.0, before_device_s=before_device_s, budget=budget
        )
        held_s = min(wall_s, ledger.left_s(0.0))
        assert held_s == wall_s or ledger.used_up(held_s + 1e-6)
        before_device_s = ledger.used_device_s(held_s)
    assert before_device_s <= hours * HOUR_S * (1 + 1e-9)


@given(
    ended_s=st.lists(st.floats(0.1, 1e4), max_size=20),
    hours=st.floats(0.01, 100),
    elapsed_s=seconds,
    later_s=seconds,
)
def test_what_may_not_begin_now_may_not_begin_later(
    ended_s: list[float], hours: float, elapsed_s: float, later_s: float
) -> None:
    ledger = ledger_of(now_s=0.0, budget=Budget(hours, "gpu"), ended=ended(*ended_s))
    assert ledger.may_start(elapsed_s) or not ledger.may_start(elapsed_s + later_s)
    if ledger.may_start(elapsed_s):
        assert not ledger.used_up(elapsed_s)
        mean_s = sum(ended_s) / len(ended_s) if ended_s else 0.0
        assert ledger.used_device_s(elapsed_s + mean_s) <= hours * HOUR_S * (1 + 1e-9)


def test_forecast_packs_what_is_left_on_the_slots() -> None:
    ledger = ledger_of(slots=2, devices_per_slot=1.0, ended=ended(100.0))
    assert ledger_of().forecast(1000.0, waiting=3) is None
    ledger.trial_started(1, 1000.0, epochs=1)
    ledger.trial_started(2, 1000.0, epochs=1)
    ledger.trial_reported(2, progress=0.5, spent_s=30.0, now_s=1040.0)  # 30 s more at its pace, until 1070
    # Slot A: trial 1 until 1100, then one until 1200. Slot B: trial 2 until 1070, then 1170, then 1270.
    assert ledger.forecast(1050.0, waiting=3) == Forecast(left_s=220.0, device_s=2 * 270.0, all_trials=True)
    short = ledger_of(slots=2, devices_per_slot=1.0, ended=ended(100.0), budget=Budget(0.1, "gpu"))
    assert short.forecast(1000.0, waiting=4) == Forecast(left_s=180.0, device_s=360.0, all_trials=False)


def test_a_forecast_can_be_made_of_trials_that_have_not_ended() -> None:
    ledger = ledger_of(slots=1, devices_per_slot=1.0)
    ledger.trial_started(0, 1000.0, epochs=1)
    ledger.trial_reported(0, progress=0.25, spent_s=10.0, now_s=1010.0)
    assert ledger.forecast(1020.0, waiting=1) == Forecast(left_s=60.0, device_s=80.0, all_trials=True)


def test_short_trials_do_not_pass_for_the_mean_one_because_they_end_first() -> None:
    """Ten seconds an epoch: one trial of one epoch has ended, one of nine runs and has not reported."""
    budget = Budget(100 / HOUR_S, "gpu")
    ledger = ledger_of(slots=1, devices_per_slot=1.0, ended=[EndedTrial(cost_s=10.0, epochs=1)], budget=budget)
    assert ledger.mean_s == 10.0
    ledger.trial_started(1, 1000.0, epochs=9)
    assert ledger.mean_s == 50.0
    forecast = ledger.forecast(1000.0, waiting=2)
    assert forecast == Forecast(left_s=100.0, device_s=100.0, all_trials=False), "90 s, then 50 s for each that waits"
    assert ledger.may_start(1050.0) and not ledger.may_start(1051.0)
    ledger.trial_ended(1, 90.0, epochs=9)
    assert ledger.mean_s == 50.0


def test_before_any_has_ended_a_forecast_compares_costs_per_epoch() -> None:
    ledger = ledger_of(slots=2, devices_per_slot=1.0)
    ledger.trial_started(0, 1000.0, epochs=1)
    ledger.trial_started(1, 1000.0, epochs=3)
    ledger.trial_reported(0, progress=0.5, spent_s=5.0, now_s=1005.0)  # 10 s an epoch
    # Slot A: trial 0 until 1010, then one of two epochs until 1030. Slot B: trial 1 until 1030.
    assert ledger.forecast(1005.0, waiting=1) == Forecast(left_s=25.0, device_s=60.0, all_trials=True)


@given(
    slots=st.integers(1, 8),
    waiting=st.integers(0, 40),
    mean_s=st.floats(1, 1000),
    running=st.lists(st.floats(0, 2000, allow_subnormal=False), max_size=8),
)
def test_a_forecast_lies_between_perfect_packing_and_one_trial_more(
    slots: int, waiting: int, mean_s: float, running: list[float]
) -> None:
    """Graham's bounds of list scheduling."""
    ledger = ledger_of(slots=slots, devices_per_slot=1.0, now_s=0.0, ended=ended(mean_s))
    running = running[:slots]
    for number, elapsed_s in enumerate(running):
        ledger.trial_started(number, 2000.0 - elapsed_s, epochs=1)
    rests_s = [max(0.0, mean_s - elapsed_s) for elapsed_s in running]
    forecast = ledger.forecast(2000.0, waiting)
    assert forecast is not None
    work_s, longest_s = sum(rests_s) + waiting * mean_s, max([*rests_s, mean_s * (waiting > 0)], default=0.0)
    assert max(work_s / slots, longest_s) - 1e-6 <= forecast.left_s <= work_s / slots + longest_s + 1e-6


def test_what_stopping_has_saved() -> None:
    stopped = trial(0, "stopped", 10.0, stopped_at=0.25)
    assert time_saved_s(stopped) == 30.0
    assert time_saved_s(trial(1, "complete", 10.0)) == 0.0
    costs = trial_costs([stopped, trial(1, "complete", 50.0), trial(2, "failed", 3.0), trial(3, "running")])
    assert (costs.trials_s, costs.saved_s, costs.mean_s) == (63.0, 30.0, 21.0)
    assert trial_costs([]).mean_s is None


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


SESSION = Session(started_s=0.0, device="gpu", slots=4, devices_per_slot=0.5, wall_s=0.0)


def meter(folder: SweepFolder, clock: Clock, trials: list[TrialRecord] | None = None, **about: Any) -> UsageMeter:
    about = {"costs": CostModel({"transform": 1.0}, share=1.0), **about}
    return UsageMeter(folder, SESSION, trials or [], planned=6, epochs=3, clock=clock, **about)


def test_a_kill_loses_the_last_seconds_of_the_usage_only(tmp_path: Path) -> None:
    folder, clock = SweepFolder(tmp_path, "demo"), Clock()
    folder.path.mkdir()
    first = meter(folder, clock, budget=Budget(1.0, "gpu"))
    while clock.now_s < 1799:
        clock.now_s += 1
        first.tick()
    assert not first.used_up()
    kept_s = read_usage(folder).device_s
    assert 2 * (1799 - SAVE_S) <= kept_s <= 2 * 1799
    second = meter(folder, clock, budget=Budget(1.0, "gpu"))
    assert second.may_start()
    clock.now_s += SAVE_S + 1
    assert second.used_up()
    with pytest.raises(UserError, match=r"6 of 6 trials are not done.*sweeper resume demo --budget 1\.3gpu-h"):
        second.check()
    second.close()
    clock.now_s += 100
    assert second.usage().device_s == read_usage(folder).device_s
    assert read_usage(folder).device_s == kept_s + 2 * (SAVE_S + 1), "nothing is charged once the slots are given back"
    assert meter(folder, clock, budget=Budget(2.0, "gpu")).may_start()


def test_the_usage_in_words_and_numbers(tmp_path: Path) -> None:
    folder, clock = SweepFolder(tmp_path, "demo"), Clock()
    folder.path.mkdir()
    usage = meter(folder, clock, [trial(0, "complete", 900.0)], budget=Budget(2.0, "gpu"))
    usage.started(trial(1, "running"))
    clock.now_s = 360.0
    usage.reported(trial(1, "running"), make_report(progress=0.2, train_s=80.0, evaluation_s=20.0))
    stopped = trial(1, "stopped", 100.0, stopped_at=0.2)
    usage.ended(stopped)
    assert usage.costs(stopped) == {"usage/device_h": 50 / HOUR_S, "usage/saved_device_h": 200 / HOUR_S}
    assert usage.costs(trial(2, "complete", 36.0)) == {"usage/device_h": 18 / HOUR_S}
    assert usage.totals() == pytest.approx(
        {"usage/device_h": 0.2, "usage/trials_device_h": 500 / HOUR_S, "usage/saved_device_h": 200 / HOUR_S}
    )
    line = live_line(usage.usage(), usage.ended_trials(), usage.budget)
    assert line == "0.2 of 2 gpu-h, 0.0556 more saved by stopping, at 2 GPUs; forecast 0.83 gpu-h in 19 min"
    usage.save()
    assert usage_line(read_usage(folder), [stopped], None) == "0.2 gpu-h, 0.0556 more saved by stopping"


def test_with_a_price_everything_is_told_in_money_too(tmp_path: Path) -> None:
    folder, clock = SweepFolder(tmp_path, "demo"), Clock()
    folder.path.mkdir()
    done = [trial(0, "complete", 900.0), trial(1, "complete", 100.0), trial(2, "complete", 9.0, confirms=0)]
    usage = meter(folder, clock, done, price=Price(10.0, "$"))
    assert usage.costs(done[0])["usage/money"] == 1.25
    clock.now_s = 3600.0
    usage.not_begun = 3
    unfinished = usage.unfinished_work()
    assert unfinished is not None and unfinished.missing == 1, "what the noise floor saves is not missing"
    saved_h = 3 * 500 * 0.5 / HOUR_S
    totals = usage.totals(hypervolume=0.05)
    assert totals["usage/money"] == 20.0 and totals["usage/device_h_per_point"] == pytest.approx(2.0 / 500)
    assert totals["usage/saved_by_noise_floor_device_h"] == pytest.approx(saved_h)
    assert usage_line(usage.usage(), done, None) == "2 gpu-h ($20.00)"
    assert value_lines(usage.usage(), done, 0.05) == [
        f"saved by the noise floor: about {saved_h:.3g} gpu-h (${10 * saved_h:.2f}), 3 trials not begun",
        "per point of hypervolume (0.01 x 0.01): 0.004 gpu-h ($0.04)",
    ]
    usage.close()
    for no_area in (None, 0.0):
        assert len(value_lines(read_usage(folder), done, no_area)) == 1
    later = meter(folder, clock, done)
    assert later.usage().price == Price(10.0, "$"), "a resumed sweep keeps the price"
    assert value_lines(later.usage(), done, None) == [], "and may have been asked for all of its trials"
    assert meter(folder, clock, done, price=Price(3.0, "EUR")).usage().price == Price(3.0, "EUR")


def test_a_trial_is_forecast_by_its_own_epochs_else_by_those_of_the_spec(tmp_path: Path) -> None:
    folder, clock = SweepFolder(tmp_path, "demo"), Clock()
    folder.path.mkdir()
    before = [trial(0, "complete", 30.0), trial(1, "complete", 90.0, parameters={"epochs": 9})]  # 10 s an epoch
    usage = meter(folder, clock, before)
    for number in (2, 3, 4, 5):
        usage.started(trial(number, "running", parameters={"epochs": 18}))
    assert usage.left_s() == pytest.approx(180.0)
    usage.ended(trial(2, "complete", 180.0, parameters={"epochs": 18}))
    usage.ended(trial(3, "stopped", 20.0, parameters={"epochs": 18}, stopped_at=1 / 9))
    # 320 s over 3 + 9 + 18 + 18 epochs; trials 4 and 5 are left.
    assert usage.left_s() == pytest.approx(18 * 320 / 48)


def test_hours_of_the_other_device_are_refused_and_not_added_up(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs on GPUs \(2 GPUs\); write the budget as 3gpu-h"):
        meter(SweepFolder(tmp_path, "demo"), Clock(), budget=Budget(3.0, "cpu"))
    cpu = Session(started_s=0.0, device="cpu", slots=1, devices_per_slot=2.0, wall_s=50.0)
    gpu = Session(started_s=0.0, device="gpu", slots=1, devices_per_slot=1.0, wall_s=7.0)
    assert Usage(sessions=(cpu, gpu)).device_s == 7.0
    assert Usage(sessions=(cpu, gpu, cpu)).device_s == 200.0
    assert cpu.devices == "2 CPUs" and gpu.devices == "1 GPU"


def test_the_forecast_includes_what_is_measured_after_the_last_trial(tmp_path: Path) -> None:
    folder, clock = SweepFolder(tmp_path, "demo"), Clock()
    folder.path.mkdir()
    usage = meter(folder, clock, [trial(number, "complete", 40.0) for number in range(6)])
    assert usage.left_s() == 0.0, "no evaluation was seen: nothing is guessed"
    usage.started(trial(6, "running"))
    usage.reported(trial(6, "running"), make_report(progress=1.0, train_s=30.0, evaluation_s=4.0))
    usage.ended(trial(6, "complete", 34.0))
    usage.expect_second_look(3.0, lambda trials: 2 * len(trials))
    second_s = 14 * 3.0 + POINTS_ON_TEST * EVALUATIONS_PER_POINT
    assert usage.left_s() == pytest.approx(4.0 / SESSION.slots * second_s)
    looks, tests = MeasuringPace(5, 0.0), MeasuringPace(7, 50.0)
    looks.done(5, 50.0)
    tests.done(2, 70.0)
    usage.to_measure(looks, tests)
    assert usage.left_s() == pytest.approx(5 * 10.0)
