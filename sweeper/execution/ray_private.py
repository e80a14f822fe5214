"""All uses of Ray's private modules (Ray 2.60), one function for each purpose.

Each docstring says what breaks without the private name; ``tests/sweeper/execution/test_ray_private.py`` fails with the
docstring when Ray changes it. No other file imports a private module of Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def group_callbacks() -> tuple[Any, Any]:
    """Return WorkerGroupCallback and ControllerCallback of Train.

    Without them the driver learns of a lost worker group only when Train has started the next one, and never of a group
    that cannot start; a hanging controller could not be killed.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

    return WorkerGroupCallback, ControllerCallback


def failure_states() -> tuple[Any, Any]:
    """Return RestartingState and ReschedulingState of Train.

    Without them nothing counts the failures of a slot whose workers keep dying: it would be restarted for ever.
    """
    from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState

    return RestartingState, ReschedulingState


def health_check_error() -> Any:
    """Without WorkerHealthCheckFailedError it is not known why a worker died: the memory monitor may have killed it."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError


def startup_timeout_error() -> type[BaseException]:
    """Return WorkerGroupStartupTimeoutError of Train.

    Without it a slot that waits for a missing node counts as failing.
    """
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    error: type[BaseException] = WorkerGroupStartupTimeoutError
    return error


def unwanted_callbacks() -> tuple[type, type]:
    """Return PlacementGroupCleanerCallback and DatasetsCallback of Train, which slots leave out.

    Without them each slot polls the State API once a second, leaves a process behind a killed driver, and starts an
    actor for datasets (5 s of CPU).
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    return PlacementGroupCleanerCallback, DatasetsCallback


def data_parallel_trainer() -> Any:
    """Return DataParallelTrainer of Train's second version, whose public subclass is TorchTrainer.

    Without it the driver and a process for each slot import torch, which they do not use. Without its method
    _create_default_callbacks the unwanted callbacks of Train cannot be left out.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    if not callable(DataParallelTrainer._create_default_callbacks):
        raise ImportError("DataParallelTrainer has no _create_default_callbacks any more")
    return DataParallelTrainer


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """Return the free resources of each node, by available_resources_per_node.

    Without it slots cannot be planned node by node: the public ray.available_resources() gives the sum over nodes.
    """
    from ray._private.state import available_resources_per_node as per_node

    resources: dict[str, dict[str, float]] = per_node()
    return resources


def session_folder() -> Path | None:
    """Return the folder of the logs of sweeper's own Ray, by worker._global_node; None if no such Ray is connected.

    Without it the logs of each of sweeper's own Rays stay in /tmp, one folder for every session of a sweep.
    """
    from ray._private import worker

    node = worker._global_node
    return None if node is None or not node.head else Path(node.get_session_dir_path())


def silence_raylet() -> None:
    """Switch off worker._worker_logs_enabled.

    Without it the raylet's messages about the number of processes are printed to stdout, between the lines of the
    front's table, even with log_to_driver=False.
    """
    from ray._private import worker

    if not isinstance(worker._worker_logs_enabled, bool):
        raise ImportError("ray._private.worker._worker_logs_enabled is not a boolean any more")
    worker._worker_logs_enabled = False


@contextmanager
def on_loopback() -> Iterator[None]:
    """Set ray_constants.ENABLE_RAY_CLUSTER to False inside the context, as Ray itself does on Windows and macOS.

    Without it a Ray that starts inside listens on all interfaces of the machine: ``ray.init`` replaces a
    ``_node_ip_address`` of 127.0.0.1 by the machine's own. The variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER counts only
    before Ray is imported.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if not isinstance(before, bool):
        raise ImportError("ray._private.ray_constants.ENABLE_RAY_CLUSTER is not a boolean any more")
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def set_token_authentication(wanted: bool) -> None:
    """Have this process send a token to a cluster, or none, by RAY_AUTH_MODE and Config.initialize.


    Without it a cluster that asks for a token cannot be joined: Ray looks for a token only if it finds the cluster
    itself, never for an explicit address. And with a token that a cluster does not ask for, the calls of its processes
    to this one are refused, and its actors end.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ["RAY_AUTH_MODE"] = "token" if wanted else "disabled"
    Config.initialize("")


def placement_groups_of(actor: Any) -> list[Any]:
    """Return the placement groups that an actor has created, from the table of placement groups.

    Without the creator in this table, a Train controller that dies before its workers have reported leaves their
    reserved resources blocked until the driver ends: its slot would never start again.
    """
    from ray._raylet import PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup

    return [
        PlacementGroup(PlacementGroupID(group.placement_group_id))
        for group in _placement_groups()
        if group.creator_actor_id == actor._actor_id.binary() and group.state != PlacementGroupTableData.REMOVED
    ]


def holding(actors: Mapping[int, Any]) -> set[int]:
    """Return the numbers of the actors that have created a placement group which holds its resources now.

    Without it the sweep is charged for the devices of nodes that have left, and does not know for how many trials the
    cluster has room.
    """
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    creators = {g.creator_actor_id for g in _placement_groups() if g.state == PlacementGroupTableData.CREATED}
    return {number for number, actor in actors.items() if actor._actor_id.binary() in creators}


def _placement_groups() -> list[Any]:
    """Return the rows of the table of placement groups, by state and gcs_pb2.

    Without them neither the creators nor the states of groups that other processes have made are known.
    """
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    table = state._connect_and_get_accessor().get_placement_group_table()
    return [PlacementGroupTableData.FromString(row) for row in table]
