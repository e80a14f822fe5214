"""The paper's ten sets, read from the files that torchvision's download leaves under ``root``.

The files are not read through torchvision's classes, which keep their lists of files in private attributes, import
torch, create missing folders, and unpack archives if a split is missing. Nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.listing import Listing
from trainables.data.readers.class_names import (
    SetError,
    chosen,
    json_of,
    listed,
    os_problem,
    own_words,
    text_of,
    words_for,
)
from trainables.data.readers.not_read import not_read
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import Sample, class_folders, hold_back, images_in, listing_of, three_way
from trainables.data.readers.templates import LITERATURE, templates_of
from trainables.settings.sets import NO_SPLITS, OWN_VALIDATION, Split, TorchvisionName, TorchvisionSet
from trainables.text_files import LFS_POINTER, names_lfs_pointer, text_lines

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
"""Name of torchvision's class, and the folder under ``root`` that its download makes."""

CALTECH_LEFT_OUT = {"BACKGROUND_Google", "Faces_easy"}
"""Folders that are left out, as in CoOp (Zhou et al. 2022); 100 classes remain.

BACKGROUND_Google is not a class. Faces_easy holds cut-outs of the photographs of Faces, which would come into other
splits than their originals.
"""


@dataclass(frozen=True)
class TorchvisionReader(Reader):
    """Reader of torchvision's sets. Test is the published test split (ImageNet: val).

    Caltech101, SUN397 and EuroSAT publish no splits: 50 % train, 20 % validation, 30 % test of each class, seed 0. With
    ``validation: {from: train}`` the published (or drawn) validation images join train before some are held back.
    """

    settings: TorchvisionSet

    def class_names(self) -> tuple[str, ...]:
        return self._classes()[1]

    def list_images(self, split: Split) -> Listing:
        settings = self.settings
        ids, names = self._classes()
        wanted = set(ids)
        if settings.dataset in NO_SPLITS:
            splits = three_way(_unsplit(settings, ids))
        else:
            parts: list[Split] = ["test"] if split == "test" else ["train"]
            if settings.dataset in OWN_VALIDATION and split != "test":
                parts.append("validation")
            splits = {
                part: [sample for sample in _published(settings, part, ids) if sample.class_id in wanted]
                for part in parts
            }
        if settings.validation is not None and split != "test":
            samples = hold_back([*splits["train"], *splits.get("validation", [])], settings.validation, split)
        else:
            samples = splits[split]
        if not samples:
            raise SetError(f"no {split} images of the chosen classes in {_folder(settings)}", "root")
        templates = templates_of(settings.templates, LITERATURE[settings.dataset])
        return listing_of(samples, ids, names, templates, settings.max_broken_share)

    def notes(self) -> list[str]:
        folder, wanted = _folder(self.settings), set(self._classes()[0])
        if self.settings.dataset in ("caltech101", "eurosat"):
            return not_read(folder, 1, wanted)
        if self.settings.dataset == "imagenet":
            parts = [folder / part for part in ("train", "val") if (folder / part).is_dir()]
            return [line for part in parts for line in not_read(part, 1, wanted)]
        return []  # these sets are read by lists of files

    def _classes(self) -> tuple[list[str], tuple[str, ...]]:
        """Return the set's own class ids in the order of its labels, and their words.

        Raises:
            SetError: the set cannot be read, or the words do not fit.
        """
        ids, own = _own_classes(self.settings)
        ids = chosen(ids, self.settings.classes)
        return ids, words_for(ids, self.settings.class_names, own, "class")


def _folder(settings: TorchvisionSet) -> Path:
    """Return the folder of the set.

    Raises:
        SetError: ``root`` does not hold it.
    """
    name, below = FOLDERS[settings.dataset]
    if settings.dataset == "imagenet":
        folder = settings.root
        exists = any((folder / part).is_dir() for part in ("val", "train"))
    else:
        folder = settings.root / below
        exists = folder.is_dir()
    if exists:
        return folder
    if settings.dataset == "imagenet":
        fetch = "download ImageNet from image-net.org and unpack it as train/<WordNet id>/ and val/<WordNet id>/"
    elif settings.dataset == "stanford_cars":
        fetch = "its download does not exist any more; torchvision.datasets.StanfordCars says which files belong there"
    else:
        fetch = f"torchvision.datasets.{name}({str(settings.root)!r}, download=True) fetches it"
    raise SetError(f"{settings.root} holds no {name} (the folder {below}); {fetch}", "root")


