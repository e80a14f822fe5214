"""Commands that run a sweep, and that check what it needs beforehand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.crash import works_on
from sweeper.cli.options import (
    Address,
    BudgetHours,
    Changes,
    Gpus,
    Grace,
    Images,
    Model,
    Name,
    Output,
    PriceOption,
    Storage,
    SweepName,
    Time,
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
from sweeper.cli.setup import write_own_spec
from sweeper.cli.tables import Format
from sweeper.commands import command, shown_storage
from sweeper.errors import UNAVAILABLE, SweepInterrupted, UnavailableError, UserError
from sweeper.layout import terminal_width
from trainables.files import StorageError

if TYPE_CHECKING:
    from sweeper.run.sweep import Options
    from sweeper.spec.spec import Spec
    from sweeper.storage.lease import HeldLease
    from sweeper.storage.sweep_folder import SweepFolder

EXIT_CODES = {"complete": 0, "failed": 1, "interrupted": 130}


def run(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="The sweep in YAML, or a shipped one by name: quickstart, typo, reduced/typo; or --images.",
            show_default=False,
        ),
    ] = None,
    images: Images = None,
    model: Model = None,
    gpus: Gpus = None,
    trials: Trials = None,
    name: SweepName = None,
    warm_start: WarmStart = None,
    new: Annotated[bool, typer.Option("--new", help="If the name is taken, take NAME-2, NAME-3, ...")] = False,
    budget: BudgetHours = None,
    price: PriceOption = None,
    time: Time = None,
    grace: Grace = None,
    changes: Changes = None,
    address: Address = None,
    wait: Wait = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the sweep of this name if there is one.")] = False,
    format: Output = Format.table,
) -> None:
    """Run a sweep: search, front on validation, one measurement on test, everything in MLflow.

    A killed sweep goes on with `sweeper resume NAME`. Ctrl-C, SIGTERM and SIGHUP stop it within --grace; a second
    signal stops it at once.
    """
    from sweeper.environment import git_commit
    from sweeper.preflight.check import check_writable
    from sweeper.search.warm_start import check_warm_start
    from sweeper.spec.set_checks import set_notes
    from sweeper.spec.spec import load_spec, spec_difference
    from sweeper.storage.sweep_folder import SweepFolder, create_under_free_name

    spec = _spec_file(spec, images, model)
    overrides = list(changes or [])
    overrides += [f"search.trials={trials}"] if trials is not None else []
    overrides += [f"name={name}"] if name is not None else []
    root = storage_path(storage, to_run=True)
    loaded = with_budget(load_spec(spec, overrides), budget)
    for note in [*loaded.notes, *set_notes(loaded.sets)]:
        typer.echo(note, err=True)
    folder = SweepFolder(root, loaded.name)
    if folder.remote is not None and resume:
        folder.remote.fetch(ours=True)
    options = _options(gpus, address, tracking_uri, root, time, grace, price, wait)
    if resume and folder.exists():
        differences = spec_difference(folder.spec(), loaded)
        if differences:
            raise UserError(
                f"the spec differs from that of sweep {folder.name!r} in settings that a resumed sweep may not "
                "change:\n  "
                + "\n  ".join(differences)
                + "\nstart another sweep with --name OTHER, or restore the earlier values"
            )
        _resume(folder, loaded, options, format)
        return
    check_warm_start(root, warm_start or [], loaded)
    check_writable(root)
    text, commit = spec.read_text(encoding="utf-8-sig"), git_commit(spec.absolute().parent)
    if new and not resume:
        folder, loaded, lease = create_under_free_name(root, loaded, text, commit, warm_start or [])
    else:
        lease = folder.create_and_hold(loaded, text, commit, warm_start or [])
    with lease:
        try:
            _run(folder, lease, loaded, options, format)
        except SweepInterrupted:
            raise
        except (UserError, UnavailableError):
            folder.remove_unstarted(lease)
            raise


def resume(
    name: Name,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="New total of trials, for more of them.")
    ] = None,
    gpus: Gpus = None,
    budget: BudgetHours = None,
    price: PriceOption = None,
    time: Time = None,
    grace: Grace = None,
    address: Address = None,
    wait: Wait = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    format: Output = Format.table,
) -> None:
    """Go on with a sweep that was killed or stopped, or with more trials or a larger budget.

    Finished trials stay; running ones go on from their last checkpoint under their own number.
    """
    folder, spec = open_sweep(name, storage, to_run=True)
    if trials is not None:
        spec = spec.with_trials(trials)
    spec = with_budget(spec, budget)
    options = _options(gpus, address, tracking_uri, folder.storage, time, grace, price, wait)
    _resume(folder, spec, options, format)


def check(
    spec: Annotated[Path, typer.Argument(help="The sweep in YAML, or a shipped one by name.")],
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Also train on one slot for a while and forecast the whole sweep."),
    ] = False,
    probe_seconds: Annotated[
        float, typer.Option("--probe-seconds", min=1, help="Seconds of training, over all values of `tune`.")
    ] = 120.0,
    budget: BudgetHours = None,
    price: PriceOption = None,
    gpus: Gpus = None,
    changes: Changes = None,
    address: Address = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check everything that a sweep needs before a GPU is used: spec, weights, images, capacity, MLflow, storage, disk.

    All problems are printed, not only the first; the last line says whether the sweep is ready, and the command that
    runs it. With --probe one slot is used: step time, memory, share of evaluation, and the forecast of the whole sweep.
    """
    from sweeper.preflight.check import check_places, check_sweep
    from sweeper.preflight.probe import probe_sweep
    from sweeper.spec.shipped import spec_file
    from sweeper.spec.spec import load_spec
    from sweeper.storage.sweep_folder import SweepFolder

    root, per_hour = storage_path(storage), option_price(price)
    problems: list[UserError | UnavailableError] = []
    set_words = [word for change in changes or [] for word in ("--set", change)]
    try:
        loaded = with_budget(load_spec(spec_file(spec), list(changes or [])), budget)
    except UserError as error:
        problems = [error, *check_places(root, tracking_uri, typer.echo)]
    else:
        problems = check_sweep(loaded, root, gpus=gpus, address=address, tracking_uri=tracking_uri, echo=typer.echo)
        if probe and not problems:
            try:
                probe_sweep(
                    loaded, root, gpus=gpus, address=address, seconds=probe_seconds, echo=typer.echo, price=per_hour
                )
            except (UserError, UnavailableError) as error:
                problems = [error]
    for problem in problems:
        typer.echo(str(problem), err=True)
    if problems:
        lines = [line for problem in problems for line in str(problem).splitlines()]
        count = sum(not line.startswith(" ") for line in lines)  # the others are advice
        again = command("check", str(spec), *set_words, storage=root)
        typer.echo(f"not ready: {count} problem{'s' * (count > 1)}; then again: {again}", err=True)
        raise typer.Exit(2 if any(isinstance(problem, UserError) for problem in problems) else UNAVAILABLE)
    words = ["run", str(spec), *set_words]
    given = {"--gpus": gpus, "--budget": budget, "--price": price, "--address": address, "--tracking-uri": tracking_uri}
    words += [word for name, value in given.items() if value is not None for word in (name, _option_text(value))]
    words += ["--new"] if SweepFolder(root, loaded.name).exists() else []  # the name is taken
    typer.echo(f"ready: {command(*words, storage=root)}")


