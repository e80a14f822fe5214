"""A sweep on a real Slurm that is preempted again and again: it ends by itself, as the undisturbed one."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.clusters.network import Network, run
from tests.clusters.slurm import CPUS, Slurm
from tests.drills import checks, records
from tests.drills.drill import Reference
from tests.drills.reference import reference
from tests.drills.sweeps import Place, Sweep, spec_text
from tests.paths import ROOT

PATIENCE_S = 900.0


@dataclass(kw_only=True)
class Preemption:
    """What was done to an allocation, and what it cost."""

    how: str
    after_s: float
    """Seconds since the allocation began."""
    phase: str
    undone_s: float
    """Longest time since the last checkpoint of a running trial."""
    redone_steps: int | None = None


@dataclass(kw_only=True)
class Preempted:
    """The sweep at its end."""

    preemptions: list[Preemption] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    took_s: float = 0.0
    allocations: int = 0


def preempted_sweep(
    slurm: Slurm,
    network: Network,
    sweep: Sweep,
    undisturbed: Reference | None,
    *,
    nodes: int,
    times: int,
    seed: int,
    limit: str,
    within_s: float,
) -> Preempted:
    """Run a sweep by the script of ``sweeper slurm`` and preempt it ``times`` times at random moments.

    Args:
        undisturbed: the undisturbed sweep, of which this one must have the trials and the front; None where trials run
            beside each other, whose order is another one each time.
        limit: time of an allocation; a short one ends allocations as well.
        within_s: a preemption comes within so many seconds after the start of an allocation.
    """
    rng, found, snapshots = random.Random(seed), Preempted(), []
    sweep.logs.mkdir(parents=True, exist_ok=True)
    spec, script = sweep.logs / "spec.yaml", sweep.logs / "job.sbatch"
    spec.write_text(spec_text(1, sweep.trials))
    options = ["--nodes", str(nodes), "--cpus", str(CPUS), "--time", limit, "--name", sweep.name]
    command = sweep.place.command("slurm", str(spec), *options, "--storage", str(sweep.place.storage))
    script.write_text(
        subprocess.run(
            command, env=sweep.place.variables(sweep.mark), capture_output=True, text=True, check=True
        ).stdout
    )
    started_s = time.monotonic()
    job = slurm.submit(script)
    harms: dict[str, Callable[[], object]] = {
        "warned (USR1)": lambda: run("scancel", "--signal=USR1", "--batch", job),
        "requeued at once": lambda: run("scontrol", "requeue", job),
        "first node fails": lambda: network.nodes[0].fail(),
    }
    if nodes > 1:
        harms["second node fails"] = lambda: network.nodes[1].fail()
    for number in range(times):
        if not slurm.await_running(job, number):
            break
        session_s, how = time.time(), rng.choice(sorted(harms))
        after_s = rng.uniform(0.0, within_s)
        until_s = time.monotonic() + after_s
        while time.monotonic() < until_s and slurm.state(job) == "RUNNING":
            time.sleep(0.5)
        if slurm.state(job) != "RUNNING":
            break
        harms[how]()
        snapshot = records.taken(sweep, time.monotonic() - started_s, session_s)
        if how.endswith("fails"):
            node = network.nodes[0 if how.startswith("first") else 1]
            slurm.await_down(node)
            time.sleep(2.0)
            slurm.start_node(node)
        snapshots.append(snapshot)
        undone_s = max((trial.undone_s for trial in snapshot.running.values()), default=0.0)
        print(f"{how} after {after_s:.0f} s, in {snapshot.phase}: {undone_s:.1f} s undone", flush=True)
        found.preemptions.append(Preemption(how=how, after_s=after_s, phase=snapshot.phase, undone_s=undone_s))
    slurm.await_end(job, PATIENCE_S)
    found.took_s = time.monotonic() - started_s
    found.allocations = slurm.restarts(job) + 1
    if slurm.exit_code(job) != 0:
        found.problems.append(f"the job ends with exit code {slurm.exit_code(job)}")
    found.problems += [*checks.check_trials(sweep, snapshots), *checks.check_mlflow(sweep)]
    if undisturbed is not None:
        found.problems += checks.check_same(sweep, undisturbed.content)
    for snapshot, preemption in zip(snapshots, found.preemptions, strict=True):
        preemption.redone_steps, problems = checks.check_redone(sweep, snapshot)
        found.problems += problems
    return found


def main(times: int, seed: int, nodes: int, limit: str, trials: int, within_s: float, folder: Path) -> int:
    """Run the drill on a Slurm of its own and print what it has found; return the number of problems."""
    place = Place(root=ROOT, storage=folder / "sweeps", logs=folder / "logs")
    place.storage.mkdir(parents=True, exist_ok=True)
    place.logs.mkdir(parents=True, exist_ok=True)
    undisturbed = reference(place, 1, trials) if nodes == 1 else None
    records.preload()
    sweep = Sweep(place, f"slurm-{nodes}-{seed}-{int(time.time())}", 1, trials)
    with Network(nodes) as network, Slurm(network, folder / "slurm") as slurm:
        found = preempted_sweep(
            slurm,
            network,
            sweep,
            undisturbed,
            nodes=nodes,
            times=times,
            seed=seed,
            limit=limit,
            within_s=within_s,
        )
    print(f"{nodes} nodes, seed {seed}: {len(found.preemptions)} preemptions, ", end="")
    print(f"{found.allocations} allocations of {limit}, {found.took_s:.0f} s", end="")
    print("" if undisturbed is None else f"; undisturbed {undisturbed.took_s:.0f} s")
    print("| preemption | after | in | since the last checkpoint | steps redone |\n| --- | ---: | --- | ---: | ---: |")
    for one in found.preemptions:
        redone = "-" if one.redone_steps is None else one.redone_steps
        print(f"| {one.how} | {one.after_s:.0f} s | {one.phase} | {one.undone_s:.1f} s | {redone} |")
    for problem in found.problems:
        print(f"problem: {problem}")
    return len(found.problems)
