"""What the dispatcher tells the driver of a job and of its slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


@dataclass(frozen=True, kw_only=True)
class SetupError:
    """Why a slot cannot do any job: its runner could not be built."""

    reason: str
    user: bool
    """Whether the cause is bad input, which the user can mend."""
    traceback: str | None = None
