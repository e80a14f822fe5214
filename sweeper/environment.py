"""What a sweep would run on here, for a report of a problem."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from sweeper.provenance import versions

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow", "pydantic")


def environment() -> dict[str, str]:
    """Name -> what is here; nothing secret."""
    import psutil
    import torch

    found = {**versions(), **{package: _version(package) for package in _PACKAGES}}
    found |= {"python": platform.python_version(), "system": platform.platform()}
    found["cpus"] = str(os.cpu_count())
    found["memory"] = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    found["cuda"] = f"{torch.version.cuda or 'not in this PyTorch'}, available: {torch.cuda.is_available()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        found[f"gpu {index}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    found["storage"] = os.environ.get("SWEEPER_STORAGE", "./sweeps")
    found["mlflow store"] = "from MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "in the storage"
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
