"""Commands for sweeps that run elsewhere: as a batch job of Slurm, as a job of a Ray cluster; stopping them."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.options import (
    BudgetHours,
    Changes,
    Name,
    PriceOption,
    Storage,
    SweepName,
    TrackingUri,
    Trials,
    Wait,
    WarmStart,
    open_sweep,
    option_price,
    option_seconds,
    storage_path,
    with_budget,
)
from sweeper.commands import command
from sweeper.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from sweeper.spec.spec import Spec
    from sweeper.submission.run_options import RunOptions

SpecArgument = Annotated[Path, typer.Argument(help="The sweep in YAML, or a shipped one by name.")]
SYNC_S = 600.0
"""Seconds that ``sync`` waits for MLflow."""
STOP_S = 180.0
"""Seconds that ``stop`` waits for the end of a session."""
ASK_S = 15.0
"""Seconds between two requests to stop: a session that is just beginning withdraws those of its predecessors."""


def slurm(
    spec: SpecArgument,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of an allocation.")] = 1,
    gpus: Annotated[
        int, typer.Option("--gpus", min=0, help="GPUs of all nodes together; 0: a sweep on CPUs.", show_default=True)
    ] = 0,
    time: Annotated[
        str, typer.Option("--time", metavar="TIME", help="Time of an allocation: 8h, 90m. The sweep may take several.")
    ] = "8h",
    cpus: Annotated[
        int | None,
        typer.Option("--cpus", min=1, help="CPUs of a node. Default: what its trials need.", show_default=False),
    ] = None,
    venv: Annotated[
        Path | None,
        typer.Option("--venv", help="Virtual environment with sweeper. Default: this one.", show_default=False),
    ] = None,
    apptainer: Annotated[
        str | None,
        typer.Option("--apptainer", metavar="IMAGE", help="Run in this Apptainer image instead.", show_default=False),
    ] = None,
    enroot: Annotated[
        str | None,
        typer.Option(
            "--enroot", metavar="IMAGE", help="Run in this image by srun's Pyxis plugin instead.", show_default=False
        ),
    ] = None,
    mount: Annotated[
        list[Path] | None,
        typer.Option("--mount", help="With a container: a folder that it must see too; several times."),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION", help="Further option: --sbatch=--partition=gpu; several times."),
    ] = None,
    name: SweepName = None,
    trials: Trials = None,
    warm_start: WarmStart = None,
    budget: BudgetHours = None,
    price: PriceOption = None,
    changes: Changes = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Print a Slurm batch script that runs the sweep to its end: sweeper slurm SPEC ... > job.sbatch.

    The script starts Ray on the nodes, runs the sweep or resumes it, and requeues itself before the time limit. A
    preempted, failed or requeued job goes on where it was.
    """
    from sweeper.submission.slurm import Allocation, Container, mounted_folders, slurm_script

    root = storage_path(storage)
    loaded, file, run = _planned_run(
        spec, root, name, trials, warm_start, budget, price, changes, tracking_uri, sent=False
    )
    seconds = option_seconds("--time", time)
    assert seconds is not None
    allocation = Allocation(nodes=nodes, gpus=gpus, cpus_per_node=cpus, time_s=seconds, options=sbatch or ())
    if sum(one is not None for one in (venv, apptainer, enroot)) > 1:
        raise UserError("--venv, --apptainer and --enroot name the place of sweeper on the nodes: give one of them")
    environment: Path | Container
    if apptainer is not None or enroot is not None:
        mounts = mounted_folders(loaded, root, file.absolute(), [path.absolute() for path in mount or []])
        image = apptainer if apptainer is not None else enroot
        assert image is not None
        environment = Container(kind="enroot" if apptainer is None else "apptainer", image=image, mounts=mounts)
    else:
        environment = (venv or Path(sys.prefix)).absolute()
        if mount:
            raise UserError("--mount is for a container: give --apptainer or --enroot too, or leave it out")
        if not (environment / "bin" / "sweeper").exists():
            raise UserError(f"--venv {environment}: there is no bin/sweeper in it; name an environment with sweeper")
    written_by = " ".join(["sweeper", *map(shlex.quote, sys.argv[1:])])
    typer.echo(slurm_script(run, loaded, allocation, environment, written_by), nl=False)
    check = command("check", run.spec, storage=root)
    typer.echo(f"save it as job.sbatch; check the spec with `{check}`, then `sbatch job.sbatch`", err=True)


