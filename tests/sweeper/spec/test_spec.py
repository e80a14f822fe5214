"""Specs: what is read, what is refused and how it is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sweeper.errors import UserError
from sweeper.spec.bounds import keeps, violation
from sweeper.spec.problems import did_you_mean
from sweeper.spec.schema import schema
from sweeper.spec.spec import Spec, load_spec, spec_difference
from sweeper.spec.yaml_document import Document
from tests.paths import ROOT
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"

BASE = """\
name: base
model: {architecture: ViT-B-32, pretrained: openai}
sets:
  photos:
    kind: image_folder
    train: photos/train
    validation: {from: train, per_class: 1}
    test: photos/test
train: {set: photos}
evaluate:
  search: {sets: [photos]}
  test: {sets: [photos]}
goals:
  clean_accuracy: {floor: untouched - 0.05}
parameters:
  objective: {choices: [dpo, ipo, cross_entropy]}
  beta: {low: 0.05, high: 5.0, log: true, when: {objective: [dpo, ipo]}}
  tune: {choices: [transform, visual]}
  rank: {low: 16, high: embed_dim, log: true, when: {tune: transform}}
  learning_rate: {low: 1e-6, high: 1e-2, log: true}
points:
  - {objective: cross_entropy, tune: visual, learning_rate: 1e-4}
search:
  trials: 8
  seed: 0
limits: {max_failed_share: 0.2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "sea_lion"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            (tmp_path / "photos" / split / name / "1.jpg").write_bytes(b"")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "single" / "cat").mkdir(parents=True)
    (tmp_path / "single" / "cat" / "1.png").write_bytes(b"")
    (tmp_path / "bare").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 32}}')
    (tmp_path / "names.json").write_text('{"cat": "cat"}')
    (tmp_path / "broken.json").write_text("{cat")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return tmp_path


def load(folder: Path, text: str, *overrides: str) -> Spec:
    (folder / "spec.yaml").write_text(text)
    return load_spec(folder / "spec.yaml", overrides)


