"""The undisturbed sweep: how long its phases take, and what comes out of it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from tests.drills import checks, processes, records
from tests.drills.drill import Reference
from tests.drills.sweeps import PHASES, TRIALS, Phase, Place, Sweep

_PATIENCE_S = 1800.0
_lock = threading.Lock()


def reference(place: Place, slots: int, trials: int = TRIALS) -> Reference:
    """Return the undisturbed sweep of so many slots and trials, run once per folder of drills."""
    with _lock:
        path = place.logs / f"reference-{slots}-{trials}.json"
        if not path.exists():
            path.write_text(json.dumps(_run(place, slots, trials)))
        saved: dict[str, Any] = json.loads(path.read_text())
        return Reference(
            took_s=saved["took_s"], starts_s=saved["starts_s"], steps=saved["steps"], content=saved["content"]
        )


def _run(place: Place, slots: int, trials: int) -> dict[str, Any]:
    sweep = Sweep(place, f"undisturbed-{slots}-{trials}", slots, trials)
    try:
        return _run_undisturbed(sweep)
    finally:
        processes.end_all(sweep.mark)


def _run_undisturbed(sweep: Sweep) -> dict[str, Any]:
    before = processes.shared_memory()
    driver = sweep.run()
    starts_s: dict[Phase, float] = {}
    until = time.monotonic() + _PATIENCE_S
    while driver.running() and time.monotonic() < until:
        if sweep.has_begun():
            reached = sweep.phase()
            for phase in PHASES[: PHASES.index(reached) + 1]:
                starts_s.setdefault(phase, time.monotonic() - driver.started_s)
        time.sleep(0.02)
    driver.wait(1)
    if driver.code != 0:
        raise RuntimeError(f"the undisturbed sweep exits with {driver.code}:\n{driver.err()[-2000:]}")
    problems = [*checks.check_words(sweep), *checks.check_left(sweep, before)]
    problems += [*checks.check_trials(sweep, []), *checks.check_mlflow(sweep)]
    for problem in problems:
        print(f"undisturbed, {sweep.slots} slots: {problem}", flush=True)
    content = {"trials": records.trials(sweep), "front": checks.front_of(sweep)}
    steps = {phase: sweep.steps_into(phase) for phase in ("search", "confirm", "measuring")}
    return {"took_s": driver.took_s, "starts_s": starts_s, "steps": steps, "content": content, "problems": problems}
