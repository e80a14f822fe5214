"""Makes the model of the generated world: ``python -m trainables.world.pretrain [--output DIR]``.

A tiny ModifiedResNet CLIP of open_clip's class learns contrastively from scenes and captions (see ``captions``). Its
folder loads through open_clip alone. At the end the written model is measured on new scenes and refused if it is
inaccurate, cannot read or is not fooled by writing. Reading is learnt late and suddenly: after too few steps the model
looks robust because it cannot read.

Takes minutes on two cores. Thread count and CPU change the last digits of the first steps and thereby all weights, but
not whether the model passes the checks.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainables.attack.rendering import RECIPES, Variant, attack_image, generator, write
from trainables.numerics import flushed_denormals, thread_count
from trainables.world.captions import OBJECT_TEMPLATES, Mix, contents, draw_example, vocabulary
from trainables.world.files import WORLD_MODEL_FOLDER
from trainables.world.icons import CLASSES
from trainables.world.scenes import SIDE_PX, empty_scenes, render_all, scenes
from trainables.world.vocabulary import MERGES_FILE, write_merges

if TYPE_CHECKING:
    from open_clip.model import CLIP

log = logging.getLogger("pretrain")

SCENES = 16_000
STEPS = 1500
BATCH_SIZE = 256
LEARNING_RATE = 2.5e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.1
MAX_LOGIT_SCALE = 100.0
MEAN, STD = 0.45, 0.25

CONTEXT_LENGTH = 14
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE_PX, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "width": 96, "heads": 4, "layers": 2},
}

PLAIN_ATTACK = Variant(style=RECIPES["sign"])
CHECK_SCENES = 2000
CHECK_SEED = 20_250_101
"""Seed of the scenes for the final measurement; neither pretraining nor the default of world sets uses it."""
REQUIRED = {"clean": (0.90, 1.0), "attacked": (0.0, 0.40), "says_word": (0.25, 1.0), "reads": (0.85, 1.0)}
"""Smallest and largest acceptable value of each measurement."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.world.pretrain", description="Makes the generated world's CLIP."
    )
    parser.add_argument("--output", type=Path, default=WORLD_MODEL_FOLDER, help="folder for the model [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH_SIZE} images with captions [%(default)s]")
    parser.add_argument(
        "--scenes", type=int, default=CHECK_SCENES, help="that the model is measured on at the end [%(default)s]"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)

    with flushed_denormals(), thread_count(arguments.threads), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_merges(folder / MERGES_FILE, vocabulary())
        save(pretrain(folder, arguments.seed, arguments.steps, arguments.threads), folder)
        values = measure(folder, arguments.scenes, processes=arguments.threads)
        log.info("measured on fresh scenes: %s", _format(values))
        try:
            check(values)
        except ValueError as error:
            sys.exit(str(error))
        arguments.output.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            shutil.copyfile(path, arguments.output / path.name)


def pretrain(folder: Path, seed: int, steps: int, threads: int) -> CLIP:
    """Return a CLIP trained from random weights; the tokenizer's merges are read from ``folder``."""
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer

    rng = generator("pretraining", seed)
    shown = contents(min(SCENES, steps * BATCH_SIZE), rng)
    images = render_all("pretraining", seed, shown, threads)
    tokenizer = SimpleTokenizer(bpe_path=str(folder / MERGES_FILE), context_length=CONTEXT_LENGTH)
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        model = CLIP(**model_config(tokenizer.vocab_size))
    model.visual.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
    clip_loss = ClipLoss()
    mix = Mix()
    order = np.zeros(0, np.int64)
    started_s, losses = time.monotonic(), []
    model.train()
    for step in range(steps):
        if len(order) < BATCH_SIZE:
            order = rng.permutation(len(shown))
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        examples = [draw_example(images[index], shown[index], rng, mix) for index in batch]
        captions, caption_of = np.unique([caption for _, caption in examples], return_inverse=True)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps)
        pixels = pixels_of(np.stack([image for image, _ in examples]))
        image_features = model.encode_image(pixels, normalize=True)
        text_features = model.encode_text(tokenizer(captions.tolist()), normalize=True)[torch.from_numpy(caption_of)]
        loss = clip_loss(image_features, text_features, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, math.log(MAX_LOGIT_SCALE))
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            elapsed_s = time.monotonic() - started_s
            log.info("step %d of %d, %.0f s, loss %.3f", step + 1, steps, elapsed_s, np.mean(losses[-100:]))
    return model.eval()


