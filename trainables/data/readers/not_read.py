"""Files of an image set that its reader does not read, so that every such file is reported."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.readers.class_names import SetError, os_problem, printable
from trainables.data.readers.samples import is_image

_OF_DESKTOPS = {"thumbs.db", "desktop.ini"}
_BESIDE_IMAGES = {".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".pdf"}
"""Suffixes of files that may describe the images of a set."""
_DESCRIPTIONS = {"readme", "license", "licence", "copying", "notice", "authors", "changelog", "version", "makefile"}
"""Names, without suffix, of files that describe a set."""
_APPLE_DOUBLE = "._"
"""Beginning of the names of files in which a Mac keeps attributes of other files."""


@dataclass
class _NotRead:
    above: list[str] = field(default_factory=list)
    """Images above the folders in which images are expected."""
    below: list[str] = field(default_factory=list)
    """Images below the folders in which images are expected."""
    others: list[str] = field(default_factory=list)
    """Files with another suffix."""
    hidden: list[str] = field(default_factory=list)
    """Images whose name, or that of a folder around them, begins with a dot."""
    special: list[str] = field(default_factory=list)
    """Pipes, sockets and devices that are named like images."""
    links: list[str] = field(default_factory=list)
    """Links whose target does not exist."""


def not_read(root: Path, levels: int, wanted: Collection[str] | None = None) -> list[str]:
    """Return a line for each kind of files below ``root`` that is not read: their number, and the first.

    Hidden files other than images, files of desktops, and files that describe a set beside its folders do not count.

    Args:
        levels: number of folder levels between ``root`` and its images.
        wanted: the folders in ``root`` that are read; None: all.

    Raises:
        SetError: a folder cannot be read.
    """
    left = _NotRead()
    for name, entry_level in _walk(root, "", (os.path.realpath(root),), left, wanted):
        if entry_level < levels:
            if is_image(name):
                left.above.append(name)
            elif not _describes(name):
                left.others.append(name)
        elif is_image(name):
            if entry_level > levels:
                left.below.append(name)
        elif levels or os.path.splitext(name)[1].lower() not in {"", *_BESIDE_IMAGES}:
            left.others.append(name)
    expected = "<folder>/" + {0: "", 1: "<class>/", 2: "<content>/<value>/"}[levels] + "<image>"
    lines = []
    for names, where in ((left.above, "beside the folders of the classes"), (left.below, "in folders further down")):
        if names:
            lines.append(f"{_count(names, 'image')} not read, {where} (expected: {expected})")
    if left.others:
        suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in left.others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
        lines.append(f"{_count(left.others, 'file')} not read, no image by the suffix ({kinds})")
    if left.hidden:
        lines.append(f"{_count(left.hidden, 'image')} not read, hidden by a dot at the beginning of a name")
    if left.special:
        lines.append(f"{_count(left.special, 'file')} not read, a pipe, socket or device")
    if left.links:
        lines.append(f"{_count(left.links, 'link')} not read, because the target does not exist")
    groups = (left.above, left.below, left.others, left.hidden, left.special, left.links)
    firsts = [names[0] for names in groups if names]
    return [f"{line}, first {printable(str(root / first))}" for line, first in zip(lines, firsts, strict=True)]


def _walk(
    root: Path, below: str, above: tuple[str, ...], left: _NotRead, wanted: Collection[str] | None
) -> Iterator[tuple[str, int]]:
    """Yield the files in a folder and below it, relative to ``root``, with the number of folders between.

    Args:
        above: the folder and its parents up to ``root``, links resolved.
    """
    try:
        with os.scandir(root / below) as opened:
            entries = sorted(opened, key=lambda entry: entry.name)
    except OSError as error:
        raise SetError(os_problem(error, root / below)) from error
    for entry in entries:
        name = os.path.join(below, entry.name)
        if entry.name.lower() in _OF_DESKTOPS or entry.name.startswith(_APPLE_DOUBLE):
            continue
        if entry.name.startswith("."):
            left.hidden += _hidden_images(root, name)
            continue
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a link that leads to itself
            raise SetError(os_problem(error, entry.path)) from error
        if not is_folder:
            if entry.is_symlink() and not os.path.exists(entry.path):
                left.links.append(name)
            elif not entry.is_file():
                left.special.append(name)
            else:
                yield name, len(above) - 1
        elif below or wanted is None or entry.name in wanted:
            folder = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
            if folder not in above:  # a link may lead back to a parent
                yield from _walk(root, name, (*above, folder), left, wanted)


def _hidden_images(root: Path, name: str) -> list[str]:
    """Return the images of a hidden file or folder, relative to ``root``. Folders that are links are not entered."""
    path = root / name
    if path.is_symlink() or not path.is_dir():
        return [name] if is_image(os.path.basename(name).lstrip(".")) else []
    return [
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in os.walk(path)
        for file in sorted(files)
        if not file.startswith(_APPLE_DOUBLE) and is_image(file.lstrip("."))
    ]


def _describes(name: str) -> bool:
    """Return whether a file beside the folders of a set probably describes it."""
    stem, suffix = os.path.splitext(os.path.basename(name).lower())
    return suffix in _BESIDE_IMAGES or (not suffix and stem in _DESCRIPTIONS)


def _count(names: Collection[str], what: str) -> str:
    return f"1 {what} is" if len(names) == 1 else f"{len(names)} {what}s are"
