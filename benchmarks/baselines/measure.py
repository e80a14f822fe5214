"""Baselines that need no tuning beside tuned models: on the generated world, and what the OCR reads on photographs.

Models of the first table see the pixels of a Python function: 224 px, with words pasted at 224 px. The environment
needs ``uv pip install --group ocr``; tuned models are exported folders:

    sweeper run search_spaces/quickstart.yaml --storage sweeps
    sweeper export quickstart exports/paint --pick paint --storage sweeps
    sweeper export quickstart exports/robust --pick "most robust" --storage sweeps
    python -m benchmarks.baselines.measure --tuned PAINT=exports/paint --tuned "most robust=exports/robust" \
        --photographs paint:FOLDER --photographs image_folder:FOLDER --output benchmarks/results/baselines.md
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common.machine import environment, publish
from examples import ocr_blur, training_free
from examples.clip_on_pixels import ClipOnPixels, Scores
from sweeper.models.compare import compare
from sweeper.models.evaluate import read_data, rows
from trainables.data.cache import Store
from trainables.data.image_set import ImageSet, subset
from trainables.data.source import DataSource
from trainables.data.typographic import pasted_set, trained_attack
from trainables.evaluation.answers import Answers
from trainables.evaluation.metrics import bootstrap_interval
from trainables.evaluation.scoring import CallableScorer, score_set
from trainables.models.clip import load_clip
from trainables.numerics import flushed_denormals
from trainables.settings.sets import TypographicSet, WorldSet
from trainables.settings.task import ModelSettings, TrainSettings
from trainables.settings.typographic import AttackSettings
from trainables.spelling import label_form

ATTACK = AttackSettings(recipe="sign")
SMALL_IMAGES, SIGNS, READ_IMAGES = 500, 500, 300
"""Largest number of images at 48 px, of signs, and of images of the generated world for the table of the OCR."""
MOST_REMOVED = 6
RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
UNTOUCHED, BLUR, FILL = "untouched", "OCR + blur", "OCR + fill"
PROJECTION, LEAST_SQUARES = "projection", "least squares"
SMALL = " at 48 px"


class RememberingReader(ocr_blur.Reader):
    """A reader that reads an image once, and counts the processor time and the time of that."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, list[ocr_blur.Text]] = {}
        self.cpu_s = self.wall_s = 0.0

    @property
    def images(self) -> int:
        return len(self._known)

    def texts(self, image: Image.Image) -> list[ocr_blur.Text]:
        key = image.tobytes() + str(image.size).encode()
        if key not in self._known:
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            self._known[key] = super().texts(image)
            self.wall_s += time.perf_counter() - began_s
            self.cpu_s += time.process_time() - began_cpu_s
        return self._known[key]


