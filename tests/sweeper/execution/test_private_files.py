from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.execution.private_files import make_ray_folder, protect_token


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_folder_of_rays_is_closed_to_others_and_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = make_ray_folder()
    assert folder.parent == tmp_path and mode(folder) == 0o700
    folder.chmod(0o777)
    assert make_ray_folder() == folder and mode(folder) == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="or a link"):
        make_ray_folder()
    assert mode(tmp_path / "elsewhere") == 0o755


def test_the_token_of_rays_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_AUTH")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    protect_token()
    assert not token.exists()
    monkeypatch.delenv("RAY_AUTH_MODE")
    protect_token()
    made = token.read_text()
    assert len(made) == 64 and mode(token) == 0o600
    token.chmod(0o644)  # as Ray leaves it
    protect_token()
    assert token.read_text() == made and mode(token) == 0o600
