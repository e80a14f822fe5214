"""The paper's ten sets, read from the files that torchvision's download leaves under ``root``.

The files are read here and not through torchvision's classes: those keep their lists of files in private attributes,
import torch, create missing folders, and start to unpack archives where a split is missing. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, chosen, listed, own_words, words_for
from trainables.data.readers.samples import Sample, class_folders, hold_back, images_in, listing_of, three_way
from trainables.data.readers.templates import LITERATURE, templates_of
from trainables.settings.sets import NO_SPLITS, OWN_VALIDATION, Split, TorchvisionName, TorchvisionSet

FOLDERS: dict[TorchvisionName, tuple[str, str]] = {
    "caltech101": ("Caltech101", "caltech101/101_ObjectCategories"),
    "oxford_iiit_pet": ("OxfordIIITPet", "oxford-iiit-pet"),
    "stanford_cars": ("StanfordCars", "stanford_cars"),
    "flowers102": ("Flowers102", "flowers-102"),
    "fgvc_aircraft": ("FGVCAircraft", "fgvc-aircraft-2013b/data"),
    "dtd": ("DTD", "dtd/dtd"),
    "sun397": ("SUN397", "SUN397"),
    "eurosat": ("EuroSAT", "eurosat/2750"),
    "food101": ("Food101", "food-101"),
    "imagenet": ("ImageNet", "val"),
}
"""torchvision's class and the folder under ``root`` that its download makes."""

CALTECH_LEFT_OUT = {"BACKGROUND_Google", "Faces_easy"}
"""As in CoOp (Zhou et al. 2022): no class, and cut-outs of the photographs of Faces, which would fall into other
splits than their originals. 100 classes are left."""


def class_names(settings: TorchvisionSet) -> tuple[list[str], tuple[str, ...]]:
    """The set's own class ids in the order of its labels, and the words for them. Raises SetError."""
    ids, own = _classes(settings)
    ids = chosen(ids, settings.classes)
    return ids, words_for(ids, settings.class_names, own, "class")


def list_images(settings: TorchvisionSet, split: Split) -> Listing:
    """Official splits: test is the published test split (ImageNet: val).

    Caltech101, SUN397 and EuroSAT have none: 50 % train, 20 % validation, 30 % test of each class, seed 0. With
    ``validation: {from: train}`` the published (or drawn) validation images join train before some are held back.
    Raises SetError.
    """
    ids, names = class_names(settings)
    wanted = set(ids)
    if settings.dataset in NO_SPLITS:
        splits = three_way(_unsplit(settings, ids))
    else:
        parts: list[Split] = ["test"] if split == "test" else ["train"]
        if settings.dataset in OWN_VALIDATION and split != "test":
            parts.append("validation")
        splits = {part: [one for one in _published(settings, part, ids) if one.class_id in wanted] for part in parts}
    if settings.validation is not None and split != "test":
        samples = hold_back([*splits["train"], *splits.get("validation", [])], settings.validation, split)
    else:
        samples = splits[split]
    if not samples:
        raise SetError(f"no {split} images of the chosen classes in {_folder(settings)}", "root")
    return listing_of(samples, ids, names, templates_of(settings.templates, LITERATURE[settings.dataset]))


def _folder(settings: TorchvisionSet) -> Path:
    """Raises SetError where the set is not there."""
    name, below = FOLDERS[settings.dataset]
    if settings.dataset == "imagenet":
        folder = settings.root
        found = next((folder / part for part in ("val", "train") if (folder / part).is_dir()), None)
    else:
        found = folder = settings.root / below
    if found is not None and found.is_dir():
        return folder
    if settings.dataset == "imagenet":
        fetch = "ImageNet is got from image-net.org and unpacked as train/<WordNet id>/ and val/<WordNet id>/"
    elif settings.dataset == "stanford_cars":
        fetch = "its download is gone; torchvision.datasets.StanfordCars says which files belong there"
    else:
        fetch = f"torchvision.datasets.{name}({str(settings.root)!r}, download=True) fetches it"
    raise SetError(f"{settings.root} holds no {name} (the folder {below}); {fetch}", "root")


