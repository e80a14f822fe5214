"""The command line: ``sweeper run SPEC`` and what one asks of a sweep afterwards.

Data go to standard output, progress and messages to standard error. Exit codes: 0 ok, 1 too many trials failed,
2 bad input, 3 cluster or storage unavailable, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweeper.cli import evaluate as cli_measures
from sweeper.cli import models as cli_models
from sweeper.cli.options import (
    Address,
    BudgetHours,
    Changes,
    Gpus,
    Name,
    Number,
    Output,
    Storage,
    Time,
    TrackingUri,
    WarmStart,
    open_sweep,
    storage_path,
    time_limit_s,
    with_budget,
)
from sweeper.cli.tables import Format, print_rows
from sweeper.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from sweeper.run.sweep import Options
    from sweeper.spec.spec import Spec
    from sweeper.storage.sweep_folder import SweepFolder

app = typer.Typer(
    name="sweeper",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finds how much robustness to written words a CLIP model can have, and what it costs in clean accuracy.",
)

EXIT_CODES = {"complete": 0, "failed": 1, "interrupted": 130}


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="The sweep in YAML, for instance search_spaces/quickstart.yaml.")],
    gpus: Gpus = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Instead of search.trials of the spec.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Instead of the name in the spec.")] = None,
    warm_start: WarmStart = None,
    new: Annotated[bool, typer.Option("--new", help="If the name is taken, take NAME-2, NAME-3, ...")] = False,
    budget: BudgetHours = None,
    time: Time = None,
    changes: Changes = None,
    address: Address = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of this name if there is one.")
    ] = False,
    format: Output = Format.table,
) -> None:
    """Run a sweep: search, front on validation, one measurement on test, everything in MLflow.

    A killed sweep goes on with `sweeper resume NAME`. Ctrl-C stops cleanly, twice at once.
    """
    from sweeper.environment import git_commit
    from sweeper.search.warm_start import check_warm_start
    from sweeper.spec.spec import load_spec, spec_difference
    from sweeper.storage.sweep_folder import SweepFolder, free_name

    overrides = list(changes or [])
    overrides += [f"search.trials={trials}"] if trials is not None else []
    overrides += [f"name={name}"] if name is not None else []
    loaded = with_budget(load_spec(spec, overrides), budget)
    root = storage_path(storage)
    folder = SweepFolder(root, free_name(root, loaded.name) if new and not resume else loaded.name)
    loaded = loaded.model_copy(update={"name": folder.name})
    options = _options(gpus, address, tracking_uri, root, time)
    if resume and folder.exists():
        different = spec_difference(folder.spec(), loaded)
        if different:
            raise UserError(
                f"the spec differs from that of sweep {folder.name!r} in what a resumed sweep may not change:\n  "
                + "\n  ".join(different)
                + "\nstart another sweep with --name OTHER, or leave these as they were"
            )
        _resume(folder, loaded, options, format)
        return
    check_warm_start(root, warm_start or [], loaded)
    _check_writable(root)
    made = folder.path if root.exists() else root
    commit = git_commit(spec.absolute().parent)
    folder.create(loaded, spec.read_text(encoding="utf-8-sig"), commit, warm_start or [])
    _run(folder, loaded, options, format, made=made)


@app.command()
def resume(
    name: Name,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="New total of trials, for more of them.")
    ] = None,
    gpus: Gpus = None,
    budget: BudgetHours = None,
    time: Time = None,
    address: Address = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    format: Output = Format.table,
) -> None:
    """Go on with a sweep that was killed or stopped, or is to have more trials or a larger budget.

    Finished trials stay; running ones go on from their last checkpoint under their own number.
    """
    folder, spec = open_sweep(name, storage)
    if trials is not None:
        spec = spec.with_trials(trials)
    spec = with_budget(spec, budget)
    _resume(folder, spec, _options(gpus, address, tracking_uri, folder.storage, time), format)


@app.command()
def check(
    spec: Annotated[Path, typer.Argument(help="The sweep in YAML.")],
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Then train on one slot for a while, and forecast the whole sweep from that."),
    ] = False,
    probe_seconds: Annotated[
        float, typer.Option("--probe-seconds", min=1, help="How long, over all that `tune` may be.")
    ] = 120.0,
    budget: BudgetHours = None,
    gpus: Gpus = None,
    changes: Changes = None,
    address: Address = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check everything a sweep needs before a GPU is taken: spec, weights, images, capacity, MLflow, storage, disk.

    With --probe one slot is taken: step time, memory, share of evaluation, and the forecast of the whole sweep.
    """
    from sweeper.preflight.check import check_sweep
    from sweeper.preflight.probe import probe_sweep
    from sweeper.spec.spec import load_spec

    loaded, root = with_budget(load_spec(spec, list(changes or [])), budget), storage_path(storage)
    check_sweep(loaded, root, gpus=gpus, address=address, tracking_uri=tracking_uri, echo=typer.echo)
    if probe:
        probe_sweep(loaded, root, gpus=gpus, address=address, seconds=probe_seconds, echo=typer.echo)


