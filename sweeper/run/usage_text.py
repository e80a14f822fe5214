"""The usage of a sweep in words."""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.records import TrialRecord
from sweeper.run.budget import UnfinishedWork, Usage
from sweeper.spec.quantities import HOUR_S, Budget, Price, duration, hours


def usage_line(usage: Usage, trials: Iterable[TrialRecord], budget: Budget | None) -> str:
    """Return ``0.42 of 12 cpu-h, 0.03 more saved by stopping``, or with a price ``0.42 of 12 cpu-h ($1.05), ...``."""
    unit = f"{usage.device}-h"
    device_hours = usage.device_hours(trials) or {"device_h": 0.0, "saved_device_h": 0.0}
    text = f"{hours(device_hours['device_h'])} {unit}"
    if budget is not None and budget.device == usage.device:
        text = f"{hours(device_hours['device_h'])} of {budget.hours:g} {unit}"
    text += money(usage.price, device_hours["device_h"])
    saved_h = device_hours["saved_device_h"]
    return f"{text}, {hours(saved_h)}{money(usage.price, saved_h)} more saved by stopping" if saved_h > 0 else text


def value_lines(usage: Usage, trials: Iterable[TrialRecord], hypervolume: float | None) -> list[str]:
    """Return a line on the savings of the noise floor and a line on the cost of a point of hypervolume, if there are
    any.

    Args:
        hypervolume: of the front; None if its goals are not both accuracies.
    """
    unit, lines = f"{usage.device}-h", []
    floor_h = usage.device_hours(trials).get("saved_by_noise_floor_device_h")
    if floor_h is not None:
        saved = f"{hours(floor_h)} {unit}{money(usage.price, floor_h)}"
        lines.append(f"saved by the noise floor: about {saved}, {usage.not_begun} trials not begun")
    point_h = usage.device_hours_per_point(hypervolume)
    if point_h is not None:
        lines.append(f"per point of hypervolume (0.01 x 0.01): {hours(point_h)} {unit}{money(usage.price, point_h)}")
    return lines


def money(price: Price | None, device_hours: float) -> str:
    """Return the price of device hours in brackets, such as `` ($12.30)``; empty without a price."""
    return "" if price is None else f" ({price.of(device_hours)})"


def forecast_line(usage: Usage) -> str | None:
    """Return ``0.8 cpu-h in 25 min``; None without a forecast."""
    if usage.forecast is None:
        return None
    unit = f"{usage.device}-h"
    device_h = usage.forecast.device_s / HOUR_S
    text = f"{hours(device_h)} {unit}{money(usage.price, device_h)} in {duration(usage.forecast.left_s)}"
    return text if usage.forecast.all_trials else f"{text}, before all trials are done"


def live_line(usage: Usage, trials: Iterable[TrialRecord], budget: Budget | None) -> str:
    """Return the usage of a running sweep: ``0.42 of 12 cpu-h, at 2 CPUs; forecast 0.8 cpu-h in 25 min``."""
    text = f"{usage_line(usage, trials, budget)}, at {usage.sessions[-1].devices}"
    forecast = forecast_line(usage)
    return text if forecast is None else f"{text}; forecast {forecast}"


def limit_text(limit: Budget | float | None) -> str:
    """Return ``the budget of 12cpu-h`` or ``the time of 8 h``; see ``UnfinishedWork.limit``."""
    if isinstance(limit, Budget):
        return f"the budget of {limit}"
    return "the time" if limit is None else f"the time of {duration(limit)}"


def unfinished_line(work: UnfinishedWork) -> str:
    limit = limit_text(work.limit)
    return f"{work.missing} of {work.planned} trials are not done, because {limit} is not enough for more"


def resume_options(work: UnfinishedWork) -> tuple[str, ...]:
    """Return the options of ``sweeper resume`` that let the sweep go on."""
    return () if work.enough is None else ("--budget", str(work.enough))
