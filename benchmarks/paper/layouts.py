"""Image sets in the layouts that the paper's sets are published in, with images that a caller gives.

The files are those that the readers of ``trainables.data.readers`` take and, for torchvision's sets, that torchvision's
own classes read. Every set has the same classes, by position: for most sets the names are free, for EuroSAT and
Flowers102 the files hold the published ids, and the words are given in the spec (``class_names``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Draw = Callable[[str, int, int], np.ndarray]
"""(split, class, number) -> image, uint8 (H, W, 3); the same arguments give the same image."""

EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip


def write_imagenet_100(folder: Path, ids: Sequence[str], draw: Draw, *, train: int, test: int) -> None:
    """Write ImageNet-100 as Kaggle ships it: each of the four train folders has a quarter of the classes.

    Args:
        ids: WordNet id of each class.
        train, test: number of images of each class.
    """
    for label, class_id in enumerate(ids):
        part = f"train.X{1 + 4 * label // len(ids)}"
        _class_folder(folder / part / class_id, draw, "train", label, train, f"{class_id}_{{}}.JPEG")
        _class_folder(folder / "val.X" / class_id, draw, "test", label, test, "ILSVRC2012_val_{:08}.JPEG")


def write_caltech101(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write Caltech101: all images of a class in one folder, and one with images of no class."""
    base = root / "caltech101" / "101_ObjectCategories"
    _class_folder(base / "BACKGROUND_Google", draw, "train", 0, 1, "image_{:04}.jpg")
    for label, name in enumerate(names):
        _class_folder(base / name, draw, "test", label, images, "image_{:04}.jpg")


def write_eurosat(root: Path, draw: Draw, *, images: int) -> None:
    """Write EuroSAT: all images of a class in one folder, ten classes with fixed ids."""
    for label, class_id in enumerate(EUROSAT):
        _class_folder(root / "eurosat" / "2750" / class_id, draw, "test", label, images, f"{class_id}_{{}}.jpg")


