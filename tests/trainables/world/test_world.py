from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trainables
from trainables.attack.rendering import generator
from trainables.world import captions, pretrain, vocabulary
from trainables.world.files import WORLD_MODEL_FOLDER
from trainables.world.icons import CLASSES, ICONS
from trainables.world.scenes import (
    COLOURS,
    SIDE_PX,
    Content,
    content_of,
    empty_scenes,
    render,
    render_all,
    scene,
    scenes,
)


def digests(images: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_scenes_do_not_depend_on_worker_count_or_length() -> None:
    alone, labels = scenes("train", 3, 520)
    together, _ = scenes("train", 3, 520, processes=2)
    assert alone.shape == (520, SIDE_PX, SIDE_PX, 3) and alone.dtype == np.uint8
    assert (alone == together).all()
    assert (scenes("train", 3, 10)[0] == alone[:10]).all()
    assert (scene("train", 3, 7) == alone[7]).all()
    assert labels.dtype == np.int64 and labels.tolist() == [index % 20 for index in range(520)]
    assert scenes("train", 3, 0)[0].shape == (0, SIDE_PX, SIDE_PX, 3)


def test_splits_seeds_and_pretraining_share_no_image() -> None:
    pretraining = render_all("pretraining", 0, captions.contents(200, generator(0)))
    parts = [scenes(split, seed, 200)[0] for split in ("train", "validation", "test") for seed in (0, 1)]
    parts += [pretraining, empty_scenes("train", 0, 200), empty_scenes("test", 0, 200)]
    together = [digest for part in parts for digest in digests(part)]
    assert len(set(together)) == len(together)


def test_two_colours_in_every_class_and_they_show() -> None:
    count = 2 * len(CLASSES) * 3
    assert len(COLOURS) == 2
    assert len({content_of(index) for index in range(count)}) == 2 * len(CLASSES)
    for label in range(len(CLASSES)):
        red, blue = (render(Content(label, colour), generator("colour", label)).astype(int) for colour in (0, 1))
        changed = np.abs(red - blue).max(-1) > 80
        assert changed.sum() > 20, CLASSES[label]
        assert np.mean((red - blue)[changed][:, 0]) > 40 > -40 > np.mean((red - blue)[changed][:, 2])


def test_every_class_has_a_shape_of_its_own() -> None:
    for name, polygons in ICONS.items():
        painted = [point for polygon in polygons if not polygon.hole for point in polygon.points]
        assert all(max(abs(x), abs(y)) <= 1 for x, y in painted), name
    # One generator: place, colour, background and noise are the same.
    drawn = [render(Content(label), generator("shape")).astype(int) for label in range(len(CLASSES))]
    for label, image in enumerate(drawn):
        for other in drawn[:label]:
            assert (np.abs(image - other).max(-1) > 60).sum() > 15
    assert len(CLASSES) == 20


def test_words_and_captions_of_the_pretraining() -> None:
    rng = generator("captions", 0)
    shown = captions.contents(3000, rng)
    blank = np.full((SIDE_PX, SIDE_PX, 3), 128, np.uint8)
    drawn = [captions.draw_example(blank, content, rng, captions.Mix()) for content in shown]
    empty = [content.label is None for content in shown]
    written = [(image != blank).any() for image, _ in drawn]
    assert np.mean(empty) == pytest.approx(0.2, abs=0.03)
    assert all(has_word for has_word, is_empty in zip(written, empty, strict=True) if is_empty)
    on_objects = [has_word for has_word, is_empty in zip(written, empty, strict=True) if not is_empty]
    assert np.mean(on_objects) == pytest.approx(0.6, abs=0.04)
    known = set(captions.vocabulary())
    assert all(set(caption.split()) <= known for _, caption in drawn)
    named = [
        CLASSES[content.label] in caption.split() or (COLOURS[content.colour] in caption.split())
        for content, (_, caption), has_word in zip(shown, drawn, written, strict=True)
        if content.label is not None and not has_word
    ]
    assert all(named), "without a word the caption is about the object"


def test_reduced_tokenizer_cuts_words_as_the_full_one(tmp_path: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    path = tmp_path / vocabulary.MERGES_FILE
    vocabulary.write_merges(path, captions.vocabulary())
    shipped = WORLD_MODEL_FOLDER / vocabulary.MERGES_FILE
    assert gzip.decompress(path.read_bytes()) == gzip.decompress(shipped.read_bytes())
    full, reduced = SimpleTokenizer(), SimpleTokenizer(bpe_path=str(shipped))
    assert reduced.vocab_size < 1000 < full.vocab_size
    for word in [*captions.vocabulary(), "a red star with the word lamp"]:
        assert [full.decoder[token] for token in full.encode(word)] == [
            reduced.decoder[token] for token in reduced.encode(word)
        ]
    assert reduced.decode(reduced.encode("zebra")).strip() == "zebra"


@pytest.mark.drill
def test_pretraining_refuses_the_unfinished(tmp_path: Path) -> None:
    target = tmp_path / "model"
    command = [sys.executable, "-m", "trainables.world.pretrain", "--output", str(target), "--steps", "2"]
    done = subprocess.run([*command, "--threads", "1", "--scenes", "200"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "step 2 of 2" in done.stderr and "reads in [0.85, 1.0]" in done.stderr.splitlines()[-1]
    assert not target.exists()


def test_check_names_what_is_missed() -> None:
    fit = {"clean": 0.95, "attacked": 0.3, "says_word": 0.3, "reads": 0.9}
    pretrain.check(fit)
    for name, value in {"clean": 0.89, "attacked": 0.41, "says_word": 0.24, "reads": 0.84}.items():
        with pytest.raises(ValueError, match=f"required: {name} in"):
            pretrain.check({**fit, name: value})


def test_shipped_model_is_accurate_reads_and_is_fooled() -> None:
    values = pretrain.measure(WORLD_MODEL_FOLDER, 1000, seed=77)
    pretrain.check(values)


LOAD_AND_ANSWER = """
import sys
import numpy as np, open_clip, torch
from PIL import Image
folder, given, got = sys.argv[1:]
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
tokenizer = open_clip.get_tokenizer("local-dir:" + folder, bpe_path=folder + "/bpe_simple_vocab.txt.gz")
assert not any(name.startswith("trainables") for name in sys.modules)
data = np.load(given)
model.eval()
with torch.inference_mode():
    images = torch.stack([preprocess(Image.fromarray(image)) for image in data["images"]])
    prompts = model.encode_text(tokenizer(["a photo of a " + name for name in data["names"]]), normalize=True)
    answers = (model.encode_image(images, normalize=True) @ prompts.T).argmax(1).numpy()
np.savez(got, images=images.numpy(), answers=answers)
"""


def test_shipped_model_loads_through_open_clip_alone_and_offline(tmp_path: Path) -> None:
    """Its own transform of Pillow images gives the pixels that it was trained with, and the answers are right."""
    images, labels = scenes("validation", 5, 200)
    given, got = tmp_path / "given.npz", tmp_path / "got.npz"
    np.savez(given, images=images, names=np.array(CLASSES))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", LOAD_AND_ANSWER, str(WORLD_MODEL_FOLDER), str(given), str(got)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    result = np.load(got)
    assert np.mean(result["answers"] == labels) >= 0.85
    assert np.abs(result["images"] - pretrain.pixels_of(images).numpy()).max() < 1e-5


def test_package_stays_small() -> None:
    folder = Path(trainables.__file__).parent
    data = [path for part in ("attack/fonts", "world/model") for path in (folder / part).iterdir()]
    assert sum(path.stat().st_size for path in data) < 16e6
    assert {path.name for path in WORLD_MODEL_FOLDER.iterdir()} == {
        "open_clip_model.safetensors",
        "open_clip_config.json",
        vocabulary.MERGES_FILE,
    }


def test_importing_the_world_is_light() -> None:
    modules = "trainables.world.scenes, trainables.world.captions, trainables.world.files"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
