"""The front as a table, JSON and CSV.

Validation (used to pick points) and test (measured once, never fed back) are kept apart everywhere: columns and keys
name the split, the plot and the HTML page have a panel for each.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from sweeper.front.correlation import lines as proxy_lines
from sweeper.front.rendering.style import label
from sweeper.front.second_look import looked_text
from sweeper.layout import columns, wrapped
from sweeper.records import Confirmation, Front, FrontPoint
from trainables.records import Goals

Format = Literal["table", "json", "csv"]


def table(front: Front, format: Format, width: int | None = None) -> str:
    """Return the points of ``front`` as text for people, a JSON list of objects, or CSV; it ends with a newline.

    Args:
        width: columns of the text, which then has only the numbers for picking a point; None: all numbers, any width.
    """
    if format == "json":
        several = any(point.sweep for point in front.points)
        objects = [{**({"sweep": point.sweep} if several else {}), **_json_object(point)} for point in front.points]
        return json.dumps(objects, indent=2, allow_nan=False) + "\n"
    if format == "csv":
        lines = rows(front)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()
    return _wide_text(front) if width is None else _narrow_text(front, width)


def _json_object(point: FrontPoint) -> dict[str, Any]:
    return {
        "trial": point.trial,
        "weights": point.weights,
        "strength": point.strength,
        "params": point.parameters,
        "validation": point.validation,
        "validation_images": point.images,
        "values": point.values,
        "intervals": point.intervals,
        "name": point.name,
        "member": point.member,
        "confirmation": None if point.confirmation is None else asdict(point.confirmation),
    }


def rows(front: Front) -> list[dict[str, Any]]:
    """Return the points of ``front`` as flat rows with the same keys: ``validation_*``, ``test_*``, the parameters.

    If members were trained again, ``confirmed_*`` stands before the parameters.
    """
    validation = _in_order(front, (key for point in front.points for key in point.validation))
    test = _in_order(front, (key for point in front.points for key in point.values or {}))
    bounded = {key for point in front.points for key in point.intervals or {}}
    parameters = list(dict.fromkeys(key for point in front.points for key in point.parameters))
    result = []
    for point in front.points:
        row: dict[str, Any] = {"sweep": point.sweep} if any(shown.sweep for shown in front.points) else {}
        row |= {"name": point.name, "trial": point.trial, "weights": point.weights}
        row |= {"strength": point.strength, "member": point.member}
        row |= {f"validation_{key}": point.validation.get(key) for key in validation}
        row["validation_images"] = point.images
        for key in test:
            row[f"test_{key}"] = (point.values or {}).get(key)
            if key in bounded:
                row[f"test_{key}_low"], row[f"test_{key}_high"] = (point.intervals or {}).get(key, (None, None))
        if any(shown.confirmation for shown in front.points):
            row |= _confirmed_row(point.confirmation, front.goals)
        result.append(row | {key: point.parameters.get(key) for key in parameters})
    return result


def _confirmed_row(confirmation: Confirmation | None, goals: Goals) -> dict[str, Any]:
    if confirmation is None:
        return dict.fromkeys(_confirmed_row(Confirmation(seeds=0, failed=0, validation=None, stays=False), goals))
    row: dict[str, Any] = {"confirmed_seeds": confirmation.seeds, "confirmed_failed": confirmation.failed}
    row["confirmed_stays"] = confirmation.stays
    for goal in (goal.metric for goal in goals):
        row[f"confirmed_validation_{goal}"] = (confirmation.validation or {}).get(goal)
        row[f"confirmed_test_{goal}"] = (confirmation.values or {}).get(goal)
        for bounds, suffix in ((confirmation.intervals, ""), (confirmation.simultaneous, "_simultaneous")):
            low, high = (bounds or {}).get(goal, (None, None))
            row |= {f"confirmed_test_{goal}_low{suffix}": low, f"confirmed_test_{goal}_high{suffix}": high}
    return row


def markdown(front: Front, limit: int) -> str:
    """Return a summary and a table of at most ``limit`` characters, for MLflow's description of a run."""
    lines = [summary(front), "", "| " + " | ".join(_header(front)) + " |", "|" + " --- |" * len(_header(front))]
    length = sum(map(len, lines))
    for shown, point in enumerate(front.points):
        line = "| " + " | ".join(_cells(point, front.goals)) + " |"
        length += len(line) + 1
        if length > limit - 100:
            lines += ["", f"{len(front.points) - shown} more in front/front.csv."]
            break
        lines.append(line)
    confirmed = _confirmed_cells(front)
    if confirmed and length + sum(len(cell) + 3 for line in confirmed for cell in line) < limit - 500:
        head, *body = ["| " + " | ".join(line) + " |" for line in confirmed]
        lines += ["", _CONFIRMED, "", head, "|" + " --- |" * len(confirmed[0]), *body]
    return "\n".join([*lines, "", *proxy_lines(front)]).rstrip()


