"""The contact sheet shows the pixels that a sweep trains and evaluates on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sweeper.errors import UserError
from sweeper.preflight.preview import Preview, Row, contact_sheet, preview
from sweeper.spec.spec import Spec, load_spec
from tests.helpers.tiny import write_clip, write_images
from trainables.context.trial_context import TrialContext
from trainables.data.typographic import EvaluationSet
from trainables.models.clip import image_preparation, load_clip
from trainables.settings.task import ModelSettings
from trainables.tasks.known import open_context

SPEC = """\
model: {architecture: "local-dir:clip"}
sets:
  photos:
    kind: image_folder
    train: photos/train
    validation: photos/validation
    test: photos/test
    max_broken_share: 0.5
    templates: ["a photo of a {}."]
  real: {kind: rta100, path: real}
train: {set: photos, classes: [cat, dog, owl], copies: 2, images: 9}
evaluate: {search: {sets: [photos]}, test: {sets: [photos, real]}}
parameters: {objective: dpo, beta: 1.0, tune: transform, learning_rate: {low: 0.01, high: 0.1}}
search: {seed: 7}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_clip(home / "clip", "vit")
    for seed, split in enumerate(("train", "validation", "test")):
        write_images(home / "photos" / split, ["cat", "dog", "emu", "owl"], 5, seed=seed)
    (home / "photos" / "validation" / "cat" / "0.png").write_bytes(b"no image")
    write_images(home, ["real"], 2, seed=3)
    (home / "real" / "0.png").rename(home / "real" / "label=cat_text=taxi.png")
    (home / "real" / "1.png").rename(home / "real" / "label=dog_text=cat.png")
    (home / "demo.yaml").write_text(SPEC)
    return home


@pytest.fixture(scope="module")
def spec(home: Path) -> Spec:
    return load_spec(home / "demo.yaml")


def test_no_weights_are_needed(sheet: Preview, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    changes = ["model={architecture: ViT-B-32, pretrained: laion2b_s34b_b79k}"]
    drawn = preview(load_spec(home / "demo.yaml", changes), 4)
    assert [row.title for row in drawn.rows] == [row.title for row in sheet.rows]
    assert {image.shape for row in drawn.rows for image in row.images} == {(224, 224, 3)}
    shutil.copytree(home / "clip", tmp_path / "damaged")
    (tmp_path / "damaged" / "open_clip_model.safetensors").write_bytes(b"no weights")
    same = preview(load_spec(home / "demo.yaml", [f"model.architecture=local-dir:{tmp_path}/damaged"]), 4)
    for row, other in zip(sheet.rows, same.rows, strict=True):
        assert all(np.array_equal(image, again) for image, again in zip(row.images, other.images, strict=True))


def test_images_are_prepared_as_for_the_loaded_model(home: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))

    def prepared(crop: Callable[[Image.Image], Image.Image]) -> np.ndarray:
        return np.asarray(crop(image))

    for mode in ("shortest", "longest", "squash"):
        shutil.copytree(home / "clip", tmp_path / mode)
        file = tmp_path / mode / "open_clip_config.json"
        config = json.loads(file.read_text())
        config["preprocess_cfg"] = {"resize_mode": mode, "interpolation": "bilinear", "mean": [0.5] * 3}
        file.write_text(json.dumps(config))
        settings = ModelSettings(architecture=f"local-dir:{tmp_path}/{mode}")
        loaded, (crop, size) = load_clip(settings), image_preparation(settings)
        assert size == loaded.image_size and np.array_equal(prepared(crop), prepared(loaded.crop))
    crop, size = image_preparation(ModelSettings(architecture="ViT-B-16-SigLIP", pretrained="webli"))  # squashes
    whole = image.resize((224, 224), Image.Resampling.BICUBIC)
    assert size == 224 and np.array_equal(prepared(crop), np.asarray(whole))


@pytest.fixture(scope="module")
def sheet(spec: Spec) -> Preview:
    return preview(spec, 4)


