"""Tensors on disk with a checksum: neither torch.load nor safetensors notices garbage in the middle of a file."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

CHECKSUM_KEY = "crc32"
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Names of dtypes in the safetensors format."""


def checksum(value: Any) -> int:
    """Return the CRC-32 of nested dicts and lists of tensors and scalars; writing and reading do not change it."""
    return _crc32(value, 0)


def write_weights(file: BinaryIO, weights: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors, with their checksum in its metadata.

    ``save_file`` of safetensors 0.8 is not used: it writes a temporary file beside its target, which a kill leaves
    there, which is not the file that is fsynced, and which only its owner may read.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    header: dict[str, Any] = {"__metadata__": {CHECKSUM_KEY: str(checksum(tensors))}}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.nbytes
        header[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for value in tensors.values():
        file.write(_bytes(value))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights by name. A file without a checksum is accepted.

    Raises:
        ValueError: the content does not match the checksum.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        expected = (file.metadata() or {}).get(CHECKSUM_KEY)
    if expected is not None and expected != str(checksum(weights)):
        raise ValueError("its content does not match its checksum")
    return weights


def _crc32(value: Any, crc: int) -> int:
    if isinstance(value, Tensor):
        crc = zlib.crc32(f"{value.dtype} {tuple(value.shape)}".encode(), crc)
        return zlib.crc32(_bytes(value), crc)
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            crc = _crc32(value[key], zlib.crc32(str(key).encode(), crc))
        return crc
    if isinstance(value, list | tuple):
        for entry in value:
            crc = _crc32(entry, crc)
        return crc
    if isinstance(value, float):  # the digits of a float depend on whether denormals are flushed in this thread
        return zlib.crc32(struct.pack("<d", value), crc)
    return zlib.crc32(repr(value).encode(), crc)


def _bytes(value: Tensor) -> Any:
    """Return the bytes of a tensor in the host's memory; a contiguous tensor is not copied."""
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
