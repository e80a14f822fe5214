"""Sweeps through the command line: starting a driver, knowing its phase, waiting for a moment and for the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.drills import processes

TRIALS = 8
CHECKPOINT_EVERY_S = 0.3
STALL_S = 9.0
SPEC = """
sets:
  world: {{kind: world, train: 256, validation: 200, test: 200}}
train: {{set: world, classes: 0.5}}
attack: {{recipe: sign}}
evaluate: {{search: {{sets: [world]}}, front: {{strengths: [0.5, 1.0]}}, test: {{sets: [world]}}}}
parameters:
  objective: {{choices: [dpo, cross_entropy]}}
  beta: {{when: {{objective: dpo}}, low: 0.1, high: 2.0, log: true}}
  lambda_reg: {{low: 0.03, high: 10.0, log: true}}
  tune: {{choices: [visual]}}
  learning_rate: {{low: 1.0e-4, high: 3.0e-3, log: true}}
paint: {{learning_rate: 1.0e-3}}
search: {{trials: {trials}, startup_trials: 3}}
stopping: {{kind: moasha, reduction_factor: 4}}
confirm: {{members: 1, seeds: 2, share: 0.25}}
training: {{epochs: 3, global_batch_size: 8, checkpoint_every_s: {checkpoint_every_s}}}
resources: {{cpus_per_worker: {cpus}}}
"""
Phase = Literal["warm-up", "search", "confirm", "measuring", "closing"]
PHASES: tuple[Phase, ...] = ("warm-up", "search", "confirm", "measuring", "closing")


def spec_text(slots: int, trials: int = TRIALS) -> str:
    """Return a sweep of so many trials that has so many slots on this machine."""
    cpus = max(1, (os.cpu_count() or 1) // slots)
    return SPEC.format(trials=trials, checkpoint_every_s=CHECKPOINT_EVERY_S, cpus=cpus)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where sweeps run and which code they run."""

    root: Path
    """Of the repository."""
    storage: Path
    logs: Path
    """For standard output and standard error of the drivers, on another disk than one that is to be full."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of this process."""
    prefix: tuple[str, ...] = ()
    """Of every command that runs a sweep, for instance ``nohup``."""

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, sys.executable, "-c", "from sweeper.cli.main import main; main()", *arguments]

    def variables(self, mark: str) -> dict[str, str]:
        """Return the environment of a drill's processes."""
        variables = {
            **os.environ, "SWEEPER_STORAGE": str(self.storage), "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "disabled", processes.MARK: mark, **self.environment,
        }  # fmt: skip
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            variables.pop(name, None)
        return variables


class Sweep:
    """One sweep of a drill, on disk."""

    def __init__(self, place: Place, name: str, slots: int, trials: int = TRIALS) -> None:
        self.place, self.name, self.slots, self.trials = place, name, slots, trials
        self.mark = uuid.uuid4().hex
        self.path = place.storage / name
        self.drivers: list[Driver] = []
        self.tracking_uri: str | None = None
        self.logs = place.logs / name

    def run(self, *options: str, text: str | None = None) -> Driver:
        """Start the sweep; ``text``: its spec."""
        self.logs.mkdir(parents=True, exist_ok=True)
        spec = self.logs / "spec.yaml"
        spec.write_text(spec_text(self.slots, self.trials) if text is None else text)
        return self._start("run", str(spec), "--name", self.name, *options)

    def resume(self, *options: str) -> Driver:
        return self._start("resume", self.name, *options)

    def _start(self, *arguments: str) -> Driver:
        tracking = [] if self.tracking_uri is None else ["--tracking-uri", self.tracking_uri]
        driver = Driver(self, [*arguments, *tracking], self.logs / str(len(self.drivers) + 1))
        self.drivers.append(driver)
        return driver

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:05d}"

    def exists(self) -> bool:
        return (self.path / "spec.resolved.json").exists()

    def has_begun(self) -> bool:
        """Return whether a driver holds the lease, which it takes before anything that a kill could cost."""
        return (self.path / "lease.json").exists()

    def phase(self) -> Phase:
        """Return where the sweep is, by its files and by what its driver has said."""
        said = self.drivers[-1].err() if self.drivers else ""
        if (self.path / "confirm.json").exists():
            return "closing"
        if (self.path / "test.jsonl").exists() or "measuring on test" in said:
            return "measuring"
        if self.trial(self.trials).exists():
            return "confirm"
        return "search" if self.trial(0).exists() else "warm-up"

    def steps_into(self, phase: Phase) -> int:
        """Return how much of a phase is on disk: metric lines of its trials, or points measured."""
        if phase == "measuring":
            return _lines(self.path / "test.jsonl")
        folders = [path for path in (self.path / "trials").glob("[0-9]*") if path.name.isdigit()]
        of_phase = [path for path in folders if (int(path.name) >= self.trials) == (phase == "confirm")]
        return sum(_lines(path / "metrics.jsonl") for path in of_phase)

    def front(self) -> list[dict[str, Any]]:
        """Return what ``sweeper front`` says. Raise RuntimeError where it says nothing."""
        done = subprocess.run(
            self.place.command("front", self.name, "--format", "json"),
            capture_output=True, text=True, env=self.place.variables(self.mark), cwd=self.place.root, timeout=120,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"sweeper front exits with {done.returncode}: {done.stderr.strip()[-300:]}")
        points: list[dict[str, Any]] = json.loads(done.stdout)
        return points


class Driver:
    """A ``sweeper run`` or ``sweeper resume`` in a session of its own, with its output in files."""

    def __init__(self, sweep: Sweep, arguments: list[str], log: Path) -> None:
        self.sweep, self._log = sweep, log
        self.started_s = time.monotonic()
        self.took_s: float | None = None
        self.ended_by_us = False
        """Whether the drill killed it with SIGKILL."""
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                sweep.place.command(*arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=sweep.place.variables(sweep.mark), cwd=sweep.place.root, start_new_session=True,
            )  # fmt: skip

    def err(self) -> str:
        return self._log.with_suffix(".err").read_text(errors="replace")

    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def code(self) -> int | None:
        return self.process.returncode

    def pid(self) -> int:
        """Return the process that holds the lease, else the one that was started."""
        try:
            pid = int(json.loads((self.sweep.path / "lease.json").read_text())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return self.process.pid
        return pid if any(process.pid == pid for process in processes.marked(self.sweep.mark)) else self.process.pid

    def kill(self) -> None:
        """SIGKILL of the driver alone."""
        self.ended_by_us = True
        os.kill(self.pid(), signal.SIGKILL)

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the driver's process group, as a terminal does."""
        self.ended_by_us = self.ended_by_us or number == signal.SIGKILL
        processes.send_group(self.process.pid, number)

    def wait(self, within_s: float) -> bool:
        """Return whether it ended by itself; after ``within_s`` it is killed."""
        try:
            self.process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.ended_by_us = True
            self.process.kill()
            self.process.wait()
            return False
        finally:
            if self.took_s is None:
                self.took_s = time.monotonic() - self.started_s
        return True


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def wait_until(condition: Callable[[], bool], driver: Driver, within_s: float, every_s: float = 0.02) -> bool:
    """Return whether ``condition`` came true while the driver ran."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if condition():
            return True
        if not driver.running():
            return False
        time.sleep(every_s)
    return False