@dataclass(frozen=True)
class Reading:
    """What the OCR found in the images of a set."""

    name: str
    images: int
    hidden: float
    """Share of images of which a part is hidden."""
    area: float
    """Mean share of the pixels that are hidden, of these images."""
    read: float | None
    """Share of images whose written word is among the texts; None if no word is known to be there."""
    read_after: float | None
    """The same after the blur."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--photographs", action="append", default=[], metavar="KIND:PATH")
    parser.add_argument("--images", type=int, default=1000, help="test images of the generated world")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    reader = RememberingReader()
    with flushed_denormals(), tempfile.TemporaryDirectory(prefix="baselines-") as folder:
        text = page(reader, dict(pair.split("=", 1) for pair in arguments.tuned), arguments, Store(Path(folder)))
    publish(text, arguments.output)


def page(reader: RememberingReader, tuned: Mapping[str, str], arguments: argparse.Namespace, store: Store) -> str:
    """Return the results as Markdown."""
    clip = ClipOnPixels("world")
    scored = training_free.score(clip, training_free.IMAGES, training_free.CHOICE, "sign", 0)
    w, removed = training_free.projection(scored)
    blurring = ocr_blur.without_texts(clip, reader, ocr_blur.blurred)
    models: dict[str, Scores] = {
        UNTOUCHED: clip.scores,
        BLUR: blurring,
        FILL: ocr_blur.without_texts(clip, reader, ocr_blur.filled),
        PROJECTION: training_free.edited(clip, w),
        LEAST_SQUARES: training_free.edited(clip, training_free.least_squares(scored)),
        **{name: ClipOnPixels(folder).scores for name, folder in tuned.items()},
    }
    world = WorldSet(kind="world", test=arguments.images)
    answers: dict[str, list[Answers]] = {}
    table = [
        "| model | images | clean | with a word | answers the word | signs read |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, scorer, count in [
        *((name, CallableScorer(scores), arguments.images) for name, scores in models.items()),
        (UNTOUCHED + SMALL, small_scorer(clip.scores), SMALL_IMAGES),
        (BLUR + SMALL, small_scorer(blurring), SMALL_IMAGES),
    ]:
        answers[name], _ = score_set(scorer, "world", world, "test", attack=ATTACK, store=store, count=count)
        clean, attacked = rows(answers[name])
        cells = [of(clean, "accuracy"), of(attacked, "accuracy"), of(attacked, "text_confusion_rate")]
        signs = signs_read(scorer, world, store)
        table.append(f"| {name} | {clean['images']} | {' | '.join(cells)} | {signs} |")
        print(table[-1], flush=True)
    lines = [
        "# Baselines that need no tuning",
        "",
        f"{environment('torch', 'open_clip_torch', 'rapidocr', 'onnxruntime')}; {torch.get_num_threads()} thread(s).",
        "",
        f"{arguments.images} test images of the generated world, its CLIP, words pasted by the recipe sign, "
        "95 % bootstrap intervals:",
        "",
        *table,
        "",
        f"The projection removes {removed} direction(s). Differences on the same images, second minus first:",
        "",
        "| first | second | view | accuracy |",
        "| --- | --- | --- | ---: |",
        *differences(answers, [BLUR, LEAST_SQUARES], list(tuned)),
        "",
        "Accuracy on 1000 images of another seed, which are neither scored nor tested (clean, with a word):",
        "",
        *choices(clip, scored),
        "",
        "What the OCR finds, and hides:",
        "",
        "| images | | part hidden | of these, share of pixels | word read | read after the blur |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(line(reading) for reading in readings(reader, world, arguments.photographs, store)),
        "",
        f"The OCR read {reader.images} images in {reader.cpu_s:.0f} s of processor time: "
        f"{reader.cpu_s / reader.images:.2f} s an image ({reader.wall_s / reader.images:.2f} s by the clock).",
    ]
    return "\n".join(lines) + "\n"


def small_scorer(scores: Scores) -> CallableScorer:
    """Return a function as a scorer that gets pixels of the generated world's CLIP: 48 px, words pasted at 48 px."""
    scorer, clip = CallableScorer(scores), load_clip(ModelSettings(architecture="world"))
    scorer.crop, scorer.image_size, scorer.geometry = clip.crop, clip.image_size, clip.geometry
    return scorer


def of(row: Mapping[str, object], measure: str) -> str:
    return f"{row[measure]:.3f} [{row[f'{measure}_low']:.3f}, {row[f'{measure}_high']:.3f}]"


def signs_read(scorer: CallableScorer, world: WorldSet, store: Store) -> str:
    """Return how often the written word is read from images without an object."""
    few = subset(load(scorer, world, store), SIGNS, seed=0)
    signs = source_of(scorer, store).signs(few, "sign", world, seed=0)
    prompts = [[template.format(name) for template in signs.templates] for name in signs.class_names]
    hits = [
        scorer.logits(signs.images[part], prompts).argmax(-1) == signs.labels[part]
        for part in torch.arange(len(signs.labels)).split(64)
    ]
    right = torch.cat(hits).numpy()
    low, high = bootstrap_interval([right])
    return f"{right.mean():.3f} [{low:.3f}, {high:.3f}]"


def differences(answers: Mapping[str, list[Answers]], firsts: list[str], seconds: list[str]) -> list[str]:
    lines = []
    for first in firsts:
        for second in [other for other in (UNTOUCHED, *firsts, *seconds) if other != first]:
            for of_view in compare(answers[first], answers[second])[0]:
                if of_view.measure == "accuracy":
                    interval = f"{of_view.difference:+.3f} [{of_view.low:+.3f}, {of_view.high:+.3f}]"
                    lines.append(f"| {first} | {second} | {of_view.view} | {interval} |")
    return lines


