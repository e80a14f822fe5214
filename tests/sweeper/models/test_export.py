"""What leaves a finished sweep: folders with cards, versions in MLflow's registry, trials that run again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.environment import git_commit
from sweeper.errors import UnavailableError, UserError
from sweeper.front.export_record import ExportRecord
from sweeper.front.load import load_front
from sweeper.models.export import export_point
from sweeper.models.rerun import Rerun, rerun_trial
from sweeper.records import Front
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.events import TrialStarted
from sweeper.tracking.projection import Projection, create_store
from sweeper.tracking.registry import check_names, default_alias, register
from sweeper.tracking.runs import Runs, find_runs, find_store, save_runs
from tests.helpers.finished_sweep import SPEC, finished_sweep
from tests.helpers.tiny import write_images
from tests.paths import ROOT
from trainables.__main__ import main as run_alone
from trainables.models.clip import load_clip
from trainables.settings.task import ModelSettings
from trainables.world.icons import CLASSES

Sweep = tuple[SweepFolder, Spec]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return finished_sweep(tmp_path_factory.mktemp("home"))


def front_of(sweep: Sweep) -> Front:
    folder, spec = sweep
    front = load_front(folder, spec, read_trials(folder, spec))
    assert front is not None
    return front


def exported(sweep: Sweep, target: Path, *, trial: int, strength: float = 1.0) -> dict[str, Any]:
    """Export a point of the front; return its ``sweeper.json``."""
    front = front_of(sweep)
    (point,) = [point for point in (*front.points, *front.others) if point.point_name == (trial, "last", strength)]
    export_point(*sweep, front, point, target)
    record: dict[str, Any] = json.loads((target / "sweeper.json").read_text())
    return record


class TestFolder:
    def test_record_and_spec_lead_back_to_where_it_came_from(self, sweep: Sweep, tmp_path: Path) -> None:
        folder, spec = sweep
        record = exported(sweep, tmp_path / "out", trial=1)
        trial = read_trials(folder, spec)[1]
        assert trial.values is not None
        assert (record["sweep_id"], record["seed"], record["data_seed"]) == (folder.sweep_id, trial.seed, 0)
        assert record["parameters"] == trial.parameters
        assert record["validation"].items() >= trial.values.items()
        weights = (tmp_path / "out" / "open_clip_model.safetensors").read_bytes()
        assert record["digests"]["exported_weights"] == hashlib.sha256(weights).hexdigest()
        assert load_spec(tmp_path / "out" / "spec.yaml") == spec
        for goal, (low, high) in record["validation_intervals"].items():
            assert low <= record["validation"][goal] <= high
        assert json.loads(json.dumps(ExportRecord.read(tmp_path / "out").to_json())) == record

    def test_card_says_what_was_measured_and_its_code_loads_the_model(self, sweep: Sweep, tmp_path: Path) -> None:
        measured = next(point for point in front_of(sweep).points if point.trial is not None and point.values)
        assert measured.trial is not None and measured.values is not None and measured.intervals is not None
        exported(sweep, tmp_path / "out", trial=measured.trial, strength=measured.strength)
        card = (tmp_path / "out" / "README.md").read_text()
        for name, value in measured.values.items():
            low, high = measured.intervals[name]
            assert re.search(rf"\| {name} \|.* {value:.4f} \[{low:.4f}, {high:.4f}\] \|", card), name
        assert "Do not use it to read signs" in card and "sweep `demo`" in card
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        loaded: dict[str, Any] = {}
        exec(code, loaded)
        parameters = json.loads((tmp_path / "out" / "sweeper.json").read_text())["parameters"]
        width = parameters.get("rank", 24)
        assert loaded["model"].encode_text(loaded["tokenizer"](["a photo of a star"])).shape == (1, width)


class TestForTransformers:
    def test_folder_and_card_are_for_transformers_and_sweeper_reads_them(self, sweep: Sweep, tmp_path: Path) -> None:
        folder, _ = sweep
        command = ["export", "demo", str(tmp_path / "out"), "--pick", "1", "--strength", "0.5"]
        command += ["--format", "transformers", "--storage", str(folder.storage)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        assert "MLflow" not in done.stderr and done.stdout == f"local-dir:{tmp_path / 'out'}\n"
        record = ExportRecord.read(tmp_path / "out")
        weights = (tmp_path / "out" / "model.safetensors").read_bytes()
        assert record.digests.exported_weights == hashlib.sha256(weights).hexdigest()
        (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
        loaded: dict[str, Any] = {}
        exec(code, loaded)
        inputs = loaded["processor"](text=["a photo of a star"], images=Image.new("RGB", (50, 40)), return_tensors="pt")
        with torch.inference_mode():
            answer = loaded["model"](**inputs)
        assert answer.image_embeds.shape == (1, record.parameters["rank"])
        again = load_clip(ModelSettings(architecture=f"local-dir:{tmp_path / 'out'}"))
        ids = inputs["input_ids"]
        assert again.tokens(["a photo of a star"])[:, : ids.shape[1]].equal(ids)

    @pytest.mark.parametrize("option", [("--register",), ("--register-as", "mine"), ("--alias", "best")])
    def test_registry_has_models_of_open_clip_only(self, sweep: Sweep, option: tuple[str, ...], tmp_path: Path) -> None:
        folder, _ = sweep
        command = ["export", "demo", str(tmp_path / "out"), "--format", "transformers", *option]
        done = CliRunner().invoke(app, [*command, "--storage", str(folder.storage)])
        assert isinstance(done.exception, UserError) and "leave out --register" in str(done.exception)
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tracked(sweep: Sweep, empty_database: Path) -> Sweep:
    """With a run per trial in a real SQLite store."""
    folder, spec = sweep
    shutil.copy(empty_database, folder.storage / "mlflow.db")
    projection = Projection(folder.path, folder.name, folder.sweep_id, find_store(folder.storage))
    projection.connect()
    projection.send(
        [
            TrialStarted(trial=trial.number, parameters=trial.parameters, seed=0, slot=0, tags={})
            for trial in read_trials(folder, spec)
        ]
    )
    return sweep


class TestRegistry:
    def test_versions_and_aliases(self, tracked: Sweep, tmp_path: Path) -> None:
        folder, _ = tracked
        record = exported(tracked, tmp_path / "one", trial=1)
        first = register(folder, None, tmp_path / "one", "sweeper-demo", "knee")
        assert (first.version, first.new, first.uri) == ("1", True, "models:/sweeper-demo@knee")
        again = register(folder, None, tmp_path / "one", "sweeper-demo", "production")
        assert (again.version, again.new) == ("1", False)
        exported(tracked, tmp_path / "half", trial=1, strength=0.5)
        second = register(folder, None, tmp_path / "half", "sweeper-demo", "knee")
        assert (second.version, second.new) == ("2", True)

        client = create_store(find_store(folder.storage))
        aliases = {alias: client.get_model_version_by_alias("sweeper-demo", alias) for alias in ("knee", "production")}
        assert {alias: str(version.version) for alias, version in aliases.items()} == {"knee": "2", "production": "1"}
        tags = aliases["production"].tags
        runs = find_runs(folder.path)
        assert runs is not None and aliases["production"].run_id == runs.trials[1]
        assert (tags["sweeper.trial"], tags["sweeper.strength"]) == ("1", "1.0")
        assert tags["validation.clean_accuracy"] == f"{record['validation']['clean_accuracy']:.4f}"
        source = client.get_model_version_download_uri("sweeper-demo", "2")
        run_id, _, path = source.removeprefix("runs:/").partition("/")
        copy = Path(client.download_artifacts(run_id, path))
        clip = copy / "artifacts" / "clip"
        names = sorted(path.name for path in (tmp_path / "half").iterdir())
        assert sorted(path.name for path in clip.iterdir()) == names
        assert all((clip / name).read_bytes() == (tmp_path / "half" / name).read_bytes() for name in names)
        assert not list(copy.rglob("*.pkl"))

    def test_version_loads_in_plain_mlflow_and_answers(self, tracked: Sweep, tmp_path: Path) -> None:
        """In a process that imports nothing of sweeper; answers are those of plain open_clip."""
        folder, _ = tracked
        exported(tracked, tmp_path / "one", trial=1)
        register(folder, None, tmp_path / "one", "sweeper-answers", "most-robust")
        write_images(tmp_path / "images", ["a", "b"], 3, seed=1)
        images = sorted((tmp_path / "images").rglob("*.png"))
        program = (
            "import json, sys, mlflow, pandas\n"
            "sys.modules['sweeper'] = sys.modules['trainables'] = None\n"
            "model = mlflow.pyfunc.load_model('models:/sweeper-answers@most-robust')\n"
            "paths = sys.argv[1:]\n"
            "told = [model.predict(pandas.DataFrame({'path': paths}))]\n"
            "told += [model.predict(pandas.DataFrame({'image': [open(path, 'rb').read() for path in paths]}))]\n"
            "told += [model.predict(pandas.DataFrame({'path': paths}), params={'classes': ['star', 'moon']})]\n"
            "print(json.dumps([one.to_dict('list') for one in told]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, images)],
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_TRACKING_URI": find_store(folder.storage).uri, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        of_paths, of_bytes, of_two = json.loads(done.stdout.splitlines()[-1])
        assert of_paths == of_bytes and set(of_two["answer"]) <= {"star", "moon"}
        names = list(CLASSES)
        network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'one'}")
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'one'}")([f"a photo of a {name}" for name in names])
        with torch.inference_mode():
            pixels = torch.stack([preprocess(Image.open(path)) for path in images])
            image = network.eval().encode_image(pixels, normalize=True)
            logits = network.logit_scale.exp() * image @ network.encode_text(tokens, normalize=True).T
        expected = logits.softmax(-1).max(-1)
        assert of_paths["answer"] == [names[index] for index in expected.indices.tolist()]
        assert of_paths["probability"] == pytest.approx(expected.values.tolist(), abs=1e-5)

    def test_dead_mlflow_does_not_fail_the_export(self, sweep: Sweep, tmp_path: Path) -> None:
        folder, _ = sweep
        before = find_runs(folder.path)
        save_runs(
            folder.path, Runs(uri="http://127.0.0.1:1", experiment_id="1", sweep_id="x", parent="p", trials={1: "r"})
        )
        try:
            command = ["export", "demo", str(tmp_path / "out"), "--pick", "1", "--storage", str(folder.storage)]
            done = CliRunner().invoke(app, command)
        finally:
            if before is None:
                (folder.path / "tracking.runs.json").unlink()
            else:
                save_runs(folder.path, before)
        assert done.exit_code == 0, done.output
        assert "not registered: MLflow at http://127.0.0.1:1" in done.stderr
        assert done.stdout == f"local-dir:{tmp_path / 'out'}\n" and (tmp_path / "out" / "README.md").exists()

    def test_store_without_the_runs_is_named(self, sweep: Sweep, tmp_path: Path) -> None:
        folder, _ = sweep
        save_runs(tmp_path, Runs(uri="http://elsewhere:5000", experiment_id="1", sweep_id="x", parent="p"))
        other = SweepFolder(tmp_path.parent, tmp_path.name)
        with pytest.raises(UnavailableError, match="are in http://elsewhere:5000"):
            register(other, f"sqlite:///{tmp_path}/other.db", tmp_path, "model", "knee")
        assert not (tmp_path / "other.db").exists()

    @pytest.mark.parametrize(
        ("pick", "strength", "alias"),
        [
            ("knee", None, "knee"),
            ("most robust", None, "most-robust"),
            ("7", 0.5, "trial-7-at-0-5"),
            ("knee", -1.0, "knee-at-minus-1"),
            ("max robust_accuracy where clean_accuracy>=0.6", None, "max-robust-accuracy-where-clean-accuracy-0-6"),
        ],
    )
    def test_alias_after_the_pick(self, pick: str, strength: float | None, alias: str) -> None:
        assert default_alias(pick, strength) == alias
        check_names("sweeper-demo", alias)

    @pytest.mark.parametrize(("name", "alias"), [("a/b", "knee"), ("a", "most robust"), ("a", "v2"), ("a", "Latest")])
    def test_names_that_mlflow_refuses(self, name: str, alias: str) -> None:
        with pytest.raises(UserError):
            check_names(name, alias)


class TestAgain:
    def test_spec_of_a_trial_runs_alone_elsewhere_with_the_same_numbers(
        self, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, spec = sweep
        shown = CliRunner().invoke(app, ["show", "demo", "1", "--spec", "--storage", str(folder.storage)])
        assert shown.exit_code == 0
        (tmp_path / "trial.json").write_text(shown.stdout)
        monkeypatch.chdir(tmp_path)
        assert run_alone(["trial.json", "--device", "cpu"]) == 0
        result = json.loads(capsys.readouterr().out)
        recorded = read_trials(folder, spec)[1].values
        assert recorded is not None and result["validation"].items() >= recorded.items()
        tested = [point for point in front_of(sweep).points if (point.trial, point.weights) == (1, "last")]
        for point in tested:
            if point.strength == 1.0:
                assert result["test"] == point.values

    def test_rerun_with_the_same_seed_gives_the_recorded_values(self, sweep: Sweep) -> None:
        said: list[str] = []
        before = {path: path.stat().st_mtime_ns for path in sweep[0].path.rglob("*") if path.is_file()}
        rerun = rerun_trial(*sweep, 1, seeds=1, device="cpu", echo=said.append)
        assert rerun.again == rerun.recorded and rerun.reproduced and len(rerun.other_seeds) == 1
        assert rerun.conclusion().startswith("Reproduced exactly") and "over 1 other seed:" in rerun.conclusion()
        assert not any(line.startswith(("warning", "note")) for line in said)
        after = {path: path.stat().st_mtime_ns for path in sweep[0].path.rglob("*") if path.is_file()}
        assert set(before) == set(after), "the sweep is left as it was"

    def test_removed_weights_are_made_again(self, tmp_path: Path) -> None:
        folder, spec = finished_sweep(tmp_path)
        front = front_of((folder, spec))
        point = next(one for one in (*front.points, *front.others) if one.trial == 1)
        weights = folder.trial(1).path / "weights.safetensors"
        before = weights.read_bytes()
        weights.unlink()
        again = f"sweeper rerun demo 1 --keep-weights --storage {folder.storage}"
        with pytest.raises(UserError, match=f"^the weights of trial 1 are not in .*{re.escape(again)}"):
            export_point(folder, spec, front, point, tmp_path / "model")
        done = CliRunner().invoke(app, [*again.split()[1:], "--device", "cpu"])
        assert done.exit_code == 0 and "The weights are in the sweep again." in done.output
        assert weights.read_bytes() == before
        export_point(folder, spec, front, point, tmp_path / "model")
        with pytest.raises(UserError, match="has the weights of trial 1"):
            rerun_trial(folder, spec, 1, seeds=0, device="cpu", echo=print, keep_weights=True)

    def test_weights_of_another_result_are_not_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder, spec = finished_sweep(tmp_path)
        weights = folder.trial(1).path / "weights.safetensors"
        weights.unlink()
        monkeypatch.setattr("sweeper.models.rerun.validation_intervals", lambda *_: {"clean_accuracy": (0.9, 1.0)})
        rerun = rerun_trial(folder, spec, 1, seeds=0, device="cpu", echo=lambda line: None, keep_weights=True)
        assert not rerun.reproduced and rerun.kept_weights is False and not weights.exists()

    def test_changed_model_is_said(self, sweep: Sweep, tmp_path: Path) -> None:
        folder, spec = sweep
        changed = SweepFolder(tmp_path, folder.name)
        (tmp_path / folder.name).symlink_to(folder.path)
        untouched = folder.untouched()
        assert untouched is not None
        folder.write_untouched(replace(untouched, weights_digest="0" * 64))
        said: list[str] = []
        try:
            rerun_trial(changed, spec, 0, seeds=0, device="cpu", echo=said.append)
        finally:
            folder.write_untouched(untouched)
        assert any("weights digest was 000000000000" in line for line in said)

    def test_verdicts(self) -> None:
        def result(again: float, recorded: float | None = 0.5) -> Rerun:
            values = None if recorded is None else {"clean_accuracy": 0.9, "robust_accuracy": recorded}
            intervals = {} if recorded is None else {"clean_accuracy": (0.8, 1.0), "robust_accuracy": (0.4, 0.6)}
            return Rerun(
                sweep="demo",
                trial=3,
                state="complete" if recorded is not None else "failed",
                seed=1,
                recorded=values,
                intervals=intervals,
                again={"clean_accuracy": 0.9, "robust_accuracy": again},
                other_seeds={},
            )

        assert result(0.55).reproduced and "at most 0.0500 apart" in result(0.55).conclusion()
        assert not result(0.65).reproduced
        assert result(0.65).conclusion().startswith("NOT reproduced: robust_accuracy outside")
        assert [row["inside"] for row in result(0.65).rows()] == [True, False]
        assert result(0.5, None).reproduced is None and "Trial 3 is failed" in result(0.5, None).conclusion()

    def test_mistakes(self, sweep: Sweep) -> None:
        with pytest.raises(UserError, match="no trial 9"):
            rerun_trial(*sweep, 9, seeds=0, device="cpu", echo=print)
        with pytest.raises(UserError, match="--device gpu"):
            rerun_trial(*sweep, 1, seeds=0, device="gpu", echo=print)


def test_a_trial_of_its_own_length_is_shown_run_again_and_exported_as_such(tmp_path: Path) -> None:
    sweep = finished_sweep(tmp_path, SPEC.replace("  rank: 12\n", "  rank: 12\n  epochs: {choices: [3]}\n"))
    folder, spec = sweep
    assert spec.training.epochs == 1
    arguments = ["show", folder.name, "1", "--spec", "--storage", str(folder.storage)]
    shown = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert shown["parameters"]["epochs"] == 3
    said: list[str] = []
    rerun = rerun_trial(*sweep, 1, seeds=0, device="cpu", echo=said.append)
    assert rerun.again == rerun.recorded
    assert [line.split("  ")[1] for line in said if line.startswith("seed")] == [f"epoch {n}.0/3" for n in (1, 2, 3)]
    for trial, epochs in ((0, 1), (1, 3)):
        exported(sweep, tmp_path / str(trial), trial=trial)
        assert f"| epochs | {epochs} |\n" in (tmp_path / str(trial) / "README.md").read_text()


def test_starter_is_a_spec_that_is_never_written_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    assert load_spec("sweep.yaml").name == "my-sweep"
    os.truncate("sweep.yaml", 10)
    again = CliRunner().invoke(app, ["init"])
    assert isinstance(again.exception, UserError) and os.path.getsize("sweep.yaml") == 10


def test_schema_takes_the_starter(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.exit_code == 0
    schema = json.loads(printed.stdout)
    starter = yaml.safe_load((ROOT / "sweeper" / "cli" / "starter.yaml").read_text())
    typographic = schema["anyOf"][0]
    assert set(starter) <= set(typographic["properties"]) and set(typographic["required"]) <= set(starter)


def test_commit_is_that_of_the_folder_and_says_if_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert git_commit(tmp_path) is None
    (tmp_path / "spec.yaml").write_text("name: a")
    git("add", ".")
    git("commit", "-q", "-m", "spec")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "spec.yaml").write_text("name: b")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