def _classes(settings: TorchvisionSet) -> tuple[list[str], dict[str, str]]:
    """Class ids in the order of the labels, and the words for each."""
    folder, name = _folder(settings), settings.dataset
    if name == "imagenet":
        ids = sorted({one for part in ("train", "val") if (folder / part).is_dir() for one in _in(folder / part)})
        return ids, dict(zip(ids, words_for(ids, "imagenet", {}), strict=True))
    if name == "caltech101":
        ids = [one for one in _in(folder) if one not in CALTECH_LEFT_OUT]
        return ids, {one: own_words()[name].get(one, one.replace("_", " ")) for one in ids}
    if name == "eurosat":
        ids = _in(folder)
        if strange := [one for one in ids if one not in own_words()[name]]:
            raise SetError(f"{folder}: {listed(strange)} is no class of EuroSAT", "root")
        return ids, own_words()[name]
    if name == "sun397":
        # "/a/apartment_building/outdoor" is said "outdoor apartment building", as in CoOp.
        ids = [line[3:].strip() for line in _lines(folder / "ClassName.txt")]
        return ids, {one: " ".join(reversed(one.split("/"))).replace("_", " ") for one in ids}
    if name == "oxford_iiit_pet":
        labels = {one.class_id: label for part in ("trainval", "test") for one, label in _pets(folder, part)}
        ids = sorted(labels, key=lambda one: labels[one])
    elif name == "fgvc_aircraft":
        ids = _lines(folder / "variants.txt")
    elif name == "stanford_cars":
        ids = [str(one) for one in _matrix(folder / "devkit" / "cars_meta.mat")["class_names"].tolist()]
    elif name == "flowers102":
        return [str(i + 1) for i in range(102)], {str(i + 1): word for i, word in enumerate(own_words()[name])}
    elif name == "dtd":
        ids = _in(folder / "images")
    else:
        ids = sorted(_json(folder / "meta" / "train.json")) if (folder / "meta" / "train.json").is_file() else []
        ids = ids or sorted(_json(folder / "meta" / "test.json"))
    return ids, {one: one.replace("_", " ") for one in ids}


def _unsplit(settings: TorchvisionSet, ids: Sequence[str]) -> list[Sample]:
    folder = _folder(settings)
    if settings.dataset == "sun397":
        return [sample for one in ids for sample in images_in(folder / one[0] / one, one)]
    return [sample for one in ids for sample in images_in(folder / one, one)]


def _published(settings: TorchvisionSet, split: Split, ids: Sequence[str]) -> list[Sample]:
    """Of the classes ``ids``, and maybe of others."""
    folder, name = _folder(settings), settings.dataset
    if name == "imagenet":
        root = folder / ("val" if split == "test" else "train")
        return [sample for one in _in(root) if one in set(ids) for sample in images_in(root / one, one)]
    if name == "oxford_iiit_pet":
        return [one for one, _ in _pets(folder, "test" if split == "test" else "trainval")]
    if name == "stanford_cars":
        return _cars(folder, split)
    if name == "flowers102":
        # As torchvision: the 6 149 images of "tstid" are the test images (the authors of the set swapped the names
        # in some descriptions; its page says so).
        key = {"train": "trnid", "validation": "valid", "test": "tstid"}[split]
        labels = _matrix(folder / "imagelabels.mat")["labels"].tolist()
        files = [(str(labels[i - 1]), f"image_{i:05d}.jpg") for i in _matrix(folder / "setid.mat")[key].tolist()]
        return [Sample(file, label, str(folder / "jpg" / file)) for label, file in files]
    if name == "fgvc_aircraft":
        part = {"train": "train", "validation": "val", "test": "test"}[split]
        rows = [line.split(" ", 1) for line in _lines(folder / f"images_variant_{part}.txt")]
        return [Sample(f"{image}.jpg", label, str(folder / "images" / f"{image}.jpg")) for image, label in rows]
    if name == "dtd":
        part = {"train": "train1", "validation": "val1", "test": "test1"}[split]
        rows = [line.split("/") for line in _lines(folder / "labels" / f"{part}.txt")]
        return [Sample(f"{one}/{file}", one, str(folder / "images" / one / file)) for one, file in rows]
    found = _json(folder / "meta" / f"{split}.json")
    images = folder / "images"
    return [
        Sample(f"{path}.jpg", one, os.path.join(images, f"{path}.jpg")) for one in sorted(found) for path in found[one]
    ]


def _pets(folder: Path, part: str) -> list[tuple[Sample, int]]:
    """Samples and labels from 1 on; the class id is the breed as its files are named."""
    found = []
    for line in _lines(folder / "annotations" / f"{part}.txt"):
        image, label = line.split()[:2]
        file = f"{image}.jpg"
        found.append((Sample(file, image.rsplit("_", 1)[0], str(folder / "images" / file)), int(label)))
    return found


def _cars(folder: Path, split: Split) -> list[Sample]:
    if split == "test":
        images, file = folder / "cars_test", folder / "cars_test_annos_withlabels.mat"
    else:
        images, file = folder / "cars_train", folder / "devkit" / "cars_train_annos.mat"
    names = [str(one) for one in _matrix(folder / "devkit" / "cars_meta.mat")["class_names"].tolist()]
    return [
        Sample(f"{images.name}/{one['fname']}", names[int(one["class"]) - 1], str(images / str(one["fname"])))
        for one in _matrix(file)["annotations"]
    ]


def _in(folder: Path) -> list[str]:
    try:
        return class_folders(folder)
    except OSError as error:
        raise SetError(f"{folder}: {error.strerror}", "root") from error


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise SetError(f"{file}: {error.strerror}", "root") from error


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetError(f"{file} cannot be read as JSON: {error}", "root") from error


def _matrix(file: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise SetError(f"{file} is a MATLAB file; reading it takes scipy (pip install scipy)", "root") from error
    try:
        content: dict[str, Any] = loadmat(str(file), squeeze_me=True)
    except (OSError, ValueError) as error:
        raise SetError(f"{file} cannot be read: {error}", "root") from error
    return content