def write_sun397(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write SUN397: ``ClassName.txt``, and a folder per class below that of its first letter."""
    ids = [f"{name[0]}/{name}" for name in names]
    _text(root / "SUN397" / "ClassName.txt", "".join(f"/{class_id}\n" for class_id in sorted(ids)))
    for label, class_id in enumerate(ids):
        _class_folder(root / "SUN397" / class_id, draw, "test", label, images, f"sun_{label}_{{}}.jpg")


def write_food101(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write Food101: the images of a split are listed in a JSON file."""
    base = root / "food-101"
    for split in ("train", "test"):
        meta = {}
        for label, name in enumerate(names):
            paths = [f"{name}/{split}{number}" for number in range(images)]
            for number, path in enumerate(paths):
                _image(base / "images" / f"{path}.jpg", draw(split, label, number))
            meta[name] = paths
        _text(base / "meta" / f"{split}.json", json.dumps(meta))


def write_oxford_pets(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write OxfordIIITPet: a list of images with their breeds, from 1 on, for each split."""
    base = root / "oxford-iiit-pet"
    for split, part, first in (("train", "trainval", 1), ("test", "test", 1 + images)):
        lines = []
        for label, number in _each(names, images):
            name = f"{names[label]}_{first + number}"
            _image(base / "images" / f"{name}.jpg", draw(split, label, number))
            lines.append(f"{name} {label + 1} 1 1\n")
        _text(base / "annotations" / f"{part}.txt", "".join(lines))


def write_dtd(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write DTD: a folder per class, and lists of the first partition's images for each split."""
    base = root / "dtd" / "dtd"
    for split, part in (("train", "train1"), ("validation", "val1"), ("test", "test1")):
        lines = []
        for label, number in _each(names, images):
            path = f"{names[label]}/{names[label]}_{split}{number}.jpg"
            _image(base / "images" / path, draw(split, label, number))
            lines.append(f"{path}\n")
        _text(base / "labels" / f"{part}.txt", "".join(lines))


def write_fgvc_aircraft(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write FGVCAircraft: ``variants.txt`` and a list of images with their variant for each split."""
    base = root / "fgvc-aircraft-2013b" / "data"
    _text(base / "variants.txt", "".join(f"{name}\n" for name in names))
    for place, (split, part) in enumerate((("train", "train"), ("validation", "val"), ("test", "test"))):
        lines = []
        for label, number in _each(names, images):
            key = f"{(place * len(names) + label) * images + number:07}"
            _image(base / "images" / f"{key}.jpg", draw(split, label, number))
            lines.append(f"{key} {names[label]}\n")
        _text(base / f"images_variant_{part}.txt", "".join(lines))


def write_flowers102(root: Path, classes: int, draw: Draw, *, images: int) -> None:
    """Write Flowers102: images by number, their labels from 1 on and the splits in MATLAB files."""
    from scipy.io import savemat

    base = root / "flowers-102"
    labels: list[int] = []
    ids: dict[str, list[int]] = {}
    for split, key in (("train", "trnid"), ("validation", "valid"), ("test", "tstid")):
        ids[key] = []
        for label, number in _each(range(classes), images):
            labels.append(label + 1)
            ids[key].append(len(labels))
            _image(base / "jpg" / f"image_{len(labels):05}.jpg", draw(split, label, number))
    savemat(base / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(base / "setid.mat", {key: np.array([numbers]) for key, numbers in ids.items()})


def write_stanford_cars(root: Path, names: Sequence[str], draw: Draw, *, images: int) -> None:
    """Write StanfordCars: numbered images of two splits, class names and labels in MATLAB files."""
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True, exist_ok=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array([list(names)], dtype=object)})
    files = {"train": base / "devkit" / "cars_train_annos.mat", "test": base / "cars_test_annos_withlabels.mat"}
    for split, file in files.items():
        rows = np.zeros((1, len(names) * images), dtype=[("fname", object), ("class", object)])
        for place, (label, number) in enumerate(_each(names, images)):
            rows[0, place] = (f"{place + 1:05}.jpg", label + 1)
            _image(base / f"cars_{split}" / f"{place + 1:05}.jpg", draw(split, label, number))
        savemat(file, {"annotations": rows})


def write_labelled(folder: Path, pairs: Sequence[tuple[str, str]], images: Sequence[np.ndarray]) -> None:
    """Write RTA-100 or PAINT: an image for each pair of the true and the written word, which are its file's name."""
    for (label, word), image in zip(pairs, images, strict=True):
        _image(folder / f"label={label}_text={word}.jpg", image)


def write_disentangling(folder: Path, pairs: Sequence[tuple[str, str]], images: Sequence[np.ndarray]) -> None:
    """Write the set of Materzynska et al.: images beside ``annotations.json``."""
    annotations = {}
    for number, ((label, word), image) in enumerate(zip(pairs, images, strict=True)):
        annotations[f"IMG_{number:04}.JPG"] = {"true object": label, "typographic attack label": word}
        _image(folder / f"IMG_{number:04}.JPG", image)
    _text(folder / "annotations.json", json.dumps(annotations))


def write_scam(
    folder: Path, pairs: Sequence[tuple[str, str]], clean: Sequence[np.ndarray], attacked: Sequence[np.ndarray]
) -> None:
    """Write SCAM as an image folder: each scene without a word (NoSCAM) and with one (SCAM)."""
    rows = []
    for kind, images in (("NoSCAM", clean), ("SCAM", attacked)):
        for number, ((label, word), image) in enumerate(zip(pairs, images, strict=True)):
            name = f"{kind}_{number:04}.png"
            _image(folder / name, image)
            row = {"file_name": name, "id": f"{kind}_{number:04}", "type": kind}
            rows.append(json.dumps({**row, "object_label": label, "attack_word": word}))
    _text(folder / "metadata.jsonl", "\n".join(rows) + "\n")


def _each(classes: Sequence[object], images: int) -> Iterator[tuple[int, int]]:
    """Return (class, number) for every image of a split."""
    return ((label, number) for label in range(len(classes)) for number in range(images))


def _class_folder(folder: Path, draw: Draw, split: str, label: int, images: int, name: str) -> None:
    for number in range(images):
        _image(folder / name.format(number + 1), draw(split, label, number))


def _image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
