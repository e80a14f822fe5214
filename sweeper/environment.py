"""Versions, devices and commit of the present environment."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.version import __version__

if TYPE_CHECKING:
    import torch


_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow", "pydantic")


def environment() -> dict[str, str]:
    """Return the output of `sweeper env`, by name; it holds no secrets."""
    import psutil
    import torch

    lines = package_versions()
    lines |= {"python": platform.python_version(), "system": platform.platform()}
    lines["cpus"] = str(os.cpu_count())
    lines["memory"] = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    lines["cuda"] = f"{torch.version.cuda or 'not in this PyTorch'}, available: {torch.cuda.is_available()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lines[f"gpu {index}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    lines["storage"] = os.environ.get("SWEEPER_STORAGE", "./sweeps")
    lines["mlflow store"] = "from MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "in the storage"
    return lines


def package_versions() -> dict[str, str]:
    """Return the versions of all packages whose difference between two machines matters, without importing them."""
    return {**versions(), **{package: _version(package) for package in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def device_named(name: str | None) -> torch.device:
    """Return the device that --device names; None: cuda if there is one.

    Raises:
        UserError: the device does not exist.
    """
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; give cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs; `sweeper env` says more")
    return device


def check_gpus(gpus: float | None) -> str | None:
    """Return a line if ``--gpus`` asks for more GPUs than PyTorch sees on this machine; None otherwise. Imports torch.

    Raises:
        UserError: there is no GPU: a resumed sweep may have fewer GPUs than before, but not none.
    """
    if gpus is None or gpus <= 0:
        return None
    import torch

    there = torch.cuda.device_count()
    sees = f"--gpus {gpus:g}: PyTorch sees {there} GPU{'s' * (there != 1)} on this machine"
    if there == 0:
        raise UserError(
            f"{sees} (`sweeper env` says more); leave --gpus out to run on its CPUs, or name a cluster that has GPUs "
            "with --address HOST:PORT"
        )
    return f"{sees}, which it uses; for more name a cluster with --address HOST:PORT" if gpus > there else None


PACKAGES = ("ray", "optuna", "mlflow")


def versions() -> dict[str, str]:
    """Return versions by package, without importing the packages."""
    by_package = {"sweeper": __version__}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = "unknown"
    return by_package


def git_commit(folder: Path) -> str | None:
    """Return the commit of the repository of ``folder``, with ``-dirty`` if files differ; None outside a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        if commit.returncode != 0:
            return None
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
