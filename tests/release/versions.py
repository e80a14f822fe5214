"""``make versions``: a selection of tests and a small sweep with the oldest and the newest versions that are claimed.

Each environment is made in a temporary folder with uv and gets a wheel of this checkout, the versions below and for the
rest the newest packages that go with them. Pythons are taken from PATH, none is downloaded. ``--only NAME`` makes one,
``--with NAME==VERSION`` tries another version in it. The rows that are printed belong into docs/versions.md.
"""

from __future__ import annotations

import argparse
import datetime
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
SWEEP = ("--trials", "2", "--set", "training.epochs=1", "--set", "evaluate.search.images=200")


@dataclass(frozen=True)
class Environment:
    """Versions that are tried together."""

    name: str
    python: str
    packages: Mapping[str, str]


ENVIRONMENTS = (
    Environment(
        "oldest",
        "3.11",
        {"ray": "2.60.0", "optuna": "5.0.0", "mlflow": "3.17.0", "open_clip_torch": "3.3.0", "torch": "2.14.1"},
    ),
    Environment(
        "newest",
        "3.13",
        {"ray": "2.60.0", "optuna": "5.0.0", "mlflow": "3.18.0", "open_clip_torch": "3.3.0", "torch": "2.14.1"},
    ),
    Environment(
        "middle",
        "3.12",
        {"ray": "2.60.0", "optuna": "5.0.0", "mlflow": "3.17.2", "open_clip_torch": "3.3.0", "torch": "2.14.1"},
    ),
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
            overrides.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()))
            programs = fresh_environment(
                folder / "environment", ["--overrides", overrides, wheel, *TOOLS], None, f"python{python}"
            )
            start_s = time.monotonic()
            run([programs / "sweeper", "run", "quickstart", *SWEEP], folder)
            sweep_s = time.monotonic() - start_s
        except CheckError as error:
            print(error, file=sys.stderr)
            return "failed: " + " ".join(str(error).splitlines()[-1:])[-160:].replace("|", "/")
        pytest = [str(programs / "python"), "-m", "pytest", "-p", "no:cacheprovider", "-m", "not drill", *TESTS]
        done = subprocess.run(pytest, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout[-3000:], file=sys.stderr)
        last = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
        return f"{'passed' if done.returncode == 0 else 'failed'}: sweep of 2 trials in {sweep_s:.0f} s; {last}"


if __name__ == "__main__":
    main()
