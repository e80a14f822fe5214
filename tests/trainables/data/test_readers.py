"""Every kind of image set: files in the formats users bring, torchvision's own reading as the second opinion."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from sweeper.spec.set_checks import class_problems, set_problems
from trainables.data.cache import Store
from trainables.data.image_set import ImageSet, preference_images, subset
from trainables.data.listing import Listing
from trainables.data.readers import known_class_names, list_clean, list_images
from trainables.data.source import DataSource
from trainables.settings.sets import ImageSetSettings, ScamSet, Split
from trainables.settings.task import TrainSettings, absolute_paths


def settings_of(**raw: Any) -> Any:
    return TypeAdapter(ImageSetSettings).validate_python(raw)


def listing(split: Split, **raw: Any) -> Listing:
    return list_images("mine", settings_of(**raw), split)


def photo(path: Path, value: int) -> Path:
    """An image that its pixels identify."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (value % 16 * 16, value // 16 % 16 * 16, value // 256 * 16)).save(path, quality=95)
    return path


def photos(folder: Path, classes: Sequence[str], count: int, *, first: int = 0, suffix: str = "jpg") -> Path:
    for i, name in enumerate(classes):
        for j in range(count):
            photo(folder / name / f"image_{j + 1:04d}.{suffix}", first + i * count + j)
    return folder


def content(found: Listing) -> set[tuple[bytes, int]]:
    """Pixels and label of each image."""
    return {(found.open(i).convert("RGB").tobytes(), int(label)) for i, label in enumerate(found.labels)}


def content_of(dataset: Any) -> set[tuple[bytes, int]]:
    return {(dataset[i][0].convert("RGB").tobytes(), int(dataset[i][1])) for i in range(len(dataset))}


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def source(cache: Path) -> DataSource:
    return DataSource(Store(cache), lambda image: image.resize((8, 8)), 8, "8 px")


# Image folders


def test_class_names_of_wordnet_folders(tmp_path: Path) -> None:
    ids = ["n01558993", "n02099601", "n02084071"]
    photos(tmp_path / "train", ids, 1)
    own = {"kind": "image_folder", "train": tmp_path / "train"}
    assert listing("train", **own, class_names="imagenet").class_names == ("American robin", "dog", "Golden Retriever")
    labels = {ids[0]: "robin, American robin, Turdus migratorius", ids[1]: "golden retriever", ids[2]: "dog, domestic"}
    file = write(tmp_path / "Labels.json", json.dumps({**labels, "n01440764": "tench, Tinca tinca"}))
    assert listing("train", **own, class_names=file).class_names == ("robin", "dog", "golden retriever")
    inline = known_class_names(settings_of(**own, class_names=labels))
    assert inline == (labels[ids[0]], "dog, domestic", "golden retriever"), "what is written out is taken as it stands"
    photos(tmp_path / "train", ["notes"], 1)
    with pytest.raises(ValueError, match="'notes' is no WordNet id"):
        listing("train", **own, class_names="imagenet")
    wanted = write(tmp_path / "classes.txt", f"{ids[1]}\n{ids[0]}\n")
    some = listing("train", **own, class_names="imagenet", classes=wanted)
    assert some.class_names == ("American robin", "Golden Retriever") and len(some.keys) == 2


