"""The MLflow runs of a sweep: their store, the run of each trial, and links that open them. Does not import MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from sweeper.errors import UserError
from sweeper.secrets import shown_uri, without_secrets
from sweeper.storage.files import read_if_whole, replace_text

EXPERIMENT = "sweeper"
"""Experiment of all sweeps of a store, which are its parent runs, unless MLFLOW_EXPERIMENT_NAME names another one."""

DATABASE = "mlflow.db"
"""File in a storage that is used unless another store is named."""
_MACHINE_LEARNING = "workflowType=machine_learning"
"""Parameter of addresses without which MLflow 3.17 opens in its GenAI workspace, where runs are hidden."""
_RUN_ID = re.compile(r"[A-Za-z0-9_-]+")
"""Ids of runs; they are names of folders in the storage, which may not lead out of it."""
_LEAVE_OUT = "leave --tracking-uri (and MLFLOW_TRACKING_URI) out to use an SQLite file beside the sweeps"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True, kw_only=True)
class Store:
    """An MLflow tracking store."""

    uri: str
    artifacts: Path | None = None
    """Folder of the artifacts; None if the server decides."""

    @property
    def is_server(self) -> bool:
        """Return whether pages can be opened at ``uri`` itself."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def own_database(self) -> Path | None:
        """Return the SQLite file in the storage itself, beside its artifacts; None for any other store."""
        if self.artifacts is None or self.uri != _own_uri(self.artifacts.parent):
            return None
        return self.artifacts.parent / DATABASE

    @property
    def shown_uri(self) -> str:
        """Return ``uri`` without a password, for files and messages."""
        return shown_uri(self.uri)

    def problem(self, error: BaseException) -> str:
        """Return the first line of an error of MLflow's, shortened and without the password of the store."""
        said = without_secrets(f"{error}", self.uri).strip() or type(error).__name__
        return said.splitlines()[0][:300]


def _own_uri(storage: Path) -> str:
    return f"sqlite:///{storage / DATABASE}"


def find_store(storage: Path, tracking_uri: str | None = None) -> Store:
    """Return the store to use: ``tracking_uri``, or MLFLOW_TRACKING_URI, or ``<storage>/mlflow.db``.

    Raises:
        UserError: MLflow 3.13 and later cannot track to the URI (its file store was removed, mlflow#18534).
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    storage = storage.resolve()
    if not uri:
        return Store(uri=_own_uri(storage), artifacts=storage / "mlartifacts")
    scheme = uri.partition(":")[0].partition("+")[0]
    if (problem := _uri_problem(uri, scheme)) is not None:
        raise UserError(f"tracking URI {shown_uri(uri)!r}: {problem}; {_LEAVE_OUT}")
    if scheme in _DATABASES:
        return Store(uri=uri, artifacts=storage / "mlartifacts")
    if scheme in ("http", "https", "databricks"):
        return Store(uri=uri.rstrip("/"))
    raise UserError(
        f"tracking URI {shown_uri(uri)!r}: MLflow tracks to http(s)://..., sqlite:///..., postgresql://..., "
        f"mysql://... or mssql://...; {_LEAVE_OUT}"
    )


def _uri_problem(uri: str, scheme: str) -> str | None:
    """Return what is wrong with the place that a URI names; None if nothing is known to be."""
    if scheme == "sqlite":
        file = uri.partition(":///")[2].partition("?")[0]
        if not file or file == ":memory:":
            return "it names no file: sqlite:///FOLDER/mlflow.db"
        parent = Path(file).parent
        return None if parent.is_dir() else f"the folder {parent} of its file does not exist"
    if scheme not in ("http", "https"):
        return None
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    return None if host and not re.search(r"\s", uri) else "it names no host: http://HOST:PORT"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of one sweep."""

    uri: str
    """URI of the store, without a password."""
    experiment_id: str
    sweep_id: str
    parent: str
    trials: dict[int, str] = field(default_factory=dict)
    """Trial number -> run id."""

    def experiment_link(self, base: str) -> str:
        """Return the address of the page of all sweeps, for an MLflow server at ``base``."""
        return f"{base}/#/experiments/{self.experiment_id}/runs?{_MACHINE_LEARNING}"

    def links(self, base: str) -> dict[str, str]:
        """Return name -> address of each page, for an MLflow server at ``base``."""
        experiment = f"{base}/#/experiments/{self.experiment_id}"
        run = f"{experiment}/runs/{self.parent}"
        view = f"{experiment}/runs?{_MACHINE_LEARNING}&viewStateShareKey="
        return {
            "sweep": f"{run}?{_MACHINE_LEARNING}",
            "front": f"{run}/artifacts/front/front.html?{_MACHINE_LEARNING}",
            "trials on the front": f"{view}{self._view_key('front')}",
            "all trials": f"{view}{self._view_key('trials')}",
        }

    def _view_key(self, name: str) -> str:
        return f"sweeper-{self.sweep_id}-{name}"

    def views(self, goals: Sequence[str]) -> dict[str, str]:
        """Return the experiment's tags that hold the tables of trials behind ``links``: filter, order and columns."""
        trials = f"tags.`sweeper.sweep_id` = '{self.sweep_id}' and tags.`sweeper.trial` != ''"
        filters = {"front": f"{trials} and tags.`sweeper.on_front` = 'true'", "trials": trials}
        views = {self._view_key(name): _view(query, goals, on_front=name == "front") for name, query in filters.items()}
        return {f"mlflow.sharedViewState.{key}": view for key, view in views.items()}


