"""Commands about models: export of a point, another training of a trial, a drawing of the images of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.cli.options import Changes, Name, Number, Output, Storage, TrackingUri, open_sweep
from sweeper.cli.tables import Format, Wide, as_json, print_rows
from sweeper.errors import UnavailableError, UserError


def preview(
    spec: Annotated[Path, typer.Argument(help="The sweep in YAML, or a shipped one by name.")],
    output: Annotated[Path, typer.Option("--output", help="PNG to write.")] = Path("preview.png"),
    images: Annotated[int, typer.Option("--images", min=1, max=100, help="Number of images of each set.")] = 8,
    changes: Changes = None,
) -> None:
    """Draw a contact sheet of the images that a sweep trains and evaluates on, with attacks and held-out attacks."""
    from sweeper.preflight.preview import contact_sheet
    from sweeper.preflight.preview import preview as draw_preview
    from sweeper.spec.shipped import spec_file
    from sweeper.spec.spec import load_spec

    if output.suffix != ".png" or not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: name a file that ends in .png, in a folder that exists")
    loaded = load_spec(spec_file(spec), list(changes or []))
    sheet = draw_preview(loaded, images)
    contact_sheet(sheet, sheet.heading).save(output)
    for line in sheet.lines:
        typer.echo(line)
    typer.echo(str(output))


def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write.")],
    pick: Annotated[
        str,
        typer.Option(
            help="knee, cleanest, 'most robust', paint, a trial, or 'max robust_accuracy where clean_accuracy>=0.6'"
        ),
    ] = "knee",
    strength: Annotated[
        float | None, typer.Option(min=-2.0, max=2.0, help="t of W^t, or share of the way from the untouched weights.")
    ] = None,
    index_map: Annotated[
        bool,
        typer.Option(
            "--index-map",
            help="Also write the matrices that convert stored embeddings (tune: transform): index_map.npz.",
        ),
    ] = False,
    model_format: Annotated[
        Literal["open_clip", "transformers"],
        typer.Option("--format", help="Library that loads the folder. transformers, as CLIPModel: ViTs only."),
    ] = "open_clip",
    register: Annotated[
        bool | None,
        typer.Option(
            "--register/--no-register",
            help="Also register it in MLflow's model registry. Default: yes; no with --format transformers.",
            show_default=False,
        ),
    ] = None,
    register_as: Annotated[
        str | None, typer.Option("--register-as", help="Registered model. Default: sweeper-NAME.", show_default=False)
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", help="Alias of the version. Default: after the pick.", show_default=False)
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write one point as a folder that plain open_clip (or transformers) loads, and register it in MLflow.

    The folder has a model card (README.md), the same for programs (sweeper.json) and the spec. It is written even if
    MLflow cannot be reached.
    """
    from sweeper.front.load import finished_front
    from sweeper.front.pick import pick as pick_point
    from sweeper.models.export import export_point
    from sweeper.tracking.moved import bring_home
    from sweeper.tracking.registry import check_names, default_alias
    from sweeper.tracking.registry import register as register_folder
    from sweeper.tracking.runs import find_store

    if model_format == "transformers" and (register or register_as or alias):
        raise UserError(
            "--format transformers: MLflow's registry takes models in open_clip's format; leave out --register, "
            "--register-as and --alias, or --format"
        )
    register = model_format == "open_clip" if register is None else register
    sweep, spec = open_sweep(name, storage)
    front = finished_front(sweep, spec)
    point = pick_point(front, pick, strength)
    registered_name = register_as or f"sweeper-{name}"
    alias = alias or default_alias(pick, strength)
    check_names(registered_name, alias)
    # raises UserError for a URI that MLflow cannot use, before anything is written
    store = find_store(sweep.storage, tracking_uri)
    if register and (moved := bring_home(store)) is not None:
        typer.echo(moved, err=True)
    exported = export_point(sweep, spec, front, point, folder, model_format, index_map=index_map)
    typer.echo(
        f"trial {point.trial}, {point.weights} weights at strength {point.strength:g} -> {folder} "
        f"(largest difference of a logit: {exported.logit_difference:.1e})",
        err=True,
    )
    typer.echo(f"stored embeddings of the untouched model: {exported.stored}", err=True)
    if exported.converted is not None:
        difference = exported.converted.difference
        typer.echo(f"index_map.npz converts them (largest difference from encoding again: {difference:.1e})", err=True)
    if register:
        try:
            version = register_folder(sweep, tracking_uri, folder, registered_name, alias)
            known = "" if version.new else ", which has the same weights"
            typer.echo(f"MLflow: {version.uri} is version {version.version}{known}", err=True)
        except UnavailableError as error:
            typer.echo(f"not registered: {error}", err=True)
    typer.echo(f"local-dir:{folder.absolute()}")


def rerun(
    name: Name,
    number: Number,
    seeds: Annotated[int, typer.Option("--seeds", min=0, help="Number of other seeds to train with as well.")] = 0,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda, cuda:1. Default: cuda if there is one.", show_default=False),
    ] = None,
    keep_weights: Annotated[
        bool,
        typer.Option("--keep-weights", help="Put the weights back that the sweep has removed, if the result agrees."),
    ] = False,
    storage: Storage = None,
    format: Output = Format.table,
    wide: Wide = False,
) -> None:
    """Train one trial again, alone and in this process, and check whether its result is reproduced.

    The goals on validation are compared with the 95 % interval of the recorded ones. Nothing of the sweep is changed
    but, with --keep-weights, the removed weights of the trial.
    """
    from sweeper.models.rerun import rerun_trial

    sweep, spec = open_sweep(name, storage)
    result = rerun_trial(
        sweep,
        spec,
        number,
        seeds=seeds,
        device=device,
        echo=lambda line: typer.echo(line, err=True),
        keep_weights=keep_weights,
    )
    if format is Format.json:
        typer.echo(as_json(result.as_json()))
        return
    print_rows(result.rows(), format, empty="", wide=wide)
    typer.echo(result.conclusion(), err=format is Format.csv)