@app.command("list")
def list_(storage: Storage = None, format: Output = Format.table) -> None:
    """List the sweeps of a storage."""
    from sweeper.cli.status import sweep_row
    from sweeper.storage.sweep_folder import names

    root = storage_path(storage)
    rows = [sweep_row(*open_sweep(name, root)) for name in names(root)]
    print_rows(rows, format, empty=f"no sweeps in {root}")


@app.command()
def status(name: Name, storage: Storage = None, format: Output = Format.table) -> None:
    """Say how far a sweep is: trials by state, the front so far, who runs it."""
    from sweeper.cli.status import status_text, sweep_row

    folder, spec = open_sweep(name, storage)
    if format is Format.table:
        typer.echo(status_text(folder, spec))
    else:
        print_rows([sweep_row(folder, spec)], format, empty="")


@app.command()
def trials(name: Name, storage: Storage = None, format: Output = Format.table) -> None:
    """List the trials of a sweep: state, goals on validation, parameters."""
    from sweeper.cli.status import trial_rows

    folder, spec = open_sweep(name, storage)
    print_rows(trial_rows(folder, spec), format, empty=f"sweep {name} has no trials yet")


@app.command()
def show(
    name: Name,
    number: Number,
    spec: Annotated[
        bool, typer.Option("--spec", help="Print a file with which `python -m trainables` runs this trial alone.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Show one trial: parameters, metrics per epoch, points on validation and test, why it failed."""
    from sweeper.cli.status import trial_text

    folder, loaded = open_sweep(name, storage)
    if spec:
        path = folder.trial_path(number) / "trial.json"
        if not path.exists():
            raise UserError(f"sweep {name} has no trial {number}; see `sweeper trials {name}`")
        typer.echo(path.read_text(), nl=False)
    else:
        typer.echo(trial_text(folder, loaded, number))


@app.command()
def logs(name: Name, number: Number, storage: Storage = None) -> None:
    """Print what the workers of a trial logged, over all its attempts."""
    folder, _ = open_sweep(name, storage)
    path = folder.trial_path(number) / "log.txt"
    if not path.exists():
        raise UserError(f"sweep {name} has no log of trial {number}; see `sweeper trials {name}`")
    typer.echo(path.read_text(), nl=False)


@app.command()
def front(
    sweeps: Annotated[list[str], typer.Argument(metavar="NAME...", help="Several are merged into one front.")],
    storage: Storage = None,
    format: Output = Format.table,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also write the picture here (.png or .html).")] = None,
) -> None:
    """Print the front: picked on validation, measured once on test, with 95 % intervals.

    The untouched model and PAINT stand below its members.
    """
    from sweeper.front.load import load_merged_front
    from sweeper.front.report.table import table

    found = load_merged_front([open_sweep(name, storage) for name in dict.fromkeys(sweeps)])
    if plot is not None:
        _plot(found, plot)
    typer.echo(table(found, format.value), nl=False)


for command in (cli_models.preview, cli_models.export, cli_measures.evaluate, cli_measures.compare, cli_models.rerun):
    app.command()(command)


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(help="A sweep; without it all of the storage.")] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="First port to try.", min=1, max=65535)] = 5000,
) -> None:
    """Start MLflow on the sweeps' store and print links that open a sweep and its front."""
    from sweeper.tracking.server import ui as serve

    serve(storage_path(storage), name, tracking_uri, host, port, lambda text: typer.echo(text))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("sweep.yaml"),
) -> None:
    """Write a commented spec to start from. It never overwrites a file."""
    starter = Path(__file__).with_name("starter.yaml").read_text()
    try:
        with file.open("x") as new:
            new.write(starter)
    except FileExistsError as error:
        raise UserError(f"{file} exists; name another file") from error
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    typer.echo(f"{file}: change it, then `sweeper check {file}` and `sweeper run {file}`")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    import json

    from sweeper.spec.spec import schema as spec_schema

    typer.echo(json.dumps(spec_schema(), indent=1))


