from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import UnavailableError, UserError
from sweeper.execution import cluster
from sweeper.execution.capacity import NodeResources, plan
from tests.paths import ROOT


def node(cpus: float, gpus: float = 0, name: str = "n") -> NodeResources:
    return NodeResources(name=name, cpus=cpus, gpus=gpus)


def test_it_is_noticed_within_seconds_that_a_process_of_ray_has_ended() -> None:
    lost: SimpleQueue[str] = SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as gcs, socket.create_server(("127.0.0.1", 0)) as raylet:
        places = {"the GCS": gcs.getsockname(), "the raylet": raylet.getsockname()}
        with cluster.watched_ports(places, lost.put):
            with pytest.raises(Empty):
                lost.get(timeout=2.5 * cluster.WATCH_S)
            raylet.close()
            assert lost.get(timeout=60) == "the raylet has ended"
            gcs.close()
    assert lost.empty()


def test_without_gpus_it_plans_by_cpu() -> None:
    planned = plan([node(2)], None, 1, 1.0, 1.0)
    assert (planned.slots, planned.gpus_per_worker, planned.cpus_per_worker) == (2, 0, 1.0)


def test_a_share_of_a_gpu_is_of_one_device() -> None:
    assert plan([node(64, 2)], None, 1, 0.4, 1.0).slots == 4
    assert plan([node(64, 2)], 2, 1, 0.4, 1.0).slots == 4
    assert plan([node(64, 3)], None, 1, 1 / 3, 1.0).slots == 9


def test_the_workers_of_a_trial_share_a_node() -> None:
    assert plan([node(64, 3, "a"), node(64, 3, "b")], None, 2, 1, 1.0).slots == 2
    with pytest.raises(UnavailableError):
        plan([node(64, 1, "a"), node(64, 1, "b")], None, 2, 1, 1.0)


def test_gpus_is_a_budget() -> None:
    assert plan([node(64, 8)], 3, 1, 1, 1.0).slots == 3
    assert plan([node(64, 8)], 3, 2, 1, 1.0).slots == 1
    assert plan([node(64, 8)], 0, 1, 1, 8.0).slots == 8, "a budget of 0 means CPUs"


def test_a_budget_larger_than_the_cluster_is_said() -> None:
    planned = plan([node(64, 4)], 16, 1, 1, 1.0)
    assert planned.slots == 4
    assert "4 of 16 GPUs exist" in planned.text


def test_gpus_without_any_gpu_are_refused_with_the_way_on() -> None:
    with pytest.raises(UnavailableError, match=r"16 GPUs.*n 2 CPU, 0 GPU.*leave --gpus out"):
        plan([node(2)], 16, 1, 1, 1.0)


def test_a_trial_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(UnavailableError, match=r"2 x \(4 CPU\).*alpha 6 CPU, 0 GPU; beta 4 CPU, 0 GPU"):
        plan([node(6, name="alpha"), node(4, name="beta")], None, 2, 1, 4.0)
    with pytest.raises(UnavailableError, match="raise --gpus to at least 4"):
        plan([node(64, 8)], 2, 4, 1, 1.0)


@pytest.mark.parametrize(
    ("gpus", "workers", "share", "cpus", "said"),
    [
        (-1, 1, 1, 1, "budget is -1"),
        (None, 0, 1, 1, "workers_per_trial is 0"),
        (None, 1, 0, 1, "gpus_per_worker is 0"),
        (None, 1, 1.5, 1, "whole number"),
        (None, 2, 0.5, 1, "NCCL"),
        (None, 1, 1, 0, "cpus_per_worker is 0"),
    ],
)
def test_requests_without_sense_are_mistakes(
    gpus: float | None, workers: int, share: float, cpus: float, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        plan([node(8, 8)], gpus, workers, share, cpus)


def pack(nodes: list[NodeResources], workers: int, share: float, cpus: float) -> int:
    """Puts worker after worker on a device with room, as Ray would, until no whole trial fits any more."""
    slots = 0
    for each in nodes:
        free, devices = each.cpus, [1.0] * int(each.gpus)
        while True:
            for _ in range(workers):
                fits = [i for i, left in enumerate(devices) if left >= min(share, 1) - 1e-9]
                if free < cpus - 1e-9 or len(fits) < max(1, share):
                    break
                free -= cpus
                for i in fits[: max(1, int(share))]:
                    devices[i] -= min(share, 1)
            else:
                slots += 1
                continue
            break
    return slots


shares = st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 1.0, 2.0, 3.0])
machines = st.lists(st.builds(node, st.integers(1, 32), st.integers(0, 6)), min_size=1, max_size=4)


@given(machines, shares, st.sampled_from([0.5, 1.0, 2.0, 5.0]), st.integers(1, 3))
def test_a_plan_is_what_packing_one_by_one_gives(
    nodes: list[NodeResources], share: float, cpus: float, workers: int
) -> None:
    workers = workers if share >= 1 else 1
    if sum(each.gpus for each in nodes) == 0:
        return
    expected = pack(nodes, workers, share, cpus)
    if expected == 0:
        with pytest.raises(UnavailableError):
            plan(nodes, None, workers, share, cpus)
    else:
        assert plan(nodes, None, workers, share, cpus).slots == expected


