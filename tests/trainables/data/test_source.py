"""Image sets: folders, validation held back, preference classes, attacks that repeat, the shared store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.tiny import parameters, write_clip, write_images
from trainables.context.trial_context import TrialContext
from trainables.data.cache import Store
from trainables.data.image_set import preference_classes
from trainables.data.readers.kinds import list_images
from trainables.distributed import WorkerGroup
from trainables.evaluation import typographic as evaluation
from trainables.evaluation.measure import means, measurement, untouched_policy
from trainables.evaluation.typographic import goal_scores
from trainables.settings.sets import ImageFolderSet
from trainables.settings.task import TaskSettings, TrainSettings
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

CLASSES = ["n01_dog", "n02_cat", "n03_red_car", "n04_owl"]
NAMES = {"n01_dog": "dog", "n02_cat": "cat", "n03_red_car": "red car", "n04_owl": "owl"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_images(root / "train.X1", CLASSES[:2], 6, seed=1)
    write_images(root / "train.X2", CLASSES[2:], 6, seed=2)
    write_images(root / "test", CLASSES, 4, seed=3)
    (root / "names.json").write_text(json.dumps(NAMES))
    (root / "train.X1" / "n01_dog" / "notes.txt").write_text("not an image")
    write_clip(root / "model", "vit")
    return root


def folder_set(photos: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "image_folder",
        "train": [str(photos / "train.X1"), str(photos / "train.X2")],
        "test": str(photos / "test"),
        "validation": {"from": "train", "per_class": 2, "seed": 0},
        "class_names": str(photos / "names.json"),
        **changes,
    }


def task(photos: Path, **changes: Any) -> TaskSettings:
    return TypographicSettings.model_validate(
        {
            "model": {"architecture": f"local-dir:{photos / 'model'}"},
            "sets": {"mine": folder_set(photos)},
            "train": {"set": "mine", "copies": 2},
            "evaluate": {"search": {"sets": ["mine"]}, "test": {"sets": ["mine"]}},
            "training": {"epochs": 1, "global_batch_size": 8},
            **changes,
        }
    )


def make_context(settings: TaskSettings, cache: Path) -> TrialContext:
    return open_context(settings, data_seed=0, cache=cache, device=torch.device("cpu"))


def test_several_folders_are_one_split_and_validation_is_held_back(photos: Path) -> None:
    settings = ImageFolderSet.model_validate(folder_set(photos))
    train, validation = list_images("mine", settings, "train"), list_images("mine", settings, "validation")
    assert train.class_names == validation.class_names == ("dog", "cat", "red car", "owl")
    assert len(train.keys) == 16 and len(validation.keys) == 8 and not set(train.keys) & set(validation.keys)
    assert {key.partition("/")[0] for key in validation.keys} == set(CLASSES)
    assert len(list_images("mine", settings, "test").keys) == 16


def test_a_trial_over_photographs_from_start_to_test(photos: Path, tmp_path: Path) -> None:
    context = make_context(task(photos), tmp_path / "cache")
    pairs = context.data.pairs
    assert pairs.images.class_names == ("dog", "cat", "red car", "owl") and len(pairs.attacked.labels) == 32
    assert pairs.attacked.written is not None and not (pairs.attacked.written == pairs.attacked.labels).any()
    copies = pairs.attacked.images.reshape(2, 16, 32, 32, 3)
    assert not torch.equal(copies[0], copies[1]), "each copy has its own word and place"
    result = run_trial(context, parameters(tune="visual"), seed=0, folder=TrialFolder(tmp_path / "trial"))
    assert set(result.values) == {"clean_accuracy", "robust_accuracy", "text_confusion_rate"}
    policy, group = untouched_policy(context), WorkerGroup()
    answers = evaluation.test_answers(context, policy, group)
    measured = measurement(evaluation.test_scores(context, policy, answers, group), context.data.broken())
    assert measured.images == 16
    assert {"robust_accuracy/two_words", "sign_reading"} <= set(measured.values)


def test_goals_are_counted_over_all_classes_against_a_plain_loop(photos: Path, tmp_path: Path) -> None:
    context = make_context(task(photos, train={"set": "mine", "classes": ["dog", "owl"]}), tmp_path)
    assert context.data.pairs.images.class_names == ("dog", "owl")
    searched = context.data.search_sets[0]
    names, attacked = searched.images.class_names, searched.attacked
    assert names == ("dog", "cat", "red car", "owl")
    goals = means(goal_scores(context, untouched_policy(context), context.data.search_sets, WorkerGroup()))
    model, clip = context.clip.model, context.clip
    prompts = model.encode_text(clip.tokens([f"a photo of a {name}." for name in names]), normalize=True)
    hits = confused = 0
    assert attacked.written is not None
    for image, label, written in zip(attacked.images, attacked.labels, attacked.written, strict=True):
        answer = (model.encode_image(clip.pixels(image[None]), normalize=True) @ prompts.T).argmax()
        hits, confused = hits + int(answer == label), confused + int(answer == written)
    assert goals["robust_accuracy"] == hits / 8 and goals["text_confusion_rate"] == confused / 8


def test_attacks_depend_on_image_and_copy_alone(photos: Path, tmp_path: Path) -> None:
    whole = make_context(task(photos), tmp_path / "a").data.pairs
    some = make_context(task(photos, train={"set": "mine", "images": 5}), tmp_path / "b").data.pairs
    assert len(some.attacked.labels) == 5
    images = whole.attacked.images[:16].flatten(1)
    for attacked in some.attacked.images.flatten(1):
        assert (images == attacked).all(1).any(), "the same image has the same word on it in a smaller set"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "/nowhere"}, "does not exist"),
        ({"class_names": ["a", "b"]}, "2 class names for 4 class folders"),
        ({"class_names": {"n01_dog": "dog"}}, "no words for the class folder n02_cat, n03_red_car, n04_owl"),
        ({"validation": {"from": "train", "per_class": 6}}, "has only 6; lower per_class"),
    ],
)
def test_folders_that_do_not_do(photos: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    broken = task(photos, sets={"mine": folder_set(photos, **changes)})
    with pytest.raises(ValueError, match=message):
        _ = make_context(broken, tmp_path).data.pairs


def test_an_unreadable_image_is_named(photos: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["dog", "cat"], 3)
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no picture")
    own = {"kind": "image_folder", "train": str(tmp_path / "train"), "test": str(photos / "test")}
    sets = {"mine": folder_set(photos), "own": own}
    with pytest.raises(ValueError, match=r"1 of the first 2 of 6 images .*\(cat/1.png: cannot identify"):
        _ = make_context(task(photos, sets=sets, train={"set": "own"}), tmp_path / "cache").data.pairs


def test_a_share_of_classes_takes_every_second_one() -> None:
    names = [f"c{i}" for i in range(9)]
    assert preference_classes(TrainSettings(set="x", classes=0.5), names) == [0, 2, 4, 6, 8]
    assert len(preference_classes(TrainSettings(set="x", classes=0.34), names)) == 4
    with pytest.raises(ValueError, match="no class dog"):
        preference_classes(TrainSettings(set="x", classes=["c1", "dog"]), names)
    with pytest.raises(ValueError, match="at least two classes"):
        preference_classes(TrainSettings(set="x", classes=0.1), names[:4])


def test_a_model_folder_without_weights_is_refused(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "model"
    empty.mkdir()
    (empty / "open_clip_config.json").write_text((photos / "model" / "open_clip_config.json").read_text())
    with pytest.raises(ValueError, match="cannot be loaded"):
        make_context(task(photos, model={"architecture": f"local-dir:{empty}"}), tmp_path)


def test_store_builds_once_and_again_only_for_another_key(tmp_path: Path) -> None:
    built = []

    def build() -> dict[str, np.ndarray]:
        built.append(1)
        return {"x": np.arange(6).reshape(2, 3)}

    for _ in range(2):
        assert Store(tmp_path).get({"a": 1}, build)["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    Store(tmp_path).get({"a": 2}, build)
    assert len(built) == 2

    def fail() -> dict[str, np.ndarray]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Store(tmp_path).get({"a": 3}, fail)
    assert not list(tmp_path.glob(".part-*")), "a build that failed leaves nothing"


def test_images_changed_on_disk_are_prepared_anew(photos: Path, tmp_path: Path) -> None:
    root = write_images(tmp_path / "own", ["dog", "cat"], 2, seed=5)
    own = {"kind": "image_folder", "train": str(root), "test": str(photos / "test")}
    settings = task(photos, sets={"mine": folder_set(photos), "own": own}, train={"set": "own"})
    before = make_context(settings, tmp_path / "cache").data.pairs.clean.images.clone()
    Image.new("RGB", (41, 40), "red").save(root / "cat" / "0.png")
    after = make_context(settings, tmp_path / "cache").data.pairs.clean.images
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])
