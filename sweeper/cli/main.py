"""The command line: ``sweeper run SPEC`` and the commands that show, measure and export what a sweep made.

Data go to standard output, progress and messages to standard error. Exit codes: 0 ok, 1 too many trials failed,
2 bad input, 3 cluster or storage unavailable, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from sweeper.cli.evaluate import compare, evaluate
from sweeper.cli.models import export, preview, rerun
from sweeper.cli.setup import env, init, schema
from sweeper.cli.show import front, list_, logs, show, status, trials, ui
from sweeper.cli.sweeps import check, resume, run
from sweeper.errors import UNAVAILABLE, UnavailableError, UserError
from trainables.files import storage_problem

app = typer.Typer(
    name="sweeper",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finds how much robustness to written words a CLIP model can have, and what it costs in clean accuracy.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "resume": resume,
    "check": check,
    "list": list_,
    "status": status,
    "trials": trials,
    "show": show,
    "logs": logs,
    "front": front,
    "preview": preview,
    "export": export,
    "evaluate": evaluate,
    "compare": compare,
    "rerun": rerun,
    "ui": ui,
    "init": init,
    "schema": schema,
    "env": env,
}
"""By name, in the order of ``sweeper --help``."""
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> NoReturn:
    """Entry point: errors of users and clusters become one message and an exit code."""
    try:
        app()
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except UnavailableError as error:
        typer.echo(str(error), err=True)
        sys.exit(UNAVAILABLE)
    except OSError as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        typer.echo(problem, err=True)
        sys.exit(UNAVAILABLE)
    sys.exit(0)
