"""The specs that come with the project, and the spec a user with two nodes and own data would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sweeper.errors import UserError
from sweeper.spec.middle import anchors as anchors_of
from sweeper.spec.spec import Spec, load_spec, spec_type
from sweeper.spec.yaml_document import Document
from tests.paths import ROOT
from trainables.settings.parameters import Parameters
from trainables.settings.task import absolute_paths

FOLDER = ROOT / "search_spaces"
SWEEPS = ("paper_beta", "paper_lambda", "paper_data_size", "paper_copies")
LEARNING_TO = {"dpo": 1.0, "ipo": 0.01, "kto": 1.5}
"""The authors' beta of each objective."""


def read(path: Path) -> Spec:
    """A spec as far as it can be read without the images it names."""
    data = absolute_paths({"name": path.stem, **Document(path).data}, path.parent)
    read = spec_type(data.get("task", "typographic"))
    return read.model_validate_json(json.dumps(data), strict=True, context={"embed_dim": 512})


def test_every_spec_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    files = sorted(FOLDER.rglob("*.yaml"))
    assert {file.stem for file in files} == {
        "quickstart", "typo", "attribute_quickstart", "gender", "paper_table", *SWEEPS,
    }  # fmt: skip
    assert {file.stem for file in (FOLDER / "reduced").iterdir()} == {"typo", *SWEEPS}
    for file in files:
        spec = read(file)
        for point in spec.written_points:
            Parameters.model_validate(spec.parameters.place(point).parameters)
        if spec.model.architecture == "world":
            loaded = load_spec(file)
            assert loaded.name == (file.stem if file.parent == FOLDER else f"{file.stem}-reduced")


# What the scripts train_serach_*.py and zeroshut_*.py of the authors' repository (74fac7a) loop over.
BETAS = [0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5]
LAMBDAS = [0.01, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]
IMAGES = [1000, 5000, 10000, 20000, 50000]
COPIES = [1, 3, 5, 10]
SWEPT: dict[str, tuple[str, list[Any], set[str]]] = {
    "paper_beta": ("beta", BETAS, {"dpo", "ipo", "kto"}),
    "paper_lambda": ("lambda_reg", LAMBDAS, {"dpo", "ipo", "kto", "cross_entropy"}),
    "paper_data_size": ("images", IMAGES, {"dpo", "ipo", "kto", "cross_entropy"}),
    "paper_copies": ("copies", COPIES, {"dpo", "ipo", "kto", "cross_entropy"}),
}


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("reduced", [False, True])
def test_the_papers_sweeps_are_the_authors_grids(name: str, reduced: bool) -> None:
    spec = read(FOLDER / ("reduced" if reduced else "") / f"{name}.yaml")
    swept, values, objectives = SWEPT[name]
    trials = spec.chosen()
    assert {trial["objective"] for trial in trials} == objectives
    assert spec.search.trials == 1 + len(trials) and spec.paint is not None
    for objective in objectives:
        own = [trial for trial in trials if trial["objective"] == objective]
        if (name, reduced) == ("paper_data_size", True):
            assert [trial[swept] for trial in own] == [64, 128, 256, 512, 1024]
        else:
            assert [trial[swept] for trial in own] == values
        others = [{key: value for key, value in trial.items() if key != swept} for trial in own]
        assert all(other == others[0] for other in others)
        if swept != "beta":
            assert others[0].get("beta") == LEARNING_TO.get(objective)
    assert spec.train.copies >= max(trial.get("copies", 1) for trial in trials)


def test_the_papers_sweeps_have_the_authors_settings() -> None:
    for name in SWEEPS:
        spec = read(FOLDER / f"{name}.yaml")
        training = spec.training
        assert (spec.model.architecture, spec.model.pretrained) == ("ViT-B-32-quickgelu", "openai")
        assert (training.optimizer, training.epochs, training.warmup_share) == ("adamax", 3, 0.0)
        assert training.global_batch_size == (64 if name == "paper_data_size" else 512)
        assert (training.precision, training.averaging_beta, spec.attack.recipe) == ("fp32", 0.7, "defense_prefix")
        assert {trial["learning_rate"] for trial in spec.chosen()} == {2e-5}
        assert {trial["tune"] for trial in spec.chosen()} == {"visual"}
        assert spec.train.set == "food101" and spec.evaluate.test.sets == ["food101", "sun397"]


