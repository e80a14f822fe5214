"""All data that are sent to MLflow. Each record can be sent again without harm."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.records import TrialRecord
from sweeper.tracking.database import locked, make_database
from sweeper.tracking.descriptions import (
    SWEEPS_IN_NOTE,
    ImageSetInput,
    SweepLine,
    experiment_note,
    image_set_inputs,
    main_settings,
    trial_line,
)
from sweeper.tracking.events import (
    Event,
    FrontMember,
    FrontUpdated,
    HypervolumeChanged,
    SweepEnded,
    SweepStarted,
    TrialEnded,
    TrialReported,
    TrialStarted,
    Unreadable,
)
from sweeper.tracking.runs import EXPERIMENT, Runs, Store, save_runs
from trainables.records import Point, Report

_FRONT_FILES = (
    "strip.png",
    "front.png",
    "curves.png",
    "concept.png",
    "front.html",
    "front.json",
    "front.csv",
    "proxy.json",
)
_METRICS_PER_CALL = 800
"""Metrics in one call: MLflow allows 1000 metrics, params and tags together."""
_TAG_LENGTH = 7900
_IS_SWEEP, _GOALS = "sweeper.is_sweep", "sweeper.goals"
"""Tags of the runs of sweeps: a marker, and the metrics of the goals with commas between them."""
_HYPERVOLUME = "front/hypervolume"
"""Name of a metric; MLflow sorts charts by the part before the slash, in alphabetical order."""
_DATABASE_ERROR = re.compile(r"\(\w+\.(?:errors\.)?(\w+)\)")
"""An error of a database's driver in MLflow's message: ``(psycopg2.errors.ReadOnlySqlTransaction) cannot ...``."""
_FAULT_OF_RECORD = re.compile("DataError|IntegrityError|Violation|Truncation|OutOfRange|Character|InvalidText")
"""Database errors that a record causes; others are the database's own."""
_STATUS = {
    "complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING",
}  # fmt: skip


@contextlib.contextmanager
def mlflow_environment() -> Iterator[None]:
    """Set variables that MLflow reads at each request, so that it sends nothing twice and prints nothing.

    To be entered before the first call of this module, by the process or command that uses MLflow.
    """
    before = dict(os.environ)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # A request repeated inside the HTTP client could make a second run; the sender searches for runs before it repeats.
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
    """Open ``store`` and return its MlflowClient.

    A new database is made under a file lock: MLflow 3.17's migration breaks when two processes open it at once.
    """
    from mlflow import MlflowClient

    if not store.uri.startswith("sqlite:///"):
        if not store.is_server and store.artifacts is not None:
            _reach(store.uri)
        return MlflowClient(tracking_uri=store.uri)
    database = Path(store.uri.removeprefix("sqlite:///").partition("?")[0])
    with locked(database):
        if not database.exists():
            make_database(database)
        client = MlflowClient(tracking_uri=store.uri)
        client.search_experiments(max_results=1)
        return client


