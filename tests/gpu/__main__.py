"""Everything that a GPU can show, in about ten minutes and without network: tests, speed, and a page of results.

    python -m tests.gpu [--wheels FOLDER] [--output FILE]

Runs on the Python that is there and installs nothing: wheels in ``--wheels`` are unpacked into a temporary folder for
this run. What is missing is left out, and the page says so. Without a GPU it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("pytest", "open_clip", "safetensors", "filelock", "pydantic", "yaml", "psutil", "PIL")
TESTS_S, SPEED_S = 420, 240
MODEL, BATCH = "ViT-B-32", 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder of wheels for packages that this Python lacks")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.md")
    parser.add_argument("--batch", type=int, default=BATCH, help="pairs per step of the measured speed")
    options = parser.parse_args()
    gpu = _gpu()
    if gpu is None and os.environ.get("SWEEPER_GPU_TESTS") != "cpu":
        print("no GPU here: nothing to test")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        environment = _environment(options.wheels, Path(scratch))
        missing = [name for name in NEEDED if not _found(name, environment)]
        if missing:
            print(f"these packages are missing: {', '.join(missing)}; put their wheels into a folder for --wheels")
            return 2
        lines = [
            "# What a GPU showed",
            "",
            f"{gpu or 'no GPU: tried on the CPU'}; {platform.platform()}, Python {platform.python_version()}, "
            f"{_versions(environment)}. Written by `make gpu`.",
            "",
        ]
        failed, of_tests = _tests(environment, Path(scratch))
        lines += of_tests
        lines += _speed(environment, Path(scratch), options.batch) if gpu is not None else []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 1 if failed else 0


def _gpu() -> str | None:
    """Return the name of the GPU; None if PyTorch is missing or finds none."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _environment(wheels: Path | None, scratch: Path) -> dict[str, str]:
    """Return the variables of a process that imports this clone and the packages in ``wheels``."""
    folders = [str(ROOT)]
    for wheel in sorted(wheels.glob("*.whl")) if wheels is not None else []:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch / "packages")
        folders = [str(ROOT), str(scratch / "packages")]
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *([known] if known else [])])}


def _found(name: str, environment: Mapping[str, str]) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([sys.executable, "-c", code], env=dict(environment), check=False).returncode == 0


def _versions(environment: Mapping[str, str]) -> str:
    code = (
        "from importlib.metadata import version, PackageNotFoundError\n"
        "for name in ('torch', 'open_clip_torch', 'ray', 'optuna', 'mlflow', 'mlflow-skinny'):\n"
        "    try: print(name, version(name), end=', ')\n"
        "    except PackageNotFoundError: pass"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env=dict(environment), check=False, capture_output=True, text=True
    )
    return told.stdout.rstrip(", ")


def _tests(environment: Mapping[str, str], scratch: Path) -> tuple[bool, list[str]]:
    """Run the tests; return whether one failed, and a table of them."""
    report = scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "--noconftest", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["-p", "no:randomly", "-q", "--tb=short", f"--junitxml={report}", str(ROOT / "tests" / "gpu")]
    started_s = time.monotonic()
    try:
        code = subprocess.run(command, cwd=ROOT, env=dict(environment), check=False, timeout=TESTS_S).returncode
    except subprocess.TimeoutExpired:
        return True, [f"The tests did not end within {TESTS_S} s."]
    rows = []
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        outcome, why = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome, why = child.tag, (child.get("message") or "").splitlines()[0][:120]
        rows.append(f"| {case.get('name')} | {outcome} | {float(case.get('time') or 0):.1f} | {why} |")
    took_s = time.monotonic() - started_s
    head = [f"## Tests, {took_s:.0f} s", "", "| test | outcome | s | why |", "| --- | --- | ---: | --- |"]
    return code != 0, [*head, *rows, ""]


def _speed(environment: Mapping[str, str], scratch: Path, batch: int) -> list[str]:
    """Measure the speed of a step beside the authors' loop."""
    page = scratch / "speed.md"
    command = [sys.executable, "-m", "benchmarks.training.throughput", MODEL, "--device", "cuda"]
    command += ["--batch", str(batch), "--rounds", "2", "--output", str(page)]
    try:
        subprocess.run(command, cwd=ROOT, env=dict(environment), check=False, timeout=SPEED_S)
    except subprocess.TimeoutExpired:
        return [f"## Speed of {MODEL}", "", f"It was not measured within {SPEED_S} s."]
    return [f"## Speed of {MODEL}", "", page.read_text() if page.exists() else "It could not be measured."]


if __name__ == "__main__":
    raise SystemExit(main())