def test_the_papers_table_has_the_authors_settings_and_every_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    spec = read(FOLDER / "paper_table.yaml")
    trials = spec.chosen()
    settings = {(trial["objective"], trial.get("beta"), trial["lambda_reg"]) for trial in trials}
    assert settings == {
        ("cross_entropy", None, 0.0), ("cross_entropy", None, 1.0), ("dpo", 1.0, 1.0), ("ipo", 0.01, 1.0),
        ("kto", 1.5, 1.0),
    }  # fmt: skip
    assert len(trials) == 5 and spec.search.trials == 6 and spec.paint is not None and spec.limits.weights == "all"
    assert {(trial["learning_rate"], trial["tune"]) for trial in trials} == {(2e-5, "visual")}
    assert (spec.model.architecture, spec.model.pretrained, spec.model.text) == (
        "ViT-B-32-quickgelu", "openai", "frozen",
    )  # fmt: skip
    training = spec.training
    assert (training.optimizer, training.epochs, training.global_batch_size) == ("adamax", 3, 512)
    assert (training.precision, training.averaging_beta, spec.train.copies) == ("fp32", 0.7, 1)
    measured = set(spec.evaluate.test.sets)
    assert measured == set(spec.sets) and len(measured) == 14
    assert {getattr(own, "dataset", own.kind) for own in spec.sets.values()} == {
        "caltech101", "oxford_iiit_pet", "stanford_cars", "flowers102", "food101", "fgvc_aircraft", "dtd", "sun397",
        "eurosat", "image_folder", "rta100", "paint", "disentangling", "scam",
    }  # fmt: skip


SECTION_7 = """\
# yaml-language-server: $schema=sweeper.schema.json
name: in100-b16
task: typographic
model: {architecture: ViT-B-16, pretrained: epoch_12.pt, quick_gelu: false, text: frozen}
sets:
  in100: {kind: image_folder, train: [in100/train.X1, in100/train.X2], test: in100/val.X,
          validation: {from: train, per_class: 1, seed: 0}, class_names: in100/Labels.json,
          templates: ["a photo of a {}."]}
  rta:   {kind: rta100, path: rta100}
train: {set: in100, classes: all, copies: 3}
attack: {recipe: defense_prefix}
evaluate:
  search: {sets: [in100/validation], images: 5000}
  front:  {strengths: [0.2, 0.4, 0.6, 0.8, 1.0]}
  test:   {sets: [in100/test, rta]}
goals:
  clean_accuracy:  {direction: maximize, floor: untouched - 0.05}
  robust_accuracy: {direction: maximize}
parameters:
  objective: {choices: [dpo, ipo, kto, cross_entropy]}
  beta:
    - {when: {objective: [dpo, kto]}, low: 0.05, high: 5.0, log: true}
    - {when: {objective: ipo}, low: 0.005, high: 0.5, log: true}
  lambda_reg: {low: 0.01, high: 10.0, log: true}
  tune: {choices: [transform, last_blocks, visual]}
  blocks: {choices: [1, 2, 4], when: {tune: last_blocks}}
  rank: {low: 16, high: embed_dim, log: true, when: {tune: transform}}
  learning_rate:
    - {when: {tune: transform}, low: 1e-4, high: 1e-1, log: true}
    - {when: {tune: [last_blocks, visual]}, low: 1e-6, high: 1e-4, log: true}
  weight_decay: 0.0
points: [{objective: kto, beta: 1.5, lambda_reg: 1.0, tune: visual, learning_rate: 2e-5}]
search: {sampler: tpe, trials: 64, seed: 0}
stopping: {kind: none}
training: {epochs: 3, global_batch_size: 512, optimizer: adamax, precision: auto}
resources: {workers_per_trial: 1, gpus_per_worker: 1}
limits: {max_failed_share: 0.2, trial_hours: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0)

    def save(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)

    for part in ("train.X1", "train.X2", "val.X"):
        for name in ("n01440764", "n02084071"):
            for number in range(2):
                save(tmp_path / "in100" / part / name / f"{part}_{number}.JPEG")
    (tmp_path / "in100" / "Labels.json").write_text('{"n01440764": "tench", "n02084071": "dog"}')
    for name in ("label=dog_text=eraser", "label=tennis ball_text=dog"):
        save(tmp_path / "rta100" / f"{name}.jpg")
    (tmp_path / "epoch_12.pt").write_bytes(b"weights")
    (tmp_path / "spec.yaml").write_text(SECTION_7)
    return tmp_path


def test_a_spec_with_everything_is_read_as_written(folder: Path) -> None:
    spec = load_spec(folder / "spec.yaml")
    written = yaml.safe_load(SECTION_7)
    assert (spec.name, spec.search.trials, spec.limits.trial_hours) == ("in100-b16", 64, 2.0)
    assert spec.model.pretrained == str(folder / "epoch_12.pt") and spec.model.is_bare_file
    assert spec.sets["in100"].model_dump()["train"] == [folder / "in100" / "train.X1", folder / "in100" / "train.X2"]
    assert spec.evaluate.test.sets == written["evaluate"]["test"]["sets"]
    assert spec.parameters.raw["rank"]["high"] == 512, "ViT-B-16's embedding width"
    assert spec.resources.gpus_per_worker == 1.0 and spec.goals["clean_accuracy"].floor == "untouched - 0.05"
    assert Spec.from_resolved(json.loads(json.dumps(spec.resolved()))) == spec
    drawn = {}
    for objective in ("dpo", "ipo", "kto", "cross_entropy"):
        for tune in ("transform", "last_blocks", "visual"):
            wanted = {"objective": objective, "tune": tune}
            point = spec.parameters.draw(lambda name, domain: wanted.get(name, domain.examples()[-1]))  # noqa: B023
            drawn[objective, tune] = Parameters.model_validate(point)
    assert (drawn["kto", "transform"].rank, drawn["kto", "transform"].beta) == (512, 5.0)
    assert (drawn["ipo", "last_blocks"].blocks, drawn["ipo", "last_blocks"].beta) == (4, 0.5)
    assert drawn["cross_entropy", "visual"].learning_rate == 1e-4


def complaints(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_spec(folder / "spec.yaml", overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_copies_and_images_of_a_trial_are_among_those_of_the_sweep(folder: Path) -> None:
    spec = load_spec(folder / "spec.yaml", ["parameters.copies={choices: [1, 3]}", "parameters.images=4", "points=[]"])
    point = {"objective": "kto", "beta": 1.5, "lambda_reg": 1.0, "tune": "visual", "learning_rate": 2e-5}
    drawn = spec.parameters.place({**point, "copies": 3}).parameters
    assert (Parameters.model_validate(drawn).copies, Parameters.model_validate(drawn).images) == (3, 4)
    text = SECTION_7.replace("  weight_decay: 0.0\n", "  copies: {choices: [1, 10, 5]}\n  images: {low: 1, high: 9}\n")
    (folder / "spec.yaml").write_text(text.replace("copies: 3}", "copies: 3, images: 4}").replace("points:", "#"))
    assert complaints(folder) == [
        "spec.yaml:31:25: `copies`: 10 is above train.copies, which is 3; set train.copies: 10",
        "spec.yaml:32:26: `images`: 9 is above train.images, which is 4; set train.images: 9",
    ]


GRID = """\
parameters:
  objective: {choices: [dpo, ipo]}
  beta: {choices: [0.1, 0.5]}
  tune: visual
  learning_rate: 1e-4
