"""``sweeper check`` tells all problems at once, and ends with a verdict and the next command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sweeper.cli.main import app
from tests.helpers.finished_sweep import SPEC
from tests.helpers.tiny import write_clip, write_images
from tests.paths import ROOT

FOLDERS = """\
sets:
  mine:
    kind: image_folder
    train: images/train
    validation: images/validation
    test: images/test
    templates: ["a photo of a {}."]
train: {set: mine}
attack: {recipe: sign}
evaluate: {search: {sets: [mine]}, test: {sets: [mine]}}
parameters: {objective: dpo, beta: {low: 0.1, high: 2.0, log: true}, tune: transform, rank: 8, learning_rate: 0.05}
search: {trials: 2}
"""


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is refused before it starts: one problem more."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        write_images(tmp_path / "images" / split, ["cat", "dog", "sea lion"], 2)
    (tmp_path / "my spec.yaml").write_text(FOLDERS)
    return tmp_path


def check(spec: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["check", str(spec), "--storage", str(spec.parent / "my sweeps"), *options])


def test_all_problems_are_told_and_counted(folders: Path, no_ray: None) -> None:
    spec = folders / "my spec.yaml"
    done = check(spec, "--set", "model.architecture=hf-hub:nobody/nothing", "--tracking-uri", "http://127.0.0.1:1")
    assert done.exit_code == 2
    problems = done.stderr.splitlines()
    assert [problem.split(" ")[0] for problem in problems[:-1]] == ["MLflow", "model", "RAY_TMPDIR"]
    again = f"sweeper check {shlex.quote(str(spec))} --set model.architecture=hf-hub:nobody/nothing"
    again += f" --storage {shlex.quote(str(folders / 'my sweeps'))}"
    assert problems[-1] == f"not ready: 3 problems; then again: {again}"
    assert "mine/test: 6 images of 3 classes, not opened" in done.stdout, "the sets are read without the model"


def test_all_missing_files_are_told_as_they_resolve(folders: Path, no_ray: None) -> None:
    text = FOLDERS.replace("images/validation", "nowhere/../validation").replace("train: images", "train: ../images")
    text = text.replace("    templates", "    class_names: names.json\n    templates")
    (folders / "my spec.yaml").write_text(text)
    done = check(folders / "my spec.yaml")
    lines = done.stderr.splitlines()
    assert done.exit_code == 2 and lines[:3] == [
        f"{folders}/my spec.yaml:4:12: the folder {folders.parent}/images/train does not exist",
        f"{folders}/my spec.yaml:5:17: the folder {folders}/validation does not exist",
        f"{folders}/my spec.yaml:7:18: the file {folders}/names.json does not exist",
    ]
    own = shlex.split(lines[3])
    assert "--set" in own and lines[4].startswith("not ready: 3 problems")
    setting = own[own.index("--set") + 1].replace("DIR", str(folders / "images")).replace("share: 0.1", "share: 0.5")
    done = check(folders / "my spec.yaml", "--set", setting)
    assert "does not exist" not in done.stderr and "training: " in done.stdout


def test_the_joint_search_says_how_to_run_it_without_its_images(no_ray: None) -> None:
    spec = ROOT / "search_spaces" / "typo.yaml"
    done = CliRunner().invoke(app, ["check", str(spec)])
    missing = [line for line in done.stderr.splitlines() if "does not exist" in line]
    assert len(missing) == 8 and all(line.startswith(f"{spec}:") for line in missing)
    assert f"sweeper run {ROOT}/search_spaces/reduced/typo.yaml" in done.stderr


@pytest.mark.parametrize("template", ["a {} and {}", "a photo", "a {name}", "a {", "a {0[x]}"])
def test_a_template_is_formatted_before_anything_starts(template: str, folders: Path, no_ray: None) -> None:
    (folders / "my spec.yaml").write_text(FOLDERS.replace("a photo of a {}.", template))
    done = check(folders / "my spec.yaml")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{folders}/my spec.yaml:7:17: the template {template!r} has ")


def test_splits_of_other_classes_are_told_with_their_place(folders: Path, no_ray: None) -> None:
    write_images(folders / "images" / "validation", ["zebra"], 2)
    write_images(folders / "images" / "train", ["horse", "cow"], 2)
    done = check(folders / "my spec.yaml")
    counts = "set mine: train has 5 classes, validation 4"
    place = f"{folders}/my spec.yaml:5:17"
    assert f"{place}: {counts}: not in train is zebra, which no trial is trained on\n" in done.stdout
    assert f"{place}: {counts}: not in validation are cow, horse, which nothing is measured of there\n" in done.stdout


@pytest.mark.drill
@pytest.mark.ray
def test_a_sweep_that_is_ready_ends_with_the_command_that_runs_it(ray_cluster: None, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", "vit")
    (tmp_path / "demo.yaml").write_text(SPEC)
    options = ["--set", "search.trials=3", "--set", "model.allow_chance=true", "--set", "name=a", "--budget", "3cpu-h"]
    storage = str(tmp_path / "my sweeps")
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    command = [sys.executable, "-c", script, "check", str(tmp_path / "demo.yaml"), *options, "--storage", storage]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)  # RAY_ADDRESS names the cluster
    assert done.returncode == 0, done.stderr
    ran = shlex.split(done.stdout.splitlines()[-1])
    assert ran == ["ready:", "sweeper", "run", str(tmp_path / "demo.yaml"), *options, "--storage", storage]
