"""Baselines of examples/: closed forms of the edits, what is hidden of an image, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from typer.testing import CliRunner

from examples import clip_on_pixels, ocr_blur, training_free
from examples.clip_on_pixels import ClipOnPixels
from examples.training_free import Scored, transformed
from sweeper.cli.main import app
from sweeper.errors import UserError
from trainables.attack.rendering import FONTS_FOLDER
from trainables.settings.sets import ImageFolderSet, ImageSetSettings, WorldSet, WrittenLabelSet
from trainables.settings.task import TrainSettings

CLASSES, WIDTH = 4, 9
ALL = TrainSettings(set="scoring")


def made_up(*, words: list[int], seed: int = 0) -> Scored:
    """Embeddings whose classes are the first ``CLASSES`` axes; words move images along the axes ``words``."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % CLASSES
    clean = F.one_hot(labels, WIDTH).float() + 0.05 * torch.randn(60, WIDTH, generator=generator)
    clean[:, CLASSES:] = 0
    added = torch.zeros(60, WIDTH)
    added[:, words] = torch.tensor([3.0, 1.0, 0.3])[: len(words)] * torch.randn(60, len(words), generator=generator)
    return Scored(clean, clean + added, labels, torch.eye(CLASSES, WIDTH))


def accuracy(w: Tensor, images: Tensor, scored: Scored) -> float:
    answers = (transformed(w, images) @ transformed(w, scored.texts).T).argmax(-1)
    return float((answers == scored.labels).float().mean())


def test_a_projection_removes_exactly_the_directions_that_words_add() -> None:
    scored = made_up(words=[5, 7])
    w, removed = training_free.projection(scored)
    assert removed == 2, "words add nothing else, so nothing else is removed"
    expected = torch.eye(WIDTH)
    expected[[5, 7], [5, 7]] = 0
    torch.testing.assert_close(w, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(transformed(w, scored.attacked), transformed(w, scored.clean), atol=1e-5, rtol=0)


def test_a_projection_stops_where_clean_accuracy_would_fall() -> None:
    scored = made_up(words=[5, 0, 1])  # the second and third direction are those of two classes
    w, removed = training_free.projection(scored)
    assert removed == 1 and accuracy(w, scored.clean, scored) == 1.0
    further, removed = training_free.projection(scored, may_lose=1.0)
    assert removed == 3 and accuracy(further, scored.clean, scored) < 0.8


def test_least_squares_is_where_its_objective_is_least() -> None:
    scored, ridge = made_up(words=[5, 0]), 0.2
    w = training_free.least_squares(scored, ridge=ridge).requires_grad_()
    weight = 2 * len(scored.clean) * ridge / WIDTH
    away = [(images @ w.T - scored.clean).square().sum() for images in (scored.attacked, scored.clean)]
    (sum(away) + weight * (w - torch.eye(WIDTH)).square().sum()).backward()  # type: ignore[union-attr]
    assert w.grad is not None and w.grad.abs().max() < 1e-3
    torch.testing.assert_close(training_free.least_squares(scored, ridge=1e9), torch.eye(WIDTH), atol=1e-5, rtol=0)


def test_edits_of_the_worlds_clip_help_on_other_images_and_come_out_the_same_again() -> None:
    clip = ClipOnPixels("world")
    few = TrainSettings(set="scoring", images=120)
    scored = training_free.score(clip, WorldSet(kind="world", train=120), few, "sign", 0)
    again = training_free.score(clip, WorldSet(kind="world", train=120), few, "sign", 0)
    other = training_free.score(clip, WorldSet(kind="world", train=160, seed=1), ALL, "sign", 0)
    untouched = torch.eye(len(scored.clean[0]))
    before = accuracy(untouched, other.attacked, other)
    for edit, gain in ((training_free.least_squares, 0.15), (lambda of: training_free.projection(of)[0], 0.0)):
        w = edit(scored)
        torch.testing.assert_close(w, edit(again), atol=0, rtol=0)
        assert accuracy(w, other.attacked, other) > before + gain
        assert accuracy(w, other.clean, other) > accuracy(untouched, other.clean, other) - 0.06


def test_an_edit_by_the_identity_is_the_untouched_clip() -> None:
    clip = ClipOnPixels("world")
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (224, 224, 3), np.uint8)) for _ in range(3)]
    prompts = [["a photo of a ring"], ["a photo of a boat"]]
    plain = clip_on_pixels.load()(images, prompts)
    torch.testing.assert_close(training_free.edited(clip, torch.eye(64))(images, prompts), plain)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (WrittenLabelSet(kind="rta100", path="photos"), "rta100 set has no clean images to paste words on"),
        (ImageFolderSet(kind="image_folder", test=["photos"]), "must not be those of the test"),
    ],
)
def test_sets_that_cannot_be_scored_on_are_refused(images: ImageSetSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_free.load_projection("world", images)


def test_a_function_is_no_clip_to_edit() -> None:
    with pytest.raises(ValueError, match="is a Python function; name a CLIP"):
        training_free.load_least_squares("examples.ocr_blur:load")


def test_only_the_boxes_of_texts_are_hidden() -> None:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8))
    text = ocr_blur.Text("ring", ((10, 5), (29, 5), (29, 14), (10, 14)), 9.0)
    inside = np.zeros((40, 60), bool)
    inside[5:15, 10:30] = True
    before = np.asarray(image)
    blurred, filled = (np.asarray(hide(image, [text])) for hide in (ocr_blur.blurred, ocr_blur.filled))
    for after in (blurred, filled):
        assert (after[~inside] == before[~inside]).all()
    assert blurred[inside].std() < 0.3 * before[inside].std()
    assert (filled[inside] == before[~inside].mean(0).round()).all()
    for hide in (ocr_blur.blurred, ocr_blur.filled):
        assert (np.asarray(hide(image, [])) == before).all()


