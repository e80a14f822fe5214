"""kill -9 of the driver and of each process below it, SIGSTOP of those that others wait for."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

import psutil

from tests.drills import checks, processes
from tests.drills.drill import Scene, Skipped
from tests.drills.processes import send
from tests.drills.sweeps import STALL_S, Driver, Phase, wait_until

LOST_CLUSTER_S = 60.0
"""A driver whose queue, raylet or GCS is gone has to end within this."""
_STORM_KILLS = 10
_STORM_PAUSE_S = 40.0
STALL = ("--set", f"limits.stall_minutes={STALL_S / 60:g}")


def kill_driver(scene: Scene) -> None:
    driver = scene.start()
    scene.await_moment(driver)
    scene.harm(driver.kill)
    scene.finish(driver, allowed=(), within_s=30)


def kill_driver_group(scene: Scene) -> None:
    """As a container does that is removed: the driver, raylet, GCS at once."""
    driver = scene.start()
    scene.await_moment(driver)
    scene.harm(lambda: driver.signal_group(signal.SIGKILL))
    scene.finish(driver, allowed=(), within_s=30)


def kill_driver_twice(scene: Scene) -> None:
    """The second time while the first resume is under way."""
    driver = scene.start()
    scene.await_moment(driver, "search")
    scene.harm(driver.kill)
    driver.wait(30)
    driver = scene.sweep.resume()
    time.sleep(scene.rng.uniform(0, 1.2 * scene.reference.starts_s.get("search", 20.0)))
    scene.harm(lambda: driver.kill() if driver.running() else None)
    scene.finish(driver, allowed=(0,))


def kill_storm(scene: Scene) -> None:
    """Ten kills in one sweep, of whatever the seed draws, up to two thirds of a minute apart."""
    driver = scene.start()
    for _ in range(_STORM_KILLS):
        if not wait_until(scene.sweep.has_begun, driver, scene.patience_s()):
            break
        time.sleep(scene.rng.uniform(1, _STORM_PAUSE_S))
        role = scene.rng.choice(("driver", "driver", "worker", "queue", "tune-actor", "controller", "raylet", "gcs"))
        victim = processes.pick(scene.sweep.mark, role, scene.rng, within_s=1.0) if role != "driver" else None
        if not driver.running():
            if driver.code == 0:
                break
        elif victim is not None or role == "driver":
            kill = driver.kill if victim is None else partial(send, victim, signal.SIGKILL)
            scene.harm(kill)
            scene.notes.append(role)
        if role in ("driver", "queue", "raylet", "gcs") and driver.running():
            driver.wait(LOST_CLUSTER_S)
        if not driver.running() and driver.code != 0:
            scene.problems += checks.driver_ends(driver, (0, 3))
            driver = scene.sweep.resume() if scene.sweep.exists() else scene.sweep.run()
    scene.finish(driver, allowed=(0, 3))


def kill_worker(scene: Scene) -> None:
    """In a step, for most of the moments."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    _harm_role(scene, "worker", signal.SIGKILL)
    scene.finish(driver, allowed=(0,))


def kill_worker_in_measuring(scene: Scene) -> None:
    driver = scene.start()
    scene.await_moment(driver, "measuring")
    _harm_role(scene, "worker", signal.SIGKILL)
    scene.finish(driver, allowed=(0,))


def kill_worker_in_checkpoint(scene: Scene) -> None:
    """While the checkpoint's new file is there beside the old one."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    patterns = ("trials/*/.checkpoint.pt*", "trials/*/checkpoint.pt.*", "trials/*/*.part", "trials/*/*.new")
    _kill_worker_when(scene, driver, lambda: any(any(scene.sweep.path.glob(pattern)) for pattern in patterns))
    scene.finish(driver, allowed=(0,))


def kill_worker_in_report(scene: Scene) -> None:
    """Right after a metric line came, before or while the driver hears of it."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    before = _metric_bytes(scene)
    _kill_worker_when(scene, driver, lambda: _metric_bytes(scene) > before)
    scene.finish(driver, allowed=(0,))


def kill_queue(scene: Scene) -> None:
    _kill_and_expect(scene, "queue", (3,))


def kill_raylet(scene: Scene) -> None:
    _kill_and_expect(scene, "raylet", (3,))


def kill_gcs(scene: Scene) -> None:
    _kill_and_expect(scene, "gcs", (3,))


def kill_tune_actor(scene: Scene) -> None:
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    _harm_role(scene, "tune-actor", signal.SIGKILL)
    scene.finish(driver, allowed=(0,))