def summary(front: Front) -> str:
    """Return a line with the number of points, their hypervolume and reference point, and the number of trials."""
    members = sum(point.member for point in front.points)
    pairs = zip(front.goals, front.reference_point, strict=True)
    reference = ", ".join(f"{goal.short} {value:.3f}" for goal, value in pairs)
    return (
        f"{members} point{'' if members == 1 else 's'} on the front, hypervolume {front.hypervolume:.4f} "
        f"over ({reference}), {front.finished} of {front.trials} trials finished"
        + (f"; kept: {', '.join(front.kept.values())}" if front.kept else "")
        + (f"; {looked_text(front.second_look, members)}" if front.second_look else "")
    )


def _header(front: Front) -> list[str]:
    return ["point", "trial", "objective", "tune", "weights", "strength", *_goal_columns(front)]


def _goal_columns(front: Front) -> list[str]:
    short = [goal.short for goal in front.goals]
    return [f"validation {name}" for name in short] + [f"test {name} (95 %)" for name in short]


def _cells(point: FrontPoint, goals: Goals) -> list[str]:
    trained = point.trial is not None
    return [
        label(point) if point.name or not trained else "",
        (f"{point.sweep}/{point.trial}" if point.sweep else str(point.trial)) if trained else "-",
        _objective(point),
        str(point.parameters.get("tune", "-")),
        point.weights if trained else "-",
        f"{point.strength:g}" if trained else "-",
        *(_number(point.validation.get(goal.metric)) for goal in goals),
        *(_measured(point, goal.metric) for goal in goals),
    ]


def _objective(point: FrontPoint) -> str:
    """Return the objective, with the target if it differs between trials."""
    words = [str(point.parameters[name]) for name in ("objective", "target") if point.parameters.get(name) is not None]
    return " ".join(word for word in words if word != "flipped") or "-"


def _measured(point: FrontPoint, goal: str) -> str:
    return _bounded((point.values or {}).get(goal), (point.intervals or {}).get(goal))


def _bounded(value: float | None, bounds: tuple[float, float] | None) -> str:
    return _number(value) + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if value is not None and bounds else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


_CONFIRMED = "trained again with new seeds: means, and the expected range for a fresh seed on fresh images"


def _confirmed_cells(front: Front) -> list[list[str]]:
    """Return the header and a line for each member that was trained again; empty if there is none."""
    lines = []
    for point in front.points:
        confirmation = point.confirmation
        if confirmation is None:
            continue
        cells = _cells(point, front.goals)
        metrics = [goal.metric for goal in front.goals]
        seeds = str(confirmation.seeds) + (f" ({confirmation.failed} failed)" if confirmation.failed else "")
        means = [_number((confirmation.validation or {}).get(goal)) for goal in metrics]
        values, intervals = confirmation.values or {}, confirmation.intervals or {}
        tested = [_bounded(values.get(goal), intervals.get(goal)) for goal in metrics]
        lines.append([*cells[:2], *cells[4:6], seeds, *means, *tested, "yes" if confirmation.stays else "no"])
    header = ["point", "trial", "weights", "strength", "seeds", *_goal_columns(front), "stays"]
    return [header, *lines] if lines else []


def _simultaneous_note(front: Front) -> list[str]:
    shown = sum(point.confirmation is not None for point in front.points)
    if shown < 2:
        return []
    return [f"(each by itself; for a point picked from these {shown} on test see `simultaneous` in front.json)"]