def test_without_rapidocr_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["evaluate", "examples.ocr_blur:load", "--data", "world", "--images", "2"])
    assert isinstance(result.exception, UserError) and "uv pip install --group ocr" in str(result.exception)


def written(word: str, size_px: int = 50) -> Image.Image:
    """A grey picture with a word in the middle."""
    image = Image.new("RGB", (224, 224), (120, 130, 140))
    font = ImageFont.truetype(str(next(FONTS_FOLDER.glob("Aileron*"))), size_px)
    ImageDraw.Draw(image).text((112, 112), word, fill=(20, 20, 20), font=font, anchor="mm")
    return image


def test_words_are_read_and_no_longer_after_the_blur() -> None:
    pytest.importorskip("rapidocr")
    reader = ocr_blur.Reader()
    texts = reader.texts(written("umbrella"))
    assert [text.words for text in texts] == ["umbrella"]
    assert reader.texts(ocr_blur.blurred(written("umbrella"), texts)) == []
    assert reader.texts(ocr_blur.filled(written("umbrella"), texts)) == []
    assert reader.texts(written("")) == []
    assert reader.texts(written("O", 90)) == [], "a single letter may be a ring"


def test_hidden_words_do_not_reach_the_worlds_clip() -> None:
    pytest.importorskip("rapidocr")
    clip = ClipOnPixels("world")
    prompts = [[f"a sign that says {name}"] for name in ("ring", "boat", "leaf")]
    words = [written(name, 70) for name in ("ring", "boat", "leaf")]
    assert clip.scores(words, prompts).argmax(-1).tolist() == [0, 1, 2]
    hidden = ocr_blur.load_filled()(words, prompts)
    torch.testing.assert_close(hidden[0], hidden[1]), "nothing but a grey picture is left"
    assert ocr_blur.load()(words, prompts).argmax(-1).tolist() != [0, 1, 2]