def _view(query: str, goals: Sequence[str], *, on_front: bool) -> str:
    """Return the state of the table of runs in MLflow 3.17's pages, which requires all keys.

    Args:
        on_front: whether to show trials with the values of the front, not with those at their end.
    """
    columns = [f"metrics.`{goal}`" for goal in goals] + ["metrics.`usage/duration_s`"]
    if on_front:
        shown = ["strength", *goals, *(f"test/{goal}" for goal in goals)]
        columns = ["tags.`front/name`", *(f"metrics.`front/{name}`" for name in shown)]
    columns += [f"params.`{name}`" for name in ("objective", "tune", "beta", "lambda_reg", "learning_rate", "rank")]
    state = {
        "searchFilter": query, "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": ["attributes.`Created`", *columns],
        # With any order but time, trials are listed themselves and not folded into their sweep.
        "orderByKey": f"metrics.`{'front/' if on_front else ''}{goals[0]}`", "orderByAsc": False,
        "columnOrder": [], "columnWidths": {}, "runsExpanded": {}, "runsPinned": [], "runsHidden": [],
        "runsVisibilityMap": {}, "runsHiddenMode": "FIRST_10_RUNS", "viewMaximized": False, "runListHidden": False,
        "isAccordionReordered": False, "useGroupedValuesInCharts": True, "hideEmptyCharts": True, "groupBy": None,
        "groupsExpanded": {}, "autoRefreshEnabled": True,
    }  # fmt: skip
    return json.dumps(state)


def save_runs(folder: Path, runs: Runs) -> None:
    """Write ``<folder>/tracking.runs.json``."""
    replace_text(folder / "tracking.runs.json", json.dumps(asdict(runs)))


def find_runs(folder: Path) -> Runs | None:
    """Return the runs of the sweep in ``folder``; None before MLflow has made any, and if the file is damaged.

    The sender finds runs by their tags if the file is damaged.
    """
    saved = read_if_whole(folder / "tracking.runs.json")
    if saved is None:
        return None
    try:
        runs = Runs(**{**saved, "trials": {int(number): run for number, run in saved["trials"].items()}})
        if not all(_RUN_ID.fullmatch(run) for run in (runs.parent, *runs.trials.values())):
            return None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    own = _own_uri(folder.parent.resolve())
    moved = runs.uri != own and runs.uri.startswith("sqlite:///") and _has_run(folder.parent / DATABASE, runs.parent)
    return replace(runs, uri=own) if moved else runs


def _has_run(database: Path, run: str) -> bool:
    """Return whether an SQLite file of MLflow holds a run: it was moved or copied with the sweep."""
    if not database.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run,)).fetchone()
    except sqlite3.Error:
        return False
    return found is not None
