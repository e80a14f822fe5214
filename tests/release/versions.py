"""``make versions``: a selection of tests and a small sweep with the oldest and the newest versions that are claimed.

Each environment is made in a temporary folder with uv and gets a wheel of this checkout, the versions below and for the
rest the newest packages that go with them. Pythons are taken from PATH, none is downloaded. ``--only NAME`` makes one,
``--with NAME==VERSION`` tries another version in it. The rows that are printed belong into docs/versions.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT
from tests.release.environments import CheckError, fresh_environment, run, wheel_of_this_checkout

TESTS = (
    "tests/sweeper/execution/test_ray_private.py",
    "tests/sweeper/execution/test_job_queue.py",
    "tests/sweeper/search/test_study.py",
    "tests/sweeper/search/test_warm_start.py",
    "tests/sweeper/storage/test_early_sweep.py",
    "tests/sweeper/tracking/test_tracking.py",
    "tests/trainables/models/test_clip.py",
    "tests/trainables/models/test_transform.py",
)
"""What touches the interfaces of Ray, Optuna, MLflow and open_clip, among it a study that an earlier state wrote."""
TOOLS = ("pytest", "pytest-timeout", "pytest-randomly", "hypothesis", "hatchling")
SWEEP = (
    "training.epochs=1",
    "sets.world.train=256",
    "sets.world.validation=400",
    "sets.world.test=200",
    "evaluate.search.images=200",
    f"resources.cpus_per_worker={os.cpu_count()}",
)
"""A sweep of two trials on few images, in one slot: it uses every interface of Ray, Optuna and MLflow, and ends on a
busy machine too."""


@dataclass(frozen=True)
class Environment:
    """Versions that are tried together."""

    name: str
    python: str
    packages: Mapping[str, str]


_PINNED = {"ray": "2.60.0", "optuna": "5.0.0", "mlflow": "3.17.2", "open_clip_torch": "3.3.0", "torch": "2.14.1"}
"""As in constraints.txt."""
ENVIRONMENTS = (
    Environment(
        "oldest",
        "3.11",
        {**_PINNED, "ray": "2.59.0", "mlflow": "3.10.1", "open_clip_torch": "3.0.0", "torch": "2.11.0"},
    ),
    Environment("pinned", "3.12", _PINNED),
    Environment("newest", "3.13", {**_PINNED, "torch": "2.15.0"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[one.name for one in ENVIRONMENTS])
    parser.add_argument("--with", dest="other", action="append", default=[], metavar="NAME==VERSION")
    arguments = parser.parse_args()
    other = dict(text.split("==") for text in arguments.other)
    failed = False
    for environment in ENVIRONMENTS:
        if arguments.only in (None, environment.name):
            packages = {**environment.packages, **other}
            outcome = _try(environment.python, packages)
            failed |= not outcome.startswith("passed")
            cells = [environment.name, environment.python, *packages.values(), outcome, f"{datetime.date.today()}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    sys.exit(failed)


def _try(python: str, packages: Mapping[str, str]) -> str:
    """Return ``passed`` with what was run, or the reason why not."""
    with tempfile.TemporaryDirectory(prefix="sweeper-versions-") as temporary:
        folder = Path(temporary)
        if shutil.which(f"python{python}") is None:
            return f"not run: there is no python{python} on PATH"
        try:
            wheel = wheel_of_this_checkout(folder)
            overrides = folder / "overrides.txt"
            wanted = [f"{name}=={version}" for name, version in packages.items()]
            # torch is no override: torchvision's own requirement must choose the torchvision that goes with it.
            torch = [text for text in wanted if text.startswith("torch==")]
            overrides.write_text("".join(f"{text}\n" for text in wanted if text not in torch))
            programs = fresh_environment(
                folder / "environment", ["--overrides", overrides, wheel, *torch, *TOOLS], None, f"python{python}"
            )
            start_s = time.monotonic()
            changes = [word for change in SWEEP for word in ("--set", change)]
            run([programs / "sweeper", "run", "quickstart", "--trials", "2", *changes], folder)
            sweep_s = time.monotonic() - start_s
        except CheckError as error:
            print(error, file=sys.stderr)
            return "failed: " + " ".join(str(error).splitlines()[-1:])[-160:].replace("|", "/")
        pytest = [str(programs / "python"), "-m", "pytest", "-p", "no:cacheprovider", "-m", "not drill", *TESTS]
        done = subprocess.run(pytest, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout[-3000:], file=sys.stderr)
        lines = [line.strip("= ") for line in done.stdout.splitlines() if " passed" in line or " failed" in line]
        last = lines[-1] if lines else "no test was run"
        return f"{'passed' if done.returncode == 0 else 'failed'}: sweep of 2 trials in {sweep_s:.0f} s; {last}"


if __name__ == "__main__":
    main()
