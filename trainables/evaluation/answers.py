"""Answers of a model in words, image by image, and the measures computed from them.

A file of answers is CSV, one line per image: ``set, view, image, true, written, answer, margin, reference_kl``.
``sweeper`` writes such files and reads them (or the same as JSON) from other sources: a model that cannot be run here
is measured by its answers. (Goals of a trial need no words, see ``predictions``.)
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainables.spelling import is_missing, is_no_word, label_form
from trainables.text_files import decoded_text, json_records, table

CLEAN, ATTACKED = "clean", "attacked"
COLUMNS = ("set", "view", "image", "true", "written", "answer", "margin", "reference_kl")
_SCAM_COLUMNS = {"type", "id", "object_label", "attack_word", "object_similarities", "attack_similarities"}
"""Columns of the per-image results that SCAM's authors publish (arXiv 2504.04893)."""

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_READ = {*COLUMNS, *_SCAM_COLUMNS, "score_true", "score_written"}
_GZIP = b"\x1f\x8b"

Measures = dict[str, np.ndarray]
"""Measure -> a score per image (N,): bool (right or wrong), or nats for ``reference_kl``."""


@dataclass(frozen=True)
class Answers:
    """Answers on one view of one image set. Scores are NaN for images that have none."""

    set: str
    view: str
    """``clean``, ``attacked`` or the name of a held-out attack."""
    images: tuple[str, ...]
    """Keys of the images; an image has the same key for all models."""
    true: tuple[str, ...]
    written: tuple[str, ...]
    """The word in the picture; empty if there is none."""
    answer: tuple[str, ...] | None
    """The answered class among all classes; None if only the two-way choice is known."""
    margin: np.ndarray | None = None
    """(N,) logit of the true class minus logit of the written class (two-way choice); NaN if the word is no class."""
    reference_kl: np.ndarray | None = None
    """(N,) KL(reference || model) over all class prompts, in nats."""
    own: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metric of the user's own -> (N,) numbers; not in files of answers."""

    def strange(self) -> bool:
        """Return whether no answer is a label or a written word of these images, in any spelling."""
        if self.answer is None:
            return False
        known = {label_form(word) for word in (*self.true, *self.written)}
        return known.isdisjoint(map(label_form, self.answer))

    def measures(self) -> Measures:
        """Return the measures that can be computed, on the images that have the data for them.

        They are ``accuracy`` and ``text_confusion_rate`` over all classes, ``two_way_accuracy`` between the true and
        the written class (a tie is wrong), ``reference_kl``, and the user's own. Words are compared by ``label_form``.
        """
        measures: Measures = {}
        if self.answer is not None:
            compared = [list(map(label_form, words)) for words in (self.answer, self.true, self.written)]
            answer, true, written = (np.array(words) for words in compared)
            measures["accuracy"] = answer == true
            if (written != "").any() and self.view != CLEAN:
                measures["text_confusion_rate"] = (answer == written)[written != ""]
        if self.margin is not None and np.isfinite(self.margin).any():
            measures["two_way_accuracy"] = self.margin[np.isfinite(self.margin)] > 0
        if self.reference_kl is not None and np.isfinite(self.reference_kl).any():
            measures["reference_kl"] = self.reference_kl[np.isfinite(self.reference_kl)]
        for name, values in self.own.items():
            if np.isfinite(values).any():
                measures[name] = values[np.isfinite(values)]
        return measures


