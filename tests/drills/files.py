"""Files torn as a power loss or a bad disk leaves them: half, empty, garbage in the middle."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from tests.drills import processes, records
from tests.drills.drill import Scene, Skipped
from tests.drills.sweeps import Driver, Sweep

_OF_SWEEP = ("tracking.cursor", "tracking.runs.json", "usage.json", "lease.json", "confirm.json")
_LINES = ("tracking.jsonl", "test.jsonl")
_MOST_TRIES = 3


def tear_files(scene: Scene) -> None:
    """A random half of what may be torn, each in a way of its own. The study and finished weights stay whole."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm", "measuring", "closing")
    _power_loss(scene, driver)
    for kind, path in _tearable(scene.sweep):
        if scene.rng.random() < 0.5:
            _tear(scene, kind, path)
    scene.finish(driver, allowed=())


def tear_checkpoint(scene: Scene) -> None:
    """The checkpoint of the trial that is running, and nothing else."""
    driver = scene.start()
    for _ in range(_MOST_TRIES):
        scene.await_moment(driver, "search", "confirm")
        _power_loss(scene, driver)
        for kind, path in _tearable(scene.sweep):
            if kind == "checkpoint":
                _tear(scene, kind, path)
        if scene.torn:
            break
        driver = scene.sweep.resume()
    else:
        raise Skipped("no trial that was running had a checkpoint")
    scene.finish(driver, allowed=())


def empty_attempts(scene: Scene) -> None:
    """``attempt`` and ``result.json`` of every trial that is running are there and empty."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    _power_loss(scene, driver)
    for kind, path in _tearable(scene.sweep):
        if kind in ("attempt", "result"):
            _tear(scene, kind, path, how="emptied")
    scene.finish(driver, allowed=())


def _power_loss(scene: Scene, driver: Driver) -> None:
    """End every process at once: no old worker writes into what is torn."""
    driver.signal_group(signal.SIGKILL)
    processes.end_all(scene.sweep.mark)
    driver.wait(30)
    scene.look()


def _tearable(sweep: Sweep) -> list[tuple[str, Path]]:
    """Return (kind, path) of what a torn write may have hit."""
    open_trials = [trial["number"] for trial in records.trials(sweep) if trial["state"] == "running"]
    files = [("json", sweep.path / name) for name in _OF_SWEEP]
    files += [("lines", sweep.path / name) for name in _LINES]
    files += [("front", path) for path in sorted((sweep.path / "front").glob("*"))]
    for number in open_trials:
        folder = sweep.trial(number)
        files += [("checkpoint", folder / "checkpoint.pt"), ("attempt", folder / "attempt")]
        lines = records.metric_lines(sweep, number)
        # A line is on disk before the next checkpoint is.
        if lines and records.checkpoint_step(folder / "checkpoint.pt") <= lines[-1]["step"]:
            files.append(("lines", folder / "metrics.jsonl"))
        files.append(("result", folder / "result.json"))
    return [(kind, path) for kind, path in files if _has_content(path) or _may_have_begun(kind, path)]


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _may_have_begun(kind: str, path: Path) -> bool:
    return kind == "result" and path.parent.is_dir()


def _tear(scene: Scene, kind: str, path: Path, how: str | None = None) -> None:
    if how is None:
        how = "last line torn" if kind == "lines" else scene.rng.choice(("halved", "emptied", "garbage"))
    if not path.exists():  # a result: as if it had just been renamed
        how = "empty"
    elif kind in ("checkpoint", "attempt", "result"):
        scene.torn.add(int(path.parent.name))
    content = path.read_bytes() if path.exists() else b""
    if how == "halved":
        content = content[: len(content) // 2]
    elif how in ("emptied", "empty"):
        content = b""
    elif how == "garbage":
        content = _with_garbage(content, scene.rng)
    else:
        last = content.rstrip(b"\n").rfind(b"\n") + 1
        content = content[: last + max(1, (len(content) - last) // 2)]
    path.write_bytes(content)
    scene.notes.append(f"{path.relative_to(scene.sweep.path)} {how}")


def _with_garbage(content: bytes, rng: random.Random) -> bytes:
    start = len(content) // 3
    count = min(len(content) - start, 64)
    return content[:start] + rng.randbytes(count) + content[start + count :]
