"""Lines of records: what damage and full disks leave readable."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from trainables.files import storage_problem
from trainables.json_lines import append_line, read_lines


def test_damaged_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'\xff\xfe\x00garbage\n[1, 2]\n"text"\n17\nnull\n\n' + b"[" * 100_000 + b'\n{"n": 2')
    append_line(path, {"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("whole_lines", [0, 2])
def test_a_line_that_the_disk_does_not_take_leaves_nothing(
    whole_lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    for n in range(whole_lines):
        append_line(path, {"n": n})
    before = path.read_bytes() if whole_lines else b""

    class Filling(io.FileIO):
        """Takes five bytes more."""

        room = 5

        def write(self, content: Any) -> int:
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = super().write(content[: self.room])
            self.room -= taken
            return taken

    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: Filling(self, mode.replace("b", "")))
    with pytest.raises(OSError) as raised:
        append_line(path, {"n": "new"})
    monkeypatch.undo()
    assert storage_problem(raised.value) == f"{path}: No space left on device"
    assert path.read_bytes() == before
    append_line(path, {"n": "newer"})
    assert read_lines(path) == [*({"n": n} for n in range(whole_lines)), {"n": "newer"}]
