"""The batch script of a sweep on Slurm: it starts Ray on the allocation, runs or resumes the sweep, requeues itself.

Slurm's own words: an allocation is the nodes of a job, a step is what ``srun`` starts on them, and a job that is
requeued keeps its number and waits for a new allocation.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import UserError
from sweeper.execution.capacity import slots_on
from sweeper.spec.spec import Spec
from sweeper.submission.run_options import RunOptions

SIGNAL_S = 120
"""Seconds before the time limit at which Slurm sends USR1 to the script. Slurm may send it 60 s earlier."""
GRACE_S = 90
"""Seconds that the driver then has for checkpoints, front and MLflow; the rest is for the request to requeue."""
LEAST_TIME_S = 240
"""Shortest time of an allocation: Ray's start, the warm-up of the slots, some training, ``SIGNAL_S``."""
WORKED_S = 300
QUICK_FAILURES = 3
"""A driver that fails after ``WORKED_S`` has worked before, and the job is requeued: its next allocation may have other
nodes. One that fails earlier may fail again and again: the job is requeued for so many of these in a row.
"""
DRIVER_CPUS = 2
"""CPUs of a node beside those of its trials: for the driver, Ray and the decoding of images."""

ContainerKind = Literal["apptainer", "enroot"]


@dataclass(frozen=True, kw_only=True)
class Container:
    """The image that holds sweeper, instead of a virtual environment."""

    kind: ContainerKind
    """``enroot``: through the Pyxis plugin of srun."""
    image: str
    mounts: Sequence[Path]
    """Folders that have the same path inside."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Request to Slurm for nodes."""

    nodes: int
    gpus: int
    """GPUs of all nodes together; 0: the sweep runs on CPUs."""
    cpus_per_node: int | None
    """None: what the trials of a node need."""
    time_s: float
    options: Sequence[str] = ()
    """Further options of sbatch, such as ``--partition=gpu``."""


def slurm_script(
    run: RunOptions, spec: Spec, allocation: Allocation, environment: Path | Container, written_by: str
) -> str:
    """Return the batch script.

    Args:
        environment: the folder of a virtual environment, which all nodes see, or a container.
        written_by: the command that wrote the script, for its first lines.

    Raises:
        UserError: the allocation is impossible or too small for a trial.
    """
    gpus_per_node = _gpus_per_node(allocation)
    cpus = _cpus_per_node(allocation, spec, gpus_per_node)
    if allocation.time_s < LEAST_TIME_S:
        raise UserError(f"--time: an allocation of {allocation.time_s:g} s is too short; give at least 4m")
    gpus = f", {allocation.gpus} GPUs" if allocation.gpus else ""
    nodes = f"{allocation.nodes} node" + ("s" if allocation.nodes > 1 else "")
    options = [
        f"--job-name={run.name}",
        f"--nodes={allocation.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={cpus}",
        *([f"--gpus-per-node={gpus_per_node}"] if gpus_per_node else []),
        f"--time={_slurm_time(allocation.time_s)}",
        f"--signal=B:USR1@{SIGNAL_S}",
        "--requeue",
        "--open-mode=append",
        f"--output={run.name}-%j.log",
        *allocation.options,
    ]
    driver = shlex.join(["sweeper", *run.words()]) + f' --address "$head_ip:$port" --wait 5m --grace {GRACE_S}s'
    driver += "" if gpus_per_node else " --gpus 0"
    step = f'{_STEP} --nodelist="$node" --cpus-per-task={cpus}'
    step += f" --gpus-per-node={gpus_per_node}" if gpus_per_node else ""
    setup, on_node, here = _environment_lines(environment, gpus_per_node > 0)
    resources = f"--num-cpus={cpus}" + (f" --num-gpus={gpus_per_node}" if gpus_per_node else " --num-gpus=0")
    return _SCRIPT.format(
        name=run.name,
        nodes=nodes,
        gpus=gpus,
        written_by=written_by,
        options="\n".join(f"#SBATCH {option}" for option in options),
        storage=shlex.quote(str(run.storage)),
        setup=setup,
        on_node=f"{step} {on_node}".rstrip(),
        here=f"{here} " if here else "",
        resources=resources,
        sweeper=driver,
        worked_s=WORKED_S,
        step=_STEP,
        quick_failures=QUICK_FAILURES,
    )


