"""Exported models in MLflow's registry: one registered model per sweep, a version per point, an alias per pick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sweeper.errors import UnavailableError, UserError
from sweeper.front.export_record import ExportRecord
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.moved import bring_home
from sweeper.tracking.projection import create_store, mlflow_environment
from sweeper.tracking.registered_folder import CLIP, write_registered
from sweeper.tracking.runs import Runs, Store, find_runs, find_store

_ALIAS = re.compile(r"(?!v\d+$|latest$)[A-Za-z0-9_-]+", re.IGNORECASE)
_NAME = re.compile(r"[^/:%\"']+")
_DIGEST_TAG = "sweeper.weights_sha256"


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str
    new: bool
    """Whether the version was made now; False: it existed, with the same weights."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


def check_names(name: str, alias: str) -> None:
    """Check that MLflow accepts a model's name and an alias.

    Raises:
        UserError: it would refuse one of them.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--register-as {name!r}: the name of a registered model has no / : % or quotes")
    if not _ALIAS.fullmatch(alias):
        raise UserError(f"--alias {alias!r}: use letters, digits, _ and -, and neither `latest` nor v and a number")


def default_alias(pick: str, strength: float | None) -> str:
    """Return the alias of a pick: ``most robust`` -> ``most-robust``, ``7`` at strength 0.5 -> ``trial-7-at-0-5``."""
    words = f"trial {pick}" if pick.strip().isdigit() else pick
    if strength is not None:
        words += f" at {'minus ' if strength < 0 else ''}{abs(strength):g}"
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")


def register(sweep: SweepFolder, tracking_uri: str | None, exported: Path, name: str, alias: str) -> Registered:
    """Upload an exported folder to the run of its trial, as a model that MLflow loads, and give its version ``alias``.

    Weights that ``name`` already has do not make a second version; the files and tags of the version are updated.

    Raises:
        UnavailableError: MLflow has no run of the trial, or cannot be reached.
    """
    store, runs = _store(sweep, tracking_uri)
    bring_home(store)
    record = ExportRecord.read(exported)
    run_id = runs.trials.get(record.trial)
    if run_id is None:
        raise UnavailableError(f"MLflow has no run of trial {record.trial}; `{sweep.command('resume')}` sends it")
    try:
        with mlflow_environment():
            version, new = _add_version(create_store(store), run_id, exported, record, name, alias)
    except Exception as error:  # errors of requests, SQLAlchemy or MLflow; the model is exported in any case
        raise UnavailableError(f"MLflow at {store.shown_uri}: {store.problem(error)}") from error
    return Registered(name, version, alias, new=new)


def _add_version(
    client: Any, run_id: str, exported: Path, record: ExportRecord, name: str, alias: str
) -> tuple[str, bool]:
    """Return the version, and whether it was made now. Errors are MLflow's."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=f"CLIP of the sweep {record.sweep}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    digest = record.digests.exported_weights
    path = f"models/{record.weights}-{round(100 * record.strength)}"
    source = f"runs:/{run_id}/{path}"
    known = client.search_model_versions(f"name = '{name}'")
    same = [version for version in known if version.source == source and version.tags.get(_DIGEST_TAG) == digest]
    if same:
        for file in exported.iterdir():
            if file.suffix in (".md", ".json", ".yaml", ".npz"):
                client.log_artifact(run_id, str(file), f"{path}/artifacts/{CLIP}")
        number = str(same[0].version)
    else:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            write_registered(exported, folder)
            client.log_artifacts(run_id, str(folder), path)
        number = str(client.create_model_version(name, source, run_id=run_id).version)
    for key, value in _tags(record).items():
        client.set_model_version_tag(name, number, key, value)
    client.set_registered_model_alias(name, alias, number)
    return number, not same


def _store(sweep: SweepFolder, tracking_uri: str | None) -> tuple[Store, Runs]:
    """Return the store with the sweep's runs: that of ``tracking_uri``, or else the one they were sent to."""
    runs = find_runs(sweep.path)
    if runs is None:
        raise UnavailableError(f"MLflow has no runs of sweep {sweep.name}; `{sweep.command('resume')}` sends them")
    store = find_store(sweep.storage, tracking_uri)
    if store.shown_uri != runs.uri:
        if tracking_uri is not None:
            raise UnavailableError(f"the runs of sweep {sweep.name} are in {runs.uri}, not in {store.shown_uri}")
        store = find_store(sweep.storage, runs.uri)
    if store.uri.startswith("sqlite:///") and not Path(store.uri.removeprefix("sqlite:///").partition("?")[0]).exists():
        raise UnavailableError(f"the runs of sweep {sweep.name} were in {store.uri}, which does not exist any more")
    return store, runs


def _tags(record: ExportRecord) -> dict[str, str]:
    tags = {
        _DIGEST_TAG: record.digests.exported_weights,
        "sweeper.sweep": record.sweep,
        "sweeper.sweep_id": record.sweep_id,
        "sweeper.trial": str(record.trial),
        "sweeper.weights": record.weights,
        "sweeper.strength": str(record.strength),
    }
    for split, values in (("validation", record.validation), ("test", record.test or {})):
        tags |= {f"{split}.{goal}": f"{values[goal]:.4f}" for goal in record.goals if goal in values}
    return tags