def _narrow_text(front: Front, width: int) -> str:
    measured = all(point.values for point in front.points if point.member)
    split = "test" if measured else "validation"
    head = ["point", "trial", *(f"{split} {goal.short}" for goal in front.goals), "how"]
    lines = [head]
    for point in front.points:
        goals = [goal.metric for goal in front.goals]
        values = [_reach(point, goal) if measured else _number(point.validation.get(goal)) for goal in goals]
        cells = _cells(point, front.goals)
        lines.append([*cells[:2], *values, _how(point)])
    text = _columns(lines, width)
    if measured:
        text += ["", wrapped("±: the longer side of the 95 % interval. Points are picked on validation.", width)]
    confirmed = [point for point in front.points if point.confirmation is not None]
    if confirmed:
        stay = sum(point.confirmation.stays for point in confirmed if point.confirmation is not None)
        seeds = max(point.confirmation.seeds for point in confirmed if point.confirmation is not None)
        text.append(
            wrapped(f"Trained again with {seeds} new seeds: {stay} of {len(confirmed)} stay on the front.", width)
        )
    about = [f"{summary(front)}.", *proxy_lines(front), "Validation, intervals and costs: --wide."]
    return "\n".join([*text, *(wrapped(line, width) for line in about)]) + "\n"


def _how(point: FrontPoint) -> str:
    """Return objective, scope, strength and averaged weights in some 30 characters: ``ipo transform x0.75``."""
    if point.trial is None:
        return "-"
    words = [_objective(point), str(point.parameters.get("tune", "")), f"x{point.strength:g}"]
    return " ".join(word for word in [*words, "" if point.weights == "last" else point.weights] if word)


def _reach(point: FrontPoint, goal: str) -> str:
    """Return a test value and the longer side of its interval."""
    value, bounds = (point.values or {}).get(goal), (point.intervals or {}).get(goal)
    if value is None or bounds is None:
        return _number(value)
    return f"{value:.3f} ±{max(value - bounds[0], bounds[1] - value):.3f}"


def _wide_text(front: Front) -> str:
    text = _columns([_header(front), *(_cells(point, front.goals) for point in front.points)])
    if front.kept:
        text += ["", f"bounds to be kept, on validation ({', '.join(front.kept.values())}):"]
        lines = [["point", "trial", "strength", *(metric.replace("_", " ") for metric in front.kept)]]
        for point in front.points:
            cells = _cells(point, front.goals)
            kept = [_number(point.validation.get(metric)) for metric in front.kept]
            lines.append([cells[0], cells[1], cells[5], *kept])
        text += _columns(lines)
    goals = [goal.metric for goal in front.goals]
    beside = [key for key in _in_order(front, (key for point in front.points for key in point.values or {}))
              if key not in goals]  # fmt: skip
    alone = {key for key in (*goals, *beside) if "/" not in key}
    of_sets = [key for key in beside if "/" in key and key.rpartition("/")[2] in alone]
    general = [key for key in beside if key not in of_sets]
    if general:
        text += ["", "costs and transfer, on test:"]
        text += _columns(_beside(front, general, {key: _short_name(key, goals[1]) for key in general}))
    if of_sets:
        text += ["", "on each test set by itself:"]
        text += _columns(_beside(front, of_sets, {key: key.replace("/", ": ") for key in of_sets}))
    confirmed = _confirmed_cells(front)
    if confirmed:
        text += ["", f"{_CONFIRMED}:", *_columns(confirmed), *_simultaneous_note(front)]
    correlated = proxy_lines(front)
    return "\n".join([*text, *([""] if correlated else []), *correlated, "", summary(front)]) + "\n"


def _short_name(key: str, goal: str) -> str:
    """Return a short name: ``robust_accuracy/unseen_font`` -> ``unseen_font``; other metrics keep their name."""
    first, slash, last = key.partition("/")
    return last if slash and first == goal else key.replace("/", ": ")


def _beside(front: Front, keys: list[str], names: dict[str, str]) -> list[list[str]]:
    """Return the header and a line for each point: point, trial and strength, then its test values under ``keys``."""
    lines = [["point", "trial", "strength", *(names[key].replace("_", " ") for key in keys)]]
    for point in front.points:
        cells = _cells(point, front.goals)
        lines.append([cells[0], cells[1], cells[5], *(_number((point.values or {}).get(key)) for key in keys)])
    return lines


def _columns(lines: list[list[str]], width: int | None = None) -> list[str]:
    """Return columns side by side, the first line underlined; at most ``width`` columns wide."""
    text, _ = columns(lines, width)
    text.insert(1, "-" * max(map(len, text)))
    return text


def _in_order(front: Front, keys: Iterable[str]) -> list[str]:
    """Return the keys, goals first, without duplicates."""
    seen, goals = list(dict.fromkeys(keys)), [goal.metric for goal in front.goals]
    return [goal for goal in goals if goal in seen] + [key for key in seen if key not in goals]
