"""A sweep of two slots on one GPU; a worker is killed, and the sweep ends as if it had not been."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.gpu.device import TRIED_ON_CPU, device, memory_is_returned

assert device and memory_is_returned  # fixtures
pytestmark = pytest.mark.gpu
psutil = pytest.importorskip("psutil")
for _package in ("ray", "optuna", "mlflow"):
    pytest.importorskip(_package, reason=f"the wheel of {_package} is not there")

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 400.0


def test_two_slots_share_the_gpu_and_a_killed_worker_is_replaced(device: torch.device, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from sweeper.cli.main import main; main()",
        "run",
        str(ROOT / "search_spaces" / "quickstart.yaml"),
    ]
    command += ["--trials", "8", "--storage", str(tmp_path), "--set", "training.checkpoint_every_s=1"]
    command += ["--gpus", "0"] if TRIED_ON_CPU else ["--gpus", "1", "--set", "resources.gpus_per_worker=0.5"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    lines: list[str] = []
    killed = False
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as sweep:
        assert sweep.stdout is not None
        until_s = time.monotonic() + SECONDS
        for line in sweep.stdout:
            lines.append(line)
            assert time.monotonic() < until_s, "".join(lines)
            if " complete in " in line and not killed:
                workers = [p for p in psutil.Process(sweep.pid).children(True) if "RayTrainWorker" in _name(p)]
                assert len(workers) == 2, [_name(p) for p in psutil.Process(sweep.pid).children(True)]
                workers[0].kill()
                killed = True
    text = "".join(lines)
    assert killed and sweep.returncode == 0, text
    assert sum(" complete in " in line or " stopped in " in line for line in lines) >= 8, text
    assert "2 trials at once" in text and "memory: 2 workers" in text, text


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
