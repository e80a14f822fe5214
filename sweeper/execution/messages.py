"""Messages of the dispatcher to the driver about a job and about the slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sweeper.execution.handles import Sealed
from sweeper.jobs import Outcome
from trainables.records import Report


class ReportEvent(NamedTuple):
    """A report as it was received."""

    attempt: int
    number: int
    """Number of the report, from 0 within the attempt."""
    report: Report


class JobUpdate(NamedTuple):
    """News of a job since the driver last asked."""

    reports: list[ReportEvent]
    outcome: Outcome | None
    """None while the job waits or runs."""


SetupErrorKind = Literal["input", "storage", "device", "internal"]
"""Bad input, which the user can correct; a disk that fails; memory or a device that fails; an error of the program."""


@dataclass(frozen=True, kw_only=True)
class SetupError:
    """The reason why a slot, or every slot, cannot do any job: its workers could not be set up."""

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
    node: str = ""
    """Name of its machine."""


@dataclass(frozen=True, kw_only=True)
class SlotsState:
    """The state of the slots that the driver asks for once a second."""

    warm: int
    """Number of slots whose workers wait for a job or do one."""
    set_aside: dict[int, SetupError]
    """Slots that will never do a job."""
    setup_error: SetupError | None
    """Reason why no job can be done any more; None if jobs can be done."""
    to_kill: list[Sealed]
    """Handles of hanging actors: workers, and trial actors of Tune."""
    notes: list[str]
    """Lines for the user since the last call."""
    activity: str | None
    """Last message of the first rank of a slot about its present activity (``trainables.activity``)."""
    controllers: dict[int, Sealed]
    """Slot -> handle of Train's controller."""
    placement_groups: dict[int, Any]
    """Slot -> placement group of its workers."""