def submit(
    spec: SpecArgument,
    address: Annotated[str, typer.Option("--address", help="URL of the cluster's dashboard: http://head:8265.")],
    gpus: Annotated[
        float | None, typer.Option("--gpus", help="GPUs the sweep may use. Default: all.", show_default=False)
    ] = None,
    wait: Wait = None,
    python: Annotated[
        str, typer.Option("--python", help="Python with sweeper's packages, as the cluster's head finds it.")
    ] = "python",
    name: SweepName = None,
    trials: Trials = None,
    warm_start: WarmStart = None,
    budget: BudgetHours = None,
    price: PriceOption = None,
    changes: Changes = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run the sweep as a job of a Ray cluster (Ray Jobs), and return at once.

    A sweep that exists is resumed; one that runs already is left alone. --storage is a folder as the cluster sees it:
    what a notebook and the cluster both see can be watched with status, logs -f, front and stop.
    """
    from sweeper.execution.ray_jobs import JobRequest
    from sweeper.execution.ray_jobs import submit as submit_job
    from sweeper.spec.code_checks import read_code

    if storage is None and "SWEEPER_STORAGE" not in os.environ:
        raise UserError("--storage: name the folder of all sweeps as the cluster's nodes see it, such as /nfs/sweeps")
    root = storage_path(storage)
    loaded, file, run = _planned_run(
        spec, root, name, trials, warm_start, budget, price, changes, tracking_uri, sent=True
    )
    words = run.words()
    option_seconds("--wait", wait)
    words += [] if gpus is None else ["--gpus", f"{gpus:g}"]
    words += [] if wait is None else ["--wait", wait]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file.name).write_text(file.read_text(encoding="utf-8-sig"), encoding="utf-8")
        for module in read_code(loaded.code, loaded.name):
            module.write_below(Path(folder))
        job = submit_job(
            address,
            JobRequest(
                name=f"sweeper-{loaded.name}",
                entrypoint=shlex.join([python, "-m", "sweeper", *words]),
                folder=Path(folder),
                begun="joining Ray at",
                marks={"sweeper.sweep": loaded.name, "sweeper.storage": str(root)},
            ),
        )
    typer.echo(job.id)
    if job.is_new:
        typer.echo(f"submitted: sweep {loaded.name} as job {job.id}", err=True)
    else:
        typer.echo(f"sweep {loaded.name} runs already, as job {job.id}; nothing was submitted", err=True)
    follow = command("logs", loaded.name, "-f", storage=root)
    typer.echo(f"follow it: {follow}, or ray job logs -f --address {shlex.quote(address)} {job.id}", err=True)


def stop(
    name: Name,
    storage: Storage = None,
) -> None:
    """Stop a running sweep from any machine that sees its storage, as Ctrl-C does, and wait for its end.

    Running trials write a checkpoint; `sweeper resume NAME` goes on.
    """
    from sweeper.storage.stop_request import request_stop, withdraw_request

    folder, _ = open_sweep(name, storage, to_run=True)
    go_on = folder.command("resume")
    if not folder.is_held():
        typer.echo(f"sweep {name} does not run; go on with: {go_on}", err=True)
        return
    typer.echo(f"sweep {name} is run by {folder.holder()}: asking it to stop", err=True)
    until_s, asked_s = clock.monotonic() + STOP_S, 0.0
    while folder.is_held():
        if clock.monotonic() > until_s:
            withdraw_request(folder)
            raise UnavailableError(
                f"sweep {name} has not stopped within {STOP_S:g} s: is its process stopped, or the storage not shared "
                f"with {folder.holder()}?"
            )
        if clock.monotonic() - asked_s > ASK_S:
            request_stop(folder)
            asked_s = clock.monotonic()
        clock.sleep(0.5)
    withdraw_request(folder)
    typer.echo(f"sweep {name} has stopped; go on with: {go_on}", err=True)


def sync(
    name: Name,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Send to MLflow what it lacks of a sweep that no process runs: after an outage, or to another server.

    Each record appears once in each store, however often this is called; a sweep that runs sends by itself.
    """
    from sweeper.tracking.tracker import Tracker

    folder, _ = open_sweep(name, storage, to_run=True)
    with folder.hold() as lease:
        lease.when_lost(lambda line: None)
        tracker = Tracker(folder.path, tracking_uri, folder.storage, folder.name, folder.sweep_id)
        if tracker.moved is not None:
            typer.echo(tracker.moved, err=True)
        told: list[str] = []

        def tell_problem() -> bool:
            problem = tracker.problem()
            if problem is not None and not told:
                told.append(problem)
                typer.echo(f"{problem} for {SYNC_S:g} s", err=True)
            return False

        if not tracker.look_again():
            raise UserError(f"sweep {name} has no records for MLflow yet")
        try:
            sent = tracker.flush(SYNC_S, give_up=tell_problem)
        finally:
            tracker.close()
        if folder.remote is not None:
            folder.remote.records.push()
        problem = tracker.problem()
    if not sent or problem is not None:
        again = folder.command("sync", *(() if tracking_uri is None else ("--tracking-uri", tracker.shown_uri)))
        raise UnavailableError(f"{problem or f'MLflow has not taken everything within {SYNC_S:g} s'}; again: {again}")
    typer.echo(f"MLflow at {tracker.shown_uri} has all records of sweep {name}", err=True)


def _planned_run(
    spec: Path,
    root: Path,
    name: str | None,
    trials: int | None,
    warm_start: list[str] | None,
    budget: str | None,
    price: str | None,
    changes: list[str] | None,
    tracking_uri: str | None,
    *,
    sent: bool,
) -> tuple[Spec, Path, RunOptions]:
    """Return the spec, its file, and the ``sweeper run`` that is to run elsewhere, after the checks possible here.

    Args:
        sent: whether the file is sent to the machine that runs the sweep; otherwise it is read where it lies.
    """
    from sweeper.spec.shipped import spec_file
    from sweeper.spec.spec import load_spec, relative_paths
    from sweeper.submission.run_options import RunOptions

    file = spec_file(spec)
    overrides = list(changes or [])
    overrides += [f"search.trials={trials}"] if trials is not None else []
    overrides += [f"name={name}"] if name is not None else []
    loaded = with_budget(load_spec(file, overrides, may_lack_files=sent), budget)
    option_price(price)
    if sent and (relative := relative_paths(file, overrides)):
        raise UserError(
            f"{file}: {', '.join(relative)}: the path is relative to the spec, which is sent to the cluster without "
            "its folder; write the whole path as the cluster's nodes see it"
        )
    written = file.name if sent else str(file.absolute()) if spec.exists() or file == spec else str(spec)
    run = RunOptions(
        spec=written,
        name=loaded.name,
        storage=root,
        changes=changes or (),
        trials=trials,
        budget=budget,
        price=price,
        tracking_uri=tracking_uri,
        warm_start=warm_start or (),
    )
    return loaded, file, run
