"""The verification of a report: its numbers are gathered again from the folder of the sweep and compared."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.report.content import Making, Report, gather
from sweeper.report.html import Pictures, page
from sweeper.report.numbers import Number
from sweeper.report.writer import PAGE, digest, table_files
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.version import __version__
from trainables.evaluation.answers import read_answers
from trainables.evaluation.metrics import mean_score

_ABSENT = "not there"
_MARKS = re.compile(r"[\s<>,;&\[\]\"]")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A place where a report and the folder of its sweep differ."""

    place: str
    """Key of a number, or file and line."""
    in_report: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.place}: {self.in_report} in the report, {self.recomputed} recomputed"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of a verification."""

    first: Difference | None
    """The first difference; None if all agree."""
    numbers: int
    """Number of keys that were compared."""
    shown: int
    """Number of places in the page that show one of them."""
    files: tuple[str, ...]
    """Tables and figures beside the page that were compared."""
    notes: tuple[str, ...]
    """Parts of the report that were not compared, each with the reason."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report as read from its file."""

    path: Path
    text: str
    sweep: str
    sweep_id: str
    making: Making
    generator: str
    """Version in the head of the page."""
    numbers: Mapping[str, Any]
    """Block of numbers: key -> ``value`` and ``shown``."""
    shown: tuple[tuple[str, str], ...]
    """Keys and texts of the numbers in the page, in their order."""
    pictures: Pictures


