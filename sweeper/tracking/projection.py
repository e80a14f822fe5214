"""Everything that is said to MLflow. All of it can be said again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.tracking.outbox import Event
from sweeper.tracking.runs import EXPERIMENT, Runs, Store, save_runs

_FRONT_FILES = ("front.png", "front.html", "front.json", "front.csv", "proxy.json")
_METRICS_PER_CALL = 800
"""MLflow takes 1000 metrics, params and tags together in a call."""
_TAG_LENGTH = 7900
_STATUS = {
    "complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING",
}  # fmt: skip
_PLACE = ("step", "steps", "epoch", "epochs", "progress", "rung", "time_s")
_TRAIN = ("loss", "preference_loss", "reference_kl", "identity_distance")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def mlflow_environment() -> Iterator[None]:
    """Has MLflow, which reads the environment at each request, send nothing twice and print nothing.

    To be entered before the first call of this module, by the process or command that talks to MLflow.
    """
    before = dict(os.environ)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # A request repeated inside the HTTP client could make a second run; the sender looks before it tries again.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def create_store(store: Store) -> Any:
    """Opens ``store`` and returns its MlflowClient. A fresh database is made under a file lock: MLflow 3.17's migration
    breaks when two processes open one at once."""
    from mlflow import MlflowClient

    if not store.uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=store.uri)
    with _locked(Path(store.uri.removeprefix("sqlite:///").partition("?")[0] + ".lock")):
        client = MlflowClient(tracking_uri=store.uri)
        client.search_experiments(max_results=1)
        return client


@dataclass
class _Run:
    run_id: str
    start_time: int
    status: str
    tags: dict[str, str]


@dataclass
class _Batch:
    """What one chunk of events says about one run."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """(key, value, time in ms, step)"""
    tags: dict[str, str] = field(default_factory=dict)
    status: tuple[str, int] | None = None


class Projection:
    """The runs of one sweep in one store. Methods raise whatever MLflow raises."""

    def __init__(self, folder: Path, name: str, sweep_id: str, store: Store) -> None:
        self.folder, self.name, self.sweep_id, self.store = folder, name, sweep_id, store
        self.client: Any = None
        self.experiment_id = ""
        self.parent: _Run | None = None
        self.trials: dict[int, _Run] = {}

    # --- finding runs -------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Opens the store and finds the runs that are there."""
        client = create_store(self.store)
        self.experiment_id = self._experiment(client)
        self.parent, self.trials = None, {}
        query, token = f"tags.`sweeper.sweep_id` = '{self.sweep_id}'", None
        while True:
            page = client.search_runs(
                [self.experiment_id], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for found in page:
                run = _Run(found.info.run_id, found.info.start_time, found.info.status, dict(found.data.tags))
                number = run.tags.get("sweeper.trial")
                if self.parent is None and number is None:
                    self.parent = run
                elif number is not None and int(number) not in self.trials:
                    self.trials[int(number)] = run
                else:
                    # Made by a request that was answered too late: its twin is kept, for ever the same one.
                    client.delete_run(run.run_id)
            token = page.token
            if not token:
                break
        self.client = client
        self._save_runs()

    def disconnect(self) -> None:
        """The next ``connect`` looks at the store anew."""
        self.client = None

    def lacks(self, events: list[Event]) -> bool:
        """Whether the store has lost a run that ``events`` were told about."""
        numbers = {event["trial"] for event in events if event["kind"] == "trial"}
        return bool(events) and (self.parent is None or not numbers <= set(self.trials))

    def refuses(self, error: Exception) -> bool:
        """Whether saying the same thing again cannot help."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            return error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
        return isinstance(error, KeyError | TypeError | AttributeError)

    def _experiment(self, client: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        artifacts = self.store.artifacts.as_uri() if self.store.artifacts else None
        found = client.get_experiment_by_name(name)
        if found is None:
            note = "Each top-level run is a sweep; open it for its Pareto front, expand it for its trials."
            return str(client.create_experiment(name, artifacts, tags={"mlflow.note.content": note}))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _runs(self, parent: _Run) -> Runs:
        trials = {number: run.run_id for number, run in self.trials.items()}
        ids = {"experiment_id": self.experiment_id, "sweep_id": self.sweep_id, "parent": parent.run_id}
        return Runs(uri=self.store.shown_uri, trials=trials, **ids)

    def _save_runs(self) -> None:
        if self.parent is not None:
            save_runs(self.folder, self._runs(self.parent))

    def _create(self, name: str, time_ms: int, tags: dict[str, str]) -> _Run:
        tags = {
            "sweeper.sweep_id": self.sweep_id, "sweeper.sweep": self.name, "sweeper.state": "running",
            "mlflow.source.name": "sweeper", "mlflow.source.type": "JOB", **tags,
        }  # fmt: skip
        made = self.client.create_run(self.experiment_id, start_time=time_ms, run_name=name, tags=tags)
        return _Run(made.info.run_id, time_ms, "RUNNING", tags)

    def _parent(self, time_ms: int) -> _Run:
        if self.parent is None:
            self.parent = self._create(self.name, time_ms, {})
            self._save_runs()
        return self.parent

    def _trial(self, number: int, time_ms: int, parameters: dict[str, Any], tags: dict[str, str] | None = None) -> _Run:
        if number not in self.trials:
            parent = self._parent(time_ms)
            words = [str(parameters[key]) for key in ("objective", "tune") if key in parameters]
            tags = {"sweeper.trial": str(number), "sweeper.on_front": "false", **(tags or {})}
            tags["mlflow.parentRunId"] = parent.run_id
            self.trials[number] = self._create(" ".join([f"trial {number:04d}", *words]), time_ms, tags)
        return self.trials[number]

    # --- telling ------------------------------------------------------------------------------------------------------

    def send(self, events: list[Event]) -> None:
        """Says what happened, but for fronts (see ``send_front``)."""
        batches: dict[str, _Batch] = defaultdict(_Batch)
        known = len(self.trials)
        for event in events:
            self._gather(event, batches)
        if len(self.trials) > known:
            self._save_runs()  # all of them: once for many new ones
        for run_id, batch in batches.items():
            self._log(run_id, batch)

    def _gather(self, event: Event, batches: dict[str, _Batch]) -> None:
        kind, time_ms = event["kind"], event["time"]
        if kind == "sweep":
            parent = self._parent(time_ms)
            batch = batches[parent.run_id]
            batch.tags |= event["tags"] | {"sweeper.state": "running"}
            batch.status = ("running", time_ms)
            self.client.log_dict(parent.run_id, event["spec"], "spec.resolved.json")
            self._upload(parent.run_id, self.folder / "spec.yaml")
            for key, view in self._runs(parent).views().items():
                self.client.set_experiment_tag(self.experiment_id, key, view)
        elif kind == "trial":
            known, tags = event["trial"] in self.trials, event["tags"] | _slot(event["slot"])
            run = self._trial(event["trial"], time_ms, event["parameters"], tags)
            batch = batches[run.run_id]
            batch.params |= event["parameters"] | {"seed": event["seed"]}
            if known:  # a new run is born running, with its tags
                batch.tags |= tags | {"sweeper.state": "running"}
                batch.status = ("running", time_ms)
        elif kind == "report":
            run = self._trial(event["trial"], time_ms, {})
            batch = batches[run.run_id]
            for key, value in event["report"].items():
                if key not in _PLACE and isinstance(value, int | float):
                    batch.metrics.append((_prefix(key) + key, value, time_ms, event["report"]["step"]))
        elif kind == "end":
            self._gather_end(event["record"], event.get("costs", {}), time_ms, batches)
        elif kind == "volume":
            metric = ("hypervolume", event["hypervolume"], time_ms, event["finished"])
            batches[self._parent(time_ms).run_id].metrics.append(metric)
        elif kind == "front":
            pass  # the newest only, by ``send_front``
        elif kind == "sweep_end":
            for run in [self._parent(time_ms)] + [self._trial(number, time_ms, {}) for number in event["open"]]:
                state = event["state"] if run is self.parent else "interrupted"
                batches[run.run_id].tags["sweeper.state"] = state
                batches[run.run_id].status = (state, time_ms)
            costs = event.get("costs", {})  # events of earlier versions have none
            batches[self._parent(time_ms).run_id].metrics += [(key, costs[key], time_ms, 0) for key in costs]
        else:
            raise KeyError(f"an event of unknown kind {kind!r}")

    def _gather_end(
        self, record: dict[str, Any], costs: dict[str, float], time_ms: int, batches: dict[str, _Batch]
    ) -> None:
        run = self._trial(record["number"], time_ms, record["parameters"])
        batch = batches[run.run_id]
        batch.params |= record["parameters"] | {"seed": record["seed"]}
        batch.tags |= {"sweeper.state": record["state"]} | _slot(record["slot"])
        batch.status = (record["state"], time_ms)
        if record["reason"]:
            batch.tags |= {"sweeper.reason": record["reason"][:_TAG_LENGTH]}
            batch.tags |= {"mlflow.note.content": record["reason"][:_TAG_LENGTH]}
        if record["baseline"]:
            batch.tags["sweeper.baseline"] = record["baseline"]
        if record["duration_s"] is not None:
            batch.metrics.append(("duration_s", record["duration_s"], time_ms, 0))
        values = (record["values"] or {}) | costs
        batch.metrics += [(key, value, time_ms, 0) for key, value in values.items()]
        for point in record["points"]:
            prefix, step = _curve("strength", point)
            batch.metrics += [(f"{prefix}/{key}", value, time_ms, step) for key, value in point["values"].items()]
        folder = self.folder / "trials" / f"{record['number']:05d}"
        for name in ("trial.json", "result.json", *(["log.txt"] if record["state"] == "failed" else [])):
            self._upload(run.run_id, folder / name)

    def _log(self, run_id: str, batch: _Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key, float(value), time_ms, step) for key, value, time_ms, step in batch.metrics]
        params = [Param(key, str(value)) for key, value in batch.params.items() if value is not None]
        tags = [RunTag(key, str(value)) for key, value in batch.tags.items()]
        self.client.log_batch(run_id, metrics=metrics[:_METRICS_PER_CALL], params=params, tags=tags)
        for start in range(_METRICS_PER_CALL, len(metrics), _METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
        if batch.status is None:
            return
        status, time_ms = _STATUS[batch.status[0]], batch.status[1]
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status, end_time=time_ms)

    def _upload(self, run_id: str, path: Path, folder: str | None = None) -> None:
        if path.exists():
            self.client.log_artifact(run_id, str(path), folder)

    def send_front(self, event: Event) -> None:
        """Uploads the files of ``<folder>/front`` and marks who is on it."""
        parent = self._parent(event["time"])
        for name in _FRONT_FILES:
            self._upload(parent.run_id, self.folder / "front" / name, "front")
        columns = list(event["table"][0]) if event["table"] else []
        data = [[row[column] for column in columns] for row in event["table"]]
        self.client.log_dict(parent.run_id, {"columns": columns, "data": data}, "front/table.json")
        tags = {
            "mlflow.note.content": self._note(self._runs(parent), event["note"]),
            "mlflow.loggedArtifacts": json.dumps([{"path": "front/table.json", "type": "table"}]),
        }
        self._log(parent.run_id, _Batch(tags=tags))
        for number, run in self.trials.items():
            name = event["members"].get(str(number))
            tags = {"sweeper.on_front": "false" if name is None else "true", "sweeper.front_name": name or ""}
            if any(run.tags.get(key, "") != value for key, value in tags.items()):
                self._log(run.run_id, _Batch(tags=tags))
                run.tags |= tags
        for point in event["tests"]:
            run = self.trials[point["trial"]]
            prefix, step = _curve("test", point)
            # The run's own start time, so that the same point sent again is the same point.
            metrics = [(f"{prefix}/{key}", value, run.start_time, step) for key, value in point["values"].items()]
            self._log(run.run_id, _Batch(metrics=metrics))

    def _note(self, runs: Runs, table: str) -> str:
        """The page shows the first lines of it until asked for more: summary and links, then the picture."""
        links = [f"[{name}]({address})" for name, address in runs.links("").items() if name != "sweep"]
        picture = f"![Pareto front](/get-artifact?path=front%2Ffront.png&run_uuid={runs.parent})"
        summary, _, rest = table.partition("\n")
        return f"{summary}\n\n{' | '.join(links)}\n\n{picture}\n{rest}"


def _slot(slot: int | None) -> dict[str, str]:
    return {} if slot is None else {"sweeper.slot": str(slot)}


def _prefix(key: str) -> str:
    if key in _TRAIN:
        return "train/"
    return "time/" if key.endswith("_s") else "validation/"


def _curve(prefix: str, point: dict[str, Any]) -> tuple[str, int]:
    """A point's metrics are drawn over its strength in percent, averaged weights apart."""
    return prefix if point["weights"] == "last" else f"{prefix}_averaged", round(100 * point["strength"])
