"""What sweeper takes from Ray's private modules is there: a failure says what breaks without it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.execution import ray_private
from tests.helpers.runners import patience
from tests.paths import ROOT

FUNCTIONS = [
    function
    for _, function in inspect.getmembers(ray_private, inspect.isfunction)
    if function.__module__ == ray_private.__name__
]


def says_what_breaks(function: Callable[[], Any]) -> Any:
    """Call a function of ``ray_private``; where Ray has changed, fail with the function's own sentence."""
    try:
        return function()
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{function.__doc__}\n({error})", pytrace=False)


@pytest.mark.parametrize(
    "function",
    [
        ray_private.group_callbacks,
        ray_private.failure_states,
        ray_private.startup_timeout_error,
        ray_private.health_check_error,
        ray_private.unwanted_callbacks,
        ray_private.data_parallel_trainer,
        ray_private.silence_raylet,
        lambda: ray_private.set_token_authentication(False),
    ],
    ids=lambda function: function.__name__,
)
def test_the_private_name_is_there(function: Callable[[], Any]) -> None:
    says_what_breaks(function)


def test_a_ray_that_starts_on_loopback_takes_its_address_and_no_other_does() -> None:
    def address_inside() -> str:
        with ray_private.on_loopback():
            return str(services.get_node_ip_address())

    from ray._private import ray_constants, services

    before = ray_constants.ENABLE_RAY_CLUSTER
    address = says_what_breaks(address_inside)
    assert address == "127.0.0.1" or ray_is_connected()
    assert ray_constants.ENABLE_RAY_CLUSTER is before


def ray_is_connected() -> bool:
    import ray

    return bool(ray.is_initialized())


def test_a_failed_health_check_says_why_the_worker_could_not_be_asked() -> None:
    from ray.exceptions import OutOfMemoryError

    killed = OutOfMemoryError("the node is low on memory")
    assert says_what_breaks(ray_private.health_check_error)("no answer", killed).health_check_failure is killed


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_free_resources_are_told_node_by_node() -> None:
    per_node = says_what_breaks(ray_private.available_resources_per_node)
    assert [set(resources) >= {"CPU"} for resources in per_node.values()] == [True]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_killed_actor_has_reserved_is_found_and_freed() -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    @ray.remote(num_cpus=0)
    class Reserving:
        def reserve(self) -> str:
            group = placement_group([{"CPU": 1}])
            ray.get(group.ready())
            return str(group.id.hex())

    def free_cpus() -> float:
        return float(ray.available_resources().get("CPU", 0.0))

    before = free_cpus()
    actor, other = Reserving.remote(), Reserving.options(name="other").remote()
    reserved = ray.get(actor.reserve.remote())
    assert says_what_breaks(lambda: ray_private.placement_groups_of(other)) == []
    ray.kill(actor)
    left = ray_private.placement_groups_of(actor)
    assert [group.id.hex() for group in left] == [reserved]
    remove_placement_group(left[0])
    with patience(30, "the CPU to be free") as again:
        while free_cpus() < before and again():
            pass
    assert ray_private.placement_groups_of(actor) == []


def test_the_callbacks_have_the_methods_that_slots_override() -> None:
    worker_group, controller = says_what_breaks(ray_private.group_callbacks)
    overridden = {
        worker_group: (
            "before_worker_group_start",
            "before_worker_group_shutdown",
            "before_worker_group_abort",
        ),
        controller: ("after_controller_start", "after_controller_state_update"),
    }
    for callback, methods in overridden.items():
        missing = [name for name in methods if name not in vars(callback)]
        assert not missing, f"{ray_private.group_callbacks.__doc__} Missing: {missing}"


def test_every_private_name_is_explained_and_no_other_file_imports_one() -> None:
    assert all("Without " in (function.__doc__ or "") for function in FUNCTIONS)
    importing = [
        path.relative_to(ROOT).as_posix()
        for folder in ("sweeper", "trainables")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(from|import) ray\.(\S+\.)?_", path.read_text(), re.MULTILINE)
    ]
    assert importing == ["sweeper/execution/ray_private.py"]
