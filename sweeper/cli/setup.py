"""Commands that need no sweep: a spec to start from, the schema of a spec, the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands import command
from sweeper.errors import UserError


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
    typer.echo(f"{file}: change it, then `{command('check', str(file))}` and `{command('run', str(file))}`")


def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    import json

    from sweeper.spec.spec import schema as spec_schema

    typer.echo(json.dumps(spec_schema(), indent=1))


def env() -> None:
    """Print versions, CPUs and GPUs: paste it into a report of a problem."""
    from sweeper.environment import environment

    for name, value in environment().items():
        typer.echo(f"{name}: {value}")