def choices(clip: ClipOnPixels, scored: training_free.Scored) -> list[str]:
    """Return tables of the projection over the number of directions, and of least squares over the ridge."""
    held_back = WorldSet(kind="world", train=1000, seed=1)
    other = training_free.score(clip, held_back, TrainSettings(set="scoring"), "sign", 0)
    directions = training_free.word_directions(scored)
    identity = torch.eye(len(directions))
    removed = range(MOST_REMOVED + 1)
    lines = [
        "| directions removed | " + " | ".join(map(str, removed)) + " |",
        "| --- |" + " ---: |" * len(removed),
        "| | " + " | ".join(both(identity - directions[:, :k] @ directions[:, :k].T, other) for k in removed) + " |",
        "",
        "| ridge | " + " | ".join(map(str, RIDGES)) + " |",
        "| --- |" + " ---: |" * len(RIDGES),
        "| | " + " | ".join(both(training_free.least_squares(scored, ridge=ridge), other) for ridge in RIDGES) + " |",
    ]
    return lines


def both(w: torch.Tensor, other: training_free.Scored) -> str:
    texts = training_free.transformed(w, other.texts).T
    hits = [
        (training_free.transformed(w, images) @ texts).argmax(-1) == other.labels
        for images in (other.clean, other.attacked)
    ]
    return ", ".join(f"{hit.float().mean():.3f}" for hit in hits)


def readings(reader: ocr_blur.Reader, world: WorldSet, photographs: list[str], store: Store) -> list[Reading]:
    """Return what the OCR finds in the generated world, at both sizes, and in photographs."""
    found = []
    for size, scorer in (("224 px", CallableScorer(_no_scores)), ("48 px", small_scorer(_no_scores))):
        source = source_of(scorer, store)
        images = subset(load(scorer, world, store), READ_IMAGES, seed=0)
        attacked = pasted_set(source, images, trained_attack(ATTACK), seed=0).attacked
        assert attacked.written is not None
        found.append(read(reader, f"world, {size}", images.images, None))
        words = [images.class_names[i] for i in attacked.written.tolist()]
        found.append(read(reader, f"world, {size}, with a word", attacked.images, words))
    for named in photographs:
        for name, (settings, split) in read_data([named], "sign").sets.items():
            photos = source_of(CallableScorer(_no_scores), store).load(name, settings, split)
            written = None
            if isinstance(settings, TypographicSet):
                assert photos.written is not None
                written = [photos.class_names[i] for i in photos.written.tolist()]
            found.append(read(reader, f"{name}, 224 px", photos.images, written))
    return found


def read(reader: ocr_blur.Reader, name: str, images: torch.Tensor, written: list[str] | None) -> Reading:
    hidden, before, after = [], [], []
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels.numpy())
        texts = reader.texts(image)
        mask = np.asarray(ocr_blur.mask(image, texts)) > 0
        hidden.append(mask.mean())
        if written is not None:
            before.append(_has(texts, written[i]))
            after.append(_has(reader.texts(ocr_blur.blurred(image, texts)), written[i]))
    some = [share for share in hidden if share > 0]
    return Reading(
        name,
        len(images),
        len(some) / len(images),
        float(np.mean(some)) if some else 0.0,
        float(np.mean(before)) if before else None,
        float(np.mean(after)) if after else None,
    )


def line(reading: Reading) -> str:
    shares = (reading.hidden, reading.area, reading.read, reading.read_after)
    cells = ["" if share is None else f"{share:.3f}" for share in shares]
    return f"| {reading.name} | {reading.images} | {' | '.join(cells)} |"


def source_of(scorer: CallableScorer, store: Store) -> DataSource:
    return DataSource(store, scorer.crop, scorer.image_size, scorer.geometry)


def load(scorer: CallableScorer, world: WorldSet, store: Store) -> ImageSet:
    return source_of(scorer, store).load("world", world, "test")


def _no_scores(images: list[Image.Image], prompts: list[list[str]]) -> None:
    return None


def _has(texts: list[ocr_blur.Text], word: str) -> bool:
    """Return whether a word is read, alone or in a longer text, without regard to case and spaces."""
    wanted = label_form(word).replace(" ", "")
    return any(wanted in label_form(text.words).replace(" ", "") for text in texts)


if __name__ == "__main__":
    main()
