"""One drill: a sweep, a moment, the harm, the way back to a complete sweep, the checks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.drills import checks, processes, records
from tests.drills.records import Snapshot
from tests.drills.sweeps import PHASES, Driver, Phase, Place, Sweep, wait_until

MOST_RESUMES = 4
_LONGEST_STEP_S = 3.0


class Skipped(Exception):
    """The drill cannot be done on this machine, or its moment did not come."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The undisturbed sweep of as many slots."""

    took_s: float
    starts_s: dict[Phase, float]
    """Since the driver began."""
    steps: dict[Phase, int]
    """``Sweep.steps_into`` of phases at their end."""
    content: dict[str, Any]
    """``trials`` and ``front``."""

    def duration_s(self, phase: Phase) -> float:
        ends = [self.starts_s[other] for other in PHASES[PHASES.index(phase) + 1 :] if other in self.starts_s]
        return max(0.1, min(ends, default=self.took_s) - self.starts_s.get(phase, self.took_s))


@dataclass(kw_only=True)
class Scene:
    """A drill under way."""

    rng: random.Random
    place: Place
    """The storage that the sweeps of all drills share."""
    reference: Reference
    sweep: Sweep
    snapshots: list[Snapshot] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    torn: set[int] = field(default_factory=set)
    """Trials whose checkpoint the drill destroyed."""
    same: bool = True
    """Whether the sweep is to end as the undisturbed one (with one slot)."""
    mlflow_uri: str | None = None
    """Of the store to look into; None: the one beside the sweeps."""
    held: ExitStack = field(default_factory=ExitStack)
    """What is given back after the checks."""

    def patience_s(self) -> float:
        """Return how long a driver may take."""
        return 3 * self.reference.took_s + 120

    def start(self, *options: str, text: str | None = None) -> Driver:
        return self.sweep.run(*options, text=text)

    def await_phase(self, driver: Driver, phase: Phase) -> None:
        """Return at the beginning of a phase. Raise Skipped where it does not come."""
        wanted = PHASES.index(phase)

        def has_come() -> bool:
            return self.sweep.has_begun() and PHASES.index(self.sweep.phase()) >= wanted

        if not wait_until(has_come, driver, self.patience_s()):
            if driver.code == 0:
                raise Skipped(f"the sweep ended before {phase} was seen")
            raise RuntimeError(f"{phase} did not come, exit code {driver.code}: {driver.err().strip()[-300:]}")

    def await_moment(self, driver: Driver, *phases: Phase) -> None:
        """Return at a random moment of the sweep, uniform over these phases (all, where none is given)."""
        phases = phases or PHASES
        durations = [self.reference.duration_s(phase) for phase in phases]
        phase = self.rng.choices(phases, weights=durations)[0]
        share = self.rng.random()
        self.await_phase(driver, phase)
        steps = self.reference.steps.get(phase, 0)
        if steps:
            # Counted in steps, because the load of the machine changes; then a random part of the way to the next one.
            before = int(share * steps)
            wait_until(lambda: self._is_past(phase, before), driver, self.patience_s())
            time.sleep(self.rng.random() * min(_LONGEST_STEP_S, self.reference.duration_s(phase) / steps))
        else:
            time.sleep(0.9 * share * self.reference.duration_s(phase))
        if not driver.running():
            raise Skipped(f"the sweep ended before the moment in {phase} came")

    def _is_past(self, phase: Phase, steps: int) -> bool:
        return self.sweep.steps_into(phase) >= steps or PHASES.index(self.sweep.phase()) > PHASES.index(phase)

    def harm(self, act: Callable[[], object]) -> Snapshot:
        """Do the harm and keep what was on disk then."""
        act()
        return self.look()

    def look(self) -> Snapshot:
        snapshot = records.snapshot(self.sweep)
        self.snapshots.append(snapshot)
        return snapshot

    def finish(self, driver: Driver, *, allowed: Sequence[int], within_s: float | None = None) -> None:
        """Wait for the harmed driver, then resume the sweep until it is complete.

        Args:
            allowed: exit codes of the harmed driver.
            within_s: how long it may take to end; as long as a sweep when left out.
        """
        limit_s = self.patience_s() if within_s is None else within_s
        if not driver.wait(limit_s):
            self.problems.append(f"the driver had not ended {limit_s:.0f} s after the harm")
            processes.end_all(self.sweep.mark)
        self.problems += checks.driver_ends(driver, tuple(allowed))
        if driver.code == 0:
            return
        # Half of the killed drivers are followed at once, while their workers are still there.
        if not driver.ended_by_us or self.rng.random() < 0.5:
            left = processes.survivors(self.sweep.mark, checks.GONE_WITHIN_S)
            self.problems += [f"{checks.GONE_WITHIN_S:g} s after the harmed driver: {process}" for process in left]
        self.resume()

    def resume(self) -> None:
        """Resume until exit code 0, a bounded number of times."""
        for _ in range(MOST_RESUMES):
            driver = self.sweep.resume() if self.sweep.exists() else self.sweep.run()
            if not driver.wait(self.patience_s()):
                self.problems.append(f"driver {len(self.sweep.drivers)} hung for {self.patience_s():.0f} s")
                processes.end_all(self.sweep.mark)
            if driver.code == 0:
                return
            self.notes.append(f"resume: exit {driver.code}")
        raise RuntimeError(f"not complete after {MOST_RESUMES} resumes: {driver.err().strip()[-300:]}")

    def check(self, memory_before: set[str]) -> int | None:
        """Look at everything; return how many steps were done again."""
        sweep, redone = self.sweep, None
        for check in (
            lambda: checks.check_words(sweep),
            lambda: checks.check_left(sweep, memory_before),
            lambda: checks.check_trials(sweep, self.snapshots),
            lambda: checks.check_mlflow(sweep, self.mlflow_uri),
            lambda: checks.check_same(sweep, self.reference.content) if self.same and sweep.slots == 1 else [],
        ):
            try:
                self.problems += check()
            except Exception as error:  # a check that cannot look is a finding too
                self.problems.append(f"cannot be checked: {type(error).__name__}: {error}"[:300])
        for snapshot in self.snapshots:
            steps, problems = checks.check_redone(sweep, snapshot, torn=self.torn)
            self.problems += problems
            redone = redone if steps is None else (redone or 0) + steps
        return redone


DrillFunction = Callable[[Scene], None]
