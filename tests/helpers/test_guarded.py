"""The guard of whole sweeps refuses what it is there for, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.guarded import Seen, guarded_variables, is_loopback, noted, watched
from tests.helpers.runners import patience

PICKLE = "pickle.loads(pickle.dumps(1))"
UNPICKLER = "pickle.Unpickler(io.BytesIO(pickle.dumps(1))).load()"
UNSAFE = "torch.load(file, weights_only=False)"
SAFE = "torch.load(file, weights_only=True)"


@pytest.mark.parametrize(
    ("module", "call", "refused"),
    [
        ("sweeper.run.sweep", PICKLE, True),
        ("trainables.models.clip", UNPICKLER, True),
        ("sweeper.execution.handles", PICKLE, False),
        ("ray.util", UNPICKLER, False),
        ("open_clip.factory", UNSAFE, True),
        ("trainables.models.clip", SAFE, False),
    ],
)
def test_the_guard_refuses_pickles_of_ours_and_unsafe_loading(
    module: str, call: str, refused: bool, tmp_path: Path
) -> None:
    script = (
        f"import io, pickle\nfile = {str(tmp_path / 'w.pt')!r}\n"
        + ("import torch\ntorch.save({}, file)\n" if "torch" in call else "torch = None\n")
        + f"values = {{'__name__': {module!r}, 'io': io, 'pickle': pickle, 'torch': torch, 'file': file}}\n"
        f"exec(compile({call!r}, 'x.py', 'exec'), values)\n"
    )
    environment = os.environ | guarded_variables(tmp_path / "notes")
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert ("PermissionError: guard" in done.stderr) == refused == (done.returncode != 0), done.stderr
    assert bool(noted(tmp_path / "notes", "refused")) == refused and noted(tmp_path / "notes", "guarded")


def test_sockets_that_others_reach_are_seen() -> None:
    seen = Seen()
    with socket.create_server(("0.0.0.0", 0)), watched(os.getpid(), seen), patience(30, "a look") as again:
        while os.getpid() not in seen.pids and again():
            pass
    assert "0.0.0.0" in seen.beyond_loopback()
    assert is_loopback("::ffff:127.0.0.1") and is_loopback("::1") and not is_loopback("::ffff:192.0.2.1")
