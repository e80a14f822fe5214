"""``sweeper check``: everything a sweep needs, tried before a GPU is taken."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from sweeper.records import UnavailableError, UserError
from sweeper.spec import Spec

CONNECT_S = 3.0
LEAST_FREE_BYTES = 2 * 2**30


def check_sweep(
    spec: Spec,
    storage: Path,
    *,
    gpus: float | None,
    address: str | None,
    tracking_uri: str | None,
    echo: Callable[[str], None],
) -> None:
    """Says what was found, a line each. Raises UserError or UnavailableError at the first thing that will not do."""
    echo(f"spec: {spec.name}, {spec.search.trials} trials, seed {spec.search.seed}")
    _check_storage(storage, echo)
    _check_tracker(storage, tracking_uri, echo)
    _check_model_and_images(spec, echo)
    _check_capacity(spec, gpus, address, echo)


def _check_storage(storage: Path, echo: Callable[[str], None]) -> None:
    parent = next(path for path in (storage, *storage.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        raise UnavailableError(f"storage {storage}: {parent} cannot be written to; name another with --storage")
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < LEAST_FREE_BYTES:
        raise UnavailableError(
            f"storage {storage}: only {free_bytes / 2**30:.1f} GiB free; name another with --storage"
        )
    echo(f"storage: {storage}, {free_bytes / 2**30:.0f} GiB free")


def _check_tracker(storage: Path, tracking_uri: str | None, echo: Callable[[str], None]) -> None:
    from sweeper.tracking.runs import find_store

    store = find_store(storage, tracking_uri)
    if store.is_server:
        parts = urlsplit(store.uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
        except OSError as error:
            raise UnavailableError(f"MLflow does not answer at {store.shown_uri}: {error}") from error
    echo(f"MLflow: {store.shown_uri}")


def _check_model_and_images(spec: Spec, echo: Callable[[str], None]) -> None:
    import torch

    from trainables.workbench import Workbench

    with tempfile.TemporaryDirectory() as scratch:
        try:
            bench = Workbench(
                spec.task_settings(), data_seed=spec.search.seed, cache=Path(scratch), device=torch.device("cpu")
            )
            clip, pairs = bench.clip, bench.pairs
            echo(
                f"model: {spec.model.architecture}, embedding width {clip.embed_dim}, images of {clip.image_size} px, "
                f"weights {clip.digest[:12]}"
            )
            echo(f"training: {len(pairs.attacked.labels)} preference pairs over {len(pairs.class_names)} classes")
            for what, sets in (("validation", bench.search_sets), ("test", bench.test_sets)):
                for one in sets:
                    echo(f"{what}: {one.name}, {len(one.clean.labels)} images, {len(one.class_names)} classes")
        except ValueError as error:
            raise UserError(str(error)) from error


def _check_capacity(spec: Spec, gpus: float | None, address: str | None, echo: Callable[[str], None]) -> None:
    from sweeper import cluster

    resources = spec.resources
    cluster.connect(address)
    try:
        plan = cluster.plan(
            cluster.nodes(),
            gpus,
            resources.workers_per_trial,
            1.0 if resources.gpus_per_worker is None else resources.gpus_per_worker,
            resources.cpus_per_worker,
        )
    finally:
        cluster.disconnect()
    echo(f"capacity: {plan.text}")
