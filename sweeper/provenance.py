"""What a result can be traced back to: versions and the commit it was started from."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sweeper

PACKAGES = ("ray", "optuna", "mlflow")


def versions() -> dict[str, str]:
    """Package -> version, without importing them."""
    found = {"sweeper": sweeper.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def git_commit(folder: Path) -> str | None:
    """The commit checked out in the repository of ``folder``, ``-dirty`` behind it if files differ; None outside."""
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
