"""The command line: ``sweeper run SPEC`` and the commands that show, measure and export the results of a sweep.

Data go to standard output, progress and messages to standard error. Exit codes: 0 ok, 1 too many trials failed or a
report differs from its sweep, 2 bad input, 3 cluster or storage unavailable or an unexpected error, 130 interrupted,
141 the reader of the output has ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sweeper.cli.crash import crash_line, no_tracebacks_on_screen, thread_error
from sweeper.cli.elsewhere import slurm, stop, submit, sync
from sweeper.cli.evaluate import compare, evaluate
from sweeper.cli.models import export, preview, rerun
from sweeper.cli.report import report, verify
from sweeper.cli.setup import env, init, schema
from sweeper.cli.show import delete, front, list_, logs, show, status, trials, ui
from sweeper.cli.sweeps import check, resume, run
from sweeper.errors import UNAVAILABLE, UnavailableError, UserError
from sweeper.secrets import without_secrets
from sweeper.version import __version__
from trainables.files import storage_problem


class _InterruptedError(Exception):
    """Ctrl-C during a command."""


class _PipeClosedError(Exception):
    """The reader of a command's output has ended."""


class _Commands(TyperGroup):
    """Command group that leaves Ctrl-C and closed pipes to ``main``.

    Typer would end the process for them without a message, with exit codes of its own.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error
        except BrokenPipeError as error:
            raise _PipeClosedError from error


app = typer.Typer(
    name="sweeper",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds how much robustness to written words a CLIP model can have, and its cost in clean accuracy.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Accept options before the command."""


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
    "report": report,
    "verify": verify,
    "rerun": rerun,
    "stop": stop,
    "sync": sync,
    "slurm": slurm,
    "submit": submit,
    "ui": ui,
    "delete": delete,
    "init": init,
    "schema": schema,
    "env": env,
}
"""Name -> command, in the order of ``sweeper --help``."""
for name, command in COMMANDS.items():
    app.command(name)(command)


INTERRUPTED = 130
_NARROWEST = 20
PIPE_CLOSED = 141
"""Exit code of a program that SIGPIPE ended: its reader has ended, which is no error (``sweeper list | head -1``)."""


def main() -> NoReturn:
    """Run the command line: every error becomes one message and an exit code, never a traceback on the screen."""
    _drop_odd_sizes()
    with no_tracebacks_on_screen():
        try:
            code = _exit_code()
        except KeyboardInterrupt:  # between the command's end and here
            code = INTERRUPTED
        if (error := thread_error()) is not None:
            code = _unexpected(error)
    sys.exit(code)


def _drop_odd_sizes() -> None:
    """Leave out sizes of the terminal in which nothing could be shown: libraries print nothing with COLUMNS=0."""
    for name, least in (("COLUMNS", _NARROWEST), ("LINES", 1)):
        text = os.environ.get(name, "")
        if not (text.isdecimal() and len(text) < 6 and int(text) >= least):
            os.environ.pop(name, None)


def _exit_code() -> int:
    """Run the command; report errors and return the exit code."""
    try:
        app()
    except SystemExit as end:  # Typer ends in this way, also after mistakes on the command line
        return end.code if isinstance(end.code, int) else 0 if end.code is None else UNAVAILABLE
    except UserError as error:
        _say(str(error))
        return 2
    except UnavailableError as error:
        _say(str(error))
        return UNAVAILABLE
    except (KeyboardInterrupt, _InterruptedError):
        if thread_error() is None:
            _say("interrupted")
        return INTERRUPTED
    except (BrokenPipeError, _PipeClosedError):
        _write_nowhere()
        return PIPE_CLOSED
    except Exception as error:
        if (problem := storage_problem(error)) is not None:
            _say(problem)
            return UNAVAILABLE
        return _unexpected(error)
    return 0


def _unexpected(error: BaseException) -> int:
    command = " ".join(["sweeper", *(word for word in sys.argv[1:2] if word in COMMANDS)])
    _say(crash_line(error, command))
    return UNAVAILABLE


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed, or its disk is full
        typer.echo(without_secrets(text), err=True)


def _write_nowhere() -> None:
    """Discard the content of the buffers of both outputs, which Python would write when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
