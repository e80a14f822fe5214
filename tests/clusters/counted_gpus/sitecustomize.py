"""First on the import path of a drill's Ray processes: workers with a GPU that Ray only counts compute on the CPU."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_MODULE = "ray.air._internal.device_manager.nvidia_gpu"


class _OnCpu(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert found is not None and found.loader is not None
        self._loader = found.loader
        found.loader = self
        return found

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        import torch

        vars(module)["CUDATorchDeviceManager"].get_devices = lambda self: [torch.device("cpu")]


sys.meta_path.insert(0, _OnCpu())