def read_page(path: Path) -> Page:
    """Return the report in a file, or in ``report.html`` of a folder.

    Raises:
        UserError: it is not a report, or its block of numbers is damaged.
    """
    file = path / PAGE if path.is_dir() else path
    try:
        text = file.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    reader = _Reader()
    reader.feed(text)
    try:
        block = json.loads(reader.block)
        return Page(
            path=file,
            text=text,
            sweep=str(block["sweep"]),
            sweep_id=str(block["sweep_id"]),
            making=Making(time=str(block["time"]), versions=dict(block["versions"])),
            generator=reader.generator,
            numbers=dict(block["numbers"]),
            shown=tuple(reader.shown),
            pictures=Pictures(sources=reader.sources, undrawn=block["undrawn"], digests=dict(block["digests"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: its block of numbers is missing or damaged ({error}); make the report again"
        ) from error


def verify(report: Page, sweep: SweepFolder, spec: Spec) -> Verification:
    """Return the first difference between a report and the folder of its sweep.

    Raises:
        UserError: the report is of another sweep.
        UnavailableError: the storage fails.
    """
    if sweep.sweep_id != report.sweep_id:
        raise UserError(
            f"{report.path} is about a sweep {report.sweep!r} with the id {report.sweep_id}; the one in "
            f"{sweep.storage} has the id {sweep.sweep_id}: name the storage of the other with --storage"
        )
    again = gather(sweep, spec, report.making)
    same_version = report.making.versions.get("sweeper") == __version__
    folder = report.path.parent
    files = [path for path in (*table_files(again), *_figures_of(report)) if (folder / path).is_file()]
    notes = []
    if not same_version:
        notes.append(
            f"the report was made by sweeper {report.making.versions.get('sweeper')}, this is {__version__}: words and "
            "tables were not compared, only numbers"
        )
        files = [path for path in files if path in report.pictures.digests]
    if not files:
        notes.append("there are no tables and figures beside the page")
    notes.append("pictures were compared with the digests that the report has of them, and not drawn again")
    return Verification(
        first=next(_differences(report, again, sweep, spec, files, same_version=same_version), None),
        numbers=len(report.numbers),
        shown=len(report.shown),
        files=tuple(files),
        notes=tuple(notes),
    )


def _differences(
    report: Page, again: Report, sweep: SweepFolder, spec: Spec, files: list[str], *, same_version: bool
) -> Iterator[Difference]:
    numbers = again.numbers()
    yield from _in_block(report, numbers, same_version=same_version)
    yield from _in_text(report, numbers)
    made_by = f"sweeper {report.making.versions.get('sweeper')}"
    if report.generator != made_by:
        yield Difference(place="version of sweeper", in_report=report.generator, recomputed=made_by)
    yield from _in_answers(again, sweep, spec)
    yield from _in_pictures(report)
    if same_version:
        yield from _in_lines(report.path.name, report.text, page(again, report.pictures))
    folder, tables = report.path.parent, table_files(again)
    for path in files:
        content = (folder / path).read_bytes()
        if path in tables:
            yield from _in_lines(path, content.decode(errors="replace"), tables[path])
        elif digest(content) != report.pictures.digests[path]:
            yield Difference(
                place=path, in_report=f"sha256 {report.pictures.digests[path]}", recomputed=digest(content)
            )


def _in_block(report: Page, numbers: Mapping[str, Number], *, same_version: bool) -> Iterator[Difference]:
    """Yield the numbers that differ between the report's block and the sweep."""
    for key, one in numbers.items():
        entry = report.numbers.get(key)
        if entry is None:
            if same_version:
                yield Difference(place=key, in_report=_ABSENT, recomputed=one.shown)
            continue
        value, shown = (entry.get("value"), entry.get("shown")) if isinstance(entry, dict) else (entry, None)
        if shown != one.shown:
            yield Difference(place=key, in_report=str(shown), recomputed=one.shown)
        elif value != one.recorded:
            yield Difference(place=key, in_report=repr(value), recomputed=repr(one.recorded))
    for key in report.numbers:
        if key not in numbers:
            yield Difference(place=key, in_report=str(report.numbers[key]), recomputed=_ABSENT)


def _in_text(report: Page, numbers: Mapping[str, Number]) -> Iterator[Difference]:
    """Yield the numbers that the page shows otherwise than they are."""
    for key, text in report.shown:
        recomputed = numbers[key].shown if key in numbers else _ABSENT
        if text != recomputed:
            yield Difference(place=key, in_report=text, recomputed=recomputed)


def _in_answers(again: Report, sweep: SweepFolder, spec: Spec) -> Iterator[Difference]:
    """Yield the goals on test that do not follow from the answers image by image."""
    sets = spec.kind.goal_sets(spec)
    for point in again.front.points:
        path = sweep.answers_path(point.point_name)
        if point.values is None or not path.exists():
            continue
        told = [of_view for of_view in read_answers(path) if of_view.set in sets]
        for goal in again.front.goals:
            scores = [of_view.measures()["accuracy"] for of_view in told if of_view.view == goal.view]
            if not scores or goal.metric not in point.values:
                continue
            value = mean_score(scores)
            if not math.isclose(value, point.values[goal.metric], abs_tol=1e-9):
                yield Difference(
                    place=f"{goal.metric} on test of trial {point.trial}, strength {point.strength:g}",
                    in_report=f"{point.values[goal.metric]:.6f}",
                    recomputed=f"{value:.6f} from {path.name}",
                )


def _in_pictures(report: Page) -> Iterator[Difference]:
    """Yield the pictures within the page that are not those of their digests."""
    digests = report.pictures.digests
    for name, source in report.pictures.sources.items():
        try:
            content = base64.b64decode(source.partition(",")[2], validate=True)
        except binascii.Error:
            content = b""
        if digest(content) != digests.get(name):
            told = digests.get(name, _ABSENT)
            yield Difference(place=f"picture {name}", in_report=f"sha256 {told}", recomputed=digest(content))


def _figures_of(report: Page) -> list[str]:
    return [path for path in report.pictures.digests if path.startswith("figures/") and ".." not in path]


def _in_lines(name: str, text: str, recomputed: str) -> Iterator[Difference]:
    """Yield the lines that differ, each with the words around the first difference."""
    lines = itertools.zip_longest(text.split("\n"), recomputed.split("\n"))
    for number, (line, other) in enumerate(lines, 1):
        if line != other:
            place = f"{name}, line {number}"
            if line is None or other is None:
                yield Difference(place=place, in_report=line or _ABSENT, recomputed=other or _ABSENT)
                continue
            same = next(
                (i for i, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other))
            )
            yield Difference(place=place, in_report=repr(_word(line, same)), recomputed=repr(_word(other, same)))


def _word(line: str, place: int) -> str:
    """Return the word of a line at a place."""
    start = max((match.end() for match in _MARKS.finditer(line, 0, place)), default=0)
    after = _MARKS.search(line, place)
    return line[start : after.start() if after else len(line)][:80]


class _Reader(HTMLParser):
    """Reads a page back: its block of numbers, the numbers that it shows, its pictures."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.block, self.generator = "", ""
        self.shown: list[tuple[str, str]] = []
        self.sources: dict[str, str] = {}
        self._key: str | None = None
        self._in_block = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "data":
            self._key = values.get("value", "")
            self.shown.append((self._key, ""))
        elif tag == "img" and "data-picture" in values:
            self.sources[values["data-picture"]] = values.get("src", "")
        elif tag == "meta" and values.get("name") == "generator":
            self.generator = values.get("content", "")
        elif tag == "script":
            self._in_block = values.get("id") == "numbers"

    def handle_endtag(self, tag: str) -> None:
        if tag == "data":
            self._key = None
        elif tag == "script":
            self._in_block = False

    def handle_data(self, data: str) -> None:
        if self._in_block:
            self.block += data
        elif self._key is not None:
            key, text = self.shown[-1]
            self.shown[-1] = (key, text + data)
