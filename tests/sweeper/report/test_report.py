"""Reports of finished and unfinished sweeps, and their verification after a digit was changed anywhere."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.report.latex import escaped
from sweeper.report.verify import Page, read_page, verify
from sweeper.run.budget import Session, Usage
from sweeper.run.usage_file import write_usage
from sweeper.search.study import Study
from sweeper.spec.quantities import Price
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.finished_sweep import begun_sweep, finished_sweep
from trainables.records import Point

EVIL = "</script><img src=x onerror=alert(1)> & \\input{x} $1_000% \x1b[31m"
ATTRIBUTE = """\
name: colour
task: attribute
model: {architecture: world, shear: 1.0}
sets: {world: {kind: world, train: 120, validation: 120, test: 80, templates: ["a photo of a {}"]}}
train: {set: world}
attribute: {name: colour, top: 10}
evaluate: {search: {sets: [world]}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
parameters:
  target: {choices: [flipped, equal]}
  objective: {when: {target: flipped}, choices: [cross_entropy]}
  tune: transform
  penalty: 0.01
  learning_rate: 0.02
points: [{target: equal}]
search: {trials: 3}
training: {epochs: 1, global_batch_size: 64}
"""
SECTIONS = (
    "front", "knee", "importance", "slices", "strengths", "sets", "held-out", "gallery", "cost", "failures",
    "checklist", "versions", "commands", "spec",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A sweep with its report."""

    folder: SweepFolder
    spec: Spec
    page: Path

    def verified(self, report: Path | None = None) -> str | None:
        """Return the first difference in words."""
        first = verify(read_page(report or self.page), self.folder, self.spec).first
        return None if first is None else str(first)


class Reader(HTMLParser):
    """Tags with attributes, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def reported(folder: SweepFolder, *words: str) -> Written:
    result = run("report", folder.name, "--storage", str(folder.storage), *words)
    assert result.exit_code == 0, result.output
    return Written(folder, folder.spec(), Path(result.stdout.strip()))


def with_more_trials(folder: SweepFolder, spec: Spec) -> None:
    """Add worse trials than the untouched model: ten complete, three stopped, one that failed; and used hours."""
    study = Study.open(folder.study_path, spec.parameters)
    for number in range(14):
        trial = study.ask()
        values = {"clean_accuracy": 0.01 + 0.002 * number, "robust_accuracy": 0.04 - 0.002 * number}
        if number < 10:
            points = [Point(weights="last", strength=1.0, values={**values, "text_confusion_rate": 0.1})]
            study.tell(trial.number, values, points, 10.0, 0, cost_s=20.0)
        elif number < 13:
            study.stop(trial.number, "stopped", stopped_at=1 / 9, values=values, cost_s=4.0)
        else:
            study.fail(trial.number, f"no memory: {EVIL}", cost_s=1.0)
    study.close()
    session = Session(started_s=0.0, device="cpu", slots=2, devices_per_slot=1.0, wall_s=1800.0)
    write_usage(folder, Usage(sessions=(session,), price=Price(2.5, "$")))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder, spec = finished_sweep(tmp_path_factory.mktemp("report"))
    with_more_trials(folder, spec)
    return reported(folder)


@pytest.fixture
def sweep(written: Written, tmp_path: Path) -> SweepFolder:
    """A copy of the sweep that a test may change."""
    shutil.copytree(written.folder.path, tmp_path / "demo", ignore=shutil.ignore_patterns("report"))
    return SweepFolder(tmp_path, "demo")


def test_a_report_has_every_section_and_needs_neither_network_nor_a_script(written: Written) -> None:
    text = written.page.read_text()
    tags = Reader(text).tags
    assert [values["id"] for tag, values in tags if tag == "section"] == list(SECTIONS)
    assert all(str(values["src"]).startswith("data:") for tag, values in tags if tag == "img")
    assert {str(values["href"]) for tag, values in tags if tag == "a"} == {f"#{name}" for name in SECTIONS}
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object")] and "url(" not in text
    scripts = [values for tag, values in tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "numbers"}], "nothing runs"
    assert "@media print" in text and "width=device-width" in text and len(text) < 3_000_000
    names = {values["data-picture"] for tag, values in tags if tag == "img"}
    assert {"figure/front", "figure/importance", "figure/slices", "figure/curves"} <= names
    images = [name for name in names if str(name).startswith("image/")]
    assert 0 < len(images) <= 12
    for name in ("front", "importance", "slices", "curves"):
        assert (written.page.parent / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (written.page.parent / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_its_numbers_are_those_of_the_front(written: Written) -> None:
    front = json.loads(run("front", "demo", "--format", "json", "--storage", str(written.folder.storage)).stdout)
    shown = dict(read_page(written.page).shown)
    compared = 0
    for point in front:
        key = point["name"] or f"trial {point['trial']} {point['weights']} {point['strength']:g}"
        for goal in ("clean_accuracy", "robust_accuracy"):
            assert shown[f"front/{key}/validation/{goal}"] == f"{point['validation'][goal]:.3f}"
            assert shown[f"front/{key}/test/{goal}"] == f"{point['values'][goal]:.3f}"
            low, high = point["intervals"][goal]
            assert shown[f"front/{key}/test/{goal}/low"] == f"{low:.3f}"
            assert shown[f"front/{key}/test/{goal}/high"] == f"{high:.3f}"
            compared += 1
    assert compared >= 6


def test_it_tells_of_stopped_and_failed_trials_and_of_hours(written: Written) -> None:
    shown = dict(read_page(written.page).shown)
    states = {state: shown[f"trials/{state}"] for state in ("complete", "stopped", "failed", "running")}
    assert states == {"complete": "12", "stopped": "3", "failed": "1", "running": "0"}
    assert shown["hours/used"] == "1" and shown["stopped/0.1111/hours"] == f"{3 * 4 * 8 / 3600:.3g}"
    text = "".join(Reader(written.page.read_text()).texts)
    assert "no memory: </script><img src=x onerror=alert(1)>" in text, "the reason, as text"
    assert "At 2.5$ per cpu-h: $2.50" in text
    assert "beta log-uniform in [0.1, 2]" in text and "95 % percentile bootstrap" in text


def test_the_tables_are_there_as_csv_and_latex(written: Written) -> None:
    tables = written.page.parent / "tables"
    names = {path.stem for path in tables.glob("*.tex")}
    assert {"front", "knee", "sets", "held_out", "importance", "strengths", "stopped", "failures", "checklist"} <= names
    for path in tables.glob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        assert len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])}, path.name
    front = {row["point"]: row for row in csv.DictReader(io.StringIO((tables / "front.csv").read_text()))}
    points = {row["name"]: row for row in csv.DictReader(io.StringIO((tables / "points.csv").read_text()))}
    assert float(front["knee"]["test robust high"]) == pytest.approx(
        float(points["knee"]["test_robust_accuracy_high"]), rel=1e-8
    )
    for path in tables.glob("*.tex"):
        lines = path.read_text().splitlines()
        if path.stem == "checklist":
            continue
        columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[1])
        assert columns is not None
        assert [lines[2], lines[4], *lines[-2:]] == ["\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}"]
        for line in (lines[3], *lines[5:-2]):
            assert line.endswith(" \\\\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1, line


@given(st.text(st.sampled_from("ab \\{}$&#%_^~<>|\"'[]\n"), max_size=30) | st.text(max_size=30) | st.just(EVIL))
def test_a_text_in_latex_is_text(text: str) -> None:
    shown = escaped(text)
    assert "\n" not in shown
    bare = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]", "", shown)
    assert not set(bare) & set("\\{}$&#%_^~"), shown


def test_a_report_agrees_with_its_sweep(written: Written) -> None:
    result = run("verify", str(written.page.parent))
    assert result.exit_code == 0 and f"agree with the folder of sweep {written.folder.name}" in result.stdout
    numbers, places, files = (int(count) for count in re.findall(r"\d+", result.stdout))
    assert numbers > 200 and places >= numbers and files > 25
    named = run("verify", str(written.page), "--storage", str(written.folder.storage))
    assert named.stdout == result.stdout


@pytest.fixture(scope="module")
def changed_folder(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the report whose files a test changes and sets back."""
    return Path(shutil.copytree(written.page.parent, tmp_path_factory.mktemp("changed") / "report"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_digit_that_was_changed_anywhere_is_found(
    written: Written, changed_folder: Path, data: st.DataObject
) -> None:
    files = sorted([*changed_folder.glob("tables/*"), changed_folder / "report.html"])
    path = data.draw(st.sampled_from([*files, *[changed_folder / "report.html"] * len(files)]), label="file")
    text = path.read_text()
    block = text.find('<script type="application/json"')
    parts = {"all": (0, len(text)), "block": (block, len(text)), "body": (text.find("<main>"), block)}
    part = data.draw(st.sampled_from(sorted(parts)), label="part") if path.suffix == ".html" else "all"
    places = [
        match.start() for match in re.finditer(r"[0-9]", text) if parts[part][0] <= match.start() < parts[part][1]
    ]
    place = data.draw(st.sampled_from(places), label="place")
    digit = data.draw(st.sampled_from([other for other in "0123456789" if other != text[place]]), label="digit")
    path.write_text(text[:place] + digit + text[place + 1 :])
    try:
        found = written.verified(changed_folder)
    except UserError as error:  # the block is no JSON any more, or about another sweep
        found = str(error)
    finally:
        path.write_text(text)
    assert found is not None and ("in the report" in found or "report.html" in found)


@pytest.mark.parametrize("number", range(12))
def test_a_changed_number_is_named_by_its_key(written: Written, tmp_path: Path, number: int) -> None:
    page: Page = read_page(written.page)
    key, shown = page.shown[number * len(page.shown) // 12]
    changed = shown[:-1] + str((int(shown[-1]) + 1) % 10)
    (tmp_path / "report.html").write_text(
        page.text.replace(f'<data value="{key}">{shown}<', f'<data value="{key}">{changed}<', 1)
    )
    assert written.verified(tmp_path) == f"{key}: {changed} in the report, {shown} recomputed"
    in_block = re.sub(rf'({re.escape(json.dumps(key))}: {{"value": )[^,]+', r"\g<1>7.25", page.text, count=1)
    (tmp_path / "report.html").write_text(in_block)
    found = written.verified(tmp_path)
    assert found is not None and found.startswith(f"{key}: 7.25 in the report, ")


def test_verify_ends_with_1_and_names_the_number(written: Written, tmp_path: Path) -> None:
    text = written.page.read_text()
    changed = re.sub(r'(<data value="front/knee/test/clean_accuracy">)[^<]*', r"\g<1>0.999", text, count=1)
    (tmp_path / "report.html").write_text(changed)
    result = run("verify", str(tmp_path / "report.html"), "--storage", str(written.folder.storage))
    assert result.exit_code == 1
    assert result.stdout.startswith("front/knee/test/clean_accuracy: 0.999 in the report, 0.")


def test_swapped_words_and_changed_pictures_are_found(written: Written, tmp_path: Path) -> None:
    text = written.page.read_text()
    (tmp_path / "report.html").write_text(text.replace("decided nothing", "decided much", 1))
    found = written.verified(tmp_path)
    assert found is not None and re.fullmatch(
        r"report.html, line \d+: 'much\.' in the report, 'nothing\.' recomputed", found
    )
    (tmp_path / "report.html").write_text(text.replace("base64,PD", "base64,PE", 1))
    found = written.verified(tmp_path)
    assert found is not None and found.startswith("picture figure/front: sha256 ")
    folder = Path(shutil.copytree(written.page.parent, tmp_path / "copy"))
    (folder / "figures" / "front.png").write_bytes(b"other")
    found = written.verified(folder)
    assert found is not None and found.startswith("figures/front.png: sha256 ")


def test_a_sweep_that_has_changed_since_is_named(written: Written, sweep: SweepFolder) -> None:
    text = (sweep.path / "test.jsonl").read_text()
    (sweep.path / "test.jsonl").write_text(text.replace('"robust_accuracy": 0.075', '"robust_accuracy": 0.175'))
    first = verify(read_page(written.page), sweep, sweep.spec()).first
    assert first is not None
    assert str(first) == "result/robust_accuracy/knee: 0.075 in the report, 0.175 recomputed"


def test_goals_that_do_not_follow_from_the_answers_are_found(sweep: SweepFolder) -> None:
    text = (sweep.path / "test.jsonl").read_text()
    (sweep.path / "test.jsonl").write_text(text.replace('"robust_accuracy": 0.075', '"robust_accuracy": 0.175'))
    found = reported(sweep).verified()
    assert found is not None and found.startswith(
        "robust_accuracy on test of trial 1, strength 1: 0.175000 in the report"
    )


def test_the_report_of_another_sweep_of_the_name_is_refused(written: Written, sweep: SweepFolder) -> None:
    about = json.loads((sweep.path / "sweep.json").read_text())
    (sweep.path / "sweep.json").write_text(json.dumps(about | {"sweep_id": "0" * 32}))
    result = run("verify", str(written.page), "--storage", str(sweep.storage))
    assert isinstance(result.exception, UserError) and "has the id 000" in str(result.exception)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for content in (None, b"", b"\xff", b"<p>0.949</p>", b'<script id="numbers">[]</script>'):
        if content is not None:
            (tmp_path / "report.html").write_bytes(content)
        result = run("verify", str(tmp_path))
        assert isinstance(result.exception, UserError) and "report.html" in str(result.exception)


def test_the_report_of_another_version_is_compared_by_its_numbers(written: Written, tmp_path: Path) -> None:
    page = read_page(written.page)
    version = page.making.versions["sweeper"]
    text = page.text.replace(f'"sweeper": "{version}"', '"sweeper": "9.9"').replace(f"sweeper {version}", "sweeper 9.9")
    text = text.replace("decided nothing", "were not used")
    (tmp_path / "report.html").write_text(text)
    result = verify(read_page(tmp_path), written.folder, written.spec)
    assert result.first is None and "made by sweeper 9.9" in result.notes[0]
    (tmp_path / "report.html").write_text(text.replace('"sweeper": "9.9"', '"sweeper": "9.8"'))
    found = written.verified(tmp_path)
    assert found is not None and found.startswith("version of sweeper: ")


def test_names_from_outside_are_text(sweep: SweepFolder, tmp_path: Path) -> None:
    path = sweep.answers_path((1, "last", 1.0))
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("world/test,attacked,"))
    cells = lines[first].split(",")
    cells[5] = EVIL
    lines[first] = ",".join(cells)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    (sweep.path / "spec.yaml").write_text(f"# {EVIL}\n")
    name = "<b>&\"x'"
    sweep.path.rename(tmp_path / name)
    report = reported(SweepFolder(tmp_path, name))
    text = report.page.read_text()
    tags = Reader(text).tags
    assert not [values for _, values in tags if "onerror" in values]
    assert len([tag for tag, _ in tags if tag == "script"]) == 1 and "\x1b" not in text
    assert all("alert" not in str(values.get("src")) for _, values in tags)
    assert f"Report on the sweep {name}" in Reader(text).texts
    result = run("verify", str(report.page))
    assert result.exit_code == 0, result.output or result.exception


def test_an_unfinished_sweep_says_so_at_the_top(sweep: SweepFolder) -> None:
    study = Study.open(sweep.study_path, sweep.spec().parameters)
    study.ask()
    study.close()
    report = reported(sweep)
    text = report.page.read_text()
    assert '<p class="unfinished">This sweep is unfinished: <data value="state/ended">16</data>' in text
    assert text.index("This sweep is unfinished") < text.index("<main>")
    assert report.verified() is None


def test_a_sweep_of_the_untouched_model_alone_tells_what_it_lacks(tmp_path: Path) -> None:
    folder, spec, _ = begun_sweep(tmp_path)
    result = run("report", "demo", "--storage", str(folder.storage))
    assert isinstance(result.exception, UserError) and "has not measured anything yet" in str(result.exception)
    goals = {goal.metric: goal.direction for goal in spec.task_goals()}
    Study.create(folder.study_path, spec.parameters, goals=goals, seed=0, startup_trials=4).close()
    report = reported(folder)
    text = "".join(Reader(report.page.read_text()).texts)
    for line in (
        "The front has no knee", "There was no second look", "No point was measured on test yet",
        "No named trial was measured at several strengths", "No trial has failed", "No trial was stopped early",
        "There are no answers of both the untouched model and the knee", "Device hours were not recorded",
    ):  # fmt: skip
        assert line in text
    assert report.verified() is None


def test_images_that_cannot_be_drawn_again_are_told(sweep: SweepFolder, tmp_path: Path) -> None:
    record = json.loads((sweep.path / "spec.resolved.json").read_text())
    record["model"]["architecture"] = f"local-dir:{tmp_path / 'moved'}"
    (sweep.path / "spec.resolved.json").write_text(json.dumps(record))
    report = reported(sweep, "--output", str(tmp_path / "elsewhere" / "report"))
    text = report.page.read_text()
    assert report.page == tmp_path / "elsewhere" / "report" / "report.html"
    assert "The images cannot be drawn again here: " in text and 'data-picture="image/' not in text
    assert "only the knee is right" in text, "the answers are shown without the images"
    assert report.verified() is None


def test_the_attribute_task_has_a_report(tmp_path: Path) -> None:
    folder, _ = finished_sweep(tmp_path, ATTRIBUTE)
    report = reported(folder)
    page = read_page(report.page)
    shown = dict(page.shown)
    assert "front/untouched/test/content_accuracy" in shown and "front/untouched/test/max_skew_at_10/low" in shown
    assert "No attacks were held out in this sweep" in page.text
    assert report.verified() is None
