"""Python imports this at its start, in each process of a guarded sweep: see ``tests/helpers/guarded.py``.

Reading a pickle fails where a module of ``sweeper`` or ``trainables`` asks for it, and so does the unsafe loading of
PyTorch, whoever asks. What was refused is noted too, in case somebody catches the error.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import pickle
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

NOTES = Path(os.environ["SWEEPER_TEST_GUARD"])
ALLOWED = {"sweeper.execution.handles"}
"""Reads handles of our own actors, which Ray brings to the driver."""


def note(kind: str, text: str) -> None:
    with contextlib.suppress(OSError), (NOTES / f"{kind}-{os.getpid()}").open("a") as file:
        file.write(f"{text}\n")


def module_of(frame: FrameType) -> str:
    name = str(frame.f_globals.get("__name__", ""))
    spec = frame.f_globals.get("__spec__")
    return spec.name if name == "__main__" and spec is not None else name


def refuse(what: str) -> None:
    note("refused", what)
    raise PermissionError(f"guard: {what}")


def check_caller(what: str) -> None:
    module = module_of(sys._getframe(2))
    if module.partition(".")[0] in ("sweeper", "trainables") and module not in ALLOWED:
        refuse(f"{module} calls {what}")


_load, _loads, _Unpickler = pickle.load, pickle.loads, pickle.Unpickler


def load(*arguments: Any, **options: Any) -> Any:
    check_caller("pickle.load")
    return _load(*arguments, **options)


def loads(*arguments: Any, **options: Any) -> Any:
    check_caller("pickle.loads")
    return _loads(*arguments, **options)


class Unpickler(_Unpickler):  # type: ignore[valid-type, misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        check_caller("pickle.Unpickler")
        super().__init__(*arguments, **options)


pickle.load, pickle.loads, pickle.Unpickler = load, loads, Unpickler  # type: ignore[misc]


class _Torch(importlib.abc.MetaPathFinder):
    """Replaces ``torch.load`` as soon as it exists; torch is not imported for it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch.serialization":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            safe = module.load

            def load(*arguments: Any, **options: Any) -> Any:
                if options.get("weights_only") is not True:
                    refuse(f"{module_of(sys._getframe(1))} calls torch.load without weights_only=True")
                return safe(*arguments, **options)

            module.load = load  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Torch())
note("guarded", " ".join(sys.orig_argv))
