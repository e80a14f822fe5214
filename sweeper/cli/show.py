"""Commands that show sweeps: their state, trials, logs and fronts, and their runs in MLflow."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.options import (
    Name,
    Number,
    Output,
    PriceOption,
    Storage,
    TrackingUri,
    open_sweep,
    option_price,
    storage_path,
)
from sweeper.cli.tables import Format, Wide, as_json, print_rows
from sweeper.commands import command, shown_storage
from sweeper.errors import UnavailableError, UserError
from sweeper.layout import terminal_width
from sweeper.storage.files import storage_in_reach

if TYPE_CHECKING:
    from sweeper.records import Front
    from sweeper.spec.spec import Spec
    from sweeper.storage.lease import HeldLease
    from sweeper.storage.sweep_folder import SweepFolder


WATCH_S = 5.0
FOLLOW_S = 0.5


def list_(storage: Storage = None, format: Output = Format.table, wide: Wide = False) -> None:
    """List the sweeps of a storage. Problems of sweeps that cannot be read are printed on standard error."""
    from sweeper.cli.status import narrow_sweep_row
    from sweeper.run.listing import sweep_rows

    root = storage_path(storage)
    rows = sweep_rows(root, lambda name: open_sweep(name, storage), lambda line: typer.echo(line, err=True))
    narrow = [narrow_sweep_row(row) for row in rows]
    print_rows(rows, format, empty=f"no sweeps in {shown_storage(root)}", narrow=narrow, wide=wide)


def status(
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", help=f"Repeat every {WATCH_S:g} s, as long as the sweep runs.")
    ] = False,
    price: PriceOption = None,
    storage: Storage = None,
    format: Output = Format.table,
) -> None:
    """Show the state of a sweep: trials by state, cost, noise floor, the front so far, the process that runs it."""
    from sweeper.run.listing import floor_fields, sweep_row
    from sweeper.run.status_text import status_text

    per_hour = option_price(price)
    if watch and format is not Format.table:
        raise UserError(f"--watch is for people; for --format {format.value} call the command repeatedly")
    folder, spec = open_sweep(name, storage)
    if format is Format.table:
        while True:
            runs, text = watch and folder.is_held(), status_text(folder, spec, per_hour)
            if watch and sys.stdout.isatty():
                typer.echo("\x1b[H\x1b[2J", nl=False)  # clears the screen
            typer.echo(text)
            if not runs:
                return
            time.sleep(WATCH_S)
            typer.echo()
            folder, spec = open_sweep(name, storage)  # `resume` may have changed the spec
    else:
        print_rows([{**sweep_row(folder, spec, per_hour), **floor_fields(folder, spec)}], format, empty="")


def trials(name: Name, storage: Storage = None, format: Output = Format.table, wide: Wide = False) -> None:
    """List the trials of a sweep: state, goals on validation, parameters."""
    from sweeper.cli.status import narrow_trial_rows
    from sweeper.run.listing import trial_rows

    folder, spec = open_sweep(name, storage)
    rows, narrow = trial_rows(folder, spec), narrow_trial_rows(folder, spec)
    print_rows(rows, format, empty=f"sweep {name} has no trials yet", narrow=narrow, wide=wide)


def show(
    name: Name,
    number: Number,
    spec: Annotated[
        bool, typer.Option("--spec", help="Print a file with which `python -m trainables` runs this trial alone.")
    ] = False,
    storage: Storage = None,
    format: Output = Format.table,
) -> None:
    """Show one trial: parameters, metrics per epoch, points on validation and test, the reason of a failure.

    --format csv has its metrics, a row per report; --format json has everything.
    """
    from sweeper.cli.status import trial_text
    from sweeper.run.listing import trial_record

    if spec and format is not Format.table:
        raise UserError(f"--spec prints a file of its own form; leave --format {format.value} out")
    folder, loaded = open_sweep(name, storage)
    if spec:
        path = folder.trial(number).path / "trial.json"
        if not path.exists():
            raise UserError(f"sweep {name} has no trial {number}; see `{folder.command('trials')}`")
        with storage_in_reach():
            typer.echo(path.read_text(errors="replace"), nl=False)
    elif format is Format.table:
        typer.echo(trial_text(folder, loaded, number))
    else:
        record = trial_record(folder, loaded, number)
        if format is Format.json:
            typer.echo(as_json(record))
        else:
            print_rows(record["epochs"], format, empty=f"trial {number} has reported nothing yet")


def logs(
    name: Name,
    number: Annotated[
        int | None, typer.Argument(help="A trial's number. Default: the log of the sweep itself.", min=0)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Also print new lines, as long as the sweep or the trial runs.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Print the log of the sweep, or of a trial's workers over all its attempts. Works wherever the storage is seen."""
    from sweeper.search.study import read_trials

    folder, spec = open_sweep(name, storage)
    path = folder.log_path if number is None else folder.trial(number).path / "log.txt"
    if not path.exists():
        what = "yet" if number is None else f"of trial {number}"
        raise UserError(f"sweep {name} has no log {what}; see `{folder.command('trials')}`")

    def runs() -> bool:
        if not folder.is_held():
            return False
        return number is None or read_trials(folder, spec)[number].state == "running"

    with storage_in_reach(), path.open(errors="replace") as log:
        typer.echo(log.read(), nl=False)
        while follow and runs():
            time.sleep(FOLLOW_S)
            typer.echo(log.read(), nl=False)
        typer.echo(log.read(), nl=False)