@given(machines, shares, st.integers(1, 12))
def test_a_plan_keeps_within_the_budget(nodes: list[NodeResources], share: float, gpus: int) -> None:
    try:
        planned = plan(nodes, gpus, 1, share, 0.5)
    except UnavailableError:
        return
    assert planned.slots * share <= gpus + 1e-9
    assert planned.slots <= plan(nodes, None, 1, share, 0.5).slots


@pytest.mark.parametrize("address", ["somewhere", "http://10.0.0.1:8265", "ray://10.0.0.1:10001", "host:port"])
def test_an_address_of_another_form_is_a_mistake(address: str) -> None:
    with pytest.raises(UserError, match="host:port"):
        cluster.connect(address)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_an_address_where_nothing_answers_is_refused() -> None:
    with pytest.raises(UnavailableError, match="no Ray cluster answers"):
        cluster.connect(f"127.0.0.1:{free_port()}")


JOIN = """
import os
import sys
from sweeper.execution import cluster
from sweeper.errors import UnavailableError
try:
    cluster.connect(sys.argv[1])
except UnavailableError as error:
    print("unavailable:", error)
else:
    import ray
    print("joined", [node.cpus for node in cluster.nodes()])
    path = ray.get(ray.remote(num_cpus=1)(lambda: __import__("sys").path).remote())
    places = [f"{p}/{name}" for p in path if "py_modules" in p for name in ("sweeper", "trainables")]
    print("shipped", sorted(os.path.basename(place) for place in places if os.path.isdir(place)))
    cluster.disconnect()
"""


def started(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    """A Ray head that runs. Its raylet has a fixed 30 s to come up (Ray 2.60), too few where all cores are busy."""
    for _ in range(3):
        head = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert head.stdout is not None
        said = []
        for line in head.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                return head
        head.wait(60)
    raise AssertionError("".join(said))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_more_gpus_than_the_cluster_has_are_refused_with_the_numbers_or_waited_for() -> None:
    told: list[str] = []
    with pytest.raises(UnavailableError, match=r"--gpus 2: the cluster has 0 GPUs \(.* 0\); .* --wait 30m"):
        cluster.wait_for_gpus(2, cluster.Wait(0.0, lambda: False, told.append))
    assert told == []
    with pytest.raises(UnavailableError, match="--gpus 2: the cluster has 0 GPUs after 1.5 s"):
        cluster.wait_for_gpus(2, cluster.Wait(1.5, lambda: False, told.append))
    assert told == ["waiting for GPUs of the cluster: 0 of 2 free"]
    cluster.wait_for_gpus(2, cluster.Wait(600.0, lambda: True, told.append))  # asked to stop: it does not wait


@pytest.mark.ray
@pytest.mark.drill
def test_clusters_with_and_without_token_are_joined_from_machines_with_and_without_one(tmp_path: Path) -> None:
    """A cluster ships our packages to its workers; a wrong token, and a missing one, are refused in words."""
    homes = {}
    for name, token in (("right", "a" * 64), ("wrong", "b" * 64), ("none", "")):
        (tmp_path / name / ".ray").mkdir(parents=True)
        if token:
            (tmp_path / name / ".ray" / "auth_token").write_text(token)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        homes[name] = clean | {"HOME": str(tmp_path / name), "PYTHONPATH": str(ROOT)}
    ports = {mode: free_port() for mode in ("token", "disabled")}
    ray = str(Path(sys.executable).with_name("ray"))
    elsewhere = {key: value for key, value in homes["right"].items() if key != "PYTHONPATH"}
    with ExitStack() as heads:
        for mode, port in ports.items():
            start = [ray, "start", "--head", "--block", "--num-cpus=1", f"--port={port}", "--include-dashboard=false"]
            start += [f"--temp-dir=/tmp/r{port}", "--node-ip-address=127.0.0.1"]
            heads.callback(shutil.rmtree, f"/tmp/r{port}", ignore_errors=True)
            head = started(start, elsewhere | {"RAY_AUTH_MODE": mode}, tmp_path)
            heads.callback(head.wait, 60)
            heads.callback(head.terminate)

        def said(mode: str, home: str) -> str:
            join = [sys.executable, "-c", JOIN, f"127.0.0.1:{ports[mode]}"]
            done = subprocess.run(join, env=homes[home], capture_output=True, text=True, timeout=240)
            return done.stdout + done.stderr

        joined = "joined [1.0]\nshipped ['sweeper', 'trainables']\n"
        assert said("token", "right") == joined
        assert said("disabled", "right") == joined
        assert said("disabled", "none") == joined
        at = f"unavailable: the Ray cluster at 127.0.0.1:{ports['token']} "
        assert said("token", "wrong").startswith(f"{at}refuses the token of {tmp_path}/wrong/.ray/auth_token: put the")
        assert said("token", "none").startswith(f"{at}asks for a token, and there is none here: put the cluster's own")
