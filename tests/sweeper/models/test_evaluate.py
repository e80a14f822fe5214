"""Any model on any images, and two models on the same images, through the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.models.compare import compare
from tests.helpers import tiny
from tests.helpers.output import assert_json_fits
from trainables.evaluation.answers import Answers

COLOUR_MODEL = """
import numpy as np

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def load():
    def scores(images, prompts):
        means = np.stack([np.asarray(image).reshape(-1, 3).mean(0) for image in images])
        words = [next(word for word in COLOURS if word in texts[0]) for texts in prompts]
        return -np.abs(means[:, None] - np.array([COLOURS[word] for word in words])).sum(-1)
    return scores


def load_nan():
    return lambda images, prompts: np.full((len(images), len(prompts)), np.nan)


def load_raising():
    def scores(images, prompts):
        raise KeyError("no such layer")
    return scores


def load_wrong():
    return lambda images, prompts: np.zeros(3)


NUMBER = 3
"""


SPEC = """\
sets:
  mine: {kind: image_folder, train: train, test: test, validation: {from: train, per_class: 1}}
train: {set: mine}
evaluate: {search: {sets: [mine]}, test: {sets: [mine]}}
parameters: {objective: dpo, beta: 0.5, tune: transform, learning_rate: {low: 1e-3, high: 1e-1, log: true}}
search: {trials: 2}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model in Python and photographs that are each of one colour, the words a fiction."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    name = f"colour_model_{tmp_path.name.replace('-', '_')}"  # modules stay imported
    (tmp_path / f"{name}.py").write_text(COLOUR_MODEL)
    (tmp_path / "rta").mkdir()
    photographs = [("red", (255, 0, 0), "blue"), ("green", (0, 255, 0), "red"), ("red", (90, 0, 255), "green")]
    for true, colour, written in photographs:
        Image.new("RGB", (60, 50), colour).save(tmp_path / "rta" / f"label={true}_text={written}.png")
    return tmp_path


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--format", "json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return assert_json_fits(arguments[0], result.stdout)


def module(here: Path) -> str:
    return next(here.glob("colour_model_*.py")).stem


def test_a_python_function_on_real_words(here: Path) -> None:
    rows = run("evaluate", f"{module(here)}:load", "--data", "rta100:rta", "--output", "answers.csv")
    # The third looks blue, which is neither its label nor the word on it; between those two it looks red.
    assert [(row["view"], row["images"], row["accuracy"]) for row in rows] == [("attacked", 3, pytest.approx(2 / 3))]
    assert rows[0]["text_confusion_rate"] == 0.0 and rows[0]["two_way_accuracy"] == 1.0
    both = run("evaluate", "answers.csv", f"{module(here)}:load", "--data", "rta100:rta")
    assert [row.pop("model") for row in both] == ["answers.csv", rows[0].pop("model")]
    assert both == [rows[0], rows[0]]