def front(
    sweeps: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names of sweeps; several are merged into one front.")
    ],
    price: PriceOption = None,
    storage: Storage = None,
    format: Output = Format.table,
    wide: Annotated[
        bool, typer.Option("--wide", help="Also validation, ends of intervals, costs on test, and confirmations.")
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also write the picture here (.png or .html).")] = None,
) -> None:
    """Print the front: picked on validation, measured once on test, with 95 % intervals.

    The untouched model and PAINT stand below its members; then the cost, and whether more trials are worthwhile.
    """
    from sweeper.cli.status import front_notes
    from sweeper.front.load import load_merged_front
    from sweeper.front.rendering.table import table

    per_hour, opened = option_price(price), [open_sweep(name, storage) for name in dict.fromkeys(sweeps)]
    merged = load_merged_front(opened)
    if plot is not None:
        _plot(merged, plot, opened[0] if len(opened) == 1 else None)
    typer.echo(table(merged, format.value, width=None if wide else terminal_width()), nl=False)
    for folder, spec in opened if format is Format.table else []:
        notes = front_notes(folder, spec, per_hour)
        if notes and len(opened) > 1:
            typer.echo(f"\n{folder.name}:")
        for line in notes:
            typer.echo(line)


def ui(
    name: Annotated[str | None, typer.Argument(help="A sweep. Default: all sweeps of the storage.")] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="First port to try.", min=1, max=65535)] = 5000,
) -> None:
    """Start MLflow on the sweeps' store and print links that open a sweep and its front."""
    from sweeper.tracking.server import ui as serve

    serve(storage_path(storage), name, tracking_uri, host, port, typer.echo)


def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    runs: Annotated[bool, typer.Option("--runs/--no-runs", help="Also delete its runs in MLflow.")] = True,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Remove a sweep that no process runs: its folder with all trials, and its runs in MLflow.

    Models in MLflow's registry with their runs, exported folders and the prepared images of the storage stay.
    """
    from sweeper.storage.sweep_folder import SweepFolder
    from sweeper.tracking.removal import remove_runs, store_of

    folder = SweepFolder(storage_path(storage, to_run=True), name)
    if folder.remote is not None:
        folder.remote.fetch(ours=True)
    if "/" in name or not folder.exists():
        shown = command("list", storage=folder.storage)
        raise UserError(f"no sweep {name!r} in {shown_storage(folder.storage)}; `{shown}` shows them")
    folder.check_access(writing=True)
    if folder.is_held():
        folder.hold().release()  # refuses, and names the holder
    files = [path for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink()]
    typer.echo(f"removes {folder.path}: {len(files)} files, {sum(map(_size_bytes, files)) / 2**20:.1f} MiB", err=True)
    store = store_of(folder, tracking_uri) if runs else None
    if store is not None:
        typer.echo(f"removes its runs in MLflow at {store.shown_uri}", err=True)
    if not yes:
        _ask("Remove it? It cannot be undone.")
    with _lease_to_delete(folder) as lease:
        if store is not None:
            try:
                deleted, kept = remove_runs(folder, store)
            except UnavailableError as error:
                raise UnavailableError(f"{error}; nothing was removed, --no-runs removes the folder alone") from error
            stay = f"; {kept} stay, because the registry has models from them" if kept else ""
            typer.echo(f"MLflow: {deleted} runs deleted (`mlflow gc` removes them from its database){stay}", err=True)
        folder.remove(lease)
    typer.echo(f"sweep {name} is removed", err=True)


def _lease_to_delete(folder: SweepFolder) -> HeldLease:
    """Take the lease of a sweep that is to be removed; on a full disk, space is made first."""
    try:
        return folder.hold()
    except UnavailableError:
        for file in (folder.path / "spec.yaml", *folder.front_path.glob("*")):
            file.unlink(missing_ok=True)
        return folder.hold()


def _ask(question: str) -> None:
    """Ask a question.

    Raises:
        UserError: the answer is not yes.
    """
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise UserError("nothing was removed; give --yes to remove without a question")


def _size_bytes(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.stat().st_size
    return 0


def _plot(front: Front, path: Path, sweep: tuple[SweepFolder, Spec] | None) -> None:
    """Write a picture or a page of a front; ``sweep``: the only one it is of, whose search the page shows too."""
    import shutil
    import tempfile

    from sweeper.front.rendering.writer import write_front
    from sweeper.front.search_state import final_state
    from sweeper.search.study import read_trials

    if path.suffix not in (".png", ".html"):
        raise UserError(f"--plot {path}: name a file that ends in .png or .html")
    search = None if sweep is None else final_state(*sweep, read_trials(*sweep))
    with tempfile.TemporaryDirectory() as scratch:
        write_front(front, Path(scratch), search=search)
        try:
            shutil.copyfile(Path(scratch) / f"front{path.suffix}", path)
        except OSError as error:
            raise UserError(f"--plot {path}: {error.strerror or error}") from error
