"""Commands for sweeps that run elsewhere: the batch script for Slurm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.options import (
    BudgetHours,
    Changes,
    PriceOption,
    Storage,
    TrackingUri,
    WarmStart,
    option_price,
    option_seconds,
    storage_path,
    with_budget,
)
from sweeper.commands import command
from sweeper.errors import UserError


def slurm(
    spec: Annotated[Path, typer.Argument(help="The sweep in YAML, or a shipped one by name.")],
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
    name: Annotated[str | None, typer.Option("--name", help="Name of the sweep, instead of that in the spec.")] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Number of trials, instead of search.trials of the spec.")
    ] = None,
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
    from sweeper.spec.shipped import spec_file
    from sweeper.spec.spec import load_spec
    from sweeper.submission.run_options import RunOptions
    from sweeper.submission.slurm import Allocation, Container, mounted_folders, slurm_script

    root, file = storage_path(storage), spec_file(spec)
    overrides = list(changes or [])
    overrides += [f"search.trials={trials}"] if trials is not None else []
    overrides += [f"name={name}"] if name is not None else []
    loaded = with_budget(load_spec(file, overrides), budget)
    option_price(price)
    seconds = option_seconds("--time", time)
    assert seconds is not None
    run = RunOptions(
        spec=str(file.absolute()) if spec.exists() or file == spec else str(spec),
        name=loaded.name,
        storage=root,
        changes=changes or (),
        trials=trials,
        budget=budget,
        price=price,
        tracking_uri=tracking_uri,
        warm_start=warm_start or (),
    )
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