def _own_classes(settings: TorchvisionSet) -> tuple[list[str], dict[str, str]]:
    """Return all class ids in the order of the labels, and this package's words for each."""
    folder, name = _folder(settings), settings.dataset
    if name == "imagenet":
        parts = [folder / part for part in ("train", "val") if (folder / part).is_dir()]
        ids = sorted({class_id for part in parts for class_id in _class_folders(part)})
        return ids, dict(zip(ids, words_for(ids, "imagenet", {}), strict=True))
    if name == "caltech101":
        ids = [class_id for class_id in _class_folders(folder) if class_id not in CALTECH_LEFT_OUT]
        return ids, {class_id: own_words()[name].get(class_id, class_id.replace("_", " ")) for class_id in ids}
    if name == "eurosat":
        ids = _class_folders(folder)
        if strange := [class_id for class_id in ids if class_id not in own_words()[name]]:
            raise SetError(f"{folder}: {listed(strange)} is not a class of EuroSAT", "root")
        return ids, own_words()[name]
    if name == "sun397":
        # The words for "/a/apartment_building/outdoor" are "outdoor apartment building", as in CoOp.
        ids = [line[3:].strip() for line in _lines(folder / "ClassName.txt")]
        return ids, {class_id: " ".join(reversed(class_id.split("/"))).replace("_", " ") for class_id in ids}
    if name == "oxford_iiit_pet":
        labels = {sample.class_id: label for part in ("trainval", "test") for sample, label in _pets(folder, part)}
        ids = sorted(labels, key=lambda class_id: labels[class_id])
    elif name == "fgvc_aircraft":
        ids = _lines(folder / "variants.txt")
    elif name == "stanford_cars":
        ids = _car_names(folder)
    elif name == "flowers102":
        return [str(i + 1) for i in range(102)], {str(i + 1): word for i, word in enumerate(own_words()[name])}
    elif name == "dtd":
        ids = _class_folders(folder / "images")
    else:
        files = [folder / "meta" / f"{part}.json" for part in ("train", "test")]
        ids = sorted(json_of(files[0], "root")) if files[0].is_file() else []
        ids = ids or sorted(json_of(files[1], "root"))
    return ids, {class_id: class_id.replace("_", " ") for class_id in ids}


def _unsplit(settings: TorchvisionSet, ids: Sequence[str]) -> list[Sample]:
    folder = _folder(settings)
    if settings.dataset == "sun397":
        return [sample for class_id in ids for sample in images_in(folder / class_id[0] / class_id, class_id)]
    return [sample for class_id in ids for sample in images_in(folder / class_id, class_id)]


def _published(settings: TorchvisionSet, split: Split, ids: Sequence[str]) -> list[Sample]:
    """Return the samples of a published split; for some sets this includes classes outside ``ids``."""
    folder, name = _folder(settings), settings.dataset
    if name == "imagenet":
        root = folder / ("val" if split == "test" else "train")
        wanted = [class_id for class_id in _class_folders(root) if class_id in set(ids)]
        return [sample for class_id in wanted for sample in images_in(root / class_id, class_id)]
    if name == "oxford_iiit_pet":
        return [sample for sample, _ in _pets(folder, "test" if split == "test" else "trainval")]
    if name == "stanford_cars":
        return _cars(folder, split)
    if name == "flowers102":
        # The 6 149 images of "tstid" are the test images, as in torchvision; the authors of the set swapped the names
        # in some descriptions, as the set's page says.
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
        return [Sample(f"{label}/{file}", label, str(folder / "images" / label / file)) for label, file in rows]
    paths, images = json_of(folder / "meta" / f"{split}.json", "root"), folder / "images"
    return [
        Sample(f"{path}.jpg", class_id, os.path.join(images, f"{path}.jpg"))
        for class_id in sorted(paths)
        for path in paths[class_id]
    ]


def _pets(folder: Path, part: str) -> list[tuple[Sample, int]]:
    """Return the samples, whose class id is the breed in the file names, with their labels, from 1 on."""
    pets = []
    for line in _lines(folder / "annotations" / f"{part}.txt"):
        image, label = line.split()[:2]
        file = f"{image}.jpg"
        pets.append((Sample(file, image.rsplit("_", 1)[0], str(folder / "images" / file)), int(label)))
    return pets


def _cars(folder: Path, split: Split) -> list[Sample]:
    if split == "test":
        images, file = folder / "cars_test", folder / "cars_test_annos_withlabels.mat"
    else:
        images, file = folder / "cars_train", folder / "devkit" / "cars_train_annos.mat"
    names = _car_names(folder)
    return [
        Sample(f"{images.name}/{row['fname']}", names[int(row["class"]) - 1], str(images / str(row["fname"])))
        for row in _matrix(file)["annotations"]
    ]


def _car_names(folder: Path) -> list[str]:
    return [str(name) for name in _matrix(folder / "devkit" / "cars_meta.mat")["class_names"].tolist()]


def _class_folders(folder: Path) -> list[str]:
    try:
        return class_folders(folder)
    except OSError as error:
        raise SetError(os_problem(error, folder), "root") from error
    except SetError as error:
        raise SetError(str(error), "root") from error


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in text_lines(text_of(file, "root")) if line.strip()]


def _matrix(file: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise SetError(f"{file} is a MATLAB file; reading it requires scipy (pip install scipy)", "root") from error
    try:
        content: dict[str, Any] = loadmat(str(file), squeeze_me=True)
    except (OSError, ValueError) as error:
        if names_lfs_pointer(file):
            raise SetError(f"{file} {LFS_POINTER}", "root") from error
        raise SetError(f"{file} cannot be read: {error}", "root") from error
    return content
