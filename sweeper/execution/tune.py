"""Ray Tune over warm slots: Tune decides when a trial starts; its trial actors pass on the news from the slots.

All trial actors start before the first trial and wait for each other at a barrier. Otherwise, with ``reuse_actors``, a
trial that waits for its actor to start gets the actor of a trial that has just ended, and its own is killed while it
starts (Ray 2.60, ``TuneController._maybe_reuse_cached_actor``): with short trials Tune then starts and kills an actor
per trial.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ray import tune
from ray.tune.search import Searcher

from sweeper.execution.cluster import as_unavailable
from sweeper.execution.messages import JobUpdate, SetupError
from sweeper.execution.slots import SlotPool, setup_exception
from sweeper.execution.trial_actor import UPDATE, WARM_UP, TrialActor
from sweeper.jobs import Job, Outcome
from trainables.records import Report

CHECK_S = 1.0
MAX_ACTOR_FAILURES = 10


class TrialSource(Protocol):
    """Source of trials that receives their reports and ends. All calls come from the thread of ``run_trials``."""

    def next_job(self) -> Job | None:
        """Return the next trial for a slot that is about to be free; None if there is none now."""

    def exhausted(self) -> bool:
        """Return whether ``next_job`` will return no further trial. Called again until no trial is running."""

    def on_report(self, key: int, report: Report) -> bool:
        """Take a report; return whether to stop the trial, which counts for reports at a rung.

        An attempt that goes on from a checkpoint may repeat a report.
        """

    def on_end(self, key: int, outcome: Outcome) -> None: ...

    def on_tick(self) -> None:
        """Called several times a second."""


class Search(Protocol):
    """Result of ``prepare`` of ``run_trials``."""

    @property
    def scheduler(self) -> TrialSource: ...


AnySearch = TypeVar("AnySearch", bound=Search)


def run_trials(slots: SlotPool, prepare: Callable[[], AnySearch | None], folder: Path) -> AnySearch:
    """Run trials until their source is exhausted. Return the result of ``prepare``.

    Errors of ``prepare``, of the source of trials and of ``slots.check`` are raised unchanged.

    Args:
        prepare: called several times a second while Tune starts, until it returns the search; None: not yet.
        folder: for Tune's own files, which are not needed afterwards.
    """
    slots.close_barrier()
    bridge = _TuneBridge(slots, prepare)
    name = f"tune-{time.time_ns()}"
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, dispatcher=slots.dispatcher),
        {"node:__internal_head__": 0.001},  # trial actors must not take the CPUs of the workers
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_BridgeSearcher(bridge),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder.absolute()),
            callbacks=[_BridgeCallback(bridge)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        if bridge.failure is None:
            raise as_unavailable(error) from error
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)
    if bridge.failure is not None:
        raise bridge.failure
    assert bridge.search is not None, "Tune ends only when the source is exhausted"
    return bridge.search


@dataclass
class _LiveTrial:
    """A trial that Tune knows and that has not ended."""

    job: Job
    seen: int = 0
    """Number of its reports that the source has received."""

    def config(self) -> dict[str, Any]:
        """Return the configuration of the trial actor that follows the trial."""
        return {"kind": self.job.kind, "key": self.job.key, "seen": self.seen}


class _TuneBridge(Generic[AnySearch]):
    """Connects Tune's searcher and callback with the source of trials and the slots."""

    def __init__(self, slots: SlotPool, prepare: Callable[[], AnySearch | None]) -> None:
        self._slots = slots
        self._prepare = prepare
        self.search: AnySearch | None = None
        self._warming: set[str] = set()
        """Tune's trials that only start an actor, one for each slot, while they wait at the barrier."""
        self._started: set[str] = set()
        """Trials of ``_warming`` whose actor has started."""
        self._barrier_open = False
        self._live: dict[str, _LiveTrial] = {}
        """Tune's id of the trial -> trial."""
        self._detached: list[_LiveTrial] = []
        """Trials that go on in their slot although their trial actor has died."""
        self._actor_failures = 0
        self._checked_s = 0.0
        self.failure: Exception | None = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record an error, because Tune may raise another one for it, and let running trials end."""
        try:
            yield
        except Exception as error:
            if self.failure is None:
                self.failure = as_unavailable(error)
                self._slots.interrupt()
                self._slots.open_barrier()
                for live in self._live.values():
                    self._slots.discard(live.job.name)
            raise

    def ask(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration for Tune; None: nothing now; ``FINISHED``: nothing any more."""
        with self.recorded():
            if self.search is None or not self._barrier_open:
                if len(self._warming) == self._slots.plan.slots:
                    return None
                self._warming.add(trial_id)
                return {"kind": WARM_UP, "key": len(self._warming), "seen": 0}
            if self._detached:
                self._live[trial_id] = self._detached.pop()
                return self._live[trial_id].config()
            if len(self._live) + len(self._warming) >= self._slots.active:
                return None
            source = self.search.scheduler
            if source.exhausted():
                return None if self._live or self._warming else Searcher.FINISHED
            job = source.next_job()
            if job is None:
                if not self._live:
                    self.tick()  # Tune asks again and again and does nothing else
                return None
            self._slots.enqueue(job)
            self._live[trial_id] = _LiveTrial(job)
            return self._live[trial_id].config()

    def tell(self, trial_id: str, update: JobUpdate | SetupError) -> None:
        """Pass on the news of a trial."""
        with self.recorded():
            if isinstance(update, SetupError):
                raise setup_exception(update)
            self._actor_failures = 0
            if trial_id in self._warming:
                self._warming.discard(trial_id)
                return
            assert self.search is not None, "trials run only once the search is there"
            source, live = self.search.scheduler, self._live[trial_id]
            for event in update.reports:
                live.seen += 1
                stop = source.on_report(live.job.key, event.report)
                if event.report.rung:
                    self._slots.set_decision(live.job.name, event.attempt, event.number, stop)
            if update.outcome is not None:
                del self._live[trial_id]
                self._slots.discard(live.job.name)
                source.on_end(live.job.key, update.outcome)

    def actor_started(self, trial_id: str) -> None:
        if trial_id in self._warming:
            self._started.add(trial_id)

    def actor_died(self, trial_id: str) -> None:
        """Have Tune follow the trial, which goes on in its slot, with another actor."""
        with self.recorded():
            self._actor_failures += 1
            if self._actor_failures > MAX_ACTOR_FAILURES:
                raise RuntimeError(f"{self._actor_failures} of Tune's trial actors died one after the other")
            self._warming.discard(trial_id)
            self._started.discard(trial_id)
            live = self._live.pop(trial_id, None)
            if live is not None:
                self._detached.append(live)

    def tick(self) -> None:
        with self.recorded():
            if time.monotonic() - self._checked_s > CHECK_S:
                self._slots.check()
                self._checked_s = time.monotonic()
            if self.search is not None:
                self.search.scheduler.on_tick()
            else:
                self.search = self._prepare()
            if self.search is not None and not self._barrier_open and len(self._started) == self._slots.plan.slots:
                self._barrier_open = True
                self._slots.open_barrier()


class _BridgeSearcher(Searcher):
    """The bridge as Tune's searcher. Tune's snapshots of it are empty: the study is the durable record."""

    def __init__(self, bridge: _TuneBridge[Any]) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._bridge.ask(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the callback has informed the source already."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _BridgeCallback(tune.Callback):
    """The bridge as Tune's callback."""

    def __init__(self, bridge: _TuneBridge[Any]) -> None:
        self._bridge = bridge

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._bridge.tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._bridge.actor_started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._bridge.tell(trial.trial_id, result.pop(UPDATE))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._bridge.actor_died(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}
