"""What a wheel holds: everything that ``sweeper run quickstart`` needs where there is no clone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sweeper.spec.shipped import shipped_specs
from sweeper.version import __version__
from tests.paths import ROOT


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    wheel = folder / f"clip_sweeper-{__version__}-py3-none-any.whl"
    return set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_holds_the_shipped_specs(names: set[str]) -> None:
    assert {f"sweeper/search_spaces/{name}.yaml" for name in shipped_specs()} <= names


def test_a_wheel_holds_every_file_of_both_packages(names: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "sweeper", "trainables"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    files = {name for name in listed if name}
    for suffix in (".safetensors", ".ttf", ".json", ".gz", ".yaml", "py.typed"):
        assert any(name.endswith(suffix) for name in files), suffix
    assert "sweeper/cli/starter.yaml" in files
    assert files <= names


def test_a_wheel_holds_nothing_else(names: set[str]) -> None:
    tops = {Path(name).parts[0] for name in names}
    assert tops == {"sweeper", "trainables", f"clip_sweeper-{__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".db", ".log"))]


def test_the_changelog_and_the_citation_name_this_version() -> None:
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
