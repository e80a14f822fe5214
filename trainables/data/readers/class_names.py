"""Which classes of a set are used and the words that prompts and attacks use for them."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

_WORDNET_ID = re.compile(r"n\d{8}")
_OWN = Path(__file__).with_name("names.json")


class SetError(ValueError):
    """An image set cannot be read; ``where`` leads from its settings to the entry that the message is about."""

    def __init__(self, message: str, *where: str | int) -> None:
        super().__init__(message)
        self.where = where


def chosen(ids: Sequence[str], classes: Path | list[str] | None) -> list[str]:
    """Return the ids of ``classes`` (a list, or a text file with an id per line), in the order of ``ids``; None: all.

    Raises SetError for unknown or repeated ids, or fewer than two.
    """
    if classes is None:
        return list(ids)
    if isinstance(classes, Path):
        wanted = [line.strip() for line in _text(classes, "classes").splitlines() if line.strip()]
    else:
        wanted = classes
    for index, name in enumerate(wanted):
        where = ("classes",) if isinstance(classes, Path) else ("classes", index)
        if name not in ids:
            near = difflib.get_close_matches(name, ids, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {listed(ids)}"
            raise SetError(f"no class {name!r}{hint}", *where)
        if wanted.index(name) != index:
            raise SetError(f"the class {name!r} is named twice", *where)
    if len(wanted) < 2:
        raise SetError("two classes or more are needed", "classes")
    return [name for name in ids if name in set(wanted)]


def words_for(ids: Sequence[str], given: Any, own: Mapping[str, str], what: str = "class folder") -> tuple[str, ...]:
    """Return the words of each class id.

    A JSON file may hold a list or a mapping. Where all its keys are WordNet ids (the Labels.json of Kaggle's
    ImageNet-100) a value such as "robin, American robin, Turdus migratorius" lists synonyms and the first is taken,
    as the literature does. Keys of classes that the set does not have are ignored.

    Args:
        given: ``class_names`` of the settings: a list, a mapping, a JSON file, ``imagenet`` or None.
        own: words of each class id where ``given`` is None.
        what: name of a class in messages.

    Raises SetError.
    """
    if given == "imagenet":
        known = imagenet_words()
        if any(name not in known for name in ids):
            known = {**further_wordnet_words(), **known}
        if strange := [name for name in ids if name not in known]:
            raise SetError(f"the {what} {strange[0]!r} is no WordNet id (such as n02084071) of ImageNet", "class_names")
        return checked([known[name] for name in ids], shipped=True)
    if given is None:
        return checked([own[name] for name in ids], shipped=True)
    content = _json(given) if isinstance(given, Path) else given
    if isinstance(content, list):
        if len(content) != len(ids):
            raise SetError(f"{len(content)} class names for {counted(len(ids), what)}", "class_names")
        return checked(content)
    missing = [name for name in ids if name not in content]
    if missing:
        raise SetError(f"no words for the {what} {listed(missing)}", "class_names")
    words = [content[name] for name in ids]
    if isinstance(given, Path) and all(_WORDNET_ID.fullmatch(key) for key in content):
        words = [word.split(",")[0].strip() if isinstance(word, str) else word for word in words]
    return checked(words)


def words_in(file: Path) -> list[str]:
    """Return class names in the order of their indices, from a JSON list or a text file with a name per line.

    Raises SetError.
    """
    text = _text(file, "class_names")
    if file.suffix == ".json":
        content = _json(file)
        if not isinstance(content, list):
            raise SetError(f"{file} holds no list of class names in the order of their indices", "class_names")
        return list(checked(content))
    return list(checked([line.strip() for line in text.splitlines() if line.strip()]))


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
    """Return the names that ship with this package, for torchvision's sets whose files hold no readable names."""
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
    """Return for instance ``1 class`` or ``4 classes``."""
    plural = what if count == 1 else what + ("es" if what.endswith("s") else "s")
    return f"{count} {plural}"


def checked(words: Sequence[Any], *, shipped: bool = False) -> tuple[str, ...]:
    """Return the words. Raises SetError for empty words, and for equal words unless they are ``shipped``."""
    if any(not isinstance(word, str) or not word.strip() for word in words):
        raise SetError("every class name must be text", "class_names")
    # open_clip's names of ImageNet have "missile" and "sunglasses" twice; published results were measured with them.
    twice = [] if shipped else sorted({word for word in words if words.count(word) > 1})
    if twice:
        message = f"two classes are both called {twice[0]!r}; the prompts could not tell them apart"
        raise SetError(message, "class_names")
    return tuple(words)


def _timm_file(name: str) -> Path:
    package = importlib.util.find_spec("timm")  # find_spec does not import the package, which imports torch
    assert package is not None and package.submodule_search_locations, "open_clip needs timm"
    return Path(package.submodule_search_locations[0], "data", "_info", name)


def _text(file: Path, key: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SetError(f"the file {file} does not exist", key) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SetError(f"{file} cannot be read: {error}", key) from error


def _json(file: Path) -> Any:
    try:
        content = json.loads(_text(file, "class_names"))
    except json.JSONDecodeError as error:
        raise SetError(f"{file} cannot be read as JSON: {error}", "class_names") from error
    if not isinstance(content, dict | list) or not content:
        raise SetError(f"{file} holds neither a mapping from folder to words nor a list", "class_names")
    return content
