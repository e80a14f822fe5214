"""Parts that the commands share: options, and the opening of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.crash import works_in, works_on
from sweeper.cli.tables import Format
from sweeper.errors import UserError
from sweeper.secrets import has_secret, shown_uri

if TYPE_CHECKING:
    from sweeper.spec.quantities import Price
    from sweeper.spec.spec import Spec
    from sweeper.storage.sweep_folder import SweepFolder


def _refuse_secret(uri: str | None) -> str | None:
    """Return the tracking URI.

    Raises:
        UserError: it holds a password. Ray keeps the command line of a driver in its table of jobs.
    """
    if uri is not None and has_secret(uri):
        raise UserError(
            f"--tracking-uri {shown_uri(uri)}: every user of this machine and of its Ray cluster can read a password "
            "on a command line; put the whole URI into the environment variable MLFLOW_TRACKING_URI, and leave "
            "--tracking-uri out"
        )
    return uri


Storage = Annotated[
    Path | None,
    typer.Option(
        "--storage", help="Folder of all sweeps. Default: $SWEEPER_STORAGE, else ./sweeps.", show_default=False
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow store, without a password. Default: $MLFLOW_TRACKING_URI, which may hold one, else "
        "sqlite:///<storage>/mlflow.db.",
        show_default=False,
        callback=_refuse_secret,
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus", help="GPUs the sweep may use. Default: all; without GPUs it plans by CPU.", show_default=False
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="host:port of a running Ray cluster. Default: a Ray of its own on this machine."),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="FOLDER",
        help="Your images, FOLDER/<class>/<image>: a spec is written for them, named after the folder.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="With --images: ARCHITECTURE:TAG, ARCHITECTURE:CHECKPOINT, local-dir:FOLDER or hf-hub:NAME. "
        "Default: ViT-B-32:laion2b_s34b_b79k.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(help="The sweep's name; `sweeper list` shows them.")]
SweepName = Annotated[str | None, typer.Option("--name", help="Name of the sweep, instead of that in the spec.")]
Trials = Annotated[
    int | None, typer.Option("--trials", min=1, help="Number of trials, instead of search.trials of the spec.")
]
Number = Annotated[int, typer.Argument(help="The trial's number.", min=0)]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one entry of the spec, for instance training.epochs=5; may be given several times.",
    ),
]
Output = Annotated[Format, typer.Option("--format", help="How to print.")]
BudgetHours = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="HOURS",
        help="Device hours for the whole life of the sweep, idle slots included: 200gpu-h, or 12cpu-h on CPUs. "
        "Default: limits.budget of the spec.",
        show_default=False,
    ),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price",
        metavar="MONEY",
        help="Price of a device hour: 2.49 or, with a currency, 2.49EUR. Shown beside device hours; a running sweep "
        "keeps it.",
        show_default=False,
    ),
]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="TIME", help="Wall-clock time for this session of the sweep: 8h, 90m, 2h30m."),
]
Grace = Annotated[
    str | None,
    typer.Option(
        "--grace",
        metavar="TIME",
        help="After Ctrl-C, SIGTERM or SIGHUP: time for checkpoints, front and MLflow before the process ends. "
        "Default: 30s.",
        show_default=False,
    ),
]
Wait = Annotated[
    str | None,
    typer.Option(
        "--wait",
        metavar="TIME",
        help="With --address: wait so long for the cluster to answer and, with --gpus, for so many free GPUs.",
        show_default=False,
    ),
]
WarmStart = Annotated[
    list[str] | None,
    typer.Option(
        "--warm-start",
        metavar="NAME",
        help="A finished sweep of the same storage that the search learns from; may be given several times.",
        show_default=False,
    ),
]


def storage_path(given: Path | None, *, to_run: bool = False) -> Path:
    """Return the folder of all sweeps; for a storage in a bucket, the folder of this machine that stands for it.

    Args:
        to_run: whether a sweep is to be run, not only read.

    Raises:
        UserError: it cannot be a storage.
    """
    from sweeper.storage.opening import storage_folder
    from sweeper.storage.remote_storage import remote_storage

    path = storage_folder(given, to_run=to_run)
    if remote_storage(path) is None:
        works_in(path)
    return path


def with_budget(spec: Spec, text: str | None) -> Spec:
    """Return the spec with another budget; None leaves it unchanged.

    Raises:
        UserError: the text is not a budget.
    """
    from sweeper.spec.quantities import parse_budget

    if text is None:
        return spec
    try:
        budget = str(parse_budget(text))
    except ValueError as error:
        raise UserError(f"--budget {text}: {error}") from error
    return spec.model_copy(update={"limits": spec.limits.model_copy(update={"budget": budget})})


def option_price(text: str | None) -> Price | None:
    """Return the price that ``--price`` names.

    Raises:
        UserError: the text is not a price.
    """
    from sweeper.spec.quantities import parse_price

    if text is None:
        return None
    try:
        return parse_price(text)
    except ValueError as error:
        raise UserError(f"--price {text}: {error}") from error


def option_seconds(option: str, text: str | None) -> float | None:
    """Return the seconds that an option names.

    Raises:
        UserError: the text is not a time.
    """
    from sweeper.spec.quantities import parse_time

    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise UserError(f"{option} {text}: {error}") from error


def open_sweep(name: str, storage: Path | None, *, to_run: bool = False) -> tuple[SweepFolder, Spec]:
    """Return a sweep and its spec.

    Args:
        to_run: whether the sweep is to be run, not only read.

    Raises:
        UserError: the sweep does not exist or is damaged.
        UnavailableError: this user may not read it, or not write into it.
    """
    from sweeper.storage.opening import sweep_folder

    folder = sweep_folder(storage_path(storage, to_run=to_run), name, to_run=to_run)
    if folder.exists():
        works_on(folder.path)
    return folder, folder.spec()
