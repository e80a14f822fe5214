"""What the dispatcher tells the driver of a job and of its slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sweeper.jobs import Outcome
from trainables.records import Report


class ReportEvent(NamedTuple):
    """A report as it came in."""

    attempt: int
    number: int
    """Counted from 0 within the attempt."""
    report: Report


class JobUpdate(NamedTuple):
    """What happened to a job since the driver last asked."""

    reports: list[ReportEvent]
    outcome: Outcome | None
    """None: the job waits or runs."""


SetupErrorKind = Literal["input", "storage", "device", "internal"]
"""Bad input, which the user can mend; a disk that fails; memory or a device that fails; a fault of the program."""


@dataclass(frozen=True, kw_only=True)
class SetupError:
    """Why a slot, or every slot, cannot do any job: its workers could not be set up."""

    reason: str
    """One line."""
    kind: SetupErrorKind
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerAddress:
    """A worker process of a slot."""

    slot: int
    group: str
    rank: int


@dataclass(frozen=True, kw_only=True)
class SlotsState:
    """What the driver has to know of its slots, asked once a second."""

    warm: int
    """Slots whose workers wait for a job or do one."""
    set_aside: dict[int, SetupError]
    """Slots that will never do a job."""
    setup_error: SetupError | None
    """Why no job can be done any more."""
    to_kill: list[Any]
    """Handles of actors that hang: workers, and trial actors of Tune."""
    notes: list[str]
    """Lines for the user since the last call."""
    activity: str | None
    """What the first rank of a slot has said last that it is busy with (``trainables.activity``)."""
    controllers: dict[int, Any]
    """Slot -> handle of Train's controller."""
    placement_groups: dict[int, Any]
    """Slot -> placement group of its workers."""