def complaints(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


CASES = yaml.safe_load(((ROOT / "tests") / "broken_specs.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=[repr(case["by"][:40]) for case in CASES])
def test_a_mistake_is_named_with_its_place(folder: Path, case: dict[str, str]) -> None:
    assert case["replace"] in BASE
    lines = complaints(folder, BASE.replace(case["replace"], case["by"], 1))
    assert any(line.startswith(f"spec.yaml:{case['at']}: {case['says']}") for line in lines), lines


def test_the_base_of_these_cases_is_right(folder: Path) -> None:
    spec = load(folder, BASE)
    assert spec.parameters.raw["rank"]["high"] == 512
    assert spec.sets["photos"].test == [folder / "photos" / "test"]
    assert spec.points[0]["learning_rate"] == 1e-4
    assert isinstance(spec.task_settings(), TaskSettings) and not isinstance(spec.task_settings(), Spec)


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = BASE.replace("name: base", "name: Base").replace("trials: 8", "trails: 8").replace("high: 5.0", "high: x")
    text = text.replace("test: photos/test", "test: nowhere")
    lines = complaints(folder, text)
    assert lines[-1].startswith("  with images of your own, a folder per class: --set 'sets={photos: ")
    places = [line.split(": ")[0] for line in lines[:-1]]
    assert places == ["spec.yaml:1:7", "spec.yaml:8:11", "spec.yaml:17:27", "spec.yaml:24:3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "spec.yaml: the file is empty; `sweeper init` writes a spec to start from"),
        (b"# nothing yet\n", "spec.yaml: the file is empty; `sweeper init` writes a spec to start from"),
        (b"- a\n- b\n", "spec.yaml:1:1: a spec is a mapping (key: value lines), not a list"),
        (b"hello", "spec.yaml:1:1: a spec is a mapping (key: value lines), not a plain value"),
        (b"\x80\x81\x82", "spec.yaml:1: the byte 0x80 is not UTF-8; save the file as UTF-8"),
        (b"a: 1\nb: \x00", "spec.yaml:2:4: the character '\\x00' may not stand in YAML; remove it"),
        (b"a: \x00", "spec.yaml:1:4: the character '\\x00' may not stand in YAML; remove it"),
        (b"a: {b: " * 60 + b"1" + b"}" * 60, "spec.yaml:1:"),
        (b"a: " + b"9" * 5000, "spec.yaml:1:4: 999999999999...9999: a number of 5000 characters is not a setting"),
        (b"a: 0x" + b"f" * 5000, "spec.yaml:1:4: 0xffffffffff...ffff: a number of 5002 characters is not a setting"),
        (b'a: "\\ud800"', "spec.yaml:1:4: '\\ud800' holds a character that is not text; write it again"),
        (b'a: "b\\0"', "spec.yaml:1:4: 'b\\x00' holds a character that is not text; write it again"),
        (b"a: 010", "spec.yaml:1:4: 010 is octal in YAML 1.1 and decimal in YAML 1.2; write 10, or '010' in quotes"),
        (b"\xff\xfea\0", "spec.yaml is UTF-16 or not text; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "spec.yaml is a Git LFS pointer"),
        (b"a: 1\t# one", "spec.yaml:1:5: a tab; YAML wants spaces between words and before a comment"),
        (b"a: {<<: 3}", "spec.yaml:1:9: `<<` takes the keys of another mapping (<<: *name) or of a list of mappings"),
        (b"a: &a {<<: *a}", "spec.yaml:1:4: aliases (*name) that grow without end"),
        (b"a: 1\n---\nb: 2\n", "spec.yaml:2:1: this is not YAML: expected a single document"),
        (b"a: &b [*b]\n", "spec.yaml:1:4: aliases (*name) that grow without end"),
        (b"[" * 5000, "spec.yaml: this is not YAML: "),
        (b"a: " + b"x" * 200_001, "spec.yaml has 200004 bytes; that is not a spec"),
    ],
)
def test_what_is_no_spec_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "spec.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_spec(tmp_path / "spec.yaml")
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


def test_aliases_that_explode_are_refused(tmp_path: Path) -> None:
    doubling = ["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "spec.yaml").write_text("\n".join(doubling))
    with pytest.raises(UserError, match="aliases .* grow without end"):
        load_spec(tmp_path / "spec.yaml")


def test_merge_keys_take_the_keys_of_other_mappings(folder: Path) -> None:
    common = "x-one: &one {optimizer: adamw, epochs: 9}\nx-two: &two {optimizer: adamax, warmup_share: 0.5}\n"
    spec = load(folder, common + BASE + "training: {epochs: 2, <<: [*one, *two]}\n")
    assert (spec.training.epochs, spec.training.optimizer, spec.training.warmup_share) == (2, "adamw", 0.5)
    (line,) = complaints(folder, "x-one: &one {epochs: none}\n" + BASE + "training: {<<: *one}\n")
    assert line == "spec.yaml:1:22: `training.epochs`: 'none' must be a whole number", "where it was written"
    (line,) = complaints(folder, "x-one: &one {a: 1, a: 2}\n" + BASE + "training: {<<: *one}\n")
    assert line == "spec.yaml:1:20: `a` is here twice (first at spec.yaml:1:14); keep one"


def test_a_home_and_environment_variables_are_put_into_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PHOTOS", "photos")
    monkeypatch.delenv("NOT_SET", raising=False)
    text = BASE.replace("train: photos/train", "train: ~/photos/train").replace("photos/test", "${PHOTOS}/test")
    assert load(folder, text).sets == load(folder, BASE).sets
    assert complaints(folder, BASE.replace("test: photos/test", "test: $NOT_SET/test")) == [
        "spec.yaml:8:11: '$NOT_SET/test': the environment variable NOT_SET is not set; set it, or write the path out"
    ]
    (folder / "photos").rename(folder / "~$NOT_SET")
    spec = load(folder, BASE.replace(" photos/", " ~$NOT_SET/"))
    assert spec.sets["photos"].test == [folder / "~$NOT_SET" / "test"], "a folder of that very name"


def test_a_file_name_that_gives_no_name_is_said(folder: Path) -> None:
    (folder / "日本.yaml").write_text(BASE.removeprefix("name: base\n"))
    with pytest.raises(UserError, match="日本.yaml: a sweep is called like its file.*--name my-sweep"):
        load_spec(folder / "日本.yaml")
    assert load_spec(folder / "日本.yaml", ["name=japan"]).name == "japan"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"spec.yaml does not exist; in this folder are .*other.yaml"):
        load_spec(tmp_path / "spec.yaml")
    with pytest.raises(UserError, match="is a folder; name the spec file in it"):
        load_spec(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(folder: Path) -> None:
    (folder / "spec.yaml").write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load_spec(folder / "spec.yaml") == load(folder, BASE)


def test_numbers_are_those_of_yaml_1_2(folder: Path) -> None:
    text = BASE.replace("high: 1e-2", "high: 1.0E-2").replace("max_failed_share: 0.2", "trial_hours: 1e1")
    spec = load(
        folder, text.replace("photos:\n    kind", "on:\n    kind").replace("photos]", "on]").replace("photos}", "on}")
    )
    assert spec.parameters.raw["learning_rate"] == {"low": 1e-6, "high": 1e-2, "log": True}
    assert spec.limits.trial_hours == 10.0
    assert list(spec.sets) == ["on"]


def test_overrides_win_and_are_named_in_complaints(folder: Path) -> None:
    spec = load(
        folder, BASE, "search.trials=3", "parameters.learning_rate=1e-4", "points.0.objective=cross_entropy",
        "resources.workers_per_trial=2", "paint=null",
    )  # fmt: skip
    assert (spec.search.trials, spec.resources.workers_per_trial, spec.paint) == (3, 2, None)
    assert spec.parameters.draw(lambda name, domain: domain.examples()[0])["learning_rate"] == 1e-4
    assert complaints(folder, BASE, "search.trials=x") == [
        "--set search.trials: `search.trials`: 'x' must be a whole number"
    ]
    assert complaints(folder, BASE, "serch.trials=1")[0].startswith(
        "--set serch.trials: unknown key `serch`; did you mean `search`?"
    )
    assert complaints(folder, BASE, "parameters.beta.low=9")[0].startswith("--set parameters.beta.low: `beta`: low 9")
    for wrong in ("search.trials", "=3", "points.7.beta=1", "name.first=x", "search..x=1", "name=[a"):
        assert complaints(folder, BASE, wrong)[0].startswith(f"--set {wrong}: ")


@pytest.mark.parametrize("epochs", ["{choices: [1, 3, 9]}", "{low: 1, high: 90, log: true}", "9"])
def test_epochs_may_be_searched_or_fixed_beyond_those_of_training(folder: Path, epochs: str) -> None:
    text = BASE.replace("  rank", f"  epochs: {epochs}\n  rank").replace("1e-4}", "1e-4, epochs: 9}")
    spec = load(folder, text + "training: {epochs: 3}\n")
    drawn = [Parameters.model_validate(parameters) for parameters in spec.parameters.examples()]
    assert {spec.training.epochs_of(parameters) for parameters in drawn} <= {1, 9}
    assert spec.chosen()[0]["epochs"] == 9, "the point's"
    (paint,) = spec.baseline_trials()
    rated = {**paint.parameters, "learning_rate": 1e-4}
    assert spec.training.epochs_of(Parameters.model_validate(rated)) == 3
    assert Spec.from_resolved(spec.resolved()) == spec


def test_a_spec_without_a_name_is_called_like_its_file(folder: Path) -> None:
    (folder / "My Sweep.yaml").write_text(BASE.removeprefix("name: base\n"))
    assert load_spec(folder / "My Sweep.yaml").name == "my-sweep"


def test_resolved_makes_the_same_spec_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load(folder, BASE)
    text = json.dumps(spec.resolved())
    monkeypatch.chdir("/")
    again = Spec.from_resolved(json.loads(text))
    assert again == spec and again.parameters.branches == spec.parameters.branches
    assert spec_difference(spec, again) == []
    with pytest.raises(UserError, match="another version"):
        Spec.from_resolved({**spec.resolved(), "colour": "red"})


def test_what_a_resumed_sweep_may_change(folder: Path) -> None:
    old = load(folder, BASE)
    new = load(
        folder, BASE, "search.trials=99", "resources.workers_per_trial=4", "limits.trial_hours=2",
        "training.checkpoint_every_s=60", "training.micro_batch_size=16",
    )  # fmt: skip
    assert spec_difference(old, new) == []
    setup_exception = load(
        folder, BASE, "search.seed=1", "parameters.beta.high=9.0", "train.copies=2", "points=[]", "paint=null"
    )
    assert [line.split(":")[0] for line in spec_difference(old, setup_exception)] == [
        "train.copies", "parameters.beta.high", "points", "search.seed", "paint.objective", "paint.tune",
        "paint.learning_rate", "paint.lambda_reg", "paint.weight_decay", "paint.rank", "paint.penalty", "paint.blocks",
        "paint",
    ]  # fmt: skip
    assert "search.seed: 0 -> 1" in spec_difference(old, setup_exception)


def test_bounds_are_given_by_themselves_or_from_the_untouched_model(folder: Path) -> None:
    untouched = {"clean_accuracy": 0.9, "robust_accuracy": 0.3}
    spec = load(folder, BASE, "goals.clean_accuracy.floor=untouched - 0.10", "goals.robust_accuracy.floor=0.5")
    bounds = spec.bounds(untouched)
    assert {bound.metric: bound.value for bound in bounds} == {
        "clean_accuracy": pytest.approx(0.8), "robust_accuracy": 0.5,
    }  # fmt: skip
    assert violation(bounds, {"clean_accuracy": 0.85, "robust_accuracy": 0.6}) == 0.0
    assert violation(bounds, {"clean_accuracy": 0.7, "robust_accuracy": 0.4}) == pytest.approx(0.2)
    assert load(folder, BASE, "goals={}").bounds(untouched) == ()


def test_a_metric_may_be_kept_above_a_floor_or_below_a_ceiling(folder: Path) -> None:
    spec = load(folder, BASE, "goals={}", "keep={sign_reading: untouched - 0.10, reference_kl: 0.5}")
    bounds = spec.bounds({"clean_accuracy": 0.9, "robust_accuracy": 0.3, "sign_reading": 0.95, "reference_kl": 0.0})
    assert list(map(str, bounds)) == ["sign_reading >= 0.85", "reference_kl <= 0.5"]
    kept, lost = {"sign_reading": 0.85, "reference_kl": 0.2}, {"sign_reading": 0.80, "reference_kl": 0.7}
    assert keeps(bounds, kept) and not keeps(bounds, lost)
    assert violation(bounds, lost) == pytest.approx(0.25)
    assert load(folder, BASE, "goals={}", "keep={photos/clean_accuracy: 0.6}").keep == {"photos/clean_accuracy": 0.6}


def test_the_baseline_is_on_unless_it_is_null(folder: Path) -> None:
    paint = load(folder, BASE).paint
    assert paint is not None
    assert "learning_rate" not in paint.parameters(), "the usual one is taken"
    paint = load(folder, BASE + "paint: {learning_rate: 2e-5}\n").paint
    assert paint is not None
    parameters = Parameters.model_validate(paint.parameters())
    assert (parameters.objective, parameters.lambda_reg, parameters.learning_rate) == ("cross_entropy", 0.0, 2e-5)
    assert load(folder, BASE + "paint: null\n").paint is None


def test_the_schema_describes_the_quickstart() -> None:
    described = schema()
    typographic = described["anyOf"][0]
    assert set(typographic["required"]) <= {"sets", "train", "evaluate", "parameters"}
    assert {"model", "goals", "search", "paint", "keep"} <= set(typographic["properties"])
    assert {"copies", "images", "epochs"} <= set(typographic["properties"]["parameters"]["properties"])


def test_the_quickstart_is_short_and_draws_valid_trials() -> None:
    assert len(QUICKSTART.read_text().splitlines()) <= 25
    spec = load_spec(QUICKSTART)
    assert spec.name == "quickstart" and spec.model.architecture == "world"
    objectives = {"dpo", "ipo", "kto", "cross_entropy"}
    seen = set()
    for objective in objectives:
        for tune in ("transform", "visual"):
            wanted = {"objective": objective, "tune": tune}
            drawn = spec.parameters.draw(lambda name, domain: wanted.get(name, domain.examples()[-1]))  # noqa: B023
            seen.add(Parameters.model_validate(drawn).objective)
    assert seen == objectives


def test_reading_a_spec_imports_nothing_heavy() -> None:
    heavy = "'torch', 'optuna', 'mlflow', 'ray', 'open_clip', 'matplotlib'"
    code = f"import sys; from sweeper.spec.spec import load_spec; load_spec({str(QUICKSTART)!r}); "
    code += f"print(sorted({{{heavy}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=QUICKSTART.parent.parent)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


def test_a_character_in_two_halves_is_one(tmp_path: Path) -> None:
    """JSON, which YAML includes, writes characters beyond 16 bits as pairs."""
    file = tmp_path / "spec.yaml"
    file.write_text('name: "\\ud83d\\udc1f"\n')
    assert Document(file).data == {"name": "\U0001f41f"}


@pytest.mark.parametrize(("key", "written"), [("\u043ebjective", r"\u043e"), ("objective\u200b", r"\u200b")])
def test_a_word_that_looks_like_another_is_written_out(key: str, written: str) -> None:
    told = did_you_mean(key, ["objective"])
    assert written in told and "did you mean `objective`?" in told
