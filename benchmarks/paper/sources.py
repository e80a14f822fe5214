"""What the paper's table needs: where each set comes from, whether it is there, and whether it is what it should be.

Addresses and digests of torchvision's sets are torchvision's own, those of the weights open_clip's own. The other sets
publish no digest: the one that is seen is told, so that the first person who has them can publish it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_MD5 = re.compile(r"[0-9a-f]{32}")
_BLOCK_BYTES = 1 << 20
_GITHUB = "https://github.com/"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch."""

    name: str
    address: str
    algorithm: Literal["md5", "sha256"] = "md5"
    digest: str | None = None
    """None: its publisher gives none."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a set comes from. Sizes and licences are from memory; the publishers' pages say what holds."""

    name: str
    """Name of the set in ``search_spaces/paper_table.yaml``."""
    folder: str
    """Folder below that of all sets, which its archive is unpacked to."""
    archives: Sequence[Archive] = ()
    page: str | None = None
    """Where to get it, if no archive has an address of its own."""
    size: str
    licence: str
    digest_of_files: bool = False
    """Whether the unpacked files have no known digest and are few enough to be read: their digest is told."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What is there of a source."""

    source: Source
    lines: tuple[str, ...]
    """What was seen, for people."""
    missing: bool
    """Whether the folder of its images is not there."""
    damaged: tuple[str, ...] = ()
    """Archives with another digest than their publisher's."""


def sources() -> list[Source]:
    """Return the source of every set of the table, in its order."""
    from torchvision import datasets

    flowers = datasets.Flowers102
    return [
        Source(
            name="imagenet100",
            folder="imagenet100",
            archives=[Archive(name="imagenet100.zip", address="https://www.kaggle.com/datasets/ambityga/imagenet100")],
            size="about 17 GB",
            licence="ImageNet's terms: research, not commercial",
        ),
        Source(
            name="caltech101",
            folder="caltech101/101_ObjectCategories",
            archives=_in_function(datasets.Caltech101.download),
            size="about 0.14 GB",
            licence="CC BY 4.0",
        ),
        Source(
            name="oxford_pets",
            folder="oxford-iiit-pet/images",
            archives=[_archive(url, md5) for url, md5 in datasets.OxfordIIITPet._RESOURCES],
            size="about 0.8 GB",
            licence="CC BY-SA 4.0",
        ),
        Source(
            name="stanford_cars",
            folder="stanford_cars/cars_test",
            page="its own address is gone; https://github.com/pytorch/vision/issues/7545 says where copies are, and "
            "torchvision.datasets.StanfordCars which files belong into stanford_cars (cars_train, cars_test, devkit, "
            "cars_test_annos_withlabels.mat)",
            size="about 1.9 GB",
            licence="research, not commercial",
        ),
        Source(
            name="flowers102",
            folder="flowers-102/jpg",
            archives=[
                _archive(flowers._download_url_prefix + name, md5)
                for name, md5 in (flowers._file_dict[part] for part in ("image", "label", "setid"))
            ],
            size="about 0.35 GB",
            licence="none stated",
        ),
        Source(
            name="food101",
            folder="food-101/images",
            archives=[_archive(datasets.Food101._URL, datasets.Food101._MD5)],
            size="about 5 GB",
            licence="none stated; photographs of Foodspotting's users",
        ),
        Source(
            name="fgvc_aircraft",
            folder="fgvc-aircraft-2013b/data/images",
            archives=[_archive(datasets.FGVCAircraft._URL, None)],
            size="about 2.8 GB",
            licence="research, not commercial",
        ),
        Source(
            name="dtd",
            folder="dtd/dtd/images",
            archives=[_archive(datasets.DTD._URL, datasets.DTD._MD5)],
            size="about 0.6 GB",
            licence="research",
        ),
        Source(
            name="sun397",
            folder="SUN397",
            archives=[_archive(datasets.SUN397._DATASET_URL, datasets.SUN397._DATASET_MD5)],
            size="about 39 GB",
            licence="research",
        ),
        Source(
            name="eurosat",
            folder="eurosat/2750",
            archives=_in_function(datasets.EuroSAT.download),
            size="about 0.09 GB",
            licence="MIT",
        ),
        Source(
            name="rta100",
            folder="rta100",
            archives=[
                Archive(name="rta100.zip", address=f"{_GITHUB}azuma164/Defense-Prefix (in the repository, rta100.zip)")
            ],
            size="below 1 GB",
            licence="MIT, of the repository",
            digest_of_files=True,
        ),
        Source(
            name="paint",
            folder="paint",
            archives=[
                Archive(
                    name="typographic_attack_data.zip",
                    address=f"{_GITHUB}mlfoundations/patching (in the repository, typographic_attack_data.zip)",
                )
            ],
            size="below 1 GB",
            licence="MIT, of the repository",
            digest_of_files=True,
        ),
        Source(
            name="disentangling",
            folder="disentangling",
            page="the README of https://github.com/joaanna/disentangling_spelling_in_clip links the folder of its 180 "
            "photographs",
            size="below 1 GB",
            licence="not known",
            digest_of_files=True,
        ),
        Source(
            name="scam",
            folder="scam",
            page="https://huggingface.co/datasets/BLISS-e-V/SCAM, as an image folder with metadata.jsonl",
            size="below 5 GB",
            licence="CC BY-NC",
            digest_of_files=True,
        ),
    ]