def kill_controller(scene: Scene) -> None:
    """Train's controller of a slot."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm")
    _harm_role(scene, "controller", signal.SIGKILL)
    scene.finish(driver, allowed=(0, 3))


def kill_sender(scene: Scene) -> None:
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm", "measuring")
    _harm_role(scene, "sender", signal.SIGKILL)
    scene.finish(driver, allowed=(0,))


def stop_worker(scene: Scene) -> None:
    _stop_worker(scene, "search", "confirm")


def stop_worker_in_warm_up(scene: Scene) -> None:
    """A worker that has not said that it is ready: Train's controller, or our own limit, must notice."""
    driver = scene.start(*STALL)
    _wait_for_worker(scene, driver)
    time.sleep(scene.rng.uniform(0, 3))
    victim = _harm_role(scene, "worker", signal.SIGSTOP)
    scene.finish(driver, allowed=(0, 3))
    _must_be_gone(scene, victim)


def stop_queue(scene: Scene) -> None:
    """For good: nothing answers, and nothing dies."""
    driver = scene.start(*STALL)
    scene.await_moment(driver, "search", "confirm")
    victim = _harm_role(scene, "queue", signal.SIGSTOP)
    scene.finish(driver, allowed=(3,), within_s=3 * STALL_S + LOST_CLUSTER_S)
    _must_be_gone(scene, victim)


def stop_tune_actor(scene: Scene) -> None:
    """For good: its trial goes on, and somebody else has to follow it."""
    driver = scene.start(*STALL)
    scene.await_moment(driver, "search", "confirm")
    victim = _harm_role(scene, "tune-actor", signal.SIGSTOP)
    scene.finish(driver, allowed=(0, 3))
    _must_be_gone(scene, victim)


def stop_sender(scene: Scene) -> None:
    """For good: the sweep must not wait for MLflow without end, and a resume must be able to send the rest."""
    driver = scene.start()
    scene.await_moment(driver, "search", "confirm", "measuring")
    _harm_role(scene, "sender", signal.SIGSTOP)
    scene.finish(driver, allowed=(0,))
    scene.resume()


def stop_driver(scene: Scene) -> None:
    """Ctrl-Z and fg: twenty seconds of silence, then it goes on."""
    driver = scene.start(*STALL)
    scene.await_moment(driver, "search", "confirm")
    scene.harm(lambda: driver.signal_group(signal.SIGSTOP))
    time.sleep(scene.rng.uniform(5, 30))
    driver.signal_group(signal.SIGCONT)
    scene.finish(driver, allowed=(0,))


def _stop_worker(scene: Scene, *phases: Phase) -> None:
    driver = scene.start(*STALL)
    scene.await_moment(driver, *phases)
    victim = _harm_role(scene, "worker", signal.SIGSTOP)
    began_s = time.monotonic()
    margin_s = STALL_S + 20.0
    if wait_until(lambda: not _alive(victim), driver, margin_s, every_s=0.2):
        scene.notes.append(f"replaced after {time.monotonic() - began_s:.1f} s, limit {STALL_S:g} s")
    else:
        scene.problems.append(f"the frozen worker was still there after {margin_s:g} s, limit {STALL_S:g} s")
        send(victim, signal.SIGKILL)
    scene.finish(driver, allowed=(0,))


def _kill_and_expect(scene: Scene, role: str, allowed: tuple[int, ...]) -> None:
    driver = scene.start()
    scene.await_moment(driver, "warm-up", "search", "confirm", "measuring")
    _harm_role(scene, role, signal.SIGKILL)
    began_s = time.monotonic()
    scene.finish(driver, allowed=allowed, within_s=LOST_CLUSTER_S)
    if driver.took_s is not None:
        scene.notes.append(f"ended {driver.started_s + driver.took_s - began_s:.1f} s after the harm")


def _harm_role(scene: Scene, role: str, number: signal.Signals) -> psutil.Process:
    victim = processes.pick(scene.sweep.mark, role, scene.rng)
    if victim is None:
        raise Skipped(f"no process in the role {role}")
    scene.harm(lambda: send(victim, number))
    return victim


def _kill_worker_when(scene: Scene, driver: Driver, event: Callable[[], bool]) -> None:
    workers = processes.in_role(scene.sweep.mark, "worker")
    if not wait_until(event, driver, 60.0, every_s=0.001):
        raise Skipped("the moment did not come")
    for worker in workers:
        send(worker, signal.SIGKILL)
    scene.look()


def _metric_bytes(scene: Scene) -> int:
    return sum(path.stat().st_size for path in scene.sweep.path.glob("trials/*/metrics.jsonl"))


def _wait_for_worker(scene: Scene, driver: Driver) -> None:
    if not wait_until(lambda: bool(processes.in_role(scene.sweep.mark, "worker")), driver, scene.patience_s(), 0.2):
        raise Skipped("no worker came")


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _must_be_gone(scene: Scene, victim: psutil.Process) -> None:
    if _alive(victim):
        scene.problems.append(f"the frozen process {victim.pid} is still there")
        send(victim, signal.SIGKILL)
