"""Ray Tune over warm slots: Tune decides what runs when, its trial actors are proxies that relay a slot's news.

All proxies start before the first trial and wait at the desk for each other. Otherwise, with ``reuse_actors``, a trial
that waits for its proxy to start is given the one of a trial that has just ended, and its own is killed half started
(Ray 2.60, ``TuneController._maybe_reuse_cached_actor``): short trials then have Tune start and kill one per hand-over.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.search import Searcher

from sweeper.execution.job_queue import JobUpdate, SetupError
from sweeper.execution.slots import SlotPool, setup_exception
from sweeper.execution.trial_actor import NEWS, WARM_UP, TrialActor
from sweeper.records import Outcome, Report, Task

CHECK_S = 1.0
MAX_ACTOR_FAILURES = 10


class TrialSource(Protocol):
    """Where trials come from and what becomes of them. All calls come from the thread that called ``run_trials``."""

    def next_task(self) -> Task | None:
        """The next trial for a slot that is about to be free; None: none now."""

    def exhausted(self) -> bool:
        """Whether ``next_task`` will have nothing more. Asked again until no trial is running."""

    def on_report(self, key: int, report: Report) -> bool:
        """Takes a report; returns whether to stop the trial, which counts if the report says ``rung: True``.

        An attempt that goes on from a checkpoint may repeat a report.
        """

    def on_end(self, key: int, outcome: Outcome) -> None: ...

    def on_tick(self) -> None:
        """Several times a second."""


def run_trials(slots: SlotPool, prepare: Callable[[], TrialSource | None], folder: Path) -> None:
    """Runs trials until their source is exhausted. Re-raises what ``prepare``, the source or ``slots.check`` raises.

    ``prepare``: asked several times a second for the source, while Tune starts; None: not yet. ``folder``: for Tune's
    own files, which nobody needs afterwards.
    """
    slots.hold()
    conductor = _TuneBridge(slots, prepare)
    name = f"tune-{time.time_ns()}"
    relay = tune.with_resources(
        tune.with_parameters(TrialActor, desk=slots.desk),
        {"node:__internal_head__": 0.001},  # proxies must not take the CPUs of the workers
    )
    tuner = tune.Tuner(
        relay,
        tune_config=tune.TuneConfig(
            search_alg=_BridgeSearcher(conductor),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder.absolute()),
            callbacks=[_BridgeCallback(conductor)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if conductor.failure is None:
            raise
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)
    if conductor.failure is not None:
        raise conductor.failure


@dataclass
class _LiveTrial:
    """A trial that Tune has and that has not ended."""

    task: Task
    seen: int = 0
    """How many of its reports the source has."""


class _TuneBridge:
    """What the searcher and the callback share: which trials live, and the source."""

    def __init__(self, slots: SlotPool, prepare: Callable[[], TrialSource | None]) -> None:
        self._slots = slots
        self._prepare = prepare
        self._source: TrialSource | None = None
        self._warming: set[str] = set()
        """What Tune runs to have its actors started, one per slot."""
        self._up: set[str] = set()
        """Those whose actor has started."""
        self._released = False
        self._live: dict[str, _LiveTrial] = {}
        """By Tune's id of the trial."""
        self._detached: list[_LiveTrial] = []
        """Their relay died; they go on."""
        self._relays_lost = 0
        self._checked_s = 0.0
        self.failure: Exception | None = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keeps what is raised, because Tune may raise something else for it, and lets running trials end."""
        try:
            yield
        except Exception as error:
            if self.failure is None:
                self.failure = error
                self._slots.interrupt()
                self._slots.release()
                for live in self._live.values():
                    self._slots.forget((live.task.kind, live.task.key))
            raise

    def ask(self, trial_id: str) -> dict[str, Any] | str | None:
        """What Tune shall run next; None: nothing now; ``FINISHED`` is for ever."""
        with self.recorded():
            if not self._released:
                if len(self._warming) == self._slots.plan.slots:
                    return None
                self._warming.add(trial_id)
                return {"kind": WARM_UP, "key": len(self._warming), "seen": 0}
            assert self._source is not None
            if self._detached:
                live = self._detached.pop()
            elif len(self._live) + len(self._warming) >= self._slots.plan.slots:
                return None
            elif self._source.exhausted():
                return None if self._live or self._warming else Searcher.FINISHED
            else:
                task = self._source.next_task()
                if task is None:
                    if not self._live:
                        self.tick()  # Tune asks again and again and does nothing else
                    return None
                self._slots.offer(task)
                live = _LiveTrial(task)
            self._live[trial_id] = live
            return {"kind": live.task.kind, "key": live.task.key, "seen": live.seen}

    def tell(self, trial_id: str, news: JobUpdate | SetupError) -> None:
        with self.recorded():
            if isinstance(news, SetupError):
                raise setup_exception(news)
            self._relays_lost = 0
            if trial_id in self._warming:
                self._warming.discard(trial_id)
                return
            assert self._source is not None
            notes, outcome = news
            live = self._live[trial_id]
            key = live.task.key
            for note in notes:
                live.seen += 1
                stop = self._source.on_report(key, note.report)
                if note.report.get("rung") is True:
                    self._slots.judge((live.task.kind, key), note.attempt, note.number, stop)
            if outcome is not None:
                del self._live[trial_id]
                self._slots.forget((live.task.kind, key))
                self._source.on_end(key, outcome)

    def relay_up(self, trial_id: str) -> None:
        if trial_id in self._warming:
            self._up.add(trial_id)

    def relay_died(self, trial_id: str) -> None:
        """The trial itself goes on in its slot; Tune shall follow it with another actor."""
        with self.recorded():
            self._relays_lost += 1
            if self._relays_lost > MAX_ACTOR_FAILURES:
                raise RuntimeError(f"{self._relays_lost} of Tune's trial actors died one after the other")
            self._warming.discard(trial_id)
            self._up.discard(trial_id)
            live = self._live.pop(trial_id, None)
            if live is not None:
                self._detached.append(live)

    def tick(self) -> None:
        with self.recorded():
            if time.monotonic() - self._checked_s > CHECK_S:
                self._slots.check()
                self._checked_s = time.monotonic()
            if self._source is not None:
                self._source.on_tick()
            else:
                self._source = self._prepare()
            if self._source is not None and not self._released and len(self._up) == self._slots.plan.slots:
                self._released = True
                self._slots.release()


class _BridgeSearcher(Searcher):
    """The conductor as Tune's searcher. Tune's snapshots of it are empty: the study is what is durable."""

    def __init__(self, conductor: _TuneBridge) -> None:
        super().__init__()
        self._conductor = conductor

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._conductor.ask(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback has told the source already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _BridgeCallback(tune.Callback):
    """The conductor as Tune's callback."""

    def __init__(self, conductor: _TuneBridge) -> None:
        self._conductor = conductor

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._conductor.tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._conductor.relay_up(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._conductor.tell(trial.trial_id, result.pop(NEWS))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._conductor.relay_died(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}
