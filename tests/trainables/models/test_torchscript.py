"""TorchScript archives: their weights are read, and nothing in them is run."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.models.model_files import tensor_shapes, unwrapped
from trainables.models.torchscript import is_torchscript, script_shapes, script_state


class Small(nn.Module):
    """Half and full precision, a buffer, a view, a nested module, and one of the sizes that OpenAI adds."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 2)])
        self.scale = nn.Parameter(torch.arange(4.0).half())
        self.register_buffer("mask", torch.arange(12).reshape(3, 4).t()[1:])
        self.register_buffer("input_resolution", torch.tensor(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for tower in self.towers:
            x = tower(x)
        return x


class WritesAFile:
    """Its pickle opens a file for writing when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Small()), tmp_path / "script.pt")
    return tmp_path / "script.pt"


def rewritten(script: Path, start: bytes, changed: dict[str, bytes]) -> Path:
    """The archive behind other bytes, with other contents of members (by the end of their name)."""
    content = io.BytesIO()
    content.write(start)
    with zipfile.ZipFile(script) as old, zipfile.ZipFile(content, "a") as new:
        for name in old.namelist():
            ends = [end for end in changed if name.endswith(end)]
            new.writestr(name, changed[ends[0]] if ends else old.read(name))
    file = script.with_name("changed.pt")
    file.write_bytes(content.getvalue())
    return file


def test_weights_are_those_that_pytorch_reads(script: Path) -> None:
    assert is_torchscript(script)
    read, expected = script_state(script), torch.jit.load(script).state_dict()
    del expected["input_resolution"]
    assert read.keys() == expected.keys() and script_shapes(script).keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value), name


def test_an_archive_behind_a_pickle_runs_nothing(script: Path, tmp_path: Path) -> None:
    """PyTorch decides by the first bytes whether a file is a zip or a pickle, zipfile by the last ones."""
    made = tmp_path / "made"
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(WritesAFile(made), 2)
    file = rewritten(script, legacy, {})
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert made.exists(), "the file is one that PyTorch's unsafe mode runs"
    made.unlink()
    assert tensor_shapes(file).keys() == script_shapes(script).keys()
    with unwrapped(file) as copy:
        state = torch.load(copy, weights_only=True)
    assert state.keys() == script_state(script).keys() and not made.exists()


@pytest.mark.parametrize("what", ["root", "state"])
def test_a_table_with_code_runs_nothing(what: str, script: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    table: Any = WritesAFile(made) if what == "root" else {"weight": WritesAFile(made)}
    file = rewritten(script, b"", {"/data.pkl": pickle.dumps(table, 2)})
    with pytest.raises(ValueError, match="Pickled code is never run"):
        tensor_shapes(file)
    assert not made.exists()


def test_a_tensor_that_reaches_beyond_its_bytes_is_refused(script: Path) -> None:
    short = rewritten(script, b"", {"/data/0": b"\0\0"})
    with pytest.raises(ValueError, match="does not hold"):
        script_state(short)
