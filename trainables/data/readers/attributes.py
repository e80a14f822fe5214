"""Image sets with an attribute of every image: folders, tables, UTKFace, CelebA.

Rows and names that cannot be used are left out, each with its reason: in some copies of FairFace a spreadsheet has
damaged the ages, and names of UTKFace lack fields.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.listing import Listing
from trainables.data.readers.class_names import (
    Named,
    SetError,
    Spellings,
    checked,
    listed,
    one_spelling,
    os_problem,
    text_of,
)
from trainables.data.readers.not_read import not_read
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import (
    Sample,
    class_folders,
    hold_back,
    images_in,
    is_image,
    listing_of,
    three_way,
)
from trainables.data.readers.templates import templates_of
from trainables.settings.sets import (
    SPLITS,
    AttributeFolderSet,
    AttributeSet,
    AttributeTableSet,
    CelebASet,
    HeldBack,
    Split,
    UtkFaceSet,
)
from trainables.spelling import is_missing, normal_form, same_word
from trainables.text_files import TextFileError, table, text_lines

GENDERS = {"0": "male", "1": "female"}
RACES = {"0": "white", "1": "black", "2": "asian", "3": "indian", "4": "other"}
"""Names of UTKFace's race numbers."""
_UTK_NAME = re.compile(r"(?P<age>\d{1,3})_(?P<gender>[01])_(?P<race>[0-4])_(?P<date>\d+)\..+")
_PARTITIONS: dict[str, Split] = {"0": "train", "1": "validation", "2": "test"}


@dataclass(frozen=True)
class Found:
    """Images of a split, and the images that were left out."""

    samples: list[Sample]
    left_out: list[str]


