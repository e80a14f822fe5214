"""The specs that ship with sweeper, by name: ``sweeper run quickstart``."""

from __future__ import annotations

from pathlib import Path

from sweeper.errors import UserError
from sweeper.spec.problems import did_you_mean

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".yaml", ".yml")


def shipped_specs() -> dict[str, Path]:
    """Return the files of the shipped specs by name: ``quickstart``, ``reduced/typo``.

    A wheel has them inside the package, a clone (an editable install) beside it.
    """
    inside = _PACKAGE / "search_spaces"
    folder = inside if inside.is_dir() else _PACKAGE.parent / "search_spaces"
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (file.parent != folder, file))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def spec_file(named: Path) -> Path:
    """Return the file of a spec that a user names: a path, or the name of a shipped spec.

    A path that exists is taken first.

    Raises:
        UserError: the name is neither a file nor a shipped spec.
    """
    if named.exists() or named.suffix in _SUFFIXES:
        return named
    shipped = shipped_specs()
    if (name := named.as_posix()) in shipped:
        return shipped[name]
    raise UserError(f"{named} is neither a file nor a spec that ships with sweeper{did_you_mean(name, shipped)}")