def write_answers(path: Path, answers: Iterable[Answers]) -> None:
    """Write CSV, compressed if the name ends in .gz.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for of_view in answers:
        for i, image in enumerate(of_view.images):
            answer = of_view.answer[i] if of_view.answer is not None else ""
            scores = [_text(scores, i) for scores in (of_view.margin, of_view.reference_kl)]
            writer.writerow([of_view.set, of_view.view, image, of_view.true[i], of_view.written[i], answer, *scores])
    data = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_answers(path: Path) -> list[Answers]:
    """Return the answers by (set, view), in the order of the file.

    Required columns are ``image``, ``true`` and either ``answer`` or the two-way choice: ``margin``, or ``score_true``
    and ``score_written``. Defaults: ``set`` is the file's name; ``view`` is ``attacked`` if there is a written word.
    The files that SCAM's authors publish are accepted, and JSON (a list of objects, or an object per line). Empty, NaN,
    None, null, NA and a dash mean no word, unless a label has this spelling.

    Raises:
        ValueError: the file has another form; the message names path and line.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    try:
        content = gzip.decompress(data) if data.startswith(_GZIP) else data  # names lose or keep .gz on the way
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a file of answers, but a damaged gzip archive: {error}") from error
    named, lines = _lines(path, decoded_text(path, content))
    columns = set(named)
    if not ({"image", "true"} <= columns or columns >= _SCAM_COLUMNS):
        raise ValueError(
            f"{path}:1: expected the columns image, true and answer (or score_true and score_written), or those of "
            f"SCAM's published results; found {', '.join(named) or 'nothing'}{_separator(named)}"
        )
    name = path.name.rpartition(".")[0] if path.suffix.lower() != ".gz" else path.stem.rpartition(".")[0]
    placed = list(lines)
    labels = {str(line.get("true")).strip().lower() for _, line in placed}
    groups: dict[tuple[str, str], list[_Row]] = {}
    for place, line in placed:
        try:
            row = _scam_row(line) if columns >= _SCAM_COLUMNS else _row(line, name, labels)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {error}") from error
        groups.setdefault((row.set, row.view), []).append(row)
    if not groups:
        raise ValueError(f"{path} has no answers, only a heading")
    return [_gathered(path, key, rows) for key, rows in groups.items()]


def refuse_strange(path: Path, answers: Sequence[Answers]) -> None:
    """Refuse answers about a set if none of them is one of its labels or words: the accuracy would be 0.

    Such answers name other classes, or the same classes by number or in another language.

    Raises:
        ValueError: this is so for one of the sets.
    """
    for name in dict.fromkeys(of_view.set for of_view in answers):
        of_set = [of_view for of_view in answers if of_view.set == name and of_view.answer is not None]
        if of_set and all(of_view.strange() for of_view in of_set):
            given = dict.fromkeys(word for of_view in of_set for word in of_view.answer or ())
            true = dict.fromkeys(word for of_view in of_set for word in of_view.true)
            raise ValueError(
                f"{path}: set {name!r}: no answer ({_few(given)}) is one of the labels ({_few(true)}); write both as "
                "the same class names"
            )


def _lines(path: Path, text: str) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Return the names of the columns, and every line with its place."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".json" not in suffixes and ".jsonl" not in suffixes:
        columns, rows = table(path, text, "\t" if ".tsv" in suffixes else ",")
        return columns, ((f"{path}:{number}", row) for number, row in rows)
    lines = [
        (place, {key: _cell(place, key, value) for key, value in record.items()})
        for place, record in json_records(path, text)
    ]
    first = list(lines[0][1]) if lines else []
    for place, line in lines:
        if lacking := [key for key in ("image", "true") if key in first and key not in line]:
            raise ValueError(f"{place}: no {lacking[0]!r}, which the first entry has")
    return [key for key in first if all(key in line for _, line in lines)], iter(lines)


def _cell(place: str, key: str, value: object) -> str:
    """Return a value of a JSON object as the text of a cell; of columns that are not read, too.

    Raises:
        ValueError: it is a list or an object in a column that is read.
    """
    if key in _READ and isinstance(value, dict | list):
        raise ValueError(f"{place}: {key} is {value!r:.40}; write a single word or number")
    return "" if is_missing(value) else str(value)


