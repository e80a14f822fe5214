"""The health check of the image: a driver that does not renew its lease is told, and nothing else is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.storage.lease import Lease
from tests.paths import ROOT

HEALTH = ROOT / "docker" / "health.py"


def checked(storage: Path) -> subprocess.CompletedProcess[str]:
    """The health check as the image runs it."""
    environment = {**os.environ, "SWEEPER_STORAGE": str(storage)}
    return subprocess.run([sys.executable, "-I", str(HEALTH)], env=environment, capture_output=True, text=True)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweeps" / "mine"
    folder.mkdir(parents=True)
    return folder


def test_a_container_without_sweeps_is_healthy(tmp_path: Path) -> None:
    assert checked(tmp_path / "sweeps").returncode == 0


def test_a_driver_that_renews_its_lease_is_healthy(sweep: Path) -> None:
    with Lease(sweep, "mine").hold():
        assert checked(sweep.parent).returncode == 0
    assert checked(sweep.parent).returncode == 0


def test_a_driver_that_does_not_renew_its_lease_is_told(sweep: Path) -> None:
    with Lease(sweep, "mine").hold() as lease:
        lease.stop_renewing()
        long_ago_s = time.time() - 90
        os.utime(sweep / "lease.json", (long_ago_s, long_ago_s))
        done = checked(sweep.parent)
    assert done.returncode == 1
    assert "sweep mine: its driver has not renewed its lease for 9" in done.stderr


def test_a_driver_of_another_container_is_not_this_ones(sweep: Path) -> None:
    with Lease(sweep, "mine").hold() as lease:
        lease.stop_renewing()
        text = (sweep / "lease.json").read_text()
        (sweep / "lease.json").write_text(text.replace(socket.gethostname(), "another"))
        os.utime(sweep / "lease.json", (0, 0))
        assert checked(sweep.parent).returncode == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_a_damaged_lease_is_left_to_the_driver(sweep: Path, content: str) -> None:
    (sweep / "lease.json").write_text(content)
    os.utime(sweep / "lease.json", (0, 0))
    assert checked(sweep.parent).returncode == 0
