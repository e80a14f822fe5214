"""What no one foresaw is one line, exit code 3 and a traceback in a file; Ctrl-C and closed pipes are no failures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

EARLY = ROOT / "tests" / "sweeper" / "storage" / "early_sweep"
BREAK = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from sweeper.cli.main import COMMANDS, app, main
from sweeper.cli.options import open_sweep, storage_path
from sweeper.errors import one_line

class Unprintable(Exception):
    def __str__(self):
        raise KeyError("no text")

def broken(name: str = "", storage: Path = None, how: str = "raise"):
    if name:
        open_sweep(name, storage)
    else:
        storage_path(storage)
    if how == "raise":
        raise ZeroDivisionError("a first line\\nand a second one")
    if how == "thread":
        threading.Thread(target=one_line, args=(Unprintable(),)).start()
    if how == "library's thread":
        thread = threading.Thread(target=int, args=("x",))
        thread.start()
        thread.join()
        return
    print("ready", flush=True)
    time.sleep(60)

COMMANDS["status"] = broken
app.registered_commands = [one for one in app.registered_commands if one.name != "status"]
app.command("status")(broken)
main()
"""


def command(*arguments: str, temporary: Path, **popen: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    environment.pop("SWEEPER_STORAGE", None)
    return subprocess.Popen(
        [sys.executable, "-c", BREAK.format(root=str(ROOT)), "status", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=temporary, env=environment, **popen,
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


def traceback_in(line: str) -> Path:
    found = re.search(r"the traceback is in (\S+);", line)
    assert found is not None, line
    return Path(found[1])


@pytest.mark.parametrize("place", ["sweep", "storage", "temporary"])
def test_an_unforeseen_error_is_one_line_and_a_file(place: str, tmp_path: Path) -> None:
    storage = tmp_path / "my sweeps"
    if place != "temporary":
        shutil.copytree(EARLY, storage / "early")
    arguments = ["--storage", str(storage), *(["--name", "early"] if place == "sweep" else [])]
    process = command(*arguments, temporary=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert err.startswith("sweeper status failed unexpectedly: ZeroDivisionError: a first line; the traceback is in ")
    assert err.count("\n") == 1 and "`sweeper env`" in err
    folders = {"sweep": storage / "early", "storage": storage, "temporary": tmp_path}
    (file,) = folders[place].glob("traceback-*.txt")
    assert str(file) in err
    text = file.read_text()
    assert "Traceback (most recent call last)" in text and "and a second one" in text and "command: " in text


@pytest.mark.parametrize("ctrl_c", [signal.SIG_DFL, signal.SIG_IGN], ids=["foreground", "background"])
def test_an_error_in_a_thread_of_ours_ends_the_command_the_same_way(ctrl_c: signal.Handlers, tmp_path: Path) -> None:
    """Shells start background jobs with SIGINT ignored."""
    process = command("--how", "thread", temporary=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, ctrl_c))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.startswith("sweeper status failed unexpectedly: KeyError: 'no text'; ") and err.count("\n") == 1
    assert "one_line" in traceback_in(err).read_text()


def test_an_error_in_a_thread_of_a_library_leaves_a_file_and_the_command_goes_on(tmp_path: Path) -> None:
    process = command("--how", "library's thread", temporary=tmp_path)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    (file,) = tmp_path.glob("traceback-*.txt")
    assert "invalid literal" in file.read_text()


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    process = command("--how", "wait", temporary=tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (141, b"")
    process.stderr.close()


@pytest.mark.parametrize("nowhere", ["stdout", "stderr"])
def test_outputs_that_take_nothing_give_no_traceback(nowhere: str, tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    with open("/dev/full", "w") as full:
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, nowhere: full}
        arguments = ["schema"] if nowhere == "stdout" else ["status", "nobody"]
        done = subprocess.run([sys.executable, "-c", script, *arguments], text=True, cwd=tmp_path, **outputs)
    assert done.returncode == (3 if nowhere == "stdout" else 2)
    assert "Traceback" not in (done.stderr or "") + (done.stdout or "")
