"""Weights of TorchScript archives, the format in which OpenAI published its models, without running the archive.

``torch.jit.load`` compiles the program in an archive and may run parts of it, and ``torch.load`` needs its unsafe mode
for such files. Here only the table of tensors and their bytes are read; classes that the table names are never looked
up.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_TABLE = "/data.pkl"
_SCALARS_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Sizes that OpenAI's archives keep beside the weights; open_clip drops them too."""
_DTYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "BoolStorage": "bool",
}


@dataclass(frozen=True)
class _Stored:
    """A tensor in an archive."""

    member: str
    """File of its storage in the archive."""
    dtype: str
    elements: int
    """Number of elements of the storage."""
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def is_torchscript(file: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if file.suffix == ".safetensors" or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def script_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the weights.

    Raises:
        ValueError: the file holds something else.
    """
    with zipfile.ZipFile(file) as archive:
        return {name: stored.shape for name, stored in _stored(archive)}


def script_state(file: Path) -> dict[str, Tensor]:
    """Return name -> weight.

    Raises:
        ValueError: the file holds something else.
    """
    with zipfile.ZipFile(file) as archive:
        return {name: _tensor(archive, stored) for name, stored in _stored(archive)}


def _stored(archive: zipfile.ZipFile) -> Iterator[tuple[str, _Stored]]:
    from torch.utils.show_pickle import DumpUnpickler

    tables = [name for name in archive.namelist() if name.endswith(_TABLE) and name.count("/") == 1]
    if len(tables) != 1:
        raise ValueError("it is not a TorchScript archive: it has no data.pkl, or several")
    with archive.open(tables[0]) as file:
        # Makes an inert object of every class and function that the table names, and calls none of them.
        root = DumpUnpickler(file).load()
    yield from _tensors(root, "", tables[0].removesuffix(_TABLE))


def _tensors(module: Any, prefix: str, archive: str) -> Iterator[tuple[str, _Stored]]:
    """Yield the tensors of a module and of the modules in it."""
    from torch.utils.show_pickle import FakeObject

    if not isinstance(module, FakeObject) or not isinstance(module.state, dict):
        raise ValueError("it is not a TorchScript archive of a module")
    for name, value in module.state.items():
        if not isinstance(value, FakeObject) or (not prefix and name in _SCALARS_OF_OPENAI):
            continue
        if value.name == "_rebuild_tensor_v2":
            yield f"{prefix}{name}", _place(value.args, archive)
        elif value.module.startswith("__torch__") and isinstance(value.state, dict):
            yield from _tensors(value, f"{prefix}{name}.", archive)


def _place(arguments: tuple[Any, ...], archive: str) -> _Stored:
    (kind, storage, key, _, elements), offset, shape, stride = arguments[0].args[0], *arguments[1:4]
    if kind != "storage" or storage.name not in _DTYPES:
        raise ValueError(f"it holds a tensor of {storage.name}, which is not supported")
    return _Stored(f"{archive}/data/{key}", _DTYPES[storage.name], elements, offset, tuple(shape), tuple(stride))


def _tensor(archive: zipfile.ZipFile, stored: _Stored) -> Tensor:
    import torch

    dtype = getattr(torch, stored.dtype)
    if archive.getinfo(stored.member).file_size != stored.elements * dtype.itemsize:
        raise ValueError(f"{stored.member} does not hold {stored.elements} values of {stored.dtype}")
    if math.prod(stored.shape) == 0:
        return torch.empty(stored.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(archive.read(stored.member)), dtype=dtype)
    return torch.as_strided(flat, stored.shape, stored.stride, stored.offset).clone()
