"""Commands that need no sweep: a spec to start from, the schema of a spec, the environment."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.options import Images, Model, Output
from sweeper.cli.tables import Format, print_rows
from sweeper.commands import command
from sweeper.errors import UserError


def init(
    file: Annotated[
        Path | None,
        typer.Argument(help="The file to write. Default: sweep.yaml, or named after --images.", show_default=False),
    ] = None,
    images: Images = None,
    model: Model = None,
) -> None:
    """Write a commented spec to start from, or with --images a spec for your images. Files are never overwritten."""
    if images is not None:
        written = write_own_spec(images, model, file)
        typer.echo(f"{written}: look at it, then `{command('check', str(written))}`")
        return
    if model is not None:
        raise UserError("--model needs --images; without images change `model` in the spec")
    file = file or Path("sweep.yaml")
    _write(file, Path(__file__).with_name("starter.yaml").read_text())
    typer.echo(f"{file}: change it, then `{command('check', str(file))}` and `{command('run', str(file))}`")


def write_own_spec(images: Path, model: str | None, file: Path | None = None) -> Path:
    """Write a spec for a folder of images, print its notes, and return its path.

    A file that holds the same spec is left unchanged.

    Raises:
        UserError: the folder cannot be used, or the file holds another spec.
    """
    import torch

    from sweeper.spec.own_images import DEFAULT_MODEL, spec_for_images

    own = spec_for_images(images, model or DEFAULT_MODEL, has_gpus=torch.cuda.is_available())
    file = file or Path(f"{own.name}.yaml")
    for note in own.notes:
        typer.echo(note, err=True)
    if not (file.is_file() and file.read_text(encoding="utf-8", errors="replace") == own.text):
        _write(file, own.text)
    typer.echo(f"spec: {file.absolute()}", err=True)
    return file


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as error:
        raise UserError(f"{file} exists and is another spec; remove or rename it, or run it unchanged") from error
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


class Schema(StrEnum):
    spec = "spec"
    output = "output"


def schema(
    what: Annotated[
        Schema, typer.Argument(help="spec, or output: what commands print with --format json.")
    ] = Schema.spec,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As a page to read: docs/spec.md, docs/formats.md.")
    ] = False,
) -> None:
    """Print the JSON Schema of a spec, for editors: every key with what it is for. Or that of what commands print."""
    if what is Schema.output:
        from sweeper.cli.output_schema import page, schemas

        typer.echo(page() if markdown else json.dumps(schemas(), indent=1), nl=not markdown)
        return
    from sweeper.spec.reference import reference
    from sweeper.spec.schema import schema as spec_schema

    typer.echo(reference() if markdown else json.dumps(spec_schema(), indent=1), nl=not markdown)


def env(format: Output = Format.table) -> None:
    """Print versions, CPUs and GPUs, for reports of problems."""
    from sweeper.environment import environment

    values = environment()
    if format is Format.table:
        for name, value in values.items():
            typer.echo(f"{name}: {value}")
    else:
        print_rows([{"name": name, "value": value} for name, value in values.items()], format, empty="")