def _separator(named: Sequence[str]) -> str:
    """Return the advice to add if the columns are not separated by commas."""
    others = [mark for mark in (";", "\t", "|") if len(named) == 1 and mark in named[0]]
    return f"; separate them by commas, not by {others[0]!r}" if others else ""


def _few(words: Iterable[str]) -> str:
    words = list(words)
    return ", ".join(map(repr, words[:3])) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


@dataclass(frozen=True)
class _Row:
    set: str
    view: str
    image: str
    true: str
    written: str
    answer: str
    margin: float
    reference_kl: float


def _row(line: dict[str, str], name: str, labels: Collection[str]) -> _Row:
    """Return the row of a line.

    Args:
        labels: labels of the whole file, in lower case.
    """
    written, answer = _word(line, "written", labels), _word(line, "answer", labels)
    margin = _number(line, "margin")
    if line.get("score_true") and line.get("score_written"):
        margin = _number(line, "score_true") - _number(line, "score_written")
    if is_missing(line["true"]) or not line["image"].strip():
        raise ValueError("image and true must not be empty" + (f"; true is {line['true']!r}" if line["true"] else ""))
    if not answer and np.isnan(margin):
        raise ValueError("there is neither an answer nor a margin (or score_true and score_written)")
    view = (line.get("view") or (ATTACKED if written else CLEAN)).strip()
    group = (line.get("set") or name).strip()
    return _Row(
        group, view, line["image"].strip(), line["true"].strip(), written, answer, margin, _number(line, "reference_kl")
    )


def _scam_row(line: dict[str, str]) -> _Row:
    kind = line["type"].strip()
    image = line["id"].strip().removeprefix(kind).lstrip("_")  # one scene has one key in all its versions
    margin = _number(line, "object_similarities") - _number(line, "attack_similarities")
    if np.isnan(margin):
        raise ValueError("object_similarities and attack_similarities must be numbers")
    view = CLEAN if kind == "NoSCAM" else ATTACKED
    return _Row(kind, view, image, line["object_label"].strip(), _word(line, "attack_word", ()), "", margin, np.nan)


def _gathered(path: Path, key: tuple[str, str], rows: Sequence[_Row]) -> Answers:
    images = tuple(row.image for row in rows)
    if len(set(images)) < len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise ValueError(f"{path}: the image {twice} appears twice in set {key[0]!r}, view {key[1]!r}")
    answered = [bool(row.answer) for row in rows]
    if any(answered) and not all(answered):
        missing = rows[answered.index(False)].image
        raise ValueError(f"{path}: set {key[0]!r}, view {key[1]!r}: the image {missing} has no answer, but others do")
    margin, kl = np.array([row.margin for row in rows]), np.array([row.reference_kl for row in rows])
    return Answers(
        set=key[0],
        view=key[1],
        images=images,
        true=tuple(row.true for row in rows),
        written=tuple(row.written for row in rows),
        answer=tuple(row.answer for row in rows) if all(answered) else None,
        margin=None if np.isnan(margin).all() else margin,
        reference_kl=None if np.isnan(kl).all() else kl,
    )


def _word(line: dict[str, str], name: str, labels: Collection[str]) -> str:
    """Return the word in a cell; empty if the cell says that there is none."""
    word = (line.get(name) or "").strip()
    return "" if is_no_word(word) and word.lower() not in labels else word


def _number(line: dict[str, str], name: str) -> float:
    text = (line.get(name) or "").strip()
    if is_no_word(text):
        return float("nan")
    try:
        number = float(text)
    except ValueError:
        decimal = " (the decimal mark is a point)" if _DECIMAL_COMMA.fullmatch(text) else ""
        raise ValueError(f"{name} is {text!r}, which is not a number{decimal}") from None
    if np.isinf(number):
        raise ValueError(f"{name} is {text!r}; write a finite number, or leave the cell empty")
    return number


def _text(scores: np.ndarray | None, i: int) -> str:
    return "" if scores is None or np.isnan(scores[i]) else f"{scores[i]:.6g}"
