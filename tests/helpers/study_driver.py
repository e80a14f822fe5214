"""A sweep of pretended trials on a real study, once unkilled and once killed (SIGKILL) in every write but a few.

Run by test_study.py in a process of its own, because it forks: ``python -m tests.study_driver FOLDER``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from sweeper.records import TrialRecord
from sweeper.search.study import Study
from sweeper.spec.space import Space
from tests.helpers.goals import DIRECTIONS
from trainables.records import Point

TRIALS = 10
SPACE = Space.parse(
    {
        "objective": {"choices": ["dpo", "cross_entropy"]},
        "beta": {"when": {"objective": "dpo"}, "low": 0.1, "high": 2.0, "log": True},
        "tune": {"choices": ["transform", "visual"]},
        "rank": {"when": {"tune": "transform"}, "low": 16, "high": 64},
        "learning_rate": [
            {"when": {"tune": "transform"}, "low": 1e-3, "high": 1e-1, "log": True},
            {"when": {"tune": "visual"}, "low": 1e-5, "high": 1e-3, "log": True},
        ],
        "lambda_reg": {"low": 0.1, "high": 10.0, "log": True},
    }
)
PAINT = {"objective": "cross_entropy", "tune": "visual", "learning_rate": 5e-3, "lambda_reg": 0.0}
START = {"objective": "dpo", "beta": 1.0, "tune": "visual", "learning_rate": 1e-4, "lambda_reg": 1.0}


def values_of(parameters: dict[str, Any]) -> dict[str, float]:
    """Pretended goals, a function of the parameters alone."""
    clean = 0.9 - 2.0 * parameters["learning_rate"] / (0.1 + parameters["lambda_reg"])
    robust = 0.3 + 20.0 * parameters["learning_rate"] + 0.1 * (parameters["objective"] == "dpo")
    return {"clean_accuracy": clean, "robust_accuracy": robust}


def finish(study: Study, trial: TrialRecord) -> None:
    if trial.number == 3:
        study.fail(trial.number, "loss is not finite")
    elif trial.number == 6:
        values = values_of(trial.parameters)
        study.stop(trial.number, "hopeless", stopped_at=1 / 3, values=values, duration_s=1.0, slot=0, cost_s=1.2)
    else:
        values = values_of(trial.parameters)
        points = [
            Point(weights="last", strength=1.0, values=values),
            Point(weights="averaged", strength=0.5, values=values),
        ]
        study.tell(trial.number, values, points, 2.0, 0, max(0.0, 0.8 - values["clean_accuracy"]))


def drive(path: Path, trials: int = TRIALS) -> list[TrialRecord]:
    """Creates or opens the study and goes on to its end, one trial after the other."""
    space = SPACE
    study = (
        Study.open(path, space)
        if path.exists()
        else Study.create(path, space, goals=DIRECTIONS, seed=7, startup_trials=4)
    )
    while True:
        records = study.trials()
        for trial in records:
            if trial.state == "running":
                finish(study, trial)
        if len(records) == trials:
            records = study.trials()
            study.close()
            return records
        if not records:
            study.add(PAINT, baseline="paint")
        elif len(records) == 1:
            study.add(START)
        else:
            study.ask()


def drive_and_die(path: Path, writes: int) -> bool:
    """Drives in a child that is killed when it is about to commit its ``writes``-th write; whether it was."""
    child = os.fork()
    if child == 0:
        dirty, done = False, 0

        @event.listens_for(Engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            nonlocal dirty
            dirty = dirty or statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))

        @event.listens_for(Engine, "commit")
        def die(connection: Any) -> None:
            nonlocal dirty, done
            done += dirty
            dirty = False
            if done == writes:
                os.kill(os.getpid(), signal.SIGKILL)

        drive(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a child failed")
    return os.WIFSIGNALED(status)


def main(folder: Path) -> None:
    unkilled = drive(folder / "unkilled.db")  # First, so that the children need not import everything again.
    path = folder / "killed.db"
    kills = 0
    # Making the study begins anew after a kill, so each round dies one write later until the file is there.
    while not path.exists():
        kills += drive_and_die(path, kills + 1)
    # A tell takes three writes: dying at the second, third or fourth, each three rounds get on, and every gap is met.
    for writes in cycle((2, 3, 4)):
        if not drive_and_die(path, writes):
            break
        kills += 1
    killed = drive(path)
    print(
        json.dumps({"kills": kills, "killed": [asdict(r) for r in killed], "unkilled": [asdict(r) for r in unkilled]})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
