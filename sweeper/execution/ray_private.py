"""Everything that sweeper takes from Ray's private modules (Ray 2.60), one function a purpose.

Each docstring says what breaks without the private name; ``tests/sweeper/execution/test_ray_private.py`` fails with
that sentence when Ray changes it. No other file imports a private module of Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def group_callbacks() -> tuple[Any, Any]:
    """Without WorkerGroupCallback and ControllerCallback the driver learns of a lost worker group only when Train has
    started the next one, and never of a group that cannot start; a hanging controller could not be killed."""
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

    return WorkerGroupCallback, ControllerCallback


def failure_states() -> tuple[Any, Any]:
    """Without RestartingState and ReschedulingState nobody counts the failures of a slot whose workers keep dying: it
    would be restarted for ever."""
    from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState

    return RestartingState, ReschedulingState


def health_check_error() -> Any:
    """Without WorkerHealthCheckFailedError it is not known why a worker died: the memory monitor may have killed it."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError


def startup_timeout_error() -> type[BaseException]:
    """Without WorkerGroupStartupTimeoutError a slot that waits for a node to come counts as failing."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    error: type[BaseException] = WorkerGroupStartupTimeoutError
    return error


def unwanted_callbacks() -> tuple[type, type]:
    """Without PlacementGroupCleanerCallback and DatasetsCallback, which slots leave out, each slot polls the State API
    once a second and leaves a process behind a killed driver, and starts an actor for datasets (5 s of CPU)."""
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    return PlacementGroupCleanerCallback, DatasetsCallback


def default_callbacks_method() -> str:
    """Without TorchTrainer._create_default_callbacks the unwanted callbacks of Train cannot be left out."""
    from ray.train.torch import TorchTrainer

    return str(TorchTrainer._create_default_callbacks.__name__)


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """Without available_resources_per_node slots cannot be planned node by node: the public ray.available_resources()
    does not tell nodes apart."""
    from ray._private.state import available_resources_per_node as per_node

    resources: dict[str, dict[str, float]] = per_node()
    return resources


def session_folder() -> Path | None:
    """Without worker._global_node the logs of each of our own Rays stay in /tmp/ray, one folder for every session of a
    sweep. None: no Ray of our own is connected."""
    from ray._private import worker

    node = worker._global_node
    return None if node is None or not node.head else Path(node.get_session_dir_path())


def silence_raylet() -> None:
    """Without worker._worker_logs_enabled remarks of the raylet about the number of processes are printed to stdout,
    where the front's table goes, whatever log_to_driver says."""
    from ray._private import worker

    if not isinstance(worker._worker_logs_enabled, bool):
        raise ImportError("ray._private.worker._worker_logs_enabled is no switch any more")
    worker._worker_logs_enabled = False


def token_authentication() -> Any:
    """Without maybe_enable_token_auth_if_token_available a cluster that wants a token cannot be joined: Ray looks for a
    token only where it finds the cluster itself, never for an explicit address."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    return maybe_enable_token_auth_if_token_available


def placement_groups_of(actor: Any) -> list[Any]:
    """Without the creator in the table of placement groups, a Train controller that dies before its workers have said
    anything leaves what it reserved for them until the driver ends: its slot would never start again."""
    from ray._private.state import state
    from ray._raylet import PlacementGroupID
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup

    table = state._connect_and_get_accessor().get_placement_group_table()
    groups = [gcs_pb2.PlacementGroupTableData.FromString(row) for row in table]
    return [
        PlacementGroup(PlacementGroupID(group.placement_group_id))
        for group in groups
        if group.creator_actor_id == actor._actor_id.binary() and group.state != gcs_pb2.PlacementGroupTableData.REMOVED
    ]
