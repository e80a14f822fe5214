"""Commands about the report of a sweep: writing it, and comparing its numbers with the folder of the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.options import Name, Storage, open_sweep

DIFFERENT = 1
"""Exit code of ``verify`` if a number differs."""


def report(
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FOLDER",
            help="Where to write. Default: report in the sweep's folder; NAME-report here if the storage is a bucket.",
            show_default=False,
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Write a report to send around: one HTML file without network, tables as CSV and LaTeX, figures as PNG and PDF."""
    from sweeper.report.writer import write_report

    folder, spec = open_sweep(name, storage)
    # The folder that stands for a sweep in a bucket has only what the bucket has: a report there would be removed.
    by_default = folder.path / "report" if folder.remote is None else Path(f"{name}-report")
    path, undrawn = write_report(folder, spec, by_default if output is None else output)
    if undrawn is not None:
        typer.echo(f"the gallery has no images: {undrawn}", err=True)
    typer.echo(str(path))


def verify(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="The folder of a report, or its HTML file.")],
    storage: Storage = None,
) -> None:
    """Recompute every number of a report from its sweep's folder; the first that differs is named (exit code 1).

    Without --storage, the sweep whose folder the report lies in is taken if there is one, else the default storage.
    """
    from sweeper.report.verify import read_page
    from sweeper.report.verify import verify as verified

    read = read_page(report)
    sweep = read.path.absolute().parent.parent
    if storage is None and sweep.name == read.sweep and (sweep / "sweep.json").exists():
        storage = sweep.parent
    result = verified(read, *open_sweep(read.sweep, storage))
    for note in result.notes:
        typer.echo(note, err=True)
    if result.first is not None:
        typer.echo(str(result.first))
        raise typer.Exit(DIFFERENT)
    typer.echo(
        f"{result.numbers} numbers agree with the folder of sweep {read.sweep}, at {result.shown} places of the page "
        f"and in {len(result.files)} files beside it"
    )
