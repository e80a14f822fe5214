"""What is measured on test: every protocol, set by set, against plain loops over open_clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.helpers import tiny
from trainables.context.trial_context import TrialContext
from trainables.data.image_set import ImageSet, View
from trainables.distributed import WorkerGroup
from trainables.evaluation import typographic as evaluation
from trainables.evaluation.measure import measurement, untouched_policy
from trainables.evaluation.predictions import (
    Predictions,
    accuracy,
    answers_from_indices,
    image_kl,
    text_confusion,
)
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context

CLASSES = ["cat", "dog", "owl", "pen"]
REAL = [("cat", "taxi"), ("dog", "cat"), ("owl", "pen"), ("pen", "taxi"), ("cat", "dog")]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    """Two sets of noise, one of them trained on, and photographs of written words."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "rta").mkdir()
    for i, (true, written) in enumerate(REAL):
        pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / "rta" / f"label={true}_text={written}.png")
    sets = {
        name: {
            "kind": "image_folder",
            "train": str(tiny.write_images(folder / name / "train", CLASSES, 6, seed=seed)),
            "test": str(tiny.write_images(folder / name / "test", CLASSES, 3, seed=seed + 1)),
            "validation": {"from": "train", "per_class": 2},
        }
        for seed, name in ((10, "mine"), (20, "other"))
    }
    task = {
        "model": {"architecture": f"local-dir:{tiny.write_clip(folder / 'clip', 'vit')}"},
        "sets": {**sets, "rta": {"kind": "rta100", "path": str(folder / "rta")}},
        "train": {"set": "mine", "copies": 3},
        "evaluate": {"search": {"sets": ["mine"]}, "test": {"sets": ["mine", "other", "rta"]}},
    }
    settings = TypographicSettings.model_validate(task)
    return open_context(settings, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


def test_every_set_by_itself_and_transfer_to_those_not_trained_on(context: TrialContext) -> None:
    policy, group = untouched_policy(context), WorkerGroup()
    scores = evaluation.test_scores(context, policy, evaluation.test_answers(context, policy, group), group)
    measured = measurement(scores, {})
    values = measured.values
    of_sets = {name for name in values if "/" in name and not name.startswith("robust_accuracy/")}
    metrics = {"clean_accuracy", "robust_accuracy", "text_confusion_rate", "two_way_accuracy", "reference_kl"}
    assert of_sets == {
        *(f"{name}/{metric}" for name in ("mine", "other") for metric in metrics),
        *(f"rta/{metric}" for metric in ("robust_accuracy", "text_confusion_rate", "two_way_accuracy")),
        *(f"transfer/{metric}" for metric in ("clean_accuracy", "robust_accuracy", "text_confusion_rate")),
    }
    assert values["robust_accuracy"] == pytest.approx(
        (values["mine/robust_accuracy"] + values["other/robust_accuracy"]) / 2
    )
    assert values["transfer/clean_accuracy"] == values["other/clean_accuracy"]
    assert values["reference_kl"] == pytest.approx(0.0, abs=1e-9), "the untouched model is the reference"
    assert measured.images == 24


def test_both_protocols_on_written_words_against_a_plain_loop(context: TrialContext, tmp_path: Path) -> None:
    policy = untouched_policy(context)
    answers = evaluation.test_answers(context, policy, WorkerGroup())
    written = next(of_view for of_view in answers if of_view.set == "rta/test")
    model, clip = context.clip.model, context.clip
    names = sorted({word for pair in REAL for word in pair})
    text = model.encode_text(clip.tokens([f"a photo of a {name}." for name in names]), normalize=True)
    for tested in context.data.typographic_sets:
        assert tested.images.class_names == tuple(names) and tested.clean is None
        for i, image in enumerate(tested.attacked.images):
            logits = (model.encode_image(clip.pixels(image[None]), normalize=True) @ text.T)[
                0
            ] * model.logit_scale.exp()
            assert written.answer is not None and written.margin is not None
            assert written.answer[i] == names[int(logits.argmax())]
            expected = logits[names.index(written.true[i])] - logits[names.index(written.written[i])]
            assert written.margin[i] == pytest.approx(float(expected), abs=1e-4)
    assert sorted(zip(written.true, written.written, strict=True)) == sorted(REAL)


def test_kl_from_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(7, 5, generator=generator), 3 * torch.randn(7, 5, generator=generator)
    logs = F.log_softmax(policy, -1), F.log_softmax(reference, -1)
    expected = F.kl_div(*logs, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(image_kl(policy, reference).float(), expected, atol=1e-5, rtol=1e-5)


def test_an_answer_counts_by_its_words() -> None:
    """Two classes of ImageNet are called missile, in open_clip's names and in the literature's figures."""
    names = ("owl", "missile", "cat", "missile")
    labels, written = torch.tensor([1, 3, 0, 2]), torch.tensor([2, 0, 1, -1])
    view = View(torch.empty(4, 0), labels, written, "")
    images = ImageSet("set/test", view.images, labels, tuple("abcd"), names, ("{}",), "")
    predictions = Predictions(np.array([3, 1, 3, 2]), np.full(4, np.nan))
    assert accuracy(predictions, images, view).tolist() == [True, True, False, True]
    assert text_confusion(predictions, images, view).tolist() == [False, False, True]
    measures = answers_from_indices(images, view, "attacked", predictions).measures()
    assert measures["accuracy"].tolist() == [True, True, False, True]
    assert measures["text_confusion_rate"].tolist() == [False, False, True]


def test_goals_are_those_that_follow_from_answers_in_words(context: TrialContext) -> None:
    policy, group = untouched_policy(context), WorkerGroup()
    sets = [*context.data.test_sets, *context.data.typographic_sets]
    scores = evaluation.goal_scores(context, policy, sets, group)
    answers = evaluation.test_answers(context, policy, group)
    for metric, view, measure in (
        ("clean_accuracy", "clean", "accuracy"),
        ("robust_accuracy", "attacked", "accuracy"),
        ("text_confusion_rate", "attacked", "text_confusion_rate"),
    ):
        measures = [of_view.measures()[measure] for of_view in answers if of_view.view == view]
        assert [of_set.tolist() for of_set in scores[metric]] == [of_set.tolist() for of_set in measures]