def test_what_is_held_back_depends_on_the_image_alone(tmp_path: Path) -> None:
    names = ["cat", "dog", "owl"]
    photos(tmp_path / "a", names, 10)
    own = {"kind": "image_folder", "validation": {"from": "train", "share": 0.3, "seed": 1}}
    first = listing("validation", train=tmp_path / "a", **own)
    train = listing("train", train=tmp_path / "a", **own)
    assert len(first.keys) == 9 and len(train.keys) == 21 and not set(first.keys) & set(train.keys)
    assert sorted(first.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    other = {**own, "validation": {"from": "train", "share": 0.3, "seed": 2}}
    assert set(listing("validation", train=tmp_path / "a", **other).keys) != set(first.keys)
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    photos(tmp_path / "more", ["zebra"], 5)
    moved = listing("validation", train=[tmp_path / "more", tmp_path / "elsewhere"], **own)
    assert set(first.keys) < set(moved.keys), "another place and another class change nothing for the others"


def test_equal_names_in_two_folders_of_a_split_stay_apart(tmp_path: Path) -> None:
    for part in ("a", "b"):
        photos(tmp_path / part, ["cat", "dog"], 2)
    found = listing("train", kind="image_folder", train=[tmp_path / "a", tmp_path / "b"])
    assert len(set(found.keys)) == 8


# torchvision


def text_lists(root: Path, name: str) -> None:
    """Files as torchvision's downloads leave them: four images of two classes per published split, or ten per class."""
    if name == "food101":
        for split, first in (("train", 0), ("test", 8)):
            photos(root / "food-101" / "images", [f"{split}"], 1, first=first)
            meta = {}
            for i, one in enumerate(("apple_pie", "baklava")):
                meta[one] = [f"{one}/{first + 4 * i + j}" for j in range(2)]
                for j in range(2):
                    photo(root / "food-101" / "images" / one / f"{first + 4 * i + j}.jpg", first + 4 * i + j)
            write(root / "food-101" / "meta" / f"{split}.json", json.dumps(meta))
    elif name == "oxford_iiit_pet":
        for split, first in (("trainval", 1), ("test", 3)):
            lines = []
            for label, breed in enumerate(("Abyssinian", "american_bulldog"), 1):
                for j in range(first, first + 2):
                    photo(root / "oxford-iiit-pet" / "images" / f"{breed}_{j}.jpg", 10 * label + j)
                    lines.append(f"{breed}_{j} {label} {label} 1")
            write(root / "oxford-iiit-pet" / "annotations" / f"{split}.txt", "\n".join(lines) + "\n")
    elif name == "dtd":
        base = root / "dtd" / "dtd"
        photos(base / "images", ["banded", "polka-dotted"], 6)
        for split, first in (("train", 1), ("val", 3), ("test", 5)):
            rows = [f"{one}/image_{j:04d}.jpg" for one in ("banded", "polka-dotted") for j in (first, first + 1)]
            write(base / "labels" / f"{split}1.txt", "\n".join(rows) + "\n")
    elif name == "fgvc_aircraft":
        data = root / "fgvc-aircraft-2013b" / "data"
        write(data / "variants.txt", "707-320\nBoeing 717\n")
        for split, first in (("train", 0), ("val", 4), ("test", 8)):
            rows = [f"{first + j:07d} {('707-320', 'Boeing 717')[j % 2]}" for j in range(4)]
            for j in range(4):
                photo(data / "images" / f"{first + j:07d}.jpg", first + j)
            write(data / f"images_variant_{split}.txt", "\n".join(rows) + "\n")
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
        write(root / "SUN397" / "ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
        for i, one in enumerate(("a/abbey", "a/apartment_building/outdoor")):
            for j in range(10):
                photo(root / "SUN397" / one / f"sun_{i}{j}.jpg", 10 * i + j)


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


@pytest.mark.parametrize(("name", "theirs", "splits", "words", "template"), PUBLISHED, ids=[p[0] for p in PUBLISHED])
def test_published_splits_are_those_that_torchvision_reads(
    tmp_path: Path, name: str, theirs: str, splits: dict[Split, list[str]], words: tuple[str, ...], template: str
) -> None:
    import torchvision.datasets

    text_lists(tmp_path, name)
    raw: dict[str, Any] = {"kind": "torchvision", "dataset": name, "root": tmp_path}
    for split, parts in splits.items():
        found = listing(split, **raw)
        datasets = [getattr(torchvision.datasets, theirs)(tmp_path, split=part) for part in parts]
        assert content(found) == set().union(*map(content_of, datasets)) and len(found.keys) == 4
        assert found.class_names == words
        assert len(found.templates) == 1 and found.templates[0].endswith(template)
    held = {**raw, "validation": {"from": "train", "per_class": 1}}
    train, validation = content(listing("train", **held)), content(listing("validation", **held))
    both = content(listing("train", **raw))
    if "validation" in splits:
        both |= content(listing("validation", **raw))
    assert len(validation) == 2 and train | validation == both and not train & validation


def test_flowers_against_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import Flowers102

    class Unchecked(Flowers102):
        """Without the checksums of the real files."""

        def _check_integrity(self) -> bool:
            return True

    text_lists(tmp_path, "flowers102")
    splits: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
    for split, theirs in splits.items():
        found = listing(split, kind="torchvision", dataset="flowers102", root=tmp_path)
        assert content(found) == content_of(Unchecked(str(tmp_path), split=theirs))
    names = [name.replace("globe-", "globe ").replace("desert-", "desert ").rstrip("?") for name in Flowers102.classes]
    assert list(found.class_names) == names


@pytest.mark.parametrize(
    ("name", "theirs", "words"),
    [
        ("eurosat", "EuroSAT", ("annual crop land", "sea or lake")),
        ("sun397", "SUN397", ("abbey", "outdoor apartment building")),
        ("caltech101", "Caltech101", ("face", "side of a car", "yin and yang symbol")),
    ],
)
def test_unpublished_splits_are_fixed_shares_of_each_class(
    tmp_path: Path, name: str, theirs: str, words: tuple[str, ...]
) -> None:
    import torchvision.datasets

    text_lists(tmp_path, name)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    found = [listing(split, kind="torchvision", dataset=name, root=tmp_path) for split in splits]
    per_class = [np.bincount(one.labels).tolist() for one in found]
    assert per_class == [[5] * len(words), [2] * len(words), [3] * len(words)]
    assert all(one.class_names == words for one in found)
    pixels = [{image for image, _ in content(one)} for one in found]
    everything = {image for image, _ in content_of(getattr(torchvision.datasets, theirs)(str(tmp_path)))}
    assert set().union(*pixels) <= everything and sum(map(len, pixels)) == 10 * len(words) == len(set().union(*pixels))
    if name == "eurosat":
        assert set().union(*map(content, found)) == content_of(torchvision.datasets.EuroSAT(str(tmp_path)))


def test_imagenet_100_is_a_list_of_classes(tmp_path: Path) -> None:
    text_lists(tmp_path, "imagenet")
    photos(tmp_path / "val", ["n02123045"], 3, suffix="JPEG")
    raw = {"kind": "torchvision", "dataset": "imagenet", "root": tmp_path, "templates": "imagenet_80"}
    found = listing("test", **raw, classes=["n02123045", "n01440764"])
    assert found.class_names == ("tench", "tabby cat") and found.labels.tolist() == [0, 0, 1, 1, 1]
    assert len(found.templates) == 80 and "a bad photo of a {}." in found.templates
    assert len(listing("test", **{**raw, "templates": "imagenet_7"}).templates) == 7
    (problem,) = set_problems("in100", {**raw, "classes": ["n01440764", "n02123046"]})
    assert problem.path == ("sets", "in100", "classes", 1) and "did you mean 'n02123045'?" in problem.message


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    hints = {"dtd": "torchvision.datasets.DTD", "imagenet": "image-net.org", "stanford_cars": "is gone"}
    for name, hint in hints.items():
        (problem,) = set_problems("own", {"kind": "torchvision", "dataset": name, "root": tmp_path})
        assert problem.path == ("sets", "own", "root") and hint in problem.message
    assert not list(tmp_path.iterdir()), "looking makes no folders"


# WebDataset shards


def write_shard(file: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for key, members in samples.items():
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"./{key}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file


def encoded(value: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (value * 16, 0, 128)).save(buffer, form)
    return buffer.getvalue()


def shards(folder: Path, first: int = 0) -> Path:
    for shard in range(2):
        members = {
            f"{i:05d}": {"jpg": encoded(first + 3 * shard + i), "cls": str(i % 2).encode(), "txt": b"a caption"}
            for i in range(3)
        }
        write_shard(folder / f"in-{shard:03d}.tar", members)
    return folder


def test_shards_are_read_at_their_offsets(tmp_path: Path) -> None:
    shards(tmp_path / "train")
    raw: dict[str, Any] = {"kind": "webdataset", "class_names": ["cat", "dog"]}
    found = listing("train", **raw, train=str(tmp_path / "train" / "in-{000..001}.tar"))
    assert found.keys[4] == "in-001.tar/00001"
    assert found.labels.tolist() == [0, 1, 0, 0, 1, 0]
    for i in (5, 0, 3):
        assert np.abs(np.asarray(found.open(i).convert("RGB"))[0, 0, 0].astype(int) - 16 * i) < 6
    starred = listing("train", **raw, train=[str(tmp_path / "train" / "in-*.tar")])
    assert starred.keys == found.keys and starred.inputs == found.inputs
    held = listing("validation", **raw, train=str(tmp_path / "train" / "in-*.tar"),
                   validation={"from": "train", "per_class": 1})  # fmt: skip
    assert sorted(held.labels.tolist()) == [0, 1] and set(held.keys) < set(found.keys)


def test_shards_whose_texts_are_class_names(tmp_path: Path) -> None:
    image = encoded(1, "PNG")
    members = {f"{name}{i}": {"png": image, "txt": name.encode()} for name in ("owl", "cat") for i in (1, 2)}
    file = write_shard(tmp_path / "a.tar", members)
    found = listing("test", kind="webdataset", test=str(file))
    assert found.class_names == ("cat", "owl") and found.labels.tolist() == [1, 1, 0, 0]
    assert known_class_names(settings_of(kind="webdataset", test=str(file))) is None
    train = TrainSettings(set="x", classes=["zebra", "cat"])
    assert class_problems(train, settings_of(kind="webdataset", test=str(file))) == [], "said when shards are read"


@pytest.mark.parametrize(
    ("members", "names", "message"),
    [
        ({"a": {"jpg": b"", "cls": b"2"}}, ["cat", "dog"], "class 2, but class_names has 2 names"),
        ({"a": {"jpg": b"", "cls": b"dog"}}, ["cat", "dog"], "is no class index"),
        ({"a": {"jpg": b"", "txt": b"owl"}}, ["cat", "dog"], "'owl' is none of class_names"),
        ({"a": {"jpg": b""}}, ["cat", "dog"], "no .cls and no .txt"),
        ({"a": {"cls": b"1"}}, ["cat", "dog"], "has a class but no image"),
        ({"a": {"jpg": b"", "cls": b"1"}}, None, "say their words in class_names"),
    ],
)
def test_shards_that_do_not_do(
    tmp_path: Path, members: dict[str, dict[str, bytes]], names: list[str] | None, message: str
) -> None:
    file = write_shard(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        listing("test", kind="webdataset", test=str(file), class_names=names)


def test_a_compressed_shard_and_one_that_is_not_there(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"a": {"jpg": b"", "cls": b"0"}})
    with tarfile.open(tmp_path / "b.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="b.tar cannot be read as an uncompressed tar"):
        listing("test", kind="webdataset", test=str(tmp_path / "b.tar"), class_names=["cat", "dog"])
    raw = {"kind": "webdataset", "train": [str(tmp_path / "{a,b,c}.tar")], "class_names": ["cat", "cat"]}
    found = {problem.path: problem.message for problem in set_problems("w", raw)}
    assert "no shard" in found["sets", "w", "train", 0] and "c.tar" in found["sets", "w", "train", 0]
    assert "both called 'cat'" in found["sets", "w", "class_names"]


# Words that were really written


def test_labels_and_texts_in_file_names(tmp_path: Path) -> None:
    for name in ("label=light bulb_text=dog.jpg", "label=dog_text=pen_case.png", "label=dog_text=TV.jpg"):
        photo(tmp_path / name, 1)
    write(tmp_path / "README.txt", "no image")
    found = listing("test", kind="rta100", path=tmp_path)
    assert found.class_names == ("TV", "dog", "light bulb", "pen_case")
    assert found.templates == ("a photo of a {}.",) and found.written is not None
    assert [(found.class_names[i], found.class_names[j]) for i, j in zip(found.labels, found.written, strict=True)] == [
        ("dog", "TV"), ("dog", "pen_case"), ("light bulb", "dog"),
    ]  # fmt: skip
    photo(tmp_path / "other.jpg", 1)
    with pytest.raises(ValueError, match="other.jpg is not named label="):
        listing("test", kind="paint", path=tmp_path)


def test_disentangling(tmp_path: Path) -> None:
    base = tmp_path / "typographic_attack_dataset"
    entries = {
        "IMG_2.JPG": {"true object": "cup", "typographic attack label": "good"},
        "IMG_1.JPG": {"true object": "pen", "typographic attack label": "cup"},
        "IMG_3.JPG": {"true object": "cup", "typographic attack label": ""},
        "IMG_4.JPG": {"true object": "cup"},
    }
    for i in range(1, 5):
        photo(base / "images" / f"IMG_{i}.JPG", i)
    write(base / "annotations.json", json.dumps(entries))
    write(base / "classes.json", json.dumps({"cup": 0, "pen": 1, "fan": 2}))
    found = listing("test", kind="disentangling", path=tmp_path)
    assert found.keys == ("IMG_1.JPG", "IMG_2.JPG") and found.templates == ("a photo of {}.",)
    assert found.class_names == ("cup", "fan", "good", "pen") and found.written is not None
    assert (found.labels.tolist(), found.written.tolist()) == ([3, 0], [0, 2])
    (base / "images" / "IMG_2.JPG").unlink()
    with pytest.raises(ValueError, match="1 of 2 listed images not there, first .*IMG_2.JPG"):
        listing("test", kind="disentangling", path=tmp_path)


def write_scam(folder: Path) -> Path:
    """Two scenes of SCAM's three types, out of order."""
    rows = []
    scenes = (("0002", "cup", "taxi"), ("0001", "apple", "fan"))
    for j, kind in enumerate(("SCAM", "NoSCAM", "SynthSCAM")):
        for i, (scene, label, word) in enumerate(scenes[:: -1 if j else 1]):
            photo(folder / "images" / "train" / f"{kind}_{scene}.png", 4 * j + i)
            row = {"file_name": f"{kind}_{scene}.png", "id": f"{kind}_{scene}", "type": kind, "object_label": label}
            rows.append(row | {"attack_word": word, "postit_area_pct": 1.5})
    write(folder / "images" / "train" / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_scam_and_its_clean_twin(tmp_path: Path) -> None:
    settings = ScamSet(kind="scam", path=write_scam(tmp_path))
    found, clean = list_images("scam", settings, "test"), list_clean("scam", settings)
    assert clean is not None and found.keys == clean.keys == ("0001", "0002")
    assert found.class_names == clean.class_names == ("apple", "cup", "fan", "taxi")
    assert found.labels.tolist() == clean.labels.tolist() == [0, 1]
    assert found.written is not None and clean.written is not None
    assert found.written.tolist() == clean.written.tolist() == [2, 3]
    synthetic = list_images("scam", ScamSet(kind="scam", path=tmp_path, attack="SynthSCAM"), "test")
    assert synthetic.keys == found.keys and len(content(synthetic) | content(found) | content(clean)) == 6
    file = tmp_path / "images" / "train" / "metadata.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if '"NoSCAM_0002"' not in line))
    with pytest.raises(ValueError, match="1 scene of .* without a NoSCAM image: 0002"):
        list_clean("scam", settings)
    file.write_text("\n".join(line for line in lines if '"NoSCAM"' not in line))
    assert list_clean("scam", settings) is None
    (problem,) = set_problems("scam", {"kind": "scam", "path": tmp_path / "images" / "none"})
    assert problem.path == ("sets", "scam", "path")


# Pixels


def test_the_world_of_image_files(tmp_path: Path) -> None:
    """Odd but sound images are read as open_clip reads them; damaged ones are named, with labels and words gone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    odd = {
        "label=a_text=b.png": Image.fromarray(np.full((8, 8), 30000, np.uint16)),
        "label=b_text=c.jpg": Image.new("CMYK", (8, 8), (0, 255, 255, 0)),
        "label=c_text=d.png": Image.new("RGB", (8, 8), (1, 2, 3)).quantize(2),
        "label=d_text=a.png": Image.new("RGBA", (8, 8), (10, 20, 30, 0)),
    }
    for name, image in odd.items():
        image.save(folder / name)
    whole = photo(folder / "label=a_text=c.jpg", 7).read_bytes()
    (folder / "label=a_text=d.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "label=b_text=a.jpg").write_bytes(b"")
    (folder / "label=e_text=a.png").write_text("not a picture")
    raw: dict[str, Any] = {"kind": "rta100", "path": folder}
    with pytest.raises(ValueError, match=r"1 of the first \d of 8 images .*\(label=a_text=d.jpg: .*0.05"):
        source(tmp_path / "cache").load("rta", settings_of(**raw), "test")
    found = source(tmp_path / "cache").load("rta", settings_of(**raw, max_broken_share=0.4), "test")
    assert found.keys == tuple(sorted([*odd, "label=a_text=c.jpg"])) and found.images.shape == (5, 8, 8, 3)
    assert [name.split(":")[0] for name in found.broken] == [
        "label=a_text=d.jpg", "label=b_text=a.jpg", "label=e_text=a.png",
    ]  # fmt: skip
    assert found.written is not None and len(found.class_names) == 5
    pairs = [(found.class_names[i], found.class_names[j]) for i, j in zip(found.labels, found.written, strict=True)]
    assert [f"label={i}_text={j}" for i, j in pairs] == [key[:-4] for key in found.keys]
    by_key = {key: image[0, 0].tolist() for key, image in zip(found.keys, found.images, strict=True)}
    assert by_key["label=a_text=b.png"] == [30000 // 256] * 3
    assert by_key["label=c_text=d.png"] == [1, 2, 3] and by_key["label=d_text=a.png"] == [10, 20, 30]
    red, green, blue = by_key["label=b_text=c.jpg"]
    assert red > 250 and green < 5 and blue < 5
    with pytest.raises(ValueError, match="3 of 8 images cannot be decoded"):
        source(tmp_path / "cache").load("rta", settings_of(**raw), "test")
    some = subset(found, 2, seed=0)
    assert some.written is not None and some.keys[1] == found.keys[found.keys.index(some.keys[1])]
    assert some.broken == found.broken and some.digest != found.digest


def test_prepared_images_are_made_anew_only_when_files_change(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    settings = settings_of(kind="image_folder", train=root)

    def load() -> ImageSet:
        return source(tmp_path / "cache").load("own", settings, "train")

    def builds() -> int:
        return len(list((tmp_path / "cache").glob("*/images.npy")))

    first = load()
    assert load().digest == first.digest and builds() == 1
    os.utime(root / "cat" / "image_0001.jpg", (1, 1))
    assert load().digest == first.digest and builds() == 2, "a touched file is decoded again and found to be the same"
    photo(root / "cat" / "image_0003.jpg", 99)
    added = load()
    assert builds() == 3 and added.keys == (*first.keys[:2], "cat/image_0003.jpg", *first.keys[2:])
    assert torch.equal(added.images[[0, 1, 3, 4]], first.images) and added.digest != first.digest
    root.rename(tmp_path / "moved")
    settings = settings_of(kind="image_folder", train=tmp_path / "moved")
    elsewhere = source(tmp_path / "other").load("own", settings, "train")
    assert elsewhere.digest == added.digest and elsewhere.keys == added.keys, "another node, another place"


def test_scenes_and_their_clean_twins_as_pixels(tmp_path: Path) -> None:
    settings = ScamSet(kind="scam", path=write_scam(tmp_path / "scam"))
    data = source(tmp_path / "cache")
    attacked, clean = data.load("scam", settings, "test"), data.load_clean("scam", settings)
    assert clean is not None and clean.keys == attacked.keys and torch.equal(clean.labels, attacked.labels)
    assert clean.name == "scam/clean" and not torch.equal(clean.images, attacked.images)


def test_large_choices_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path / "train", ["cat", "dog", "owl"], 4)
    images = source(tmp_path / "cache").load("own", settings_of(kind="image_folder", train=root), "train")
    train = TrainSettings(set="own", classes=["cat", "owl"])
    expected = [subset(images, 5, seed=0), preference_images(images, train, seed=0)]
    monkeypatch.setattr("trainables.data.image_set.IN_MEMORY_BYTES", 0)
    store = Store(tmp_path / "cache")
    found = [subset(images, 5, seed=0, store=store), preference_images(images, train, seed=0, store=store)]
    assert len(list((tmp_path / "cache").glob("*/images.npy"))) == 3
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.images, other.images) and one.keys == other.keys and one.digest == other.digest
    assert found[1].keys == tuple(key for key in images.keys if not key.startswith("dog"))


# What a spec is told


def test_splits_with_images_in_common_are_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    (tmp_path / "link").symlink_to(root)
    (problem,) = set_problems("own", {"kind": "image_folder", "train": root, "test": tmp_path / "link"})
    assert problem.path == ("sets", "own", "test", 0) and "in train and in test" in problem.message
    write_shard(tmp_path / "a.tar", {"a": {"jpg": b"", "txt": b"cat"}, "b": {"jpg": b"", "txt": b"dog"}})
    raw = {"kind": "webdataset", "train": [str(tmp_path / "*.tar")], "test": [str(tmp_path / "a.tar")]}
    (problem,) = set_problems("own", raw)
    assert problem.path == ("sets", "own", "test", 0) and "in train and in test" in problem.message


def test_paths_of_every_kind_are_taken_from_the_spec(tmp_path: Path) -> None:
    sets = {
        "a": {"kind": "webdataset", "train": "s/in-{000..127}.tar", "test": ["t/*.tar", "/abs/x.tar"],
              "class_names": "names.txt"},
        "b": {"kind": "torchvision", "dataset": "dtd", "root": "data", "classes": "list.txt"},
        "c": {"kind": "scam", "path": "scam"},
        "d": {"kind": "image_folder", "train": ["x"], "class_names": "imagenet", "classes": ["n1", "n2"],
              "validation": {"from": "train", "share": 0.1}},
    }  # fmt: skip
    assert absolute_paths({"sets": sets}, tmp_path)["sets"] == {
        "a": {"kind": "webdataset", "train": f"{tmp_path}/s/in-{{000..127}}.tar",
              "test": [f"{tmp_path}/t/*.tar", "/abs/x.tar"], "class_names": f"{tmp_path}/names.txt"},
        "b": {"kind": "torchvision", "dataset": "dtd", "root": f"{tmp_path}/data", "classes": f"{tmp_path}/list.txt"},
        "c": {"kind": "scam", "path": f"{tmp_path}/scam"},
        "d": {"kind": "image_folder", "train": [f"{tmp_path}/x"], "class_names": "imagenet", "classes": ["n1", "n2"],
              "validation": {"from": "train", "share": 0.1}},
    }  # fmt: skip