def mounted_folders(spec: Spec, storage: Path, spec_path: Path, more: Sequence[Path]) -> list[Path]:
    """Return the folders that a container must see: storage, spec, its files and images. None lies in another one."""
    named = {storage, spec_path.parent, *more, *_paths(spec.resolved())}
    folders = {path if path.is_dir() or not path.exists() else path.parent for path in named}
    return sorted(folder for folder in folders if not any(parent in folders for parent in folder.parents))


def _paths(value: Any) -> set[Path]:
    """Return the absolute paths in a resolved spec that exist."""
    if isinstance(value, dict):
        return {path for item in value.values() for path in _paths(item)}
    if isinstance(value, list):
        return {path for item in value for path in _paths(item)}
    text = str(value).removeprefix("local-dir:") if isinstance(value, str) else ""
    return {Path(text)} if text.startswith("/") and Path(text).exists() else set()


def _gpus_per_node(allocation: Allocation) -> int:
    if allocation.gpus % allocation.nodes:
        nodes, gpus = allocation.nodes, allocation.gpus
        raise UserError(
            f"--gpus {gpus} on --nodes {nodes}: every node of an allocation has the same number of GPUs; give a "
            f"multiple of {nodes}, for instance {nodes * math.ceil(gpus / nodes)}"
        )
    return allocation.gpus // allocation.nodes


def _cpus_per_node(allocation: Allocation, spec: Spec, gpus_per_node: int) -> int:
    """Return the CPUs of a node, after a check that it can hold a trial."""
    resources, cpus = spec.resources, allocation.cpus_per_node
    workers, per_worker = resources.workers_per_trial, resources.cpus_per_worker
    share = 0.0 if gpus_per_node == 0 else 1.0 if resources.gpus_per_worker is None else resources.gpus_per_worker
    if cpus is None:
        if gpus_per_node == 0:
            raise UserError("--cpus: give the number of CPUs of a node, or --gpus for a sweep on GPUs")
        slots = slots_on(cpus=math.inf, gpus=gpus_per_node, workers=workers, share=share, cpus_per_worker=per_worker)
        cpus = max(1, slots) * workers * per_worker + DRIVER_CPUS
    if slots_on(cpus=cpus, gpus=gpus_per_node, workers=workers, share=share, cpus_per_worker=per_worker) == 0:
        needs = f"{workers} x ({per_worker} CPU" + (f" and {share:g} GPU)" if gpus_per_node else ")")
        raise UserError(
            f"no trial fits on a node of {cpus} CPUs and {gpus_per_node} GPUs: a trial needs {needs} on one node; "
            "raise --gpus or --cpus, or lower `resources` in the spec"
        )
    return cpus


