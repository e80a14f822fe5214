"""What a terminal, a shell and a batch system send to a driver."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

from tests.drills.drill import Scene
from tests.drills.processes import send_group
from tests.drills.sweeps import Phase, Sweep

GRACE_S = 60.0
"""A driver that was asked to stop has to end within this."""


def ctrl_c(scene: Scene) -> None:
    """To the whole process group, as a terminal does."""
    driver = scene.start()
    scene.await_moment(driver)
    scene.harm(lambda: driver.signal_group(signal.SIGINT))
    scene.finish(driver, allowed=(130, 0), within_s=GRACE_S)


def ctrl_c_twice(scene: Scene) -> None:
    driver = scene.start()
    scene.await_moment(driver, "warm-up", "search", "confirm")
    scene.harm(lambda: driver.signal_group(signal.SIGINT))
    time.sleep(scene.rng.uniform(0.05, 3))
    driver.signal_group(signal.SIGINT)
    scene.finish(driver, allowed=(130,), within_s=20)


def sigterm(scene: Scene) -> None:
    _terminate(scene)


def term_in_warm_up(scene: Scene) -> None:
    _terminate(scene, "warm-up")


def term_in_confirm(scene: Scene) -> None:
    _terminate(scene, "confirm")


def term_in_measuring(scene: Scene) -> None:
    _terminate(scene, "measuring")


def sighup(scene: Scene) -> None:
    """The terminal is closed."""
    driver = scene.start()
    scene.await_moment(driver)
    scene.harm(lambda: driver.signal_group(signal.SIGHUP))
    scene.finish(driver, allowed=(129, 130), within_s=GRACE_S)


def sighup_nohup(scene: Scene) -> None:
    """Under nohup the closed terminal changes nothing."""
    old = scene.sweep
    scene.sweep = Sweep(replace(old.place, prefix=("nohup",)), old.name, old.slots)
    driver = scene.start()
    scene.await_moment(driver)
    scene.harm(lambda: send_group(driver.process.pid, signal.SIGHUP))
    scene.finish(driver, allowed=(0,))


def _terminate(scene: Scene, *phases: Phase) -> None:
    """To the started process alone, as ``kill`` and batch systems do."""
    driver = scene.start()
    scene.await_moment(driver, *phases)
    scene.harm(lambda: driver.process.send_signal(signal.SIGTERM))
    scene.finish(driver, allowed=(130, 143), within_s=GRACE_S)