@app.command()
def env() -> None:
    """Print versions, CPUs and GPUs: paste it into a report of a problem."""
    from sweeper.environment import environment

    for name, value in environment().items():
        typer.echo(f"{name}: {value}")


def main() -> NoReturn:
    """Entry point: errors of users and clusters become one message and an exit code."""
    try:
        app()
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except UnavailableError as error:
        typer.echo(str(error), err=True)
        sys.exit(3)
    sys.exit(0)


def _options(
    gpus: float | None, address: str | None, tracking_uri: str | None, storage: Path, time: str | None
) -> Options:
    from sweeper.run.sweep import Options
    from sweeper.tracking.runs import find_store

    find_store(storage, tracking_uri)  # refuses a URI that MLflow cannot use before anything is written
    if gpus is not None and gpus < 0:
        raise UserError(f"--gpus {gpus:g}: give a positive number, or 0 to run on CPUs")
    return Options(gpus=gpus, address=address, tracking_uri=tracking_uri, time_s=time_limit_s(time))


def _check_writable(storage: Path) -> None:
    parent = next(path for path in (storage, *storage.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        raise UnavailableError(f"storage {storage}: {parent} cannot be written to; name another with --storage")


def _resume(folder: SweepFolder, spec: Spec, options: Options, format: Format) -> None:
    _run(folder, spec, options, format, made=None)


def _run(folder: SweepFolder, spec: Spec, options: Options, format: Format, *, made: Path | None) -> None:
    """``made``: what this command has made so far; it goes again if the sweep cannot even start."""
    import shutil

    from sweeper.cli.run_summary import summary_lines
    from sweeper.front.report.table import table
    from sweeper.run.sweep import run_sweep
    from sweeper.storage.sweep_folder import names

    where = "" if folder.storage == Path("sweeps").absolute() else f" --storage {folder.storage}"
    try:
        with folder.lease():
            folder.save_spec(spec)
            ending = run_sweep(folder, spec, options)
    except (UserError, UnavailableError):
        if made is not None and folder.untouched() is None:
            alone = names(folder.storage) == [folder.name]  # nobody else began a sweep here meanwhile
            shutil.rmtree(made if alone else folder.path, ignore_errors=True)
        raise
    if ending.front is not None:
        typer.echo(table(ending.front, format.value), nl=False)
    for line in summary_lines(folder, ending, where):
        typer.echo(line, err=True)
    raise typer.Exit(EXIT_CODES[ending.state])


def _plot(front: object, path: Path) -> None:
    import shutil
    import tempfile

    from sweeper.front.report.writer import write_front
    from sweeper.records import Front

    assert isinstance(front, Front)
    if path.suffix not in (".png", ".html"):
        raise UserError(f"--plot {path}: name a file that ends in .png or .html")
    with tempfile.TemporaryDirectory() as scratch:
        write_front(front, Path(scratch))
        shutil.copyfile(Path(scratch) / f"front{path.suffix}", path)