def test_answers_of_a_clip_are_those_of_open_clip_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip
    import torch

    monkeypatch.chdir(tmp_path)
    model = tiny.write_clip(tmp_path / "clip", "vit")
    tiny.write_images(tmp_path / "photos", ["cat", "dog", "owl"], 6, side=32)
    rows = run("evaluate", str(model), "--data", "image_folder:photos", "--output", "answers.csv")
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    network.eval()
    hits = 0
    with torch.no_grad():
        text = network.encode_text(
            tokenizer([f"a photo of a {name}." for name in ("cat", "dog", "owl")]), normalize=True
        )
        for path in sorted((tmp_path / "photos").glob("*/*.png")):
            image = network.encode_image(preprocess(Image.open(path))[None], normalize=True)
            hits += ("cat", "dog", "owl")[int((image @ text.T).argmax())] == path.parent.name
    assert (rows[0]["view"], rows[0]["accuracy"]) == ("clean", pytest.approx(hits / 18))
    assert rows[1]["view"] == "attacked" and rows[1]["two_way_accuracy"] is not None
    same = run("compare", str(model), "answers.csv", "--data", "image_folder:photos")
    assert {row["difference"] for row in same} == {0.0} and {row["verdict"] for row in same} == {"not told apart"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODULE:load"], "name them with --data"),
        (["MODULE:lod", "--data", "rta100:rta"], "has no function lod"),
        (["MODULE:NUMBER", "--data", "rta100:rta"], "has no function NUMBER"),
        (["MODULE:load_wrong", "--data", "rta100:rta"], r"array of shape \(3,\); expected \(3, 3\)"),
        (["MODULE:load_nan", "--data", "rta100:rta"], "with NaN"),
        (["no_such_module:load", "--data", "rta100:rta"], "cannot be imported"),
        (["MODULE:load_raising", "--data", "rta100:rta"], r"failed to score images: KeyError.*colour_model.*:\d+\)"),
        (["ViT-B-33", "--data", "rta100:rta"], "no model 'ViT-B-33'"),
        (["ViT-B-32", "--data", "rta100:rta"], "needs `pretrained`"),
        (["ViT-B-32:weights.pt", "--data", "rta100:rta"], "does not exist"),
        (["MODULE:load", "--data", "rta101:rta"], "data are `world`"),
        (["MODULE:load", "--data", "rta100:nowhere"], "nowhere"),
        (["world", "--data", "world", "--device", "gpu"], "--device gpu: no such device"),
        (
            ["MODULE:load", "--data", "rta100:rta", "--output", "rta/label=red_text=blue.png/a.csv"],
            "--output rta/label",
        ),
        (["answers.csv"], "No such file"),
        (["local-dir:knee"], "needs images"),
        (
            ["MODULE:load", "--data", "rta100:rta", "--attack", "typo"],
            "--attack typo: unknown attack; choose sign or defense_prefix",
        ),
    ],
)
def test_mistakes_are_answered(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run("evaluate", *(argument.replace("MODULE", module(here)) for argument in arguments))


def answers(images: list[str], right: list[bool], name: str = "mine") -> Answers:
    answer = tuple("dog" if is_right else "cat" for is_right in right)
    true, written = ("dog",) * len(images), ("cat",) * len(images)
    return Answers(set=name, view="attacked", images=tuple(images), true=true, written=written, answer=answer)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_difference_is_paired_by_image_not_by_order(pairs: list[tuple[bool, bool]], random: Any) -> None:
    images = [str(i) for i in range(len(pairs))]
    order = images[:]
    random.shuffle(order)
    first = answers(images, [is_right for is_right, _ in pairs])
    second = answers(order, [pairs[int(image)][1] for image in order], name="called otherwise")
    by_measure = {comparison.measure: comparison for comparison in compare([first], [second])[0]}
    by_hand = np.array([float(b) - float(a) for a, b in pairs])
    assert by_measure["accuracy"].difference == pytest.approx(by_hand.mean())
    assert by_measure["text_confusion_rate"].difference == pytest.approx(-by_hand.mean())
    if not by_hand.any():
        assert (by_measure["accuracy"].low, by_measure["accuracy"].high) == (0.0, 0.0)


def test_equal_shares_of_different_images_are_told_apart_less_than_shares_alone_would() -> None:
    images = [str(i) for i in range(400)]
    first = answers(images, [i < 200 for i in range(400)])
    nearly = answers(images, [i < 212 for i in range(400)])
    accuracy = {row.measure: row for row in compare([first], [nearly])[0]}["accuracy"]
    assert accuracy.low > 0, "twelve images better and none worse is a difference, though 50 and 53 % overlap"
    other = answers(images, [i >= 188 for i in range(400)])
    accuracy = {row.measure: row for row in compare([first], [other])[0]}["accuracy"]
    assert accuracy.low < 0 < accuracy.high


def test_what_only_one_of_them_answered_is_said() -> None:
    comparisons, notes = compare([answers(["a", "b"], [True, True])], [answers(["b", "c"], [False, True])])
    assert comparisons[0].images == 1 and comparisons[0].difference == -1.0
    assert notes == ["mine, attacked: 2 images that only one model answered are left out"]
    with pytest.raises(UserError, match="no images in common"):
        compare([answers(["a"], [True])], [answers(["c"], [True])])


def test_answers_under_different_words_are_not_compared() -> None:
    first = answers(["a", "b"], [True, True])
    with pytest.raises(UserError, match="'cat' is written on the image a in the first and 'pig'"):
        compare([first], [replace(first, written=("pig", "pig"))])
    assert compare([first], [replace(first, written=("", ""))])[0], "without written words it cannot be known"


def test_a_file_of_one_set_finds_that_set_among_several() -> None:
    both = [answers(["a"], [True], "SCAM"), answers(["b"], [True], "NoSCAM")]
    comparisons, notes = compare(both, [answers(["a"], [False], "SCAM")])
    assert {comparison.set for comparison in comparisons} == {"SCAM"}
    assert notes == ["NoSCAM, attacked: only the first model has it"]


def test_two_way_choices_are_paired_where_both_have_one() -> None:
    first = replace(answers(["a", "b", "c"], [True] * 3), margin=np.array([np.nan, 1.0, 1.0]))
    second = replace(first, margin=np.array([1.0, -1.0, np.nan]))
    two_way = {row.measure: row for row in compare([first], [second])[0]}["two_way_accuracy"]
    assert (two_way.images, two_way.first, two_way.second) == (1, 1.0, 0.0)


def test_labels_and_answers_in_several_spellings(here: Path) -> None:
    (here / "first.CSV").write_text("image,true,written,answer\na,Red,blue,red\nb,green,red,red\n")
    (here / "second.csv").write_text("image,true,written,answer\na,red,Blue,red\nb,Green,red,GREEN\n")
    assert [row["accuracy"] for row in run("evaluate", "first.CSV", "second.csv")] == [0.5, 1.0]
    assert {row["measure"]: row["difference"] for row in run("compare", "first.CSV", "second.csv")}["accuracy"] == 0.5


def test_answers_in_another_language_are_no_accuracy_of_0(here: Path) -> None:
    (here / "answers.csv").write_text("image,true,answer\na,red,rot\nb,green,gr\u00fcn\n")
    with pytest.raises(UserError, match=r"no answer \('rot', 'gr\u00fcn'\) is one of the labels"):
        run("evaluate", "answers.csv")


def test_what_is_not_read_is_said_by_evaluate_check_and_run_alike(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)  # Ray is refused before it starts
    for split in ("train", "test"):
        tiny.write_images(here / split, ["cat", "dog", "owl"], 3, side=32)
    (here / "train" / "cat").rename(here / "train" / "Cat")
    (here / "train" / "dog" / "more").mkdir()
    Image.new("RGB", (8, 8)).save(here / "train" / "dog" / "more" / "1.png")
    (here / "spec.yaml").write_text(SPEC)
    said = [
        f"set mine: 'Cat' ({here}/train) and 'cat' ({here}/test) are read as one class",
        "set mine: train: 1 image is not read, in folders further down (expected: <folder>/<class>/<image>), "
        f"first {here}/train/dog/more/1.png",
    ]
    for command in ("run", "check"):
        # An MLflow that is none ends both right after what they say of the images.
        result = CliRunner().invoke(app, [command, "spec.yaml", "--tracking-uri", "ftp://nobody"])
        assert "ftp://nobody" in str(result.exception) + result.output
        assert [line for line in result.output.splitlines() if line.startswith("set mine")] == said
    result = CliRunner().invoke(app, ["evaluate", f"{module(here)}:load", "--data", "spec.yaml"])
    assert [line for line in result.stderr.splitlines() if line.startswith("set mine")] == said
