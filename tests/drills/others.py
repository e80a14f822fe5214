"""A loss that is not finite, memory that runs out, a clock that jumps, many drivers at once."""

from __future__ import annotations

import errno
import time
from contextlib import suppress

import psutil

from tests.drills import processes, records
from tests.drills.drill import Scene, Skipped
from tests.drills.faults import with_faults
from tests.drills.sweeps import Driver, Sweep, spec_text

_DAY_S = 86_400
_DRIVERS = 20


def nan_loss(scene: Scene) -> None:
    """The baseline's learning rate is enormous: it fails, the others go on."""
    scene.same = False
    text = spec_text(scene.sweep.slots)
    assert "paint: {learning_rate: 1.0e-3}" in text
    driver = scene.start(text=text.replace("paint: {learning_rate: 1.0e-3}", "paint: {learning_rate: 1.0e+30}"))
    scene.await_moment(driver, "search", "confirm")
    scene.look()
    scene.finish(driver, allowed=(0,))
    failed = [trial for trial in records.trials(scene.sweep) if trial["state"] == "failed"]
    if [trial["number"] for trial in failed] != [0] or "finite" not in (failed[0]["reason"] or ""):
        scene.problems.append(
            f"failed are {[(trial['number'], trial['reason']) for trial in failed]}, not the first one"
        )


def out_of_memory(scene: Scene) -> None:
    """A worker may take no more memory for some seconds: allocations fail, as with ``ulimit -v``."""
    scene.same = False  # the trial that ran out may have failed, or gone on in smaller batches
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    victim = processes.pick(scene.sweep.mark, "worker", scene.rng)
    if victim is None:
        raise Skipped("no worker")
    scene.harm(lambda: _limit(victim, victim.memory_info().vms + 4096))
    time.sleep(scene.rng.uniform(1, 5))
    _limit(victim, psutil.RLIM_INFINITY)
    scene.finish(driver, allowed=(0, 1))  # 1: too many trials failed, which a small sweep reaches soon
    failed = [trial for trial in records.trials(scene.sweep) if trial["state"] == "failed"]
    scene.notes += [f"trial {trial['number']} failed: {trial['reason']}" for trial in failed]


def clock_jump(scene: Scene) -> None:
    """The wall clock of all processes jumps by a day, forth or back, and stays there."""
    place, faults = with_faults(scene, scene.place, under=scene.sweep.path, errno=errno.EIO)
    scene.sweep = Sweep(place, scene.sweep.name, scene.sweep.slots)
    faults.jump(0)
    driver = scene.start()
    scene.await_moment(driver, "warm-up", "search", "confirm", "measuring")
    days = scene.rng.choice((-1, 1))
    scene.notes.append(f"{days:+d} day")
    scene.harm(lambda: faults.jump(days * _DAY_S))
    scene.finish(driver, allowed=(0,))


def twenty_drivers(scene: Scene) -> None:
    """Twenty ``sweeper run`` of one name: one runs it, nineteen are refused."""
    drivers = [scene.start() for _ in range(_DRIVERS)]
    winner = _last_running(drivers, scene.patience_s())
    scene.look()
    for driver in drivers:
        driver.wait(scene.patience_s())
    scene.finish(winner, allowed=(0,))
    codes = sorted(driver.code if driver.code is not None else -1 for driver in drivers)
    if codes != [0] + [2] * (_DRIVERS - 1):
        scene.problems.append(f"exit codes {codes}, not one 0 and otherwise 2")


def _last_running(drivers: list[Driver], within_s: float) -> Driver:
    """Return the one that is left when the others have ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until and sum(driver.running() for driver in drivers) > 1:
        time.sleep(0.2)
    return next((driver for driver in drivers if driver.running()), drivers[0])


def _limit(process: psutil.Process, size: int) -> None:
    with suppress(psutil.Error):
        process.rlimit(psutil.RLIMIT_AS, (size, psutil.RLIM_INFINITY))