def model_config(vocab_size: int) -> dict[str, Any]:
    """Return ``model_cfg`` of open_clip."""
    return {**MODEL, "text_cfg": {**MODEL["text_cfg"], "vocab_size": vocab_size}}  # type: ignore[dict-item]


def save(model: CLIP, folder: Path) -> None:
    """Write weights (fp16) and configuration beside the merges, for ``local-dir:`` of open_clip."""
    from safetensors.torch import save_file

    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    preprocess = {
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "size": [SIDE_PX, SIDE_PX],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    config = {"model_cfg": model_config(model.vocab_size), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def measure(
    folder: Path,
    count: int = CHECK_SCENES,
    *,
    seed: int = CHECK_SEED,
    variant: Variant = PLAIN_ATTACK,
    processes: int = 1,
) -> dict[str, float]:
    """Return shares of ``count`` new scenes of 20 classes, for the model in ``folder``, loaded through open_clip.

    Returns:
        ``clean``: correct answers; ``attacked``: correct answers with a wrong class name written on the scene;
        ``says_word``: the written class name (of two, the first) is the answer; ``reads``: the word on a scene without
        an object is the answer.
    """
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / MERGES_FILE))
    with torch.inference_mode():
        prompts = model.encode_text(tokenizer([OBJECT_TEMPLATES[0].format(name) for name in CLASSES]), normalize=True)

    def answers(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batches = [model.encode_image(pixels_of(part), normalize=True) for part in np.array_split(images, 8)]
            return (torch.cat(batches) @ prompts.T).argmax(1).numpy()

    images, labels = scenes("test", seed, count, processes=processes)
    attacked, written = [], []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        rng = generator("pretraining check", seed, index)
        changed, (first, *_) = attack_image(image, int(label), CLASSES, variant, rng)
        attacked.append(changed)
        written.append(first)
    signs, words = empty_scenes("test", seed, count, processes=processes), []
    for index, image in enumerate(signs):
        rng = generator("pretraining sign", seed, index)
        words.append(int(rng.integers(len(CLASSES))))
        signs[index] = write(image, [CLASSES[words[-1]]] * variant.style.words, variant.style, rng)
    answered = answers(np.stack(attacked))
    return {
        "clean": float(np.mean(answers(images) == labels)),
        "attacked": float(np.mean(answered == labels)),
        "says_word": float(np.mean(answered == np.array(written))),
        "reads": float(np.mean(answers(signs) == np.array(words))),
    }


def check(values: dict[str, float]) -> None:
    """Check that the model is accurate, reads, and is misled by writing.

    Raises:
        ValueError: it fails one of these.
    """
    missed = [name for name, (low, high) in REQUIRED.items() if not low <= values[name] <= high]
    if missed:
        rules = ", ".join("{} in [{}, {}]".format(name, *REQUIRED[name]) for name in missed)
        raise ValueError(f"the model is not fit for its role: {_format(values)}; required: {rules}. Train it longer")


def _parameter_groups(model: CLIP) -> list[dict[str, Any]]:
    """Return the groups with and without weight decay, which is for matrices and kernels only, as in open_clip."""
    named = [(value.ndim >= 2 and "positional" not in name, value) for name, value in model.named_parameters()]
    decayed, free = ([value for decays, value in named if decays is wanted] for wanted in (True, False))
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}]


def _learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))


def pixels_of(images: np.ndarray) -> Tensor:
    """Return images, uint8 (N, H, W, 3), as float32 (N, 3, H, W), normalised, channels last in memory."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(MEAN).div_(STD)
    return pixels.contiguous(memory_format=torch.channels_last)


def _format(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


if __name__ == "__main__":
    main()