def _option_text(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else value


def _spec_file(spec: Path | None, images: Path | None, model: str | None) -> Path:
    """Return the spec to run: the one named, or the one written for ``--images``."""
    from sweeper.spec.shipped import spec_file

    if images is not None and spec is None:
        return write_own_spec(images, model)
    if spec is None or images is not None:
        raise UserError("name either a spec, or --images FOLDER to have a spec written")
    if model is not None:
        raise UserError("--model goes with --images; for a spec: --set model.architecture=... and model.pretrained=...")
    return spec_file(spec)


def _options(
    gpus: float | None,
    address: str | None,
    tracking_uri: str | None,
    storage: Path,
    time: str | None,
    grace: str | None,
    price: str | None,
    wait: str | None,
) -> Options:
    from sweeper.execution import cluster
    from sweeper.preflight.check import refuse_early
    from sweeper.run.sweep import Options
    from sweeper.storage.remote_storage import remote_storage
    from sweeper.tracking.runs import find_store

    if remote_storage(storage) is not None and not (tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise UserError(
            f"storage {shown_storage(storage)}: a database of MLflow cannot lie in a bucket; name a server or a "
            "database with --tracking-uri or MLFLOW_TRACKING_URI"
        )
    find_store(storage, tracking_uri)  # raises UserError for a URI that MLflow cannot use, before anything is written
    wait_s = option_seconds("--wait", wait) or 0.0
    if wait_s and not cluster.joins_a_cluster(address):
        raise UserError("--wait is for a cluster: give its --address HOST:PORT too, or leave --wait out")
    refuse_early(gpus, address, lambda line: typer.echo(line, err=True), wait_s)
    options = Options(
        gpus=gpus,
        address=address,
        tracking_uri=tracking_uri,
        time_s=option_seconds("--time", time),
        wait_s=wait_s,
        price=option_price(price),
    )
    grace_s = option_seconds("--grace", grace)
    return options if grace_s is None else replace(options, grace_s=grace_s)


def _resume(folder: SweepFolder, spec: Spec, options: Options, format: Format) -> None:
    from sweeper.run.sweep import resume_command
    from sweeper.spec.code_checks import read_code

    try:
        with folder.hold() as lease:
            read_code(spec.code, folder.name)  # refuses other code before anything is changed
            folder.save_spec(spec)
            _run(folder, lease, spec, options, format)
    except SweepInterrupted:
        raise
    except (UnavailableError, StorageError) as error:
        raise UnavailableError(f"{error}; then go on with: {resume_command(folder, options)}") from error


def _run(folder: SweepFolder, lease: HeldLease, spec: Spec, options: Options, format: Format) -> None:
    """Run a sweep whose lease this process holds, print its front and the next commands, and exit."""
    from sweeper.cli.run_summary import summary_lines
    from sweeper.front.rendering.table import table
    from sweeper.run.progress import append_to_log
    from sweeper.run.sweep import resume_command, run_sweep

    works_on(folder.path, resume_command(folder, options))
    try:
        result = run_sweep(folder, lease, spec, options)
    except (UserError, UnavailableError) as error:
        append_to_log(folder.log_path, str(error))
        raise
    if result.front is not None:
        typer.echo(table(result.front, format.value, width=terminal_width()), nl=False)
    for line in summary_lines(folder, result, options):
        typer.echo(line, err=True)
        append_to_log(folder.log_path, line)
    raise typer.Exit(EXIT_CODES[result.state])