@dataclass(frozen=True)
class AttributeReader(Reader):
    """Reader of any set of ``AttributeSet``."""

    settings: AttributeSet

    def class_names(self) -> tuple[str, ...]:
        return self._words(self._contents(self._all_samples(self._splits())), self.settings.contents, "contents")

    def value_names(self) -> tuple[str, ...]:
        """Return the words for the attribute's values.

        Raises:
            SetError: the set cannot be read.
        """
        return self._words(self._values(self._all_samples(self._splits())), self.settings.values, "values")

    def notes(self) -> list[str]:
        settings = self.settings
        found = {split: self._split(split) for split in SPLITS if settings.has(split)}
        lines = [note for spellings in self._spellings(found) for note in spellings.notes]
        if isinstance(settings, AttributeFolderSet):
            for split in SPLITS:
                lines += [f"{split}: {line}" for root in _roots(settings, split) for line in not_read(root, 2)]
        elif isinstance(settings, UtkFaceSet):
            lines += not_read(settings.path, 0)
        return lines

    def list_images(self, split: Split) -> Listing:
        settings, splits = self.settings, self._splits()
        everything = self._all_samples(splits)
        contents, values = self._contents(everything), self._values(everything)
        found = splits[split]
        if not found.samples:
            raise SetError(f"no image of the {split} split can be used{_reasons(found.left_out)}", split)
        return listing_of(
            found.samples,
            contents,
            self._words(contents, settings.contents, "contents"),
            templates_of(settings.templates),
            settings.max_broken_share,
            value_ids=values,
            value_names=self._words(values, settings.values, "values"),
            left_out=found.left_out,
        )

    def _splits(self) -> dict[Split, Found]:
        """Return the images of every split; contents and values are those of the whole set, each in one spelling."""
        found = {split: self._split(split) for split in SPLITS if self.settings.has(split)}
        contents, values = (spellings.used for spellings in self._spellings(found))
        return {
            split: Found(
                [
                    sample._replace(class_id=contents[sample.class_id], value=values[sample.value or ""])
                    for sample in of_split.samples
                ],
                of_split.left_out,
            )
            for split, of_split in found.items()
        }

    def _spellings(self, found: Mapping[Split, Found]) -> tuple[Spellings, Spellings]:
        """Return the contents and the values.

        Raises:
            SetError: two folders in one folder have the same name to the model.
        """
        settings = self.settings
        contents: dict[Named, None] = {}
        values: dict[Named, None] = {}
        for split, of_split in found.items():
            for sample in of_split.samples:
                content_place = value_place = f"the {split} split"
                if isinstance(settings, AttributeFolderSet):
                    value_place = os.path.dirname(os.path.dirname(sample.file))
                    content_place = os.path.dirname(value_place)
                contents[Named(sample.class_id, content_place, (split,))] = None
                values[Named(sample.value or "", value_place, (split,))] = None
        return (
            one_spelling(contents, None if settings.contents is None else lambda a, b: True),
            one_spelling(values, None if settings.values is None else lambda a, b: True),
        )

    def _split(self, split: Split) -> Found:
        settings = self.settings
        match settings:
            case UtkFaceSet():
                found = self._chosen(_utk_samples(settings))
                return Found(three_way(found.samples)[split], found.left_out)
            case CelebASet():
                found = self._chosen(_celeba_samples(settings))
                partition = _celeba_partition(settings)
                if partition is None:
                    return Found(three_way(found.samples)[split], found.left_out)
                return Found([one for one in found.samples if partition.get(one.key) == split], found.left_out)
            case AttributeFolderSet() | AttributeTableSet():
                held_back = settings.validation if isinstance(settings.validation, HeldBack) else None
                source: Split = "train" if held_back is not None and split == "validation" else split
                read = _folder_samples if isinstance(settings, AttributeFolderSet) else _table_samples
                found = self._chosen(read(settings, source))  # type: ignore[arg-type]
                if held_back is None or split == "test":
                    return found
                return Found(hold_back(found.samples, held_back, split), found.left_out)

    def _chosen(self, rows: Iterable[Sample | str]) -> Found:
        """Keep the rows with the chosen contents and values.

        Args:
            rows: samples, or texts about samples that were left out already.
        """
        samples, left_out = [], []
        contents, values = self.settings.contents, self.settings.values
        for row in rows:
            if isinstance(row, str):
                left_out.append(row)
                continue
            content = row.class_id if contents is None else same_word(row.class_id, contents)
            value = row.value if values is None else same_word(row.value or "", values)
            if content is None:
                continue  # the settings name some contents only
            if value is None:
                left_out.append(f"{row.key}: its value {row.value!r} is not one of {listed(list(values or ()))}")
            else:
                samples.append(row._replace(class_id=content, value=value))
        return Found(samples, left_out)

    @staticmethod
    def _all_samples(splits: Mapping[Split, Found]) -> list[Sample]:
        samples = [sample for of_split in splits.values() for sample in of_split.samples]
        if not samples:
            left_out = [reason for of_split in splits.values() for reason in of_split.left_out]
            raise SetError(f"no image can be used{_reasons(left_out)}")
        return samples

    def _contents(self, samples: Sequence[Sample]) -> list[str]:
        wanted = self.settings.contents
        contents = sorted({sample.class_id for sample in samples}) if wanted is None else list(wanted)
        if len(contents) < 2:
            raise SetError(f"only one content ({', '.join(contents)}); two or more are needed", "contents")
        return contents

    def _values(self, samples: Sequence[Sample]) -> list[str]:
        found, wanted = {sample.value or "" for sample in samples}, self.settings.values
        values = sorted(found) if wanted is None else list(wanted)
        if missing := [value for value in values if value not in found]:
            raise SetError(f"no image has the value {listed(missing)}; there are {listed(sorted(found))}", "values")
        if len(values) < 2:
            raise SetError(f"the attribute has only one value ({', '.join(values)}); two or more are needed", "values")
        return values

    @staticmethod
    def _words(ids: Sequence[str], words: Mapping[str, str] | None, key: str) -> tuple[str, ...]:
        named = [one.replace("_", " ") if words is None else words[one] for one in ids]
        return checked(named, ids=ids, where=lambda index: (key, ids[index]) if words is not None else (key,))


def _roots(settings: AttributeFolderSet, split: Split) -> list[Path]:
    """Return the folders of a split; empty if the split is missing or held back from train."""
    roots = {"train": settings.train, "validation": settings.validation, "test": settings.test}[split]
    return roots if isinstance(roots, list) else []


def _folder_samples(settings: AttributeFolderSet, split: Split) -> Iterator[Sample | str]:
    roots = _roots(settings, split)
    assert roots, "splits that are held back are read from train"
    for index, root in enumerate(roots):
        contents = _folders_in(root, split, index)
        if not contents:
            raise SetError(f"{root} has no folders; images are expected as <content>/<value>/<image>", split, index)
        for content in contents:
            for value in _folders_in(root / content, split, index):
                for sample in images_in(root / content / value, f"{content}/{value}"):
                    yield sample._replace(class_id=content, value=value)


def _folders_in(root: Path, split: str, index: int) -> list[str]:
    try:
        return class_folders(root)
    except FileNotFoundError:
        raise SetError(f"the folder {root} does not exist", split, index) from None
    except OSError as error:
        raise SetError(os_problem(error, root), split, index) from error
    except SetError as error:
        raise SetError(str(error), split, index) from error


