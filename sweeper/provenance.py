"""What a result can be traced back to: versions and the commit it was started from."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version

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


def git_commit() -> str | None:
    """The commit checked out in the current directory, ``-dirty`` behind it if files differ; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if commit.returncode != 0:
            return None
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
