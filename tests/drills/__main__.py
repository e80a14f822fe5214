"""Drills on whole sweeps: ``python -m tests.drills --help``."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.drills.catalogue import DRILLS
from tests.drills.results import Result, append, table
from tests.drills.running import run_drill
from tests.drills.sweeps import Place

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--seeds", default="1", help="for instance 2, 1-3 or 1,4")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these drills alone")
    parser.add_argument("--list", action="store_true", help="name the drills")
    parser.add_argument("--slots", type=int, choices=(1, 2), help="one of them alone; by default one, then two")
    parser.add_argument("--minutes", type=float, help="begin no drill later than this")
    parser.add_argument("--jobs", type=int, default=1, help="drills at once")
    parser.add_argument("--folder", type=Path, help="for sweeps and logs; kept. Default: a temporary one")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository whose code the sweeps run")
    parser.add_argument("--results", type=Path, help="a JSON line per drill is added to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.path.insert(0, str(options.root.absolute()))
    if options.list:
        for name, function in DRILLS.items():
            print(f"{name:28} {(function.__doc__ or '').partition(chr(10))[0]}")
        return 0
    unknown = sorted(set(options.only or []) - set(DRILLS))
    if unknown:
        parser.error(f"no such drills: {', '.join(unknown)}")
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="drills-"))).absolute()
    names = options.only or list(DRILLS)
    plan = [
        (name, seed, slots)
        for seed in _numbers(options.seeds)
        for slots in ([options.slots] if options.slots else [1, 2])
        for name in names
    ]
    failed = _run_all(plan, folder, options)
    if options.folder is None and not failed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"\nsweeps and logs: {folder}")
    return int(failed)


def _run_all(plan: list[tuple[str, int, int]], folder: Path, options: argparse.Namespace) -> bool:
    """Return whether one failed."""
    place = Place(root=options.root.absolute(), storage=folder / "storage", logs=folder / "logs")
    for path in (place.storage, place.logs):
        path.mkdir(parents=True, exist_ok=True)
    ends_s = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    results: list[Result] = []

    def run(what: tuple[str, int, int]) -> None:
        if ends_s is not None and time.monotonic() > ends_s:
            return
        result = run_drill(*what, place)
        results.append(result)
        print(result.line(), flush=True)
        if options.results is not None:
            append(options.results, result)

    if options.jobs == 1:
        for what in plan:  # in this thread, which Ctrl-C interrupts: each drill ends its processes
            run(what)
    else:
        with ThreadPoolExecutor(max_workers=options.jobs) as pool:
            list(pool.map(run, plan))
    print(f"\n{table(results)}")
    if len(results) < len(plan):
        print(f"\n{len(plan) - len(results)} drills were not begun")
    return any(result.outcome == "failed" for result in results)


def _numbers(text: str) -> Iterable[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
