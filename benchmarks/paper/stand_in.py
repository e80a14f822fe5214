"""Stand-ins for the weights and sets of the paper's table: drawn images in the published layouts, and a small CLIP.

They let the whole protocol run where nothing can be downloaded. What the table says of them means nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper import layouts

TRAIN, TEST = 40, 3
"""Number of images of each class: of ImageNet-100 for training, and of every split of the nine sets."""

UNSPLIT = 10
"""Number of images of each class of sets without published splits, of which 30 % are for test."""

PHOTOGRAPHS = 3
"""Number of images of each class of the real typographic sets."""

WORDNET = (
    "n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331", "n01498041", "n01514668",
    "n01514859", "n01518878", "n01530575", "n01531178", "n01532829", "n01534433", "n01537544", "n01558993",
    "n01560419", "n01580077", "n01582220", "n01592084",
)  # fmt: skip
"""The first ids of ImageNet, for as many drawn classes."""

FREE_NAMES = (
    "caltech101", "oxford_pets", "stanford_cars", "food101", "fgvc_aircraft", "dtd", "sun397",
)  # fmt: skip
"""Sets whose files hold the class names."""


def write_stand_ins(folder: Path, changes: dict[str, Any]) -> None:
    """Write every set of the table, and a model, into ``folder``, and add what the spec needs for them to ``changes``.

    Images are scenes of the generated world, which the model knows; every set has its own. A folder that is complete
    is left as it is.
    """
    from trainables.world.icons import CLASSES

    words = list(CLASSES)
    if not (folder / "complete").exists():
        _write(folder, words)
        (folder / "complete").touch()
    # Every name is one of the small model's vocabulary, which knows no "type of pet".
    templates = ["a photo of a {}"]
    names = [*FREE_NAMES, "imagenet100", "flowers102", "eurosat", "rta100", "paint", "disentangling", "scam"]
    changes |= {f"sets.{name}.templates": templates for name in names}
    changes |= {
        "model": {"architecture": f"local-dir:{folder / 'weights'}"},
        "sets.imagenet100.class_names": str(folder / "imagenet100" / "Labels.json"),
        "sets.flowers102.classes": [str(number + 1) for number in range(len(words))],
        "sets.flowers102.class_names": words,
        "sets.eurosat.class_names": words[: len(layouts.EUROSAT)],
        "attack.recipe": "sign",
        "evaluate.search.images": 120,
        "evaluate.front": {"strengths": [0.5, 1.0]},
        "parameters.learning_rate": 5e-4,
        "paint.learning_rate": 1e-3,
        "training.global_batch_size": 64,
    }


def _write(folder: Path, words: list[str]) -> None:
    import trainables.world

    shutil.rmtree(folder, ignore_errors=True)
    assert trainables.world.__file__ is not None
    shutil.copytree(Path(trainables.world.__file__).parent / "model", folder / "weights")
    layouts.write_imagenet_100(folder / "imagenet100", WORDNET, _drawn(0), train=TRAIN, test=TEST)
    labels = dict(zip(WORDNET, words, strict=True))
    (folder / "imagenet100" / "Labels.json").write_text(json.dumps(labels), encoding="utf-8")
    layouts.write_caltech101(folder, words, _drawn(1), images=UNSPLIT)
    layouts.write_oxford_pets(folder, words, _drawn(2), images=TEST)
    layouts.write_stanford_cars(folder, words, _drawn(3), images=TEST)
    layouts.write_flowers102(folder, len(words), _drawn(4), images=TEST)
    layouts.write_food101(folder, words, _drawn(5), images=TEST)
    layouts.write_fgvc_aircraft(folder, words, _drawn(6), images=TEST)
    layouts.write_dtd(folder, words, _drawn(7), images=TEST)
    layouts.write_sun397(folder, words, _drawn(8), images=UNSPLIT)
    layouts.write_eurosat(folder, _drawn(9), images=UNSPLIT)
    for seed, name in ((10, "rta100"), (11, "paint")):
        pairs, _, attacked = _photographs(seed, words)
        layouts.write_labelled(folder / name, pairs, attacked)
    pairs, _, attacked = _photographs(12, words)
    layouts.write_disentangling(folder / "disentangling", pairs, attacked)
    pairs, clean, attacked = _photographs(13, words)
    layouts.write_scam(folder / "scam", pairs, clean, attacked)


def _drawn(seed: int) -> layouts.Draw:
    """Return a function that draws scenes of the world with this seed."""
    from trainables.world.icons import CLASSES
    from trainables.world.scenes import scene

    def draw(split: str, label: int, number: int) -> np.ndarray:
        assert split in ("train", "validation", "test")
        return scene(split, seed, number * len(CLASSES) + label)  # type: ignore[arg-type]

    return draw


def _photographs(seed: int, words: list[str]) -> tuple[list[tuple[str, str]], list[np.ndarray], list[np.ndarray]]:
    """Return pairs of true and written word without repetition, and the scenes without and with the word."""
    from trainables.attack.rendering import RECIPES, Variant, attack_image, generator

    draw, variant = _drawn(seed), Variant(style=RECIPES["sign"])
    scenes: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    for number in range(PHOTOGRAPHS):
        for label, word in enumerate(words):
            clean = draw("test", label, number)
            attacked, written = attack_image(clean, label, words, variant, generator("stand-in", seed, label, number))
            scenes.setdefault((word, words[written[0]]), (clean, attacked))
    return list(scenes), [clean for clean, _ in scenes.values()], [attacked for _, attacked in scenes.values()]