def _reach(uri: str) -> None:
    """Connect to a database once: MLflow 3.17 tries for two minutes before it says that a password is wrong.

    Raises:
        SQLAlchemyError: the database does not answer, or refuses.
        ModuleNotFoundError: the database's driver is not installed.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@dataclass
class _Run:
    run_id: str
    start_time: int
    status: str
    tags: dict[str, str]


@dataclass
class _Batch:
    """The records of a batch of events for one run."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """(key, value, time in ms, step) of each metric."""
    tags: dict[str, str] = field(default_factory=dict)
    status: tuple[str, int] | None = None


class Projection:
    """The runs of a sweep in a store. Methods raise MLflow's errors."""

    def __init__(self, folder: Path, name: str, sweep_id: str, store: Store) -> None:
        self.folder, self.name, self.sweep_id, self.store = folder, name, sweep_id, store
        self.client: Any = None
        self.experiment_id = ""
        self.parent: _Run | None = None
        self.trials: dict[int, _Run] = {}
        self._goals: list[str] = []
        """Metrics of the sweep's goals, from its first event."""

    # --- finding runs -------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the store and find the sweep's runs in it."""
        client = create_store(self.store)
        self.experiment_id = self._experiment(client)
        self.parent, self.trials = None, {}
        query, token = f"tags.`sweeper.sweep_id` = '{self.sweep_id}'", None
        while True:
            page = client.search_runs(
                [self.experiment_id], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for mlflow_run in page:
                info = mlflow_run.info
                run = _Run(info.run_id, info.start_time, info.status, dict(mlflow_run.data.tags))
                number = run.tags.get("sweeper.trial")
                if self.parent is None and number is None:
                    self.parent = run
                    self._goals = [goal for goal in run.tags.get(_GOALS, "").split(",") if goal]
                elif number is not None and int(number) not in self.trials:
                    self.trials[int(number)] = run
                else:
                    # A duplicate, made by a request that was answered too late: the oldest run is kept.
                    client.delete_run(run.run_id)
            token = page.token
            if not token:
                break
        self.client = client
        self._save_runs()

    def disconnect(self) -> None:
        """Forget the client; the next ``connect`` reads the store again."""
        self.client = None

    def lacks(self, events: Sequence[Event]) -> bool:
        """Return whether the store has lost a run that ``events`` were sent to."""
        numbers = {event.trial for event in events if isinstance(event, TrialStarted)}
        return bool(events) and (self.parent is None or not numbers <= set(self.trials))

    def refuses(self, error: Exception) -> bool:
        """Return whether MLflow would refuse the same events again."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            # MLflow 3.17 answers BAD_REQUEST, too, where a database refuses all writes or has closed the connection.
            of_database = _DATABASE_ERROR.search(str(error))
            if of_database is not None and _FAULT_OF_RECORD.search(of_database[1]) is None:
                return False
            return error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
        return isinstance(error, KeyError | TypeError | AttributeError)

    def _experiment(self, client: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        artifacts = self.store.artifacts.as_uri() if self.store.artifacts else None
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return str(client.create_experiment(name, artifacts, tags={"mlflow.note.content": experiment_note([])}))
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

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
        run = self.client.create_run(self.experiment_id, start_time=time_ms, run_name=name, tags=tags)
        return _Run(run.info.run_id, time_ms, "RUNNING", tags)

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

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, events: Sequence[Event]) -> None:
        """Send events, except for fronts (see ``send_front``)."""
        batches: dict[str, _Batch] = defaultdict(_Batch)
        known = len(self.trials)
        for event in events:
            self._gather(event, batches)
        if len(self.trials) > known:
            self._save_runs()  # once for all new runs
        for run_id, batch in batches.items():
            self._log(run_id, batch)
        if any(isinstance(event, SweepStarted | SweepEnded) for event in events):
            self._describe_experiment()

    def _gather(self, event: Event, batches: dict[str, _Batch]) -> None:
        match event:
            case SweepStarted():
                self._gather_sweep_start(event, batches)
            case TrialStarted():
                self._gather_trial_start(event, batches)
            case TrialReported():
                run = self._trial(event.trial, event.time_ms, {})
                batches[run.run_id].metrics += [
                    (name, value, event.time_ms, event.report.step)
                    for name, value in _report_metrics(event.report).items()
                ]
            case TrialEnded():
                self._gather_trial_end(event, batches)
            case HypervolumeChanged():
                metric = (_HYPERVOLUME, event.hypervolume, event.time_ms, event.finished)
                batches[self._parent(event.time_ms).run_id].metrics.append(metric)
            case FrontUpdated():
                pass  # only the newest front is sent, by ``send_front``
            case SweepEnded():
                self._gather_sweep_end(event, batches)
            case Unreadable():
                raise KeyError(event.problem)

    def _gather_sweep_start(self, event: SweepStarted, batches: dict[str, _Batch]) -> None:
        parent = self._parent(event.time_ms)
        batch = batches[parent.run_id]
        batch.tags |= event.tags | {"sweeper.state": "running", _IS_SWEEP: "true"}
        batch.params |= main_settings(event.spec)
        batch.status = ("running", event.time_ms)
        self._goals = list(event.spec["goals"])
        batch.tags[_GOALS] = ",".join(self._goals)
        self._log_inputs(parent.run_id, image_set_inputs(event.spec, event.tags.get("sweeper.data_digest", "")))
        self.client.log_dict(parent.run_id, event.spec, "spec.resolved.json")
        self._upload(parent.run_id, self.folder / "spec.yaml")
        for key, view in self._runs(parent).views(self._goals).items():
            self.client.set_experiment_tag(self.experiment_id, key, view)

    def _log_inputs(self, run_id: str, inputs: Sequence[ImageSetInput]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self.client.log_inputs(
            run_id,
            datasets=[
                DatasetInput(
                    Dataset(name=given.name, digest=given.digest, source_type=given.kind, source=given.settings),
                    [InputTag("mlflow.data.context", given.context)],
                )
                for given in inputs
            ],
        )

    def _gather_trial_start(self, event: TrialStarted, batches: dict[str, _Batch]) -> None:
        known, tags = event.trial in self.trials, event.tags | _slot(event.slot)
        run = self._trial(event.trial, event.time_ms, event.parameters, tags)
        batch = batches[run.run_id]
        batch.params |= event.parameters | {"seed": event.seed}
        if known:  # a new run is created as running, with its tags
            batch.tags |= tags | {"sweeper.state": "running"}
            batch.status = ("running", event.time_ms)

    def _gather_trial_end(self, event: TrialEnded, batches: dict[str, _Batch]) -> None:
        trial, time_ms = event.record, event.time_ms
        run = self._trial(trial.number, time_ms, trial.parameters)
        batch = batches[run.run_id]
        batch.params |= trial.parameters | {"seed": trial.seed}
        batch.tags |= {"sweeper.state": trial.state} | _slot(trial.slot)
        batch.status = (trial.state, time_ms)
        if trial.reason:
            batch.tags |= {"sweeper.reason": trial.reason[:_TAG_LENGTH]}
        batch.tags |= {"mlflow.note.content": trial_line(trial, self._goals)[:_TAG_LENGTH]}
        if trial.baseline:
            batch.tags["sweeper.baseline"] = trial.baseline
        if trial.duration_s is not None:
            batch.metrics.append(("usage/duration_s", trial.duration_s, time_ms, 0))
        values = (trial.values or {}) | event.costs
        batch.metrics += [(key, value, time_ms, 0) for key, value in values.items()]
        for point in trial.points:
            prefix, step = _curve("strength_percent", point)
            batch.metrics += [(f"{prefix}/{key}", value, time_ms, step) for key, value in point.values.items()]
        self._upload_trial_files(run, trial)

    def _upload_trial_files(self, run: _Run, trial: TrialRecord) -> None:
        folder = self.folder / "trials" / f"{trial.number:05d}"
        for name in ("trial.json", "result.json", *(["log.txt"] if trial.state == "failed" else [])):
            self._upload(run.run_id, folder / name)

    def _gather_sweep_end(self, event: SweepEnded, batches: dict[str, _Batch]) -> None:
        time_ms, parent = event.time_ms, self._parent(event.time_ms)
        for run in [parent, *(self._trial(number, time_ms, {}) for number in event.open)]:
            state = event.state if run is parent else "interrupted"
            batches[run.run_id].tags["sweeper.state"] = state
            batches[run.run_id].status = (state, time_ms)
        batches[parent.run_id].metrics += [(key, value, time_ms, 0) for key, value in event.costs.items()]

    def _log(self, run_id: str, batch: _Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key, float(value), time_ms, step) for key, value, time_ms, step in batch.metrics]
        params = [Param(key, _text(value)) for key, value in batch.params.items() if value is not None]
        tags = [RunTag(key, _text(value)) for key, value in batch.tags.items()]
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

    def send_front(self, front: FrontUpdated) -> None:
        """Upload the files of ``<folder>/front`` and tag the trials that are on it."""
        parent = self._parent(front.time_ms)
        for name in _FRONT_FILES:
            self._upload(parent.run_id, self.folder / "front" / name, "front")
        columns = list(front.table[0]) if front.table else []
        data = [[row[column] for column in columns] for row in front.table]
        self.client.log_dict(parent.run_id, {"columns": columns, "data": data}, "front/table.json")
        tags = {
            "mlflow.note.content": self._note(self._runs(parent), front.note),
            "mlflow.loggedArtifacts": json.dumps([{"path": "front/table.json", "type": "table"}]),
        }
        self._log(parent.run_id, _Batch(tags=tags))
        members = {member.trial: member for member in front.members}
        for number, run in self.trials.items():
            member = members.get(number)
            tags = {"sweeper.on_front": "false" if member is None else "true"}
            tags["front/name"] = "" if member is None else member.name
            metrics = [] if member is None else _member_metrics(member, front.time_ms)
            if metrics or any(run.tags.get(key, "") != value for key, value in tags.items()):
                self._log(run.run_id, _Batch(tags=tags, metrics=metrics))
                run.tags |= tags
        for measured in front.tests:
            run = self.trials[measured.trial]
            prefix, step = _curve("test", measured.point)
            # With the run's own start time, a point that is sent again is the same point in MLflow.
            metrics = [(f"{prefix}/{key}", value, run.start_time, step) for key, value in measured.point.values.items()]
            self._log(run.run_id, _Batch(metrics=metrics))
        self._describe_experiment()

    def _describe_experiment(self) -> None:
        """Set the experiment's description to the newest sweeps, with links to their fronts and trials."""
        found = self.client.search_runs(
            [self.experiment_id],
            f"tags.`{_IS_SWEEP}` = 'true'",
            max_results=SWEEPS_IN_NOTE,
            order_by=["attributes.start_time DESC"],
        )
        lines = []
        for run in found:
            tags = run.data.tags
            ids = {"sweep_id": tags["sweeper.sweep_id"], "parent": run.info.run_id}
            runs = Runs(uri=self.store.shown_uri, experiment_id=self.experiment_id, **ids)
            lines.append(
                SweepLine(
                    name=run.info.run_name,
                    state=tags.get("sweeper.state", "running"),
                    hypervolume=run.data.metrics.get(_HYPERVOLUME),
                    links=runs.links(""),
                )
            )
        self.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", experiment_note(lines))

    def _note(self, runs: Runs, table: str) -> str:
        """Return the description of the sweep's run. MLflow folds all but its first lines, about 100 pixels."""
        links = [f"[{name}]({address})" for name, address in runs.links("").items() if name != "sweep"]
        strip, plot = (
            f"![{text}](/get-artifact?path=front%2F{name}&run_uuid={runs.parent})"
            for text, name in (("The front in brief", "strip.png"), ("Pareto front", "front.png"))
        )
        summary, _, rest = table.partition("\n")
        return f"{strip}\n\n{' | '.join(links)}\n\n{summary}\n\n{plot}\n{rest}"


def _text(value: object) -> str:
    """Return a text that every database takes: PostgreSQL refuses NUL characters."""
    return str(value).replace("\0", "")


def _slot(slot: int | None) -> dict[str, str]:
    return {} if slot is None else {"sweeper.slot": str(slot)}


def _report_metrics(report: Report) -> dict[str, float]:
    """Return the metrics of a report by their name in MLflow."""
    training = {
        "preference_loss": report.preference_loss,
        "reference_kl": report.reference_kl,
        "loss": report.loss,
        "identity_distance": report.identity_distance,
    }
    return {
        **{f"validation/{name}": value for name, value in report.values.items()},
        **{f"train/{name}": value for name, value in training.items() if value is not None},
        "time/train_s": report.train_s,
        "time/evaluation_s": report.evaluation_s,
        "time/checkpoint_s": report.checkpoint_s,
    }


def _member_metrics(member: FrontMember, time_ms: int) -> list[tuple[str, float, int, int]]:
    """Return a member's metrics with the three decimals that the front shows; MLflow shows the newest value."""
    values = {"strength": member.strength, **member.validation}
    values |= {f"test/{goal}": value for goal, value in member.test.items()}
    return [(f"front/{name}", round(value, 3), time_ms, 0) for name, value in values.items()]


def _curve(prefix: str, point: Point) -> tuple[str, int]:
    """Return prefix and step of a point's metrics: strength in percent, averaged weights under another prefix."""
    return prefix if point.weights == "last" else f"{prefix}_averaged", round(100 * point.strength)
