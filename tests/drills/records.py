"""What a sweep has on disk: as it was at the moment of harm, and as it is at the end."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.drills.sweeps import Phase, Sweep

ENDED_FIELDS = ("number", "parameters", "seed", "state", "stopped_at", "values", "points")
"""Of a trial that has ended: these stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A trial that was running at the moment of harm."""

    attempt: int
    kept_step: int
    """Of its last checkpoint; 0 where it had none."""
    undone_s: float
    """Since that checkpoint or, where there is none, since the attempt began: what has to be done again."""
    step_s: float | None
    """Training time of a step; None before the first metric line."""
    evaluation_s: float
    """Of one evaluation."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A sweep at the moment of harm."""

    moment_s: float
    """Since the first driver began."""
    phase: Phase
    ended: list[dict[str, Any]] = field(default_factory=list)
    running: dict[int, Unfinished] = field(default_factory=dict)


def preload() -> None:
    """Import what ``snapshot`` needs: seconds, which would pass between the harm and the look."""
    import torch  # noqa: F401

    import sweeper.search.study  # noqa: F401


def snapshot(sweep: Sweep) -> Snapshot:
    """Return the sweep as it is; to be called right after the harm."""
    now_s = time.monotonic()
    return taken(sweep, now_s - sweep.drivers[0].started_s, time.time() - (now_s - sweep.drivers[-1].started_s))


def taken(sweep: Sweep, moment_s: float, session_s: float) -> Snapshot:
    """Return the sweep as it is.

    Args:
        moment_s: seconds since it was first started.
        session_s: time, since 1970, at which the present session began.
    """
    now_s, phase = time.time(), sweep.phase()
    study = trials(sweep)
    begun = [trial["number"] for trial in study if trial["state"] == "running" and _has_begun(sweep, trial["number"])]
    running = {number: _unfinished(sweep.trial(number), now_s, session_s) for number in begun}
    ended = [trial for trial in study if trial["state"] != "running"]
    return Snapshot(moment_s=moment_s, phase=phase, ended=ended, running=running)


def trials(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the study's trials as JSON knows them; none where there is no study yet."""
    from sweeper.errors import UserError
    from sweeper.search.study import read_trials
    from sweeper.storage.sweep_folder import SweepFolder

    folder = SweepFolder(sweep.place.storage, sweep.name)
    last: Exception | None = None
    for _ in range(3):  # a study that is just being created has no tables yet
        try:
            records = [asdict(record) for record in read_trials(folder, folder.spec())]
            return [json.loads(json.dumps(record)) for record in records]
        except (UserError, OSError):
            return []
        except Exception as error:
            last = error
            time.sleep(0.5)
    raise RuntimeError(f"study.db cannot be read: {last}")


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines that can be read."""
    records = []
    for text in path.read_bytes().split(b"\n") if path.exists() else []:
        with contextlib.suppress(ValueError):
            record = json.loads(text)
            if isinstance(record, dict):
                records.append(record)
    return records


def metric_lines(sweep: Sweep, number: int) -> list[dict[str, Any]]:
    return [line for line in lines(sweep.trial(number) / "metrics.jsonl") if "step" in line]


def _has_begun(sweep: Sweep, number: int) -> bool:
    folder = sweep.trial(number)
    return (folder / "attempt").exists() and not (folder / "result.json").exists()


def _unfinished(folder: Path, now_s: float, session_s: float) -> Unfinished:
    """``session_s``: when the driver of this session began. A trial that it has not begun has nothing undone: workers
    of an earlier session may have written a checkpoint and lines after that."""
    reports = [line for line in lines(folder / "metrics.jsonl") if "step" in line]
    checkpoint = folder / "checkpoint.pt"
    begun_s = _modified_s(folder / "attempt")
    kept_s = max(begun_s, _modified_s(checkpoint))
    step_s = reports[-1]["train_s"] / max(1, reports[-1]["step"]) if reports else None
    return Unfinished(
        attempt=_attempt(folder),
        kept_step=checkpoint_step(checkpoint),
        undone_s=max(0.0, now_s - kept_s) if begun_s >= session_s else 0.0,
        step_s=step_s,
        evaluation_s=reports[-1]["evaluation_s"] / len(reports) if reports else 0.0,
    )


def _attempt(folder: Path) -> int:
    try:
        return int((folder / "attempt").read_text() or 0)
    except (OSError, ValueError):
        return 0


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step of a checkpoint; 0 where it is missing or cannot be read."""
    import torch

    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["step"])
    except Exception:  # torch.load raises many kinds for a torn file
        return 0
