"""Where a benchmark ran, and where its table goes."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def cpu() -> str:
    """The processor's name."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """For instance ``amx_bf16``; empty where Linux does not tell."""
    return _cpu_info("flags").split()


def environment(*packages: str) -> str:
    """Processor, Python and the packages' versions."""
    used = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{cpu()}, {os.cpu_count()} CPUs; Python {platform.python_version()}, {used}"


def publish(text: str, output: Path | None) -> None:
    """To standard output and, where asked for, a file."""
    sys.stdout.write(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def _cpu_info(key: str) -> str:
    for line in _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
