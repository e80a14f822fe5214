"""A spec for a folder of images: what is found, what is held back, what cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.spec.own_images import OwnSpec, spec_for_images
from sweeper.spec.spec import Spec, load_spec
from tests.helpers.image_files import photos
from trainables.data.readers.kinds import list_images

NAMES = ["cat", "dog", "red_fox"]


def written(folder: Path, model: str = "world", *, has_gpus: bool = True) -> tuple[OwnSpec, Spec]:
    """The spec for a folder, read back from a file elsewhere."""
    own = spec_for_images(folder, model, has_gpus=has_gpus)
    file = folder.parent / "elsewhere" / f"{own.name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(own.text)
    return own, load_spec(file)


def counts(spec: Spec) -> dict[str, int]:
    splits = ("train", "validation", "test")
    return {split: len(list_images("mine", spec.sets["mine"], split).keys) for split in splits}


def test_one_folder_is_split_in_three(tmp_path: Path) -> None:
    photos(tmp_path / "My Pets", NAMES, 25)
    own, spec = written(tmp_path / "My Pets")
    assert own.name == spec.name == "my-pets"
    assert counts(spec) == {"train": 48, "validation": 12, "test": 15}
    keys = [set(list_images("mine", spec.sets["mine"], split).keys) for split in ("train", "validation", "test")]
    assert len(set.union(*keys)) == 75
    assert list_images("mine", spec.sets["mine"], "test").class_names == ("cat", "dog", "red fox")
    assert any("validation and test held back from train, 20% of each class" in note for note in own.notes)
    assert any(note == "classes: 3: cat, dog, red_fox" for note in own.notes)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), {"train": 60, "validation": 60, "test": 60}),
        (("Training", "Testing"), {"train": 48, "validation": 12, "test": 60}),
        (("train", "valid"), {"train": 48, "validation": 60, "test": 12}),
    ],
)
def test_folders_of_splits_are_found(tmp_path: Path, folders: tuple[str, ...], expected: dict[str, int]) -> None:
    for folder in folders:
        photos(tmp_path / "photos" / folder, NAMES, 20)
    _, spec = written(tmp_path / "photos")
    assert counts(spec) == expected


def test_test_images_without_classes_are_left_out_and_said(tmp_path: Path) -> None:
    photos(tmp_path / "photos" / "train", NAMES, 20)
    (tmp_path / "photos" / "test").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "test" / "1.png")
    own, spec = written(tmp_path / "photos")
    assert counts(spec)["test"] == 12
    assert any("test has no class folders: it is not used" in note for note in own.notes)


def test_weights_follow_model_and_machine(tmp_path: Path) -> None:
    photos(tmp_path / "photos", NAMES, 20)
    big = "ViT-B-32:laion2b_s34b_b79k"

    def tuned(spec: Spec) -> set[object]:
        return {value for branch in spec.parameters.branches["tune"] for value in branch.domain.examples()}

    _, spec = written(tmp_path / "photos", big)
    assert (spec.model.architecture, spec.model.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert tuned(spec) == {"transform", "last_blocks", "visual"}
    own, spec = written(tmp_path / "photos", big, has_gpus=False)
    assert tuned(spec) == {"transform"} and any("no GPU" in note for note in own.notes)
    assert tuned(written(tmp_path / "photos", "world", has_gpus=False)[1]) == {"transform", "visual"}


def test_words_beside_the_images_and_wordnet_ids_are_found(tmp_path: Path) -> None:
    photos(tmp_path / "ids", ["n02084071", "n01440764", "n01443537"], 20)
    with pytest.raises(UserError, match="n02084071"):  # dog is no class of ImageNet-1k
        written(tmp_path / "ids")
    photos(tmp_path / "imagenet", ["n01440764", "n01443537"], 30)
    _, spec = written(tmp_path / "imagenet")
    assert list_images("mine", spec.sets["mine"], "train").class_names == ("tench", "goldfish")
    photos(tmp_path / "numbers", ["0", "1"], 30)
    (tmp_path / "numbers" / "class_names.json").write_text('{"0": "cat", "1": "dog"}')
    _, spec = written(tmp_path / "numbers")
    assert list_images("mine", spec.sets["mine"], "train").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (["cat"], 60, "only one class folder .cat.; two or more are needed"),
        (["cat", "dog"], 5, "10 images in all; at least 50 are needed"),
        (["0", "1", "2"], 30, "names without words.*class_names.json"),
        (["class_1", "class_2"], 30, "names without words"),
    ],
)
def test_what_cannot_serve_is_told_what_is_missing(tmp_path: Path, names: list[str], count: int, message: str) -> None:
    photos(tmp_path / "photos", names, count)
    with pytest.raises(UserError, match=message):
        spec_for_images(tmp_path / "photos", "world", has_gpus=True)


def test_other_folders_are_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"photos: No such file or directory; name a folder"):
        spec_for_images(tmp_path / "photos", "world", has_gpus=True)
    photos(tmp_path / "wrapped" / "inner", NAMES, 20)
    with pytest.raises(UserError, match=r"only one class folder \(inner\).*did you mean .*/wrapped/inner\?"):
        spec_for_images(tmp_path / "wrapped", "world", has_gpus=True)
    photos(tmp_path / "photos", [*NAMES, "empty"], 20)
    for image in (tmp_path / "photos" / "empty").iterdir():
        image.unlink()
    with pytest.raises(UserError, match="no images in empty"):
        spec_for_images(tmp_path / "photos", "world", has_gpus=True)
    with pytest.raises(UserError, match="--model ViT-B-32: write ARCHITECTURE:TAG"):
        photos(tmp_path / "good", NAMES, 20)
        spec_for_images(tmp_path / "good", "ViT-B-32", has_gpus=True)


def test_init_writes_it_and_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "photos", NAMES, 20)
    monkeypatch.chdir(tmp_path)
    command = ["init", "--images", "photos", "--model", "world"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0 and f"spec: {tmp_path / 'photos.yaml'}" in first.stderr
    assert load_spec(tmp_path / "photos.yaml").name == "photos"
    assert CliRunner().invoke(app, command).exit_code == 0, "the same spec may be there"
    (tmp_path / "photos.yaml").write_text("name: other\n")
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, UserError) and "exists and is another spec" in str(again.exception)
    assert (tmp_path / "photos.yaml").read_text() == "name: other\n"


def test_numbers_before_the_words_are_left_out_of_prompts(tmp_path: Path) -> None:
    photos(tmp_path / "birds", ["001.Black_footed_Albatross", "n02085620-Chihuahua"], 30)
    own, spec = written(tmp_path / "birds")
    assert list_images("mine", spec.sets["mine"], "train").class_names == ("Black footed Albatross", "Chihuahua")
    assert any("read without their numbers" in note for note in own.notes)


def test_what_check_would_refuse_is_refused_before_a_spec_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    photos(tmp_path / "photos", ["Cat", "cat", "dog"], 20)
    with pytest.raises(UserError, match=r"--images .*two classes are called 'Cat' and 'cat'"):
        spec_for_images(Path("~/photos"), "world", has_gpus=True)
    photos(tmp_path / "\U0001f41f", NAMES, 20)
    _, spec = written(tmp_path / "\U0001f41f")
    assert len(list_images("mine", spec.sets["mine"], "train").keys) > 0
