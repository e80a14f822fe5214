"""Storages that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import UserError
from sweeper.storage.opening import named_storage, storage_folder


def test_home_and_variables_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert named_storage("~/sweeps") == f"{tmp_path}/sweeps"
    assert named_storage("$DATA/sweeps") == named_storage("${DATA}/sweeps") == f"{tmp_path}/data/sweeps"
    monkeypatch.setenv("SWEEPER_STORAGE", "~/mine")
    assert storage_folder(None) == tmp_path / "mine"
    monkeypatch.setenv("SWEEPER_STORAGE", "")
    assert storage_folder(None) == tmp_path / "sweeps", "an empty variable is none"
    (tmp_path / "$DATA").mkdir()
    assert named_storage("$DATA") == f"{tmp_path}/$DATA", "a name that exists is taken literally"


def test_places_that_cannot_be_a_storage_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for given, message in (
        (tmp_path / "file", "is a file; name a folder"),
        (tmp_path / "file" / "x", f"{tmp_path}/file is a file; name a folder"),
        (tmp_path / "loop", "leads nowhere"),
        (tmp_path / "gone" / "x", "leads nowhere"),
        (tmp_path / ("x" * 300), "File name too long"),
        ("/dev/null", "is a file"),
        ("$NO_SUCH_VARIABLE/x", "the environment variable NO_SUCH_VARIABLE is not set"),
        ("~no-such-user/x", "there is no user 'no-such-user'"),
        ("s3:", "a storage is a folder, or s3:// or gs://"),
        ("FTP://host/x", "storage ftp://host/x: a storage is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            storage_folder(given)
