"""The sets of torchvision, read by torchvision itself as the second opinion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper.spec.set_checks import set_problems
from tests.helpers.image_files import content, list_split, photo, photos, write_text
from trainables.settings.sets import Split


def content_of_dataset(dataset: Any) -> set[tuple[bytes, int]]:
    return {(dataset[i][0].convert("RGB").tobytes(), int(dataset[i][1])) for i in range(len(dataset))}


def text_lists(root: Path, name: str) -> None:
    """Files as torchvision's downloads leave them: four images of two classes per published split, or ten per class."""
    if name == "food101":
        for split, first in (("train", 0), ("test", 8)):
            photos(root / "food-101" / "images", [f"{split}"], 1, first=first)
            meta = {}
            for i, label in enumerate(("apple_pie", "baklava")):
                meta[label] = [f"{label}/{first + 4 * i + j}" for j in range(2)]
                for j in range(2):
                    photo(root / "food-101" / "images" / label / f"{first + 4 * i + j}.jpg", first + 4 * i + j)
            write_text(root / "food-101" / "meta" / f"{split}.json", json.dumps(meta))
    elif name == "oxford_iiit_pet":
        for split, first in (("trainval", 1), ("test", 3)):
            lines = []
            for label, breed in enumerate(("Abyssinian", "american_bulldog"), 1):
                for j in range(first, first + 2):
                    photo(root / "oxford-iiit-pet" / "images" / f"{breed}_{j}.jpg", 10 * label + j)
                    lines.append(f"{breed}_{j} {label} {label} 1")
            write_text(root / "oxford-iiit-pet" / "annotations" / f"{split}.txt", "\n".join(lines) + "\n")
    elif name == "dtd":
        base = root / "dtd" / "dtd"
        photos(base / "images", ["banded", "polka-dotted"], 6)
        for split, first in (("train", 1), ("val", 3), ("test", 5)):
            rows = [f"{label}/image_{j:04d}.jpg" for label in ("banded", "polka-dotted") for j in (first, first + 1)]
            write_text(base / "labels" / f"{split}1.txt", "\n".join(rows) + "\n")
    elif name == "fgvc_aircraft":
        data = root / "fgvc-aircraft-2013b" / "data"
        write_text(data / "variants.txt", "707-320\nBoeing 717\n")
        for split, first in (("train", 0), ("val", 4), ("test", 8)):
            rows = [f"{first + j:07d} {('707-320', 'Boeing 717')[j % 2]}" for j in range(4)]
            for j in range(4):
                photo(data / "images" / f"{first + j:07d}.jpg", first + j)
            write_text(data / f"images_variant_{split}.txt", "\n".join(rows) + "\n")
    elif name == "imagenet":
        for split, first in (("train", 0), ("val", 4)):
            photos(root / split, ["n01440764", "n02099601"], 2, first=first, suffix="JPEG")
        torch.save(({"n01440764": ("tench",), "n02099601": ("golden retriever",)}, []), root / "meta.bin")
    elif name == "flowers102":
        from scipy.io import savemat

        base = root / "flowers-102"
        for i in range(1, 13):
            photo(base / "jpg" / f"image_{i:05d}.jpg", i)
        savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 60, 102] * 3])})
        ids = {"trnid": [[1, 2, 3, 4]], "valid": [[5, 6, 7, 8]], "tstid": [[9, 10, 11, 12]]}
        savemat(base / "setid.mat", ids)
    elif name == "stanford_cars":
        from scipy.io import savemat

        base = root / "stanford_cars"
        (base / "devkit").mkdir(parents=True)
        names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], dtype=object)
        savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
        for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
            rows = np.zeros((1, 4), dtype=[("fname", object), ("class", object)])
            for i in range(4):
                rows[0, i] = (f"{i:05d}.jpg", i % 2 + 1)
                photo(base / f"cars_{split}" / f"{i:05d}.jpg", i + (10 if split == "test" else 0))
            savemat(base / file, {"annotations": rows})
    elif name == "caltech101":
        classes = ["BACKGROUND_Google", "Faces", "Faces_easy", "car_side", "yin_yang"]
        photos(root / "caltech101" / "101_ObjectCategories", classes, 10)
    elif name == "eurosat":
        photos(root / "eurosat" / "2750", ["AnnualCrop", "SeaLake"], 10)
    else:
        write_text(root / "SUN397" / "ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
        for i, label in enumerate(("a/abbey", "a/apartment_building/outdoor")):
            for j in range(10):
                photo(root / "SUN397" / label / f"sun_{i}{j}.jpg", 10 * i + j)


PUBLISHED: list[tuple[str, str, dict[Split, list[str]], tuple[str, ...], str]] = [
    ("food101", "Food101", {"train": ["train"], "test": ["test"]}, ("apple pie", "baklava"), "type of food."),
    ("oxford_iiit_pet", "OxfordIIITPet", {"train": ["trainval"], "test": ["test"]},
     ("Abyssinian", "american bulldog"), "type of pet."),
    ("dtd", "DTD", {"train": ["train"], "validation": ["val"], "test": ["test"]},
     ("banded", "polka-dotted"), "{} texture."),
    ("fgvc_aircraft", "FGVCAircraft", {"train": ["train"], "validation": ["val"], "test": ["test"]},
     ("707-320", "Boeing 717"), "type of aircraft."),
    ("imagenet", "ImageNet", {"train": ["train"], "test": ["val"]}, ("tench", "Golden Retriever"), "photo of a {}."),
    ("stanford_cars", "StanfordCars", {"train": ["train"], "test": ["test"]},
     ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"), "a photo of a {}."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "class_name", "splits", "words", "template"), PUBLISHED, ids=[p[0] for p in PUBLISHED]
)
def test_published_splits_are_those_that_torchvision_reads(
    tmp_path: Path, name: str, class_name: str, splits: dict[Split, list[str]], words: tuple[str, ...], template: str
) -> None:
    import torchvision.datasets

    text_lists(tmp_path, name)
    raw: dict[str, Any] = {"kind": "torchvision", "dataset": name, "root": tmp_path}
    for split, parts in splits.items():
        listing = list_split(split, **raw)
        datasets = [getattr(torchvision.datasets, class_name)(tmp_path, split=part) for part in parts]
        assert content(listing) == set().union(*map(content_of_dataset, datasets)) and len(listing.keys) == 4
        assert listing.class_names == words
        assert len(listing.templates) == 1 and listing.templates[0].endswith(template)
    held = {**raw, "validation": {"from": "train", "per_class": 1}}
    train, validation = content(list_split("train", **held)), content(list_split("validation", **held))
    both = content(list_split("train", **raw))
    if "validation" in splits:
        both |= content(list_split("validation", **raw))
    assert len(validation) == 2 and train | validation == both and not train & validation


def test_flowers_against_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import Flowers102

    class Unchecked(Flowers102):
        """Without the checksums of the real files."""

        def _check_integrity(self) -> bool:
            return True

    text_lists(tmp_path, "flowers102")
    splits: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
    for split, part in splits.items():
        listing = list_split(split, kind="torchvision", dataset="flowers102", root=tmp_path)
        assert content(listing) == content_of_dataset(Unchecked(str(tmp_path), split=part))
    names = [name.replace("globe-", "globe ").replace("desert-", "desert ").rstrip("?") for name in Flowers102.classes]
    assert list(listing.class_names) == names


@pytest.mark.parametrize(
    ("name", "class_name", "words"),
    [
        ("eurosat", "EuroSAT", ("annual crop land", "sea or lake")),
        ("sun397", "SUN397", ("abbey", "outdoor apartment building")),
        ("caltech101", "Caltech101", ("face", "side of a car", "yin and yang symbol")),
    ],
)
def test_unpublished_splits_are_fixed_shares_of_each_class(
    tmp_path: Path, name: str, class_name: str, words: tuple[str, ...]
) -> None:
    import torchvision.datasets

    text_lists(tmp_path, name)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    listings = [list_split(split, kind="torchvision", dataset=name, root=tmp_path) for split in splits]
    per_class = [np.bincount(listing.labels).tolist() for listing in listings]
    assert per_class == [[5] * len(words), [2] * len(words), [3] * len(words)]
    assert all(listing.class_names == words for listing in listings)
    pixels = [{image for image, _ in content(listing)} for listing in listings]
    dataset = getattr(torchvision.datasets, class_name)(str(tmp_path))
    everything = {image for image, _ in content_of_dataset(dataset)}
    assert set().union(*pixels) <= everything and sum(map(len, pixels)) == 10 * len(words) == len(set().union(*pixels))
    if name == "eurosat":
        dataset = torchvision.datasets.EuroSAT(str(tmp_path))
        assert set().union(*map(content, listings)) == content_of_dataset(dataset)


def test_imagenet_100_is_a_list_of_classes(tmp_path: Path) -> None:
    text_lists(tmp_path, "imagenet")
    photos(tmp_path / "val", ["n02123045"], 3, suffix="JPEG")
    raw = {"kind": "torchvision", "dataset": "imagenet", "root": tmp_path, "templates": "imagenet_80"}
    listing = list_split("test", **raw, classes=["n02123045", "n01440764"])
    assert listing.class_names == ("tench", "tabby cat") and listing.labels.tolist() == [0, 0, 1, 1, 1]
    assert len(listing.templates) == 80 and "a bad photo of a {}." in listing.templates
    assert len(list_split("test", **{**raw, "templates": "imagenet_7"}).templates) == 7
    (problem,) = set_problems("in100", {**raw, "classes": ["n01440764", "n02123046"]})
    assert problem.path == ("sets", "in100", "classes", 1) and "did you mean 'n02123045'?" in problem.message


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    hints = {"dtd": "torchvision.datasets.DTD", "imagenet": "image-net.org", "stanford_cars": "does not exist any more"}
    for name, hint in hints.items():
        (problem,) = set_problems("own", {"kind": "torchvision", "dataset": name, "root": tmp_path})
        assert problem.path == ("sets", "own", "root") and hint in problem.message
    assert not list(tmp_path.iterdir()), "looking makes no folders"