points: [{objective: dpo, beta: 0.5}]
search: {sampler: grid"""


def test_a_soup_has_its_anchors_for_trials(folder: Path) -> None:
    (folder / "spec.yaml").write_text(SECTION_7.replace("sampler: tpe, trials: 64, seed: 0", "sampler: soup"))
    spec = load_spec(folder / "spec.yaml")
    anchors = anchors_of(spec.parameters)
    assert not load_spec(folder / "spec.yaml", ["stopping.kind=moasha"]).stops
    points = [spec.parameters.place(point).parameters for point in spec.points]
    assert points == [{**spec.points[0], "weight_decay": 0.0}] and spec.chosen() == points + anchors
    assert spec.search.trials == 1 + len(spec.points) + len(anchors)
    assert complaints(folder, "search.trials=99") == [
        f"--set search.trials: `search.trials`: 99 is more than the whole soup, which has {spec.search.trials} trials "
        f"(PAINT + 1 point + {len(anchors)} anchors)"
    ]
    assert complaints(folder, "evaluate.front.strengths=[1.0]") == [
        "--set evaluate.front.strengths: `evaluate.front.strengths`: a soup interpolates; name others than 1, "
        "for instance [0.25, 0.5, 1]"
    ]


def test_a_grid_says_how_large_it_is(folder: Path) -> None:
    head, _, rest = SECTION_7.partition("parameters:")
    tail = rest[rest.index("stopping:") :]

    def write(search: str) -> None:
        (folder / "spec.yaml").write_text(f"{head}{GRID}{search}}}\n{tail}")

    write("")
    assert load_spec(folder / "spec.yaml").search.trials == 1 + 4
    assert load_spec(folder / "spec.yaml", ["paint=null"]).search.trials == 4
    assert load_spec(folder / "spec.yaml", ["search.trials=2"]).search.trials == 2
    assert complaints(folder, "search.trials=6") == [
        "--set search.trials: `search.trials`: 6 is more than the whole grid, which has 5 trials "
        "(PAINT + 1 point + 3 combinations)"
    ]
    write(", trials: 3")
    assert complaints(folder) == [
        "spec.yaml:25:33: `search.trials`: 3 is less than the whole grid, which has 5 trials "
        "(PAINT + 1 point + 3 combinations); leave it out, or run the first ones with --trials 3"
    ]
    write(", startup_trials: 3")
    assert "startup_trials is for the sampler tpe; grid does not learn, leave it out" in complaints(folder)[0]
    write("")
    range_ = complaints(folder, "parameters.beta={low: 0.1, high: 1.0}")[0]
    assert range_.startswith("--set parameters.beta: `beta` is a range; a grid tries choices: write {choices: [...]}")
