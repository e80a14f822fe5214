"""Functions of a user's own, named ``package.module:function`` in a spec: found, identified by their file, called.

Nothing is registered. A module is found as Python finds it, in the working folder and on the import path. Its identity
is the SHA-256 of its file. A driver sends the file's bytes to its workers, so that all processes of a sweep run the
same code whatever their own import path holds.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FORM = "package.module:function"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_DIGEST = "__sweeper_digest__"
"""Name in a module for the digest of the bytes that it was made of."""


@dataclass(frozen=True)
class OwnModule:
    """The file of a module."""

    name: str
    """Dotted name: ``package.module``."""
    path: str
    source: bytes

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        return hashlib.sha256(self.source).hexdigest()

    def write_below(self, folder: Path) -> None:
        """Write the file where Python finds the module if it searches a folder; the packages around it are empty.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder.joinpath(*self.name.split("."))
        path = path / "__init__.py" if Path(self.path).name == "__init__.py" else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in path.relative_to(folder).parents[:-1]:
            (folder / package / "__init__.py").touch()
        path.write_bytes(self.source)


def names_function(text: str) -> bool:
    """Return whether a text has the form ``package.module:function``."""
    return _NAME.fullmatch(text) is not None


def module_in(name: str) -> str:
    """Return the module in ``package.module:function``."""
    return name.partition(":")[0]


def find_module(name: str) -> OwnModule:
    """Return the file of a module, which is not run. The packages around it are imported.

    Raises:
        ValueError: there is no such module, or it is not a file of Python.
    """
    _search_working_folder()
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(name)
    except Exception as error:  # code of other authors can raise any error
        raise ValueError(f"the module {name} cannot be found: {described(error)}") from error
    if found is None:
        raise ValueError(
            f"there is no module {name} in the working folder {Path.cwd()} or on Python's import path; go to the "
            "folder that holds it, or add that to PYTHONPATH"
        )
    if found.origin is None or not found.origin.endswith(".py"):
        raise ValueError(f"the module {name} is no file of Python ({found.origin}); name a module that is a .py file")
    try:
        return OwnModule(name, found.origin, Path(found.origin).read_bytes())
    except OSError as error:
        raise ValueError(f"{found.origin} cannot be read: {error.strerror or error}") from error


def install(module: OwnModule) -> None:
    """Run a module's source and make it the module of this name in this process, unless it is that already.

    Raises:
        ValueError: the module cannot be imported.
    """
    before = sys.modules.get(module.name)
    if before is not None and _loaded_digest(before) == module.digest:
        return
    spec = importlib.util.spec_from_file_location(module.name, module.path)
    assert spec is not None, "the file is one of Python"
    made = importlib.util.module_from_spec(spec)
    sys.modules[module.name] = made  # as an import does: dataclasses look for their module there
    try:
        exec(compile(module.source, module.path, "exec"), vars(made))
    except BaseException as error:
        sys.modules.pop(module.name)
        if before is not None:
            sys.modules[module.name] = before
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"the module {module.name} cannot be imported: {described(error)}") from error
    vars(made)[_DIGEST] = module.digest
    package, _, last = module.name.rpartition(".")
    if package in sys.modules:
        vars(sys.modules[package])[last] = made


def function_named(name: str) -> Callable[..., Any]:
    """Return the function ``package.module:function`` of a module that was installed, or that is imported now.

    Raises:
        ValueError: there is no such function, or its module cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None:
        _search_working_folder()
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # code of other authors can raise any error
            raise ValueError(f"{name}: the module cannot be imported: {described(error)}") from error
    function = vars(module).get(function_name)
    if not callable(function):
        raise ValueError(f"{name}: {module_name} has no function {function_name}")
    return function


def described(error: Exception) -> str:
    """Return an error in code of other authors on one line, with the place that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    frames = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _loaded_digest(module: ModuleType) -> str | None:
    """Return the digest of the bytes that a module was made of; None if there is no file of it.

    A module that Python has imported by itself is taken to be what its file holds now.
    """
    known: str | None = vars(module).get(_DIGEST)
    try:
        return known or hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    except (OSError, AttributeError):
        return None


def _search_working_folder() -> None:
    """Have Python search the working folder too: a command's own folder is first on the path, not the user's."""
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
