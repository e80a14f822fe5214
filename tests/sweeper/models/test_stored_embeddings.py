"""Stored embeddings of the untouched model after tuning: which stay, matrices that convert them, recall of the rest."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.front.load import load_front
from sweeper.models.export import export_point
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.finished_sweep import SPEC, finished_sweep
from tests.helpers.output import assert_json_fits
from tests.helpers.tiny import parameters, write_clip
from tests.paths import ROOT
from trainables.evaluation import stored
from trainables.models.clip import load_clip
from trainables.models.export import tuned_model
from trainables.models.policy import make_policy
from trainables.models.validity import stored_embeddings
from trainables.settings.task import ModelSettings
from trainables.world.icons import CLASSES
from trainables.world.scenes import scenes

Sweep = tuple[SweepFolder, Spec]
PROMPTS = [f"a photo of a {name}" for name in CLASSES]
SCOPES: list[dict[str, Any]] = [
    {"tune": "transform"},
    {"tune": "transform", "towers": "separate"},
    {"tune": "last_blocks", "blocks": 1},
    {"tune": "visual"},
    {"tune": "all"},
]


@pytest.fixture(scope="module", params=["rank: 12", "towers: separate", "form: residual"])
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Trial 0 tunes the image tower (PAINT), trial 1 a transform."""
    return finished_sweep(tmp_path_factory.mktemp("home"), SPEC.replace("rank: 12", request.param))


def encoded(folder: Path, count: int = 24, *, normalised: bool = True) -> dict[str, np.ndarray]:
    """Embeddings of images of the test world and of prompts, by open_clip alone."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(PROMPTS)
    pictures = [Image.fromarray(pixels) for pixels in scenes("test", 0, count)[0]]
    with torch.inference_mode():
        image = model.eval().encode_image(torch.stack([preprocess(picture) for picture in pictures]))
        text = model.encode_text(tokens)
    sides = {"image": image, "text": text}
    return {side: (F.normalize(rows, dim=-1) if normalised else rows).numpy() for side, rows in sides.items()}


def exported(sweep: Sweep, target: Path, weights: str, strength: float) -> str:
    """Export trial 1 with its matrices; return the card."""
    folder, spec = sweep
    front = load_front(folder, spec, read_trials(folder, spec))
    assert front is not None
    points = [point for point in (*front.points, *front.others) if point.trial == 1]
    point = replace(next(point for point in points if point.weights == weights), strength=strength)
    export_point(folder, spec, front, point, target, index_map=True)
    return (target / "README.md").read_text()


def code_of(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("weights", "strength"), [("last", 1.0), ("last", 0.5), ("last", -0.5), ("averaged", 0.75)])
def test_the_code_in_the_card_converts_an_index(sweep: Sweep, tmp_path: Path, weights: str, strength: float) -> None:
    card = exported(sweep, tmp_path / "out", weights, strength)
    names: dict[str, Any] = {}
    exec(code_of(card)[1], names)
    anew = encoded(tmp_path / "out")
    for normalised in (True, False):
        for side, old in encoded(sweep[0].storage.parent / "clip", normalised=normalised).items():
            np.testing.assert_allclose(names["converted"](old, side), anew[side], atol=1e-5)
    image, text = (names["maps"][side] for side in ("image", "text"))
    assert image.dtype == text.dtype == np.float32 and image.shape == text.shape == (anew["image"].shape[1], 24)
    separate = read_trials(*sweep)[1].parameters.get("towers") == "separate"
    assert np.array_equal(image, text) != separate


def test_the_code_for_faiss_converts_an_index(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    card = exported(sweep, tmp_path / "out", "last", 1.0)
    monkeypatch.chdir(tmp_path)
    stored = encoded(sweep[0].storage.parent / "clip")["image"]
    index = faiss.IndexFlatIP(stored.shape[1])
    index.add(stored)
    faiss.write_index(index, "old.index")
    names: dict[str, Any] = {}
    for code in code_of(card)[1:]:
        exec(code, names)
    new, anew = faiss.read_index("new.index"), encoded(tmp_path / "out")
    np.testing.assert_allclose(new.reconstruct_n(0, new.ntotal), anew["image"], atol=1e-5)
    similarities = anew["text"] @ anew["image"].T
    np.testing.assert_allclose(new.search(anew["text"], 3)[0], -np.sort(-similarities)[:, :3], atol=1e-5)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("text", ["frozen", "trained"])
@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: "-".join(map(str, scope.values())))
def test_what_is_said_of_stored_embeddings_is_so(
    scope: dict[str, Any], text: str, strength: float, tmp_path: Path
) -> None:
    """Every trained parameter is changed, as by training."""
    settings = ModelSettings.model_validate(
        {"architecture": f"local-dir:{write_clip(tmp_path / 'clip', 'vit')}", "text": text}
    )
    clip, of_trial = load_clip(settings), parameters(**scope)
    policy = make_policy(clip, of_trial, embeddings=torch.eye(clip.embed_dim))
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: value.detach() + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in policy.tuned().items()
    }
    tuned = tuned_model(clip, policy, weights, strength)
    images = clip.pixels(torch.randint(0, 256, (3, 32, 32, 3), generator=generator, dtype=torch.uint8))
    tokens = clip.tokens(PROMPTS)
    said = stored_embeddings(of_trial, model_trains_text=text == "trained", strength=strength)
    with torch.inference_mode():
        sides = [
            (said.images, clip.model.encode_image(images), tuned.model.encode_image(images), "image"),
            (said.texts, clip.model.encode_text(tokens), tuned.model.encode_text(tokens), "text"),
        ]
    for validity, old, new, side in sides:
        assert (validity == "unchanged") == torch.equal(old, new), side
        assert validity != "one matrix product" or tuned.index_map is not None, side


def test_the_docs_say_the_same() -> None:
    page = (ROOT / "docs" / "cure_costs.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", page.partition("## Stored embeddings")[2], re.MULTILINE)
    told = {}
    for scopes, images, texts in rows:
        for tune in re.findall(r"`(transform|last_blocks|visual|all)`", scopes):
            told[tune, "trained" if "text: trained" in scopes else "frozen"] = (images, texts)
    for scope in SCOPES:
        for text in ("frozen", "trained"):
            said = stored_embeddings(parameters(**scope), model_trains_text=text == "trained")
            assert told.get((scope["tune"], text), told[scope["tune"], "frozen"]) == (said.images, said.texts)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Trial 0 tunes the image tower (PAINT), trial 1 a transform of rank 12."""
    return finished_sweep(tmp_path_factory.mktemp("towers"))


