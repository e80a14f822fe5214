"""A search that ends at its noise floor, killed and asked for more; and what the commands say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.run.budget import Session, Usage
from sweeper.run.floor_text import sweep_floor_line
from sweeper.run.listing import sweep_row
from sweeper.run.status_text import status_text
from sweeper.run.usage_file import read_usage, write_usage
from sweeper.search.floor_files import FloorReader, UnknownFloor, load_floor, planned_trials, read_search_end
from sweeper.search.noise_floor import LEAST_COMPLETE, NoiseFloor
from sweeper.spec.quantities import Price
from tests.helpers.pretended_search import PretendedSearch, make_spec

UNTIL = make_spec(until="noise_floor")


def equal(trial: int) -> tuple[float, float]:
    return 0.85, 0.6


def rising(trial: int) -> tuple[float, float]:
    return 0.8 + 0.005 * trial, 0.3 + 0.03 * trial


def test_a_search_of_equal_trials_ends_and_then_the_second_phase_begins(tmp_path: Path) -> None:
    search = PretendedSearch(tmp_path, UNTIL, equal)
    ended = search.run()
    assert LEAST_COMPLETE <= ended < 40
    assert [(end.trials, end.planned) for end in search.ends] == [(ended, 40)]
    assert search.ends[0].gain < search.ends[0].standard_error
    assert search.scheduler.exhausted() and search.confirm_phases == 1
    assert read_search_end(search.folder) == search.ends[0]
    assert planned_trials(search.folder, UNTIL, search.study.trials()) == ended


def test_a_search_that_gets_better_and_better_makes_every_trial(tmp_path: Path) -> None:
    search = PretendedSearch(tmp_path, UNTIL.with_trials(20), rising)
    assert search.run() == 20 and not search.ends and search.scheduler.exhausted()


def test_without_until_the_floor_is_told_and_ends_nothing(tmp_path: Path) -> None:
    spec = make_spec()
    search = PretendedSearch(tmp_path, spec, equal)
    assert search.run() == 40 and not search.ends
    floor = load_floor(search.folder, spec, search.study.trials())
    assert isinstance(floor, NoiseFloor) and floor.reached and floor.further == 10
    line = sweep_floor_line(search.folder, spec, search.study.trials())
    assert line is not None and line.startswith("noise floor: a further 10 trials would gain ")
    assert line.endswith("less than these images can tell")


def test_trials_that_run_when_the_search_ends_end_as_usual(tmp_path: Path) -> None:
    search = PretendedSearch(tmp_path, UNTIL, equal)
    ended = search.run(slots=4)
    (end,) = search.ends
    assert ended == end.trials + 3
    assert [trial.state for trial in search.study.trials()] == ["complete"] * ended
    search.close()
    again = PretendedSearch(tmp_path, UNTIL, equal)
    assert again.run() == 0 and again.scheduler.exhausted(), "what these trials add does not begin the search again"


@pytest.mark.parametrize("killed_after", [5, LEAST_COMPLETE, 13])
def test_a_killed_search_ends_after_the_same_trial(tmp_path: Path, killed_after: int) -> None:
    whole = PretendedSearch(tmp_path / "whole", UNTIL, equal)
    ended = whole.run()
    first = PretendedSearch(tmp_path / "killed", UNTIL, equal)
    before = first.run(limit=killed_after)
    first.next_job()  # begun, where there was one, and never ended
    first.close()
    second = PretendedSearch(tmp_path / "killed", UNTIL, equal)
    assert before + second.run() == ended
    assert read_search_end(second.folder) == read_search_end(whole.folder)
    second.close()
    third = PretendedSearch(tmp_path / "killed", UNTIL, equal)
    assert third.run() == 0 and not third.ends


def test_killed_before_the_decision_was_written_it_is_made_again(tmp_path: Path) -> None:
    first = PretendedSearch(tmp_path, UNTIL, equal)
    ended, end = first.run(), first.ends[0]
    first.close()
    (first.folder.path / "search_end.json").unlink()
    second = PretendedSearch(tmp_path, UNTIL, equal)
    assert second.run() == 0 and second.ends == [end] and len(second.study.trials()) == ended


def test_more_trials_go_on_and_the_floor_is_looked_at_after_another_quarter(tmp_path: Path) -> None:
    first = PretendedSearch(tmp_path, UNTIL, equal)
    ended = first.run()
    first.close()
    more = PretendedSearch(tmp_path, UNTIL.with_trials(80), equal)
    further = more.run()
    assert further >= ended // 4
    assert more.ends[0].planned == 80 and more.ends[0].trials == ended + further


def test_what_cannot_be_said_is_said_once_and_does_not_end_the_search(tmp_path: Path) -> None:
    search = PretendedSearch(tmp_path, UNTIL, equal)
    search.run(limit=3)
    job = search.next_job()
    assert job is not None
    search.end(job)
    search.watch.latest()
    search.close()
    (search.folder.trial(3).path / "answers.npz").unlink()
    search = PretendedSearch(tmp_path, UNTIL, equal)
    assert search.run() == 36 and not search.ends
    untouched = search.folder.untouched()
    assert untouched is not None
    trials = search.study.trials()
    assert FloorReader(search.folder, UNTIL, untouched).floor(trials) == UnknownFloor(
        "there are no answers of trial 3 (answers.npz)"
    )
    early = FloorReader(search.folder, UNTIL, replace(untouched, hits=None)).floor(trials)
    assert isinstance(early, UnknownFloor) and "earlier version" in early.reason


SESSION = Session(started_s=0.0, device="gpu", slots=2, devices_per_slot=1.0, wall_s=3600.0)


def test_cost_and_noise_floor_in_every_view(tmp_path: Path) -> None:
    search = PretendedSearch(tmp_path, UNTIL, equal)
    ended = search.run()
    search.close()
    usage = Usage(sessions=(SESSION,), price=Price(2.5, "EUR"), not_begun=40 - ended)
    write_usage(search.folder, usage)
    assert read_usage(search.folder) == usage
    text = status_text(search.folder, UNTIL)
    assert "cost: 2 gpu-h (5.00 EUR)" in text
    saved_h = (40 - ended) * 10 / 3600
    assert f"saved by the noise floor: about {saved_h:.3g} gpu-h ({2.5 * saved_h:.2f} EUR)" in text
    assert f"search ended after {ended} of 40 trials: " in text and "demo: unfinished" in text  # not measured
    assert "per point of hypervolume (0.01 x 0.01): " in text
    notes = text[text.index("cost:") : text.index(" on the front, hypervolume")].splitlines()[:-1]
    assert max(len(line) for line in notes) <= 80
    row = sweep_row(search.folder, UNTIL, Price(1.0, "$"))
    assert (row["money"], row["price"], row["state"]) == (2.0, "1$", "unfinished")

    runner, where = CliRunner(), ["--storage", str(tmp_path)]
    shown = runner.invoke(app, ["front", "demo", "--price", "3", *where])
    assert shown.exit_code == 0 and "cost: 2 gpu-h ($6.00)" in shown.output and "search ended after" in shown.output
    as_json = runner.invoke(app, ["status", "demo", "--format", "json", *where])
    assert '"noise_floor_reached": true' in as_json.output and '"money": 5.0' in as_json.output
    assert "cost" not in runner.invoke(app, ["front", "demo", "--format", "csv", *where]).output
