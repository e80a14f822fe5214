"""Events of a sweep from the driver, distinguished by their type. JSON is used in the outbox only.

Keys on disk are those of the first version; outboxes of earlier versions can be read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sweeper.records import TrialRecord
from trainables.records import Point, Report


def _now_ms() -> int:
    return int(time.time() * 1000)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a sweep."""

    time_ms: int = field(default_factory=_now_ms, compare=False)
    """Time of the event, in milliseconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class SweepStarted(Event):
    """A sweep was started or resumed."""

    spec: dict[str, Any]
    """The resolved spec."""
    tags: dict[str, str]
    """Tags of the sweep's run."""


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial was started, or a further attempt at it."""

    trial: int
    parameters: dict[str, Any]
    seed: int
    slot: int | None
    tags: dict[str, str]
    """Tags of the trial's run."""


@dataclass(frozen=True, kw_only=True)
class TrialReported(Event):
    trial: int
    report: Report


@dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """A trial is complete, stopped or failed."""

    record: TrialRecord
    costs: dict[str, float]
    """Further metrics by name."""


@dataclass(frozen=True, kw_only=True)
class HypervolumeChanged(Event):
    finished: int
    """Number of trials of the search that have ended."""
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """Test metrics of a trial's weights at one strength."""

    trial: int
    point: Point


@dataclass(frozen=True, kw_only=True)
class FrontMember:
    """The member of the front that represents its trial in tables of trials."""

    trial: int
    name: str
    """Its name, and the names of the trial's other members with their strengths; ``member`` if none has a name."""
    strength: float
    validation: dict[str, float]
    """Goals as shown on the front."""
    test: dict[str, float]
    """Goals on test; empty before they are measured."""


@dataclass(frozen=True, kw_only=True)
class FrontUpdated(Event):
    """The front's files were written to ``<folder>/front``."""

    note: str
    """The front in Markdown."""
    members: tuple[FrontMember, ...]
    """One member for each trial that has members."""
    table: list[dict[str, Any]]
    """Rows of ``rendering.table.rows``."""
    tests: tuple[MeasuredPoint, ...]


@dataclass(frozen=True, kw_only=True)
class SweepEnded(Event):
    state: str
    """``complete``, ``failed`` or ``interrupted``."""
    open: tuple[int, ...]
    """Trials that have not ended."""
    costs: dict[str, float]
    """Costs of the sweep so far, further metrics by name."""


@dataclass(frozen=True, kw_only=True)
class Unreadable(Event):
    """A line that is not an event of this version."""

    problem: str


def to_json(event: Event) -> dict[str, Any]:
    """Return the line of an event.

    Raises:
        TypeError: the event is ``Unreadable`` and has no line.
    """
    return {"time": event.time_ms, **_content(event)}


def _content(event: Event) -> dict[str, Any]:
    match event:
        case SweepStarted():
            return {"kind": "sweep", "spec": event.spec, "tags": event.tags}
        case TrialStarted():
            about = {"parameters": event.parameters, "seed": event.seed, "slot": event.slot}
            return {"kind": "trial", "trial": event.trial, **about, "tags": event.tags}
        case TrialReported():
            return {"kind": "report", "trial": event.trial, "report": event.report.to_json()}
        case TrialEnded():
            return {"kind": "end", "record": asdict(event.record), "costs": event.costs}
        case HypervolumeChanged():
            return {"kind": "volume", "finished": event.finished, "hypervolume": event.hypervolume}
        case FrontUpdated():
            return {
                "kind": "front",
                "note": event.note,
                "members": [asdict(member) for member in event.members],
                "table": event.table,
                "tests": [{"trial": measured.trial, **asdict(measured.point)} for measured in event.tests],
            }
        case SweepEnded():
            return {"kind": "sweep_end", "state": event.state, "open": list(event.open), "costs": event.costs}
        case _:
            raise TypeError(f"{type(event).__name__} is not written")


def from_json(line: Mapping[str, Any]) -> Event:
    """Return the event of a line; an ``Unreadable`` event if the line is not an event of this version."""
    try:
        return _event(line)
    except KeyError as error:
        return Unreadable(time_ms=0, problem=str(error.args[0]))
    except (TypeError, ValueError, AttributeError) as error:
        return Unreadable(time_ms=0, problem=str(error))


def _event(line: Mapping[str, Any]) -> Event:
    kind, time_ms = line["kind"], line["time"]
    match kind:
        case "sweep":
            return SweepStarted(time_ms=time_ms, spec=line["spec"], tags=line["tags"])
        case "trial":
            return TrialStarted(
                time_ms=time_ms,
                trial=line["trial"],
                parameters=line["parameters"],
                seed=line["seed"],
                slot=line["slot"],
                tags=line["tags"],
            )
        case "report":
            return TrialReported(time_ms=time_ms, trial=line["trial"], report=Report.from_json(line["report"]))
        case "end":
            # Events of the first versions have no costs, neither those of a trial nor those of the sweep.
            return TrialEnded(time_ms=time_ms, record=_trial_record(line["record"]), costs=line.get("costs", {}))
        case "volume":
            return HypervolumeChanged(time_ms=time_ms, finished=line["finished"], hypervolume=line["hypervolume"])
        case "front":
            return FrontUpdated(
                time_ms=time_ms,
                note=line["note"],
                members=_members(line["members"]),
                table=line["table"],
                tests=tuple(_measured_point(point) for point in line["tests"]),
            )
        case "sweep_end":
            return SweepEnded(
                time_ms=time_ms, state=line["state"], open=tuple(line["open"]), costs=line.get("costs", {})
            )
        case _:
            raise KeyError(f"an event of unknown kind {kind!r}")


def _trial_record(record: Mapping[str, Any]) -> TrialRecord:
    known = {name.name: record[name.name] for name in fields(TrialRecord) if name.name in record}
    return TrialRecord(**{**known, "points": tuple(Point(**point) for point in record["points"])})


def _members(members: Any) -> tuple[FrontMember, ...]:
    """Return the members of a front; events of version 0.1 have trial -> names, without values."""
    if isinstance(members, dict):
        return tuple(
            FrontMember(trial=int(number), name=name or "member", strength=1.0, validation={}, test={})
            for number, name in members.items()
        )
    return tuple(FrontMember(**member) for member in members)


def _measured_point(point: Mapping[str, Any]) -> MeasuredPoint:
    return MeasuredPoint(
        trial=point["trial"],
        point=Point(weights=point["weights"], strength=point["strength"], values=point["values"]),
    )