def run(sweep: Sweep, *arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--storage", str(sweep[0].storage)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def measured(sweep: Sweep, *arguments: str) -> dict[str, dict[str, Any]]:
    printed = run(sweep, "evaluate", *arguments, "--index", "--format", "json").stdout
    rows = assert_json_fits("evaluate --index", printed)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    return {row["measure"]: {name: row[name] for name in ("view", "images", "value", "low", "high")} for row in rows}


def test_export_says_what_to_do_with_an_index(towers: Sweep, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="trial 0 tunes `visual`.* embed the images again.* evaluate DIR --index"
    ) as error:
        run(towers, "export", "demo", str(tmp_path / "tower"), "--pick", "0", "--index-map", "--no-register")
    assert "\n" not in str(error.value) and not (tmp_path / "tower").exists()
    with pytest.raises(UserError, match="stored embeddings stay valid"):
        run(
            towers,
            "export",
            "demo",
            str(tmp_path / "t"),
            "--pick",
            "0",
            "--strength",
            "0",
            "--index-map",
            "--no-register",
        )

    told = run(towers, "export", "demo", str(tmp_path / "tower"), "--pick", "0", "--no-register")
    assert "stored embeddings of the untouched model: images: embed again; texts: unchanged\n" in told.stderr
    card = (tmp_path / "tower" / "README.md").read_text()
    assert "| images | embed again |" in card and "| texts | unchanged |" in card
    told = run(towers, "export", "demo", str(tmp_path / "map"), "--pick", "1", "--index-map", "--no-register")
    assert "images: one matrix product; texts: one matrix product\n" in told.stderr and "index_map.npz" in told.stderr
    assert told.stdout == f"local-dir:{tmp_path / 'map'}\n"


def test_old_images_under_new_queries(towers: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of the 40 test images from open_clip alone; the same in any batches, however the model is named."""
    run(towers, "export", "demo", str(tmp_path / "tower"), "--pick", "0", "--no-register")
    measures = measured(towers, "demo:0")
    assert {(row["view"], row["images"]) for row in measures.values()} == {("clean", 40)}
    clip = towers[0].storage.parent / "clip"
    old, new = (encoded(folder, 40) for folder in (clip, tmp_path / "tower"))
    labels = np.arange(40) % len(CLASSES)

    def first(queries: np.ndarray, images: np.ndarray, itself: bool = False) -> list[set[int]]:
        similarities = queries @ images.T - (10 * np.eye(len(images)) if itself else 0)
        return [set(row) for row in np.argsort(-similarities, axis=1)[:, :10].tolist()]

    def recall(queries: np.ndarray, itself: bool = False) -> float:
        pairs = zip(first(queries, old["image"], itself), first(queries, new["image"], itself), strict=True)
        return float(np.mean([len(in_old & in_new) / 10 for in_old, in_new in pairs]))

    def accuracy(texts: np.ndarray, images: np.ndarray) -> float:
        return float(((images @ texts.T).argmax(1) == labels).mean())

    expected = {
        "text_recall_at_10": recall(new["text"]),
        "image_recall_at_10": recall(new["image"], True),
        "cosine": float((old["image"] * new["image"]).sum(1).mean()),
        "accuracy_old": accuracy(old["text"], old["image"]),
        "accuracy_mixed": accuracy(new["text"], old["image"]),
        "accuracy_new": accuracy(new["text"], new["image"]),
    }
    assert {name: row["value"] for name, row in measures.items()} == pytest.approx(expected, abs=1e-5)
    assert 0 < expected["text_recall_at_10"] < 1 and expected["cosine"] < 0.9999
    monkeypatch.setattr(stored, "SIMILARITY_BYTES", 4 * 40 * 7)
    folder, spec = str(tmp_path / "tower"), str(tmp_path / "tower" / "spec.yaml")
    assert measured(towers, folder) == measures
    assert measured(towers, folder, "--reference", str(clip), "--data", spec) == measures


def test_the_same_model_finds_everything(towers: Sweep) -> None:
    clip = str(towers[0].storage.parent / "clip")
    measures = measured(towers, clip, "--reference", clip, "--data", "world", "--images", "30")
    assert measures["text_recall_at_10"] == {"view": "clean", "images": 30, "value": 1.0, "low": 1.0, "high": 1.0}
    assert measures["image_recall_at_10"]["value"] == 1.0
    assert measures["cosine"]["value"] == pytest.approx(1.0)
    assert measures["accuracy_old"] == measures["accuracy_mixed"] == measures["accuracy_new"]


def test_the_table_fits_a_terminal(towers: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(towers, "evaluate", "demo:0", "--index").stdout.splitlines()
    assert len(lines) == 7 and max(map(len, lines)) <= 80 and lines[1].startswith("world/test  text recall@10 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo:1"], "queries have width 12 and stored embeddings 24.*--index-map"),
        (["demo:untouched"], "the untouched model is the one"),
        (["demo:0", "--data", "world"], "demo:0 is a point of a sweep: export it"),
        (["world", "--data", "world"], "world is neither .* --reference"),
        (["world", "--reference", "world"], "world is neither .* --data"),
        (["os.path:join", "--reference", "world", "--data", "world"], "os.path:join is a Python function"),
        (["world", "--reference", "world", "--data", "world", "--images", "9"], "has 9 images; recall@10 needs more"),
        (["demo:0", "--variants"], "--index goes with"),
    ],
)
def test_mistakes(towers: Sweep, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(towers, "evaluate", *arguments, "--index")
