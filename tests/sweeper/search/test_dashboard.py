"""The study of a sweep is one that Optuna's own tools open."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

from sweeper.search.study import Study
from tests.helpers.study_driver import SPACE
from tests.paths import ROOT
from trainables.records import Direction

EARLY = ROOT / "tests" / "sweeper" / "storage" / "early_sweep"


def answer(app: Callable[..., Any], path: str, query: str = "") -> Any:
    """Return the JSON of a request to the dashboard's server, without a port."""
    statuses: list[str] = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
    }
    body = b"".join(app(environment, lambda status, headers, error=None: statuses.append(status)))
    assert statuses[0].startswith("200"), (statuses, body)
    return json.loads(body)


def test_optuna_dashboard_opens_a_study(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    shutil.copyfile(EARLY / "study.db", file)
    storage = RDBStorage(f"sqlite:///{file}")
    app = wsgi(storage)
    (summary,) = answer(app, "/api/studies")["study_summaries"]
    shown = answer(app, f"/api/studies/{summary['study_id']}", "after=0")
    with sqlite3.connect(file) as database:
        trials = database.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    assert [(trial["number"], trial["state"].upper()) for trial in shown["trials"]] == trials
    assert summary["directions"] == ["maximize", "maximize"]
    storage.engine.dispose()


def test_goals_have_their_names(tmp_path: Path) -> None:
    goals: dict[str, Direction] = {"clean_accuracy": "maximize", "max_skew_at_10": "minimize"}
    Study.create(tmp_path / "study.db", SPACE, seed=0, startup_trials=1, goals=goals)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.metric_names == list(goals)
