"""Where a sweep's MLflow runs are: the store, the run of each trial, and links that open them. No MLflow import."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sweeper.errors import UserError
from sweeper.storage.files import read_if_whole, replace_text

EXPERIMENT = "sweeper"
"""All sweeps of a store are parent runs of this experiment, unless MLFLOW_EXPERIMENT_NAME names another."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True, kw_only=True)
class Store:
    """An MLflow tracking store."""

    uri: str
    artifacts: Path | None = None
    """Folder of the artifacts; None where the server decides."""

    @property
    def is_server(self) -> bool:
        """Return whether pages can be opened at ``uri`` itself."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def shown_uri(self) -> str:
        """Return ``uri`` without a password, for files and messages."""
        return shown_uri(self.uri)


def shown_uri(uri: str) -> str:
    """Return the URI of a store without the user and password in it."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def find_store(storage: Path, tracking_uri: str | None = None) -> Store:
    """Return the store to use: ``tracking_uri``, else MLFLOW_TRACKING_URI, else ``<storage>/mlflow.db``.

    Raise UserError for a URI that MLflow 3.13 and later cannot track to (its file store was removed, mlflow#18534).
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    storage = storage.resolve()
    if not uri:
        return Store(uri=f"sqlite:///{storage / 'mlflow.db'}", artifacts=storage / "mlartifacts")
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in _DATABASES:
        return Store(uri=uri, artifacts=storage / "mlartifacts")
    if scheme in ("http", "https", "databricks"):
        return Store(uri=uri.rstrip("/"))
    raise UserError(
        f"tracking URI {uri!r}: MLflow tracks to http(s)://..., sqlite:///..., postgresql://..., mysql://... or "
        "mssql://...; leave --tracking-uri (and MLFLOW_TRACKING_URI) out to use an SQLite file beside the sweeps"
    )


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of one sweep."""

    uri: str
    """Of the store, without a password."""
    experiment_id: str
    sweep_id: str
    parent: str
    trials: dict[int, str] = field(default_factory=dict)
    """Trial number -> run id."""

    def links(self, base: str) -> dict[str, str]:
        """Return name -> address of each page, for an MLflow server at ``base``."""
        # Without workflowType MLflow 3.17 opens in its GenAI workspace, where runs are hidden.
        machine_learning = "workflowType=machine_learning"
        experiment = f"{base}/#/experiments/{self.experiment_id}"
        run = f"{experiment}/runs/{self.parent}"
        view = f"{experiment}/runs?{machine_learning}&viewStateShareKey="
        return {
            "sweep": f"{run}?{machine_learning}",
            "front": f"{run}/artifacts/front/front.html?{machine_learning}",
            "trials on the front": f"{view}{self._view_key('front')}",
            "all trials": f"{view}{self._view_key('trials')}",
        }

    def _view_key(self, name: str) -> str:
        return f"sweeper-{self.sweep_id}-{name}"

    def views(self, goals: Sequence[str]) -> dict[str, str]:
        """Return the experiment's tags that keep the tables of trials behind ``links``: filter, order and columns."""
        trials = f"tags.`sweeper.sweep_id` = '{self.sweep_id}' and tags.`sweeper.trial` != ''"
        filters = {"front": f"{trials} and tags.`sweeper.on_front` = 'true'", "trials": trials}
        views = {self._view_key(name): _view(query, goals) for name, query in filters.items()}
        return {f"mlflow.sharedViewState.{key}": view for key, view in views.items()}


def _view(query: str, goals: Sequence[str]) -> str:
    """Return the state of the table of runs in MLflow 3.17's pages. All keys are needed."""
    columns = [f"metrics.`{goal}`" for goal in goals] + ["tags.`sweeper.front_name`", "metrics.`duration_s`"]
    columns += [f"params.`{name}`" for name in ("objective", "tune", "beta", "lambda_reg", "learning_rate", "rank")]
    state = {
        "searchFilter": query, "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": ["attributes.`Created`", *columns],
        # Ordered by anything but time, trials are listed themselves and not folded into their sweep.
        "orderByKey": f"metrics.`{goals[0]}`", "orderByAsc": False,
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
    """Return the runs of the sweep in ``folder``; None before MLflow has made any, and where the file is damaged: the
    sender then finds them by their tags."""
    saved = read_if_whole(folder / "tracking.runs.json")
    if saved is None:
        return None
    try:
        return Runs(**{**saved, "trials": {int(number): run for number, run in saved["trials"].items()}})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