def weights_source() -> Archive:
    """Return the weights of OpenAI's ViT-B/32, with address and digest from open_clip's table."""
    from open_clip.pretrained import get_pretrained_cfg

    address = str(get_pretrained_cfg("ViT-B-32-quickgelu", "openai")["url"])
    *_, digest, name = address.split("/")  # OpenAI's addresses hold the SHA-256, which open_clip compares as well
    return Archive(name=name, address=address, algorithm="sha256", digest=digest)


def state_of(source: Source, data: Path) -> State:
    """Return what is there of a source under ``data``, the folder of all sets. Nothing is fetched."""
    folder = data / source.folder
    lines, damaged = [], []
    missing = not folder.is_dir() or not any(folder.iterdir())
    lines.append(f"folder {source.folder}: {'not there' if missing else 'there'}")
    for archive in source.archives:
        file = _file_of(archive, data, source)
        if file is None:
            lines.append(f"{archive.name}: not there" + ("" if missing else ", digest not checked"))
            continue
        verdict, right = _verdict(archive, file)
        lines.append(f"{archive.name}: {verdict}")
        if not right:
            damaged.append(archive.name)
    if source.digest_of_files and not missing:
        lines.append(f"no digest is published; seen over names and contents of its files: {files_digest(folder)}")
    return State(source=source, lines=tuple(lines), missing=missing, damaged=tuple(damaged))


def weights_lines(weights: Path | None) -> tuple[list[str], bool]:
    """Return what is to be said of the weights, and whether they may be used.

    Args:
        weights: the file that was given; None: open_clip finds or fetches them.
    """
    source = weights_source()
    if weights is None:
        return [
            f"open_clip takes {source.name} from its cache or fetches it ({source.address}); sha256 {source.digest}, "
            "which open_clip compares by itself where it fetches from this address"
        ], True
    if not weights.is_file():
        return [f"{weights}: not there; fetch {source.address}"], False
    verdict, right = _verdict(source, weights)
    return [f"{weights}: {verdict}"], right


def fetch_lines(source: Source) -> list[str]:
    """Return where to fetch a source, line by line."""
    lines = [
        f"fetch {archive.address}"
        + (f", {archive.algorithm} {archive.digest}" if archive.digest else ", no digest is published")
        for archive in source.archives
    ]
    return lines if source.page is None else [*lines, f"fetch: {source.page}"]


def files_digest(folder: Path) -> str:
    """Return the SHA-256 over relative path and SHA-256 of every file below a folder, in sorted order."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(folder).as_posix()} {_digest(file, 'sha256')}\n".encode())
    return f"sha256 {total.hexdigest()}"


def _verdict(archive: Archive, file: Path) -> tuple[str, bool]:
    """Return what the digest of a file says, and whether the file may be used."""
    if archive.digest is None:
        return f"no digest is published; seen: sha256 {_digest(file, 'sha256')}", True
    seen = _digest(file, archive.algorithm)
    if seen == archive.digest:
        return f"{archive.algorithm} {seen}, as published", True
    return f"{archive.algorithm} is {seen}, published is {archive.digest}: damaged or another file", False


def _digest(file: Path, algorithm: str) -> str:
    total = hashlib.new(algorithm)
    with file.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            total.update(block)
    return total.hexdigest()


def _file_of(archive: Archive, data: Path, source: Source) -> Path | None:
    """Return the file of an archive: in the folder of all sets, or where torchvision leaves it."""
    inside = data / Path(source.folder).parts[0]
    return next((file for file in (data / archive.name, inside / archive.name) if file.is_file()), None)


def _archive(address: str, md5: str | None) -> Archive:
    return Archive(name=address.rsplit("/", 1)[-1], address=address, digest=md5)


def _in_function(download: Any) -> list[Archive]:
    """Return the archive whose address and MD5 stand in a function of torchvision and nowhere else."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(download)))
    texts = [text for text in _texts(tree) if not text.count("\n")]
    addresses = [text for text in texts if text.startswith(("http://", "https://"))]
    digests: list[str | None] = [text for text in texts if _MD5.fullmatch(text)]
    if len(digests) != len(addresses):
        digests = [None] * len(addresses)
    return [_archive(address, md5) for address, md5 in zip(addresses, digests, strict=True)]


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
