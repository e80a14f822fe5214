"""A disk that is full, read-only or stale, and a study that somebody else has locked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.drills.drill import Scene, Skipped
from tests.drills.faults import with_faults
from tests.drills.sweeps import Place, Sweep

_DISK_MIB = 600
_LOCKED_S = 60.0
_ENDS_WITHIN_S = 90.0
"""A driver whose disk fails has to end within this."""


def disk_full(scene: Scene) -> None:
    """A small file system of its own, filled to the last kilobytes; a library that fails writes where none is given."""
    disk = _mounted(scene)
    if disk is None:
        _failing_writes(scene, errno.ENOSPC, allowed=(3,))
        return
    scene.sweep = Sweep(disk, scene.sweep.name, scene.sweep.slots)
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    filler = disk.storage / "filler"
    scene.harm(lambda: _fill(filler, left=scene.rng.randrange(0, 8192)))
    ended = driver.wait(_ENDS_WITHIN_S)
    filler.unlink()
    if not ended:
        scene.problems.append(f"the driver had not ended after {_ENDS_WITHIN_S:g} s on a full disk")
    scene.finish(driver, allowed=(3,))


def disk_read_only(scene: Scene) -> None:
    _failing_writes(scene, errno.EROFS, allowed=(3,))


def disk_stale(scene: Scene) -> None:
    """As NFS after its server was away."""
    _failing_writes(scene, scene.rng.choice((errno.ESTALE, errno.EIO)), allowed=(3,))


def disk_stale_for_a_moment(scene: Scene) -> None:
    """A second or so of errors: gone before the driver has ended."""
    number = scene.rng.choice((errno.ESTALE, errno.EIO))
    _failing_writes(scene, number, allowed=(0, 3), for_s=scene.rng.uniform(0.1, 3))


def study_locked(scene: Scene) -> None:
    """Another process holds an exclusive transaction on study.db for a minute."""
    driver = scene.start()
    scene.await_moment(driver, "search")
    hold = (
        "import sqlite3, sys, time\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        f"time.sleep({_LOCKED_S})\n"
    )
    scene.look()
    locker = subprocess.Popen(
        [sys.executable, "-c", hold, str(scene.sweep.path / "study.db")], stdout=subprocess.PIPE, text=True
    )
    with locker:
        assert locker.stdout is not None
        if locker.stdout.readline().strip() != "locked":
            raise Skipped("study.db could not be locked")
        driver.wait(scene.patience_s())
    scene.finish(driver, allowed=(0, 3))


def _failing_writes(scene: Scene, number: int, *, allowed: tuple[int, ...], for_s: float | None = None) -> None:
    """Fail writes below the sweep's folder from a random moment on, until the driver has ended or for ``for_s``."""
    place, faults = with_faults(scene, scene.place, under=scene.sweep.path, errno=number)
    scene.sweep = Sweep(place, scene.sweep.name, scene.sweep.slots)
    scene.held.callback(faults.end)
    scene.notes.append(os.strerror(number) + ("" if for_s is None else f" for {for_s:.1f} s"))
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    scene.harm(faults.begin)
    if for_s is None:
        if not driver.wait(_ENDS_WITHIN_S):
            scene.problems.append(f"the driver had not ended after {_ENDS_WITHIN_S:g} s")
    else:
        time.sleep(for_s)
    faults.end()
    scene.finish(driver, allowed=allowed)


def _mounted(scene: Scene) -> Place | None:
    """Return a storage on a small file system in memory; None where it cannot be mounted."""
    folder = scene.place.logs / "own" / scene.sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder)]
    try:
        if subprocess.run(mount, capture_output=True).returncode != 0:
            return None
    except OSError:
        return None
    scene.held.callback(subprocess.run, ["umount", "--lazy", str(folder)], capture_output=True)
    cache = scene.place.storage / "cache"
    cache.mkdir(exist_ok=True)
    (folder / "cache").symlink_to(cache)
    return replace(scene.place, storage=folder)


def _fill(path: Path, *, left: int) -> None:
    """Fill the file system of ``path`` but for about ``left`` bytes, at once."""
    with path.open("wb", buffering=0) as file:
        for _ in range(100):  # the sweep writes meanwhile: what was free a moment ago may not be
            state = os.statvfs(path)
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - left)
                return
    raise Skipped("the disk could not be filled")