def _table_samples(settings: AttributeTableSet, split: Split) -> Iterator[Sample | str]:
    path = {"train": settings.train, "validation": settings.validation, "test": settings.test}[split]
    assert isinstance(path, Path), "splits that are held back are read from train"
    folder = path.parent if settings.images is None else settings.images
    text = text_of(path, split)
    try:
        columns, rows = table(path, text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for key in ("image", "content", "attribute"):
            if (name := getattr(settings, key)) not in columns:
                raise SetError(f"{path} has no column {name!r}; there are {listed(columns)}", key)
        merged = [
            column
            for column, words in ((settings.content, settings.contents), (settings.attribute, settings.values))
            if words is None
        ]
        spelled: dict[tuple[str, str], tuple[str, int]] = {}
        for number, row in rows:
            cells = {name: row[name].strip() for name in (settings.image, settings.content, settings.attribute)}
            image, content, value = cells.values()
            if empty := [name for name, cell in cells.items() if is_missing(cell)]:
                yield f"{path.name}:{number}: no {empty[0]}"
            elif reason := _damaged(content) or _damaged(value):
                yield f"{path.name}:{number}: {reason}"
            else:
                for column in merged:
                    word = cells[column]
                    other, line = spelled.setdefault((column, normal_form(word)), (word, number))
                    if other != word:
                        key = "contents" if column == settings.content else "values"
                        message = f"{path}:{number}: {column} is {word!r}, but {other!r} in line {line}; "
                        raise SetError(message + f"spell both alike, or name one of them in {key}", split)
                yield Sample(image, content, os.path.join(folder, image), value=value)
    except TextFileError as error:
        raise SetError(str(error), split) from error


_MONTH = re.compile(
    r"(\d{1,2}[-/. ](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\w*|"
    r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\w*[-/. ]\d{1,2})",
    re.IGNORECASE,
)


def _damaged(cell: str) -> str | None:
    """Return why a value is damaged: a spreadsheet reads 3-9 as the third of September. None for other values."""
    return f"{cell!r} is a date: a spreadsheet has changed a range into it" if _MONTH.fullmatch(cell) else None


def _utk_samples(settings: UtkFaceSet) -> Iterator[Sample | str]:
    try:
        names = sorted(name for name in os.listdir(settings.path) if is_image(name))
    except OSError as error:
        raise SetError(os_problem(error, settings.path), "path") from error
    for name in names:
        match = _UTK_NAME.fullmatch(name)
        if match is None:
            yield f"{name}: its name is not <age>_<gender 0 or 1>_<race 0 to 4>_<date>"
            continue
        parts = {
            "gender": GENDERS[match["gender"]],
            "race": RACES[match["race"]],
            "age": _decade(int(match["age"])),
        }
        content, value = parts[settings.content], parts[settings.attribute]
        yield Sample(name, content, os.path.join(settings.path, name), value=value)


def _decade(age: int) -> str:
    if age < 3:
        return "0-2"
    if age < 10:
        return "3-9"
    return "more than 70" if age >= 70 else f"{age // 10 * 10}-{age // 10 * 10 + 9}"


def _celeba_samples(settings: CelebASet) -> Iterator[Sample | str]:
    path, images = settings.path / "Anno" / "list_attr_celeba.txt", settings.path / "Img" / "img_align_celeba"
    lines = _lines(path)
    if len(lines) < 3:
        raise SetError(f"{path}: expected a count, a heading and a line per image", "path")
    columns = lines[1].split()
    for key in ("content", "attribute"):
        if (name := getattr(settings, key)) not in columns:
            raise SetError(f"{path} has no column {name!r}; there are {listed(columns)}", key)
    content, attribute = columns.index(settings.content) + 1, columns.index(settings.attribute) + 1
    for number, line in enumerate(lines[2:], 3):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != len(columns) + 1:
            yield f"{path.name}:{number}: {len(cells) - 1} values for {len(columns)} columns"
        elif {cells[content], cells[attribute]} <= {"1", "-1"}:
            yield Sample(cells[0], cells[content], os.path.join(images, cells[0]), value=cells[attribute])
        else:
            yield f"{path.name}:{number}: {cells[content]} and {cells[attribute]} are not both 1 or -1"


def _celeba_partition(settings: CelebASet) -> dict[str, Split] | None:
    path = settings.path / "Eval" / "list_eval_partition.txt"
    if not path.exists():
        return None
    cells = [line.split() for line in _lines(path) if line.strip()]
    return {row[0]: _PARTITIONS[row[1]] for row in cells if len(row) == 2 and row[1] in _PARTITIONS}


def _lines(path: Path) -> list[str]:
    return text_lines(text_of(path, "path"))


def _reasons(left_out: Sequence[str]) -> str:
    return f": {listed(list(left_out[:3]))}" if left_out else ""
