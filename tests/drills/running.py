"""Running one drill from its start to its result."""

from __future__ import annotations

import random
import traceback
from pathlib import Path

from tests.drills import processes, records
from tests.drills.catalogue import DRILLS
from tests.drills.drill import Scene, Skipped
from tests.drills.reference import reference
from tests.drills.results import Result
from tests.drills.sweeps import Place, Sweep


def run_drill(name: str, seed: int, slots: int, place: Place) -> Result:
    """Run one drill and return its ``Result``."""
    undisturbed = reference(place, slots)
    records.preload()
    sweep_name = _free_name(place.storage, f"{name}-{slots}-{seed}")
    scene = Scene(
        rng=random.Random(f"{name}/{seed}"),
        place=place,
        reference=undisturbed,
        sweep=Sweep(place, sweep_name, slots),
    )
    memory_before, redone, outcome = processes.shared_memory(), None, None
    try:
        DRILLS[name](scene)
        redone = scene.check(memory_before)
    except Skipped as error:
        outcome = "skipped"
        scene.notes.append(str(error))
    except Exception as error:
        scene.problems.append(f"{type(error).__name__}: {error}")
        scene.notes.append(traceback.format_exc().strip().splitlines()[-2].strip())
    finally:
        processes.end_all(scene.sweep.mark)
        scene.held.close()
    drivers = scene.sweep.drivers
    ends_s = [driver.started_s + (driver.took_s or 0.0) for driver in drivers]
    took_s = max(ends_s) - drivers[0].started_s if drivers else 0.0
    return Result(
        drill=name,
        seed=seed,
        slots=slots,
        outcome=outcome or ("failed" if scene.problems else "ok"),
        moments=[(snapshot.phase, round(snapshot.moment_s, 2)) for snapshot in scene.snapshots],
        exit_codes=[driver.code for driver in scene.sweep.drivers],
        took_s=round(took_s, 1),
        cost_s=round(took_s - undisturbed.took_s, 1),
        redone_steps=redone,
        problems=scene.problems,
        notes=scene.notes,
    )


def _free_name(storage: Path, name: str) -> str:
    candidate, number = name, 1
    while (storage / candidate).exists():
        number += 1
        candidate = f"{name}-again{number}"
    return candidate
