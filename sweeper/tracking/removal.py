"""Removal of a sweep's runs from MLflow."""

from __future__ import annotations

import shutil

from sweeper.errors import UnavailableError
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.moved import bring_home
from sweeper.tracking.projection import create_store, mlflow_environment
from sweeper.tracking.runs import Store, find_runs, find_store


def store_of(sweep: SweepFolder, tracking_uri: str | None) -> Store | None:
    """Return the store with a sweep's runs; None if it has no runs.

    Raises:
        UserError: the URI does not name a store.
    """
    runs = find_runs(sweep.path)
    if runs is None:
        return None
    store = find_store(sweep.storage, tracking_uri)
    return store if store.shown_uri == runs.uri else find_store(sweep.storage, runs.uri)


def remove_runs(sweep: SweepFolder, store: Store) -> tuple[int, int]:
    """Delete the runs of a sweep.

    MLflow keeps a deleted run until ``mlflow gc``; artifacts in the sweep's own storage are deleted at once.

    Returns:
        The number of deleted runs, and the number of runs that stay because the registry has models from them.

    Raises:
        UnavailableError: MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    runs = find_runs(sweep.path)
    if runs is None:
        return 0, 0
    bring_home(store)
    deleted, kept = [], 0
    try:
        with mlflow_environment():
            client = create_store(store)
            for run in (*runs.trials.values(), runs.parent):
                if client.search_model_versions(f"run_id = '{run}'", max_results=1):
                    kept += 1
                    continue
                try:
                    client.delete_run(run)
                except MlflowException as error:
                    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # deleted before
                        raise
                deleted.append(run)
    except Exception as error:  # errors of requests, SQLAlchemy or MLflow
        raise UnavailableError(f"MLflow at {store.shown_uri}: {store.problem(error)}") from error
    if store.own_database is not None and store.artifacts is not None:
        for run in deleted:
            shutil.rmtree(store.artifacts / run, ignore_errors=True)
    return len(deleted), kept
