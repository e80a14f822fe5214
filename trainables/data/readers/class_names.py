"""The classes of a set that are used, and their words in prompts and attacks."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trainables.spelling import normal_form, same_word, visible
from trainables.text_files import TextFileError, parsed_json, read_text, text_lines

_WORDNET_ID = re.compile(r"n\d{8}")
_COPY_MARK = re.compile(r" ?\(\d+\)$| \([^()]*copy\)$|( -|-|_)? ?\bcopy( \d+| \(\d+\))?$", re.IGNORECASE)
"""Text that browsers and desktops append to the name of a copied file."""
_OWN = Path(__file__).with_name("names.json")


class SetError(ValueError):
    """An image set cannot be read; ``where`` leads from its settings to the entry that the message is about."""

    def __init__(self, message: str, *where: str | int) -> None:
        super().__init__(message)
        self.where = where


def chosen(ids: Sequence[str], classes: Path | list[str] | None) -> list[str]:
    """Return the ids of ``classes`` in the order of ``ids``.

    Args:
        classes: a list, or a text file with an id per line; None: all.

    Raises:
        SetError: an id is unknown or repeated, or there are fewer than two.
    """
    if classes is None:
        return list(ids)
    if isinstance(classes, Path):
        wanted = _lines(classes, "classes")
    else:
        wanted = [(("classes", index), "", name) for index, name in enumerate(classes)]
    found: set[str] = set()
    for where, place, name in wanted:
        class_id = same_word(name, ids)
        if class_id is None:
            near = difflib.get_close_matches(name, ids, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {listed(ids)}"
            raise SetError(f"{place}no class {name!r}{hint}", *where)
        if class_id in found:
            raise SetError(f"{place}the class {name!r} is named twice", *where)
        found.add(class_id)
    if len(found) < 2:
        raise SetError("two classes or more are needed", "classes")
    return [name for name in ids if name in found]


def words_for(ids: Sequence[str], given: Any, own: Mapping[str, str], what: str = "class folder") -> tuple[str, ...]:
    """Return the words of each class id.

    A JSON file may hold a list or a mapping, whose keys may be spelled differently from the ids. If all its keys are
    WordNet ids (the Labels.json of Kaggle's ImageNet-100), a value such as "robin, American robin, Turdus migratorius"
    lists synonyms; the first is used, as in the literature. Keys of classes that the set does not have are ignored.

    Args:
        given: ``class_names`` of the settings: a list, a mapping, a JSON file, ``imagenet`` or None.
        own: words of each class id if ``given`` is None.
        what: name of a class in messages.

    Raises:
        SetError: the words do not fit the ids, or two classes have the same words.
    """
    if given == "imagenet":
        known = imagenet_words()
        if any(name not in known for name in ids):
            known = {**further_wordnet_words(), **known}
        if strange := [name for name in ids if name not in known]:
            raise SetError(
                f"the {what} {strange[0]!r} is not a WordNet id (such as n02084071) of ImageNet", "class_names"
            )
        return checked([known[name] for name in ids], shipped=True)
    if given is None:
        return checked([own[name] for name in ids], shipped=True)
    content = _content(given)
    place = f"{given}: " if isinstance(given, Path) else ""
    if isinstance(content, list):
        if len(content) != len(ids):
            message = f"{place}{len(content)} class names for {counted(len(ids), what)}"
            raise SetError(f"{message} ({listed(ids)}), in their order", "class_names")
        return checked(content, place=place, where=None if place else lambda index: ("class_names", index))
    keys = [same_word(name, content) for name in ids]
    missing = [name for name, key in zip(ids, keys, strict=True) if key is None]
    if missing:
        raise SetError(f"{place}no words for the {what} {listed(missing)}", "class_names")
    words = [content[key] for key in keys]
    if isinstance(given, Path) and all(_WORDNET_ID.fullmatch(key) for key in content):
        words = [word.split(",")[0].strip() if isinstance(word, str) else word for word in words]
    return checked(words, place=place, ids=ids)


def words_in(file: Path) -> list[str]:
    """Return class names in the order of their indices, from a JSON list or a text file with a name per line.

    Raises:
        SetError: the file cannot be read, or two names are the same.
    """
    if file.suffix.lower() == ".json":
        content = _json(file)
        if not isinstance(content, list):
            raise SetError(f"{file} holds no list of class names in the order of their indices", "class_names")
        return list(checked(content, place=f"{file}: "))
    lines = _lines(file, "class_names")
    first: dict[str, str] = {}
    for where, place, name in lines:
        if normal_form(name) in first:
            raise SetError(f"{place}{_alike(first[normal_form(name)], name)}", *where)
        first[normal_form(name)] = name
    return list(checked([name for _, _, name in lines], place=f"{file}: "))


class Named(NamedTuple):
    """The name of a class, and the place where it was found."""

    name: str
    place: str = ""
    """A folder, file or split in the words of messages; empty if several spellings are allowed everywhere."""
    where: tuple[str | int, ...] = ()
    """Path in the set's settings to the entry of the place."""


@dataclass(frozen=True)
class Spellings:
    """Names of classes in folders or files; some classes have several spellings."""

    used: dict[str, str]
    """Name in the files -> the first spelling of its class, which is used."""
    notes: list[str]
    """A line for each class with several spellings."""


def one_spelling(
    found: Iterable[Named],
    apart: Callable[[str, str], bool] | None = None,
    mend: str = "spell both alike, or leave one out",
) -> Spellings:
    """Read names that CLIP's tokenizer cannot distinguish as one class, under its first spelling.

    Args:
        apart: whether the settings give two such names different words; None: never.
        mend: advice about two such names in one place.

    Raises:
        SetError: two such names are in one place, where they may be meant as two classes.
    """
    used: dict[str, str] = {}
    spelled: dict[str, dict[str, list[str]]] = {}
    """First spelling of a class -> each of its spellings -> the places where it was found."""
    groups: dict[str, list[str]] = {}
    for name, place, path in found:
        firsts = groups.setdefault(normal_form(name), [])
        first = next((other for other in firsts if other == name or apart is None or not apart(other, name)), None)
        if first is None:
            firsts.append(name)
            first = name
        used[name] = first
        spellings = spelled.setdefault(first, {})
        rival = next(
            (other for other, places in spellings.items() if place and place in places and other != name), None
        )
        if rival is not None:
            raise SetError(f"{place}: {_alike(rival, name)}; {mend}", *path)
        spellings.setdefault(name, []).append(place)
    notes = [
        " and ".join(f"{name!r} ({places[0]})" if places[0] else repr(name) for name, places in spellings.items())
        + " are read as one class"
        for spellings in spelled.values()
        if len(spellings) > 1
    ]
    return Spellings(used, notes)


def told_apart(given: Any, ids: Iterable[str]) -> Callable[[str, str], bool]:
    """Return a function of two class ids: whether ``class_names`` of the settings has different words for them.

    Args:
        ids: all class ids.

    Raises:
        SetError: the file of ``class_names`` cannot be read.
    """
    content = {} if given in (None, "imagenet") else _content(given)
    if isinstance(content, list):
        each_named = len(content) == len(set(ids))
        return lambda a, b: each_named
    forms = {key: normal_form(word) for key, word in content.items() if isinstance(word, str)}
    return lambda a, b: a in forms and b in forms and forms[a] != forms[b]


@lru_cache(maxsize=1)
def imagenet_words() -> dict[str, str]:
    """Return WordNet id -> words for ImageNet-1k: timm's ids and open_clip's names, which are in the same order."""
    ids = _timm_file("imagenet_synsets.txt").read_text().split()
    return dict(zip(ids, zero_shot_metadata().IMAGENET_CLASSNAMES, strict=True))


@lru_cache(maxsize=1)
def further_wordnet_words() -> dict[str, str]:
    """Return WordNet id -> first synonym for the 21 000 classes of the whole ImageNet, from timm's list."""
    lines = _timm_file("imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    return {key: words.split(",")[0].strip() for key, _, words in (line.partition("\t") for line in lines)}


@lru_cache(maxsize=1)
def own_words() -> dict[str, Any]:
    """Return the names in this package, for torchvision's sets whose files have no readable names."""
    content: dict[str, Any] = json.loads(_OWN.read_text())
    return content


@lru_cache(maxsize=1)
def zero_shot_metadata() -> ModuleType:
    """Return open_clip's module of prompts and ImageNet names, loaded from its file: the package imports torch."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("_open_clip_zero_shot_metadata", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(names: Sequence[str]) -> str:
    """Return the first three names and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def counted(count: int, what: str) -> str:
    """Return a number with its noun, such as ``1 class`` or ``4 classes``."""
    plural = what if count == 1 else what + ("es" if what.endswith("s") else "s")
    return f"{count} {plural}"


def checked(
    words: Sequence[Any],
    *,
    shipped: bool = False,
    place: str = "",
    ids: Sequence[str] = (),
    where: Callable[[int], tuple[str | int, ...]] | None = None,
) -> tuple[str, ...]:
    """Return the words after checking them, without characters that nobody sees.

    Args:
        shipped: whether the words are open_clip's names of ImageNet, which contain "missile" and "sunglasses" twice;
            published results were measured with them.
        place: file at the beginning of messages.
        ids: the classes of the words, for messages.
        where: path in the settings to the word of an index; None: ``class_names``.

    Raises:
        SetError: a word is empty, or the tokenizer cannot distinguish two words (unless ``shipped``).
    """
    where = where or (lambda index: ("class_names",))
    first: dict[str, int] = {}
    for index, word in enumerate(words):
        if not isinstance(word, str) or not normal_form(word):
            raise SetError(f"{place}every class name must be text; {word!r} is not", *where(index))
        earlier = first.setdefault(normal_form(word), index)
        if earlier != index and not shipped:
            of = f" (of {ids[earlier]!r} and {ids[index]!r})" if ids else ""
            raise SetError(f"{place}{_alike(words[earlier], word)}{of}", *where(index))
    return tuple(map(visible, words))


def without_copy_mark(name: str) -> str:
    """Return a name without the mark of a copy that browsers and desktops append: ``dog (1)``, ``dog - Copy (2)``."""
    return _COPY_MARK.sub("", name)


def printable(name: str) -> str:
    """Return a file's name as text that can be written anywhere: bytes that are not UTF-8 as ``\\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def os_problem(error: OSError, path: Path | str) -> str:
    """Return the operating system's message about ``path`` or a file in it, in one line."""
    said = error.filename if isinstance(error.filename, str) else str(path)
    return f"{printable(said)}: {error.strerror or error}"


def _alike(name: str, other: str) -> str:
    if name == other:
        return f"two classes are both called {name!r}; the prompts could not tell them apart"
    return (
        f"two classes are called {name!r} and {other!r}; the prompts could not tell them apart, because CLIP's "
        "tokenizer sees no difference in case, in white space or in how a letter is encoded (_ is read as a space, and "
        "characters that nobody sees do not count)"
    )


def _timm_file(name: str) -> Path:
    package = importlib.util.find_spec("timm")  # find_spec does not import the package, which imports torch
    assert package is not None and package.submodule_search_locations, "open_clip needs timm"
    return Path(package.submodule_search_locations[0], "data", "_info", name)


def text_of(file: Path, *where: str | int) -> str:
    """Return the text of a file that the settings name at ``where``.

    Raises:
        SetError: the file cannot be read.
    """
    try:
        return read_text(file)
    except FileNotFoundError:
        raise SetError(f"the file {file} does not exist", *where) from None
    except OSError as error:
        raise SetError(os_problem(error, file), *where) from error
    except TextFileError as error:
        raise SetError(str(error), *where) from error


def json_of(file: Path, *where: str | int) -> Any:
    """Return the content of a JSON file that the settings name at ``where``.

    Raises:
        SetError: the file cannot be read or is not JSON.
    """
    try:
        return parsed_json(file, text_of(file, *where))
    except TextFileError as error:
        raise SetError(str(error), *where) from error


def _lines(file: Path, key: str) -> list[tuple[tuple[str | int, ...], str, str]]:
    """Return the lines that are not empty, stripped, each with ``key`` and with its place for messages."""
    lines = enumerate(text_lines(text_of(file, key)), 1)
    return [((key,), f"{file}:{number}: ", line.strip()) for number, line in lines if line.strip()]


def _content(given: Any) -> Any:
    """Return the list or mapping of ``class_names`` in the settings, from its file if it names a file."""
    return _json(given) if isinstance(given, Path) else given


def _json(file: Path) -> Any:
    content = json_of(file, "class_names")
    if not isinstance(content, dict | list) or not content:
        raise SetError(f"{file} holds neither a mapping from folder to words nor a list", "class_names")
    return content
