"""The machine that a benchmark ran on, and the output of its results."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def cpu() -> str:
    """Return the name of the processor."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return the processor's flags, for instance ``amx_bf16``; empty except on Linux."""
    return _cpu_info("flags").split()


def environment(*packages: str) -> str:
    """Return a line with the processor and the versions of Python and of packages."""
    used = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{cpu()}, {os.cpu_count()} CPUs; Python {platform.python_version()}, {used}"


def torch_device(device: str) -> str:
    """Return the GPU, or the processor with the number of PyTorch's threads, and the versions of the libraries."""
    import open_clip
    import torch

    on_gpu = device.startswith("cuda")
    threads = f"{cpu()}, {torch.get_num_threads()} thread(s), processor time"
    where = torch.cuda.get_device_name() if on_gpu else threads
    return f"{where}; torch {torch.__version__}, open_clip {open_clip.__version__}"


def publish(text: str, output: Path | None) -> None:
    """Write a results text to standard output and, if given, to a file."""
    sys.stdout.write(text)
    save(text, output)


def save(text: str, output: Path | None) -> None:
    """Write a results text to a file, if given; its folder is created."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def _cpu_info(key: str) -> str:
    for line in _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
