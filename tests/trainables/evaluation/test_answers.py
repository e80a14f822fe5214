"""Answers image by image: what follows from them, and the files they are written to and read from."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.evaluation.answers import Answers, read_answers, refuse_strange, write_answers

SCAM = (
    "type,id,object_label,attack_word,postit_area_pct,"
    "object_similarities,attack_similarities,object_prob,attack_prob"
    """
SCAM,SCAM_0001_cup,cup,taxi,4.2,26.5,24.1,0.9,0.1
SCAM,SCAM_0002_pen,pen,love,3.1,20.0,27.5,0.0,1.0
SCAM,SCAM_0003_key,key,hate,3.1,22.0,22.0,0.5,0.5
"""
)


def example() -> Answers:
    return Answers(
        set="mine/test",
        view="attacked",
        images=("a", "b", "c", "d"),
        true=("dog", "dog", "cat", "cat"),
        written=("cat", "cat", "dog", ""),
        answer=("dog", "cat", "owl", "cat"),
        margin=np.array([1.5, -0.5, 0.0, np.nan]),
        reference_kl=np.array([0.0, 0.5, 1.0, 2.5]),
    )


def test_measures() -> None:
    measures = {name: scores.tolist() for name, scores in example().measures().items()}
    assert measures == {
        "accuracy": [1, 0, 0, 1],
        "text_confusion_rate": [0, 1, 0],  # the fourth shows no word of a class
        "two_way_accuracy": [1, 0, 0],  # a tie is no preference for the true class
        "reference_kl": [0.0, 0.5, 1.0, 2.5],
    }


@pytest.mark.parametrize("name", ["answers.csv", "answers.csv.gz"])
def test_written_and_read_again(name: str, tmp_path: Path) -> None:
    clean = Answers(
        set="mine/test", view="clean", images=("a, b", "c\n"), true=("x", "y"), written=("", ""), answer=("x", "x")
    )
    write_answers(tmp_path / name, [example(), clean])
    for written, read in zip([example(), clean], read_answers(tmp_path / name), strict=True):
        assert (written.set, written.view, written.true, written.answer) == (
            read.set,
            read.view,
            read.true,
            read.answer,
        )
        for measure, scores in written.measures().items():
            np.testing.assert_allclose(read.measures()[measure], scores)


def test_published_results_of_scam(tmp_path: Path) -> None:
    (tmp_path / "SCAM--ViT-B-32--laion2b_s34b_b79k.csv").write_text(SCAM)
    (tmp_path / "clean.csv").write_text(SCAM.replace("SCAM", "NoSCAM"))
    attacked = read_answers(tmp_path / "SCAM--ViT-B-32--laion2b_s34b_b79k.csv")[0]
    clean = read_answers(tmp_path / "clean.csv")[0]
    assert (attacked.view, clean.view) == ("attacked", "clean")
    assert attacked.images == clean.images == ("0001_cup", "0002_pen", "0003_key")
    assert attacked.measures()["two_way_accuracy"].tolist() == [1, 0, 0]
    assert set(clean.measures()) == {"two_way_accuracy"}, "who answered among all classes is not known"


@pytest.mark.parametrize("lines", [True, False])
def test_json_says_the_same(lines: bool, tmp_path: Path) -> None:
    rows = [
        {"image": 1, "true": "dog", "written": "cat", "score_true": 25.5, "score_written": 26.0},
        {"image": 2, "true": "cat", "written": "dog", "score_true": 0.3, "score_written": 0.2},
    ]
    path = tmp_path / ("others.jsonl" if lines else "others.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    answers = read_answers(path)[0]
    assert (answers.set, answers.view, answers.images) == ("others", "attacked", ("1", "2"))
    assert answers.measures()["two_way_accuracy"].tolist() == [0, 1]
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="expected a list of objects"):
        read_answers(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,answer\na,dog\n", r"answers.csv:1: expected the columns image, true and answer"),
        ("", r"answers.csv:1: .*found nothing"),
        ("image,true,answer\n", r"has no answers"),
        ("image,true,answer\na,dog,\n", r"answers.csv:2: there is neither an answer nor a margin"),
        ("image,true,answer\na,dog,dog\na,dog,cat\n", r"the image a appears twice"),
        ("image,true,answer,margin\na,dog,dog,x\n", r"answers.csv:2: margin is 'x', which is not a number"),
        ("image,true,answer,margin\na,dog,dog,1\nb,dog,,1\n", r"the image b has no answer, but others do"),
        (SCAM.replace("27.5", ""), r"answers.csv:3: object_similarities and attack_similarities must be numbers"),
    ],
)
def test_what_is_no_file_of_answers(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_answers(tmp_path / "answers.csv")


WORDS = st.sampled_from(["dog", "cat", "a, b", 'the "owl"', "red\ncar"])


@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=8))
def test_any_words_survive_the_file(rows: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    true, written, answer = (tuple(words) for words in zip(*rows, strict=True))
    images = tuple(str(i) for i in range(len(rows)))
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_answers(path, [Answers(set="s", view="attacked", images=images, true=true, written=written, answer=answer)])
    answers = read_answers(path)[0]
    assert (answers.true, answers.written, answers.answer) == (true, written, answer)


@pytest.mark.parametrize(
    "text",
    [
        "image,true,written,answer\na,Cat,dog,cat\nb,dog,cat,Dog\n",
        "image,true,written,answer\ra,cat,dog,cat\rb,dog,cat,dog\r",
        "\ufeffimage, true, written, answer\r\na, red_cat, dog, Red cat\r\nb, dog, cat, dog\r\n",
        "image,true,written,answer\na,1,2,1.0\nb,2,1,2\n",
    ],
    ids=["case", "carriage returns", "spaces behind commas", "fractions"],
)
def test_the_same_word_in_another_spelling_is_right(text: str, tmp_path: Path) -> None:
    (tmp_path / "answers.CSV").write_bytes(text.encode())
    measures = read_answers(tmp_path / "answers.CSV")[0].measures()
    assert measures["accuracy"].tolist() == [True, True]
    assert measures["text_confusion_rate"].tolist() == [False, False]


@pytest.mark.parametrize("written", ["NaN", '"nan"', "null", '"None"', '"NA"', '""'])
def test_no_word_is_none_however_it_is_written(written: str, tmp_path: Path) -> None:
    line = f'"image": "a", "true": "cat", "written": {written}, "answer": "cat"'
    (tmp_path / "answers.jsonl").write_text(f"{{{line}}}\n")
    assert [(answers.view, answers.written) for answers in read_answers(tmp_path / "answers.jsonl")] == [
        ("clean", ("",))
    ]


def test_a_class_called_none_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text("image,true,written,answer\na,none,cat,none\nb,cat,None,cat\n")
    answers = read_answers(tmp_path / "answers.csv")[0]
    assert answers.written == ("cat", "None") and answers.answer == ("none", "cat")


def test_json_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    word = "a\u2028b\u0085c\x0cd"
    line = json.dumps({"image": "a", "true": word, "answer": word}, ensure_ascii=False).replace("\\f", "\x0c")
    (tmp_path / "answers.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert read_answers(tmp_path / "answers.jsonl")[0].true == (word,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'image,true,answer\na,cat,cat\n"b,dog,dog\nc,dog,dog\n', r"a.csv:3: a quotation mark is opened"),
        ("a.csv", b'image,true,answer\n"b,dog,dog\nc,"dog",dog\n', r"a.csv:2: text behind a closing quotation mark"),
        ("a.csv", b"image,true,answer\na,cat," + b"x" * 140000, r"a.csv:2: a value of more than 131072 characters"),
        ("a.csv", b"image,true,answer\na,robin, American robin,cat\n", r"a.csv:2: 4 cells for 3 columns"),
        ("a.csv", b"image,true,answer\na\n", r"a.csv:2: image and true must not be empty"),
        ("a.csv", b"image,true,true\n", r"a.csv:1: two columns are called 'true'"),
        ("a.csv", b"image;true;answer\na;b;b\n", r"a.csv:1: .*separate them by commas, not by ';'"),
        ("a.csv", "image,true,answer\n".encode("utf-16"), r"a.csv is UTF-16"),
        ("a.csv", "image,true,answer\na,caf\u00e9,b\n".encode("latin-1"), r"a.csv:2: the byte 0xe9 is not UTF-8"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"a.csv is a Git LFS pointer"),
        ("a.jsonl", b'{"image": "a", "true": "b", "answer": "b"}\n{"image"\n', r"a.jsonl:2: this line is not JSON"),
        ("a.jsonl", b'{\n "image": "a",\n "true": "b"\n}\n', r"a.jsonl:1: .*one object over several lines"),
        ("a.json", b'{"predictions": [{"image": "a"}]}', r"a.json:1: the objects are inside 'predictions'"),
        ("a.json", b'{"image": {"0": "a"}, "true": {"0": "b"}}', r"a.json:1: .*orient=\"records\""),
        ("a.json", b"[" * 100_000, r"a.json: this is not readable JSON"),
        ("a.csv", b"image,true,answer\n" + b"a,cat,cat\n" * 200 + b"b,c\0t,cat\n", r"a.csv:202: a NUL character"),
        ("a.csv", b"image,true,written,margin\na,cat,dog,inf\n", r"a.csv:2: margin is 'inf'; write a finite number"),
        ("a.csv", b'image,true,written,margin\na,cat,dog,"1,5"\n', r"a.csv:2: .* \(the decimal mark is a point\)"),
        ("a.csv", b"PK\x03\x04", r"a.csv is a zip archive"),
        ("a.jsonl", b'{"image": "a", "true": "b", "true": "c"}', r"a.jsonl:1: the key 'true' is in one object twice"),
        ("a.json", b'[{"image": "a", "true": ["b"], "answer": "b"}]', r"entry 1: true is \['b'\]; write a single word"),
        ("a.jsonl", b'{"image": "a", "true": "b", "answer": "b"}\n{"image": "c"}', r"a.jsonl:2: no 'true'"),
        ("a.csv.gz", b"\x1f\x8bno gzip", r"a.csv.gz is not a file of answers"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_answers(tmp_path / name)


def test_answers_that_are_none_of_the_labels_are_refused(tmp_path: Path) -> None:
    answers = Answers(
        set="s", view="clean", images=("a", "b"), true=("cat", "dog"), written=("", ""), answer=("Katze", "Hund")
    )
    with pytest.raises(ValueError, match=r"x.csv: set 's': no answer \('Katze', 'Hund'\) is one of the labels"):
        refuse_strange(tmp_path / "x.csv", [answers])
    refuse_strange(tmp_path / "x.csv", [replace(answers, answer=("CAT", "Hund"))])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("compressed", [False, True])
def test_answers_are_unpacked_by_their_content(name: str, compressed: bool, tmp_path: Path) -> None:
    content = b"image,true,written,answer\na,01,-,1.0\nb,2,3,02\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if compressed else content)
    clean, attacked = read_answers(tmp_path / name)
    assert (clean.view, clean.images, attacked.images) == ("clean", ("a",), ("b",)), "a dash is no word"
    assert clean.measures()["accuracy"].tolist() == attacked.measures()["accuracy"].tolist() == [True]


def test_columns_between_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("image\ttrue\tanswer\na\tcat\tcat\n")
    assert read_answers(tmp_path / "a.tsv")[0].answer == ("cat",)