def _slurm_time(time_s: float) -> str:
    """Return a time as Slurm writes it, ``1-08:00:00``; Slurm counts whole minutes."""
    minutes = math.ceil(time_s / 60)
    days, hours = divmod(minutes // 60, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes % 60:02d}:00"


def _environment_lines(environment: Path | Container, on_gpus: bool) -> tuple[str, str, str]:
    """Return the line of the environment, what follows the options of a step, what precedes a command of the script."""
    if isinstance(environment, Path):
        return f"export PATH={shlex.quote(str(environment / 'bin'))}:$PATH", "", ""
    mounts = ",".join(str(folder) for folder in environment.mounts)
    if environment.kind == "apptainer":
        inside = shlex.join(["apptainer", "exec", *(["--nv"] if on_gpus else []), "--bind", mounts, environment.image])
        return "# sweeper and Ray come from a container (Apptainer).", inside, inside
    pairs = ",".join(f"{folder}:{folder}" for folder in [*environment.mounts, Path("/tmp")])
    inside = shlex.join([f"--container-image={environment.image}", f"--container-mounts={pairs}"])
    setup = "# sweeper and Ray come from a container (enroot, by the Pyxis plugin of srun)."
    return setup, inside, f'{_STEP} --nodelist="$head" {inside}'


_STEP = "srun --overlap --nodes=1 --ntasks=1"


_SCRIPT = """\
#!/bin/bash
# Sweep {name} on {nodes}{gpus}. Submit it with sbatch; it requeues itself until the sweep is complete.
# Written by: {written_by}
{options}

set -uo pipefail
storage={storage}  # a folder that every node sees
{setup}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')  # others may have processes on these nodes
port=$((20000 + SLURM_JOB_ID % 10000))
files=/tmp/ray_$SLURM_JOB_ID  # Ray's own files on each node
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${{nodes[0]}}  # this script and the driver run there
head_ip=$(getent ahostsv4 "$head" | awk '$1 !~ /^127/ {{print $1; exit}}')
head_ip=${{head_ip:-$(hostname -I | awk '{{print $1}}')}}
say() {{ echo "$(date '+%F %T') $*"; }}

# Ray: one step for each node. A node that fails ends the allocation, and Slurm requeues the job: with --no-kill an
# allocation whose first node fails would hold the others until its time limit, without this script.
start_ray() {{
    node=$1
    shift
    {on_node} ray start "$@" --block {resources} --disable-usage-stats \
        < /dev/null > "ray-$SLURM_JOB_ID-$node.log" 2>&1 &
    steps+=($!)
}}
say "allocation ${{SLURM_RESTART_COUNT:-0}} of job $SLURM_JOB_ID: ${{nodes[*]}}"
mkdir -p "$storage"
start_ray "$head" --head --node-ip-address="$head_ip" --port="$port" --ray-client-server-port=$((port + 1)) \\
    --include-dashboard=false --temp-dir="$files"
for ((second = 0; second < 300; second++)); do
    (exec 3<> "/dev/tcp/$head_ip/$port") 2> /dev/null && break
    sleep 1
done
for node in "${{nodes[@]:1}}"; do
    start_ray "$node" --address="$head_ip:$port"
done

# The driver: runs the sweep, or resumes it. It uses the nodes that have come, and those that come later.
{here}{sweeper} &
driver=$!
asked=
# USR1 asks the driver to stop; unlike a second TERM it may come after the TERM that Slurm sends to all processes.
trap 'asked=limit; say "the time is almost over"; kill -USR1 $driver' USR1
trap 'asked=end; say "asked to stop"; kill -USR1 $driver' TERM INT
while true; do
    wait $driver
    code=$?
    kill -0 $driver 2> /dev/null || break  # otherwise a signal has ended the wait
done
wait $driver
code=$?
say "the driver has ended with exit code $code"
trap '' USR1 TERM
kill "${{steps[@]}}" 2> /dev/null
for node in "${{nodes[@]}}"; do
    timeout 10 {step} --nodelist="$node" rm -rf "$files" < /dev/null 2> /dev/null &
    removing+=($!)
done
wait "${{removing[@]}}"

# 0: complete; 1: too many trials failed; 2: bad input; 130: stopped; others: a node, the cluster or the storage failed.
case $code in
0 | 1 | 2) exit $code ;;
esac
quick=$storage/.slurm-$SLURM_JOB_ID  # drivers in a row that failed soon after their start
again=no
if [[ $asked == limit || ($asked == "" && $code != 130 && $SECONDS -gt {worked_s}) ]]; then
    rm -f "$quick"
    again=yes
elif [[ $asked == "" && $code != 130 ]]; then
    echo >> "$quick"
    [[ $(wc -l < "$quick") -le {quick_failures} ]] && again=yes || rm -f "$quick"
fi
if [[ $again == yes ]]; then
    say "requeued: the sweep goes on in the next allocation"
    scontrol requeue "$SLURM_JOB_ID" || say "Slurm refuses to requeue: submit this script again, the sweep goes on"
fi
exit $code
"""