@pytest.fixture(scope="module")
def context(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    """What a sweep makes of the same spec."""
    cache, cpu = tmp_path_factory.mktemp("cache"), torch.device("cpu")
    return open_context(spec.task_settings(), data_seed=spec.search.seed, cache=cache, device=cpu)


def row_of(sheet: Preview, title: str) -> Row:
    (row,) = [row for row in sheet.rows if row.title.startswith(title)]
    return row


def shows(row: Row, images: torch.Tensor, names: tuple[str, ...], written: torch.Tensor | None) -> bool:
    """Whether every image of a row is one of ``images``, under its written word."""
    words = [""] * len(images) if written is None else [names[i] if i >= 0 else "(no class)" for i in written.tolist()]
    known = [(image.tobytes(), word) for image, word in zip(images.numpy(), words, strict=True)]
    return all(shown in known for shown in zip((i.tobytes() for i in row.images), row.written, strict=True))


def test_training_pairs_are_those_of_the_sweep(sheet: Preview, context: TrialContext) -> None:
    pairs = context.data.pairs
    assert len(pairs.clean.labels) == 9 and len(row_of(sheet, "training: photos/train, clean").images) == 4
    assert shows(row_of(sheet, "training: photos/train, clean"), pairs.clean.images, pairs.images.class_names, None)
    for copy in range(2):
        part = slice(copy * 9, copy * 9 + 9)
        shown = row_of(sheet, f"training: photos/train, attacked, copy {copy + 1} of 2")
        assert pairs.attacked.written is not None
        assert shows(shown, pairs.attacked.images[part], pairs.images.class_names, pairs.attacked.written[part])
        assert set(shown.true) | set(shown.written) <= {"cat", "dog", "owl"}


def test_evaluation_images_are_those_of_the_sweep(sheet: Preview, context: TrialContext) -> None:
    def check(title: str, of_sweep: EvaluationSet) -> None:
        attacked = of_sweep.attacked
        assert shows(row_of(sheet, title), attacked.images, of_sweep.images.class_names, attacked.written)

    check("test: photos/test, attacked", context.data.test_sets[0])
    for variant, sets in context.data.variant_sets.items():
        check(f"test, {variant}", sets[0])
    real = row_of(sheet, "test: real/test, words really there")
    assert list(zip(real.true, real.written, strict=True)) == [("cat", "taxi"), ("dog", "cat")]
    pixels = {image.tobytes() for image in context.data.typographic_sets[0].attacked.images.numpy()}
    assert {image.tobytes() for image in real.images} == pixels


def test_sets_are_counted_and_broken_images_named(sheet: Preview) -> None:
    assert sheet.lines[0] == "train: photos/train, 9 images, 3 classes"
    start = "validation: photos/validation, 20 images, 4 classes, 1 of 5 opened images are broken: cat/0.png"
    assert sheet.lines[1].startswith(start)
    assert sheet.lines[3] == "test: real/test, 2 images, 3 classes"


def test_nothing_can_be_opened(home: Path) -> None:
    text = SPEC.replace("validation: photos/validation", "validation: broken")
    for name in ("cat", "dog", "emu", "owl"):
        (home / "broken" / name).mkdir(parents=True)
        (home / "broken" / name / "0.png").write_bytes(b"no image")
    (home / "broken.yaml").write_text(text)
    with pytest.raises(UserError, match="photos/validation: none of the images"):
        preview(load_spec(home / "broken.yaml"), 2)


def test_sheet_has_all_images_as_they_are() -> None:
    red, blue = (np.full((48, 48, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    rows = (Row("training", [red, blue], ["cat", "dog"], ["", ""]), Row("test", [blue], ["x" * 300], ["owl"]))
    sheet = contact_sheet(Preview("demo", rows, ()), "demo " * 100)
    colours = {colour: count for count, colour in Image.Image.getcolors(sheet, 10**6) or []}
    assert colours[(255, 0, 0)] == 144**2 and colours[(0, 0, 255)] == 2 * 144**2, "whole multiples, no smoothing"


FACES = """\
task: attribute
model: {architecture: "local-dir:clip"}
sets:
  faces:
    kind: attribute_folder
    train: faces/train
    validation: faces/train
    test: faces/test
    templates: ["a photo of a {}"]
train: {set: faces}
attribute: {name: hair, prompts: ["a {content} with {value} hair"], top: 4}
evaluate: {search: {sets: [faces]}, test: {sets: [faces]}}
parameters: {target: flipped, objective: kto, beta: 1.0, tune: transform, learning_rate: {low: 0.01, high: 0.1}}
"""


def test_the_value_of_each_image_is_shown(home: Path) -> None:
    groups = {0: ("doctor", "dark"), 80: ("doctor", "fair"), 160: ("nurse", "dark"), 240: ("nurse", "fair")}
    for shade, (content, value) in groups.items():
        for split in ("train", "test"):
            folder = home / "faces" / split / content / value
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("L", (40, 40), shade).save(folder / f"{number}.png")
    (home / "faces.yaml").write_text(FACES)
    sheet = preview(load_spec(home / "faces.yaml"), 4)
    assert [row.title.split(":")[0] for row in sheet.rows] == ["training", "validation", "test"]
    for row in sheet.rows:
        told = list(zip(row.true, row.values, strict=True))
        assert told == [groups[int(image.max())] for image in row.images]
        assert set(told) == set(groups.values()) and not any(row.written)
    assert contact_sheet(sheet, "demo").height > 0
