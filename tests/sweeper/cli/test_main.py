"""Bad input of any kind: exit 2 or 3, one clear message, no traceback, nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sweeper.environment import check_gpus
from sweeper.version import __version__
from tests.paths import ROOT

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def sweeper(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Without the Ray cluster that other tests may have started.

    ``before``: a command that runs the other one.
    """
    root = str(ROOT)
    script = f"import sys; sys.path.insert(0, {root!r}); from sweeper.cli.main import main; main()"
    command = [*before, sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=without_ray() if env is None else env)


def without_ray() -> dict[str, str]:
    """Return the environment without what names a Ray cluster: other tests may have started one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.yaml"), "missing.yaml"),
        (("run", "broken.yaml"), "broken.yaml:2:"),
        (("run", str(QUICKSTART), "--set", "training.epoch=3"), "epochs"),
        (("run", str(QUICKSTART), "--set", "training.epochs"), "training.epochs"),
        (("run", str(QUICKSTART), "--set", "stopping.kind=asha"), "none"),
        (("run", str(QUICKSTART), "--set", "model.architecture=ViT-B-33"), "ViT-B-3"),
        (("run", str(QUICKSTART), "--set", "model.architecture=local-dir:/nowhere"), "/nowhere"),
        (("run", str(QUICKSTART), "--name", "No Name"), "name"),
        (("run", str(QUICKSTART), "--gpus", "-1"), "--gpus -1"),
        (("run", str(QUICKSTART), "--gpus", "many"), "--gpus"),
        (("run", str(QUICKSTART), "--trials", "0"), "--trials"),
        (("run", str(QUICKSTART), "--storage", "s3://bucket/sweeps"), "a database of MLflow cannot lie in a bucket"),
        (("run", str(QUICKSTART), "--storage", "ftp://host/sweeps"), "a storage is a folder, or s3:// or gs://"),
        (("run", str(QUICKSTART), "--storage", "broken.yaml"), "is a file"),
        (("run", str(QUICKSTART), "--storage", "x?y"), "whose name holds '?'; name another with --storage"),
        (("run", str(QUICKSTART), "--storage", "100%25"), "whose name holds '%25'"),
        (("run", str(QUICKSTART), "--address", "auto"), "--address 'auto' is not of the form host:port"),
        (("run", str(QUICKSTART), "--tracking-uri", "./mlruns"), "mlruns"),
        (("run", str(QUICKSTART), "--format", "xml"), "xml"),
        (("resume", "nobody"), "no sweep 'nobody'"),
        (("status", "nobody"), "there are: none"),
        (("front", "nobody"), "nobody"),
        (("export", "nobody", "out"), "nobody"),
        (("preview", str(QUICKSTART), "--output", "sheet.jpg"), "sheet.jpg"),
        (("rerun", "nobody", "0"), "nobody"),
        (("ui", "nobody"), "nobody"),
        (("show", "nobody", "-3"), "-3"),
        (("dance",), "dance"),
    ],
    ids=lambda value: " ".join(part.rpartition("/")[2] for part in value) if isinstance(value, tuple) else "",
)
def test_mistakes(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("sets:\n  world: {kind: wrld}\n")
    done = sweeper(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken.yaml"], "nothing is written"


def test_cluster_that_is_not_there(tmp_path: Path) -> None:
    done = sweeper("run", str(QUICKSTART), "--address", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"RAY_ADDRESS": "auto"}, 2, "the environment variable RAY_ADDRESS 'auto' is not of the form host:port"),
        ({"RAY_ADDRESS": "127.0.0.1:1"}, 3, "the environment variable RAY_ADDRESS names it: unset it"),
        ({"TMPDIR": "/tmp/" + "x" * 80}, 3, "TMPDIR is /tmp/xxxx"),
        ({"RAY_TMPDIR": "/tmp/" + "x" * 80}, 3, "export RAY_TMPDIR=/tmp/SHORT"),
    ],
    ids=["address of no cluster", "nobody at the address", "long TMPDIR", "long RAY_TMPDIR"],
)
def test_variables_that_ray_reads_are_named_before_anything_is_written(
    variables: dict[str, str], code: int, message: str, tmp_path: Path
) -> None:
    environment = without_ray() | variables
    done = sweeper("run", str(QUICKSTART), cwd=tmp_path, env=environment)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1 and "--address" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_of_another_user_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can give up the right to write everywhere")
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # a short path
        folder = Path(temporary) / f"sweeper-{os.geteuid()}"
        folder.mkdir()
        os.chown(folder, 65534, 65534)
        rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]
        environment = {**without_ray(), "RAY_TMPDIR": temporary}
        done = sweeper("run", str(QUICKSTART), cwd=tmp_path, env=environment, before=rights)
        assert done.returncode == 3 and f"this user may not write to {folder}; name a short" in done.stderr
        folder.chmod(0o777)
        done = sweeper("run", str(QUICKSTART), cwd=tmp_path, env=environment, before=rights)
        assert done.returncode == 3 and f"{folder}, which is another user's or a link; name a" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_are_not_there_are_told_before_ray_starts(tmp_path: Path) -> None:
    environment = {**without_ray(), "CUDA_VISIBLE_DEVICES": ""}
    done = sweeper("run", str(QUICKSTART), "--gpus", "2", cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("--gpus 2: PyTorch sees 0 GPUs on this machine") and "--address" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gpus", "note"), [(8.0, "--gpus 8: PyTorch sees 2 GPUs on this machine, which it uses"), (2.0, None)]
)
def test_more_gpus_than_there_are_are_told(gpus: float, note: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    told = check_gpus(gpus)
    assert told is None if note is None else told is not None and told.startswith(note)


def test_version_and_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = sweeper("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # it goes by the processes above
    done = sweeper("--show-completion", "bash", cwd=tmp_path)
    assert done.returncode == 0 and "complete" in done.stdout
    assert "may be given several times" in " ".join(sweeper("run", "--help", cwd=tmp_path).stdout.split())


def test_list_of_nothing(tmp_path: Path) -> None:
    done = sweeper("list", cwd=tmp_path)
    assert done.returncode == 0 and "no sweeps" in done.stderr and done.stdout == ""


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    root = str(ROOT)
    script = (
        f"import sys; sys.path.insert(0, {root!r}); sys.argv = ['sweeper', 'run', '--help']\n"
        "from sweeper.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'open_clip', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--gpus" in done.stdout


@pytest.mark.parametrize("columns", ["0", "1", "-5", "wide", "9" * 20])
def test_a_terminal_without_a_size_has_the_usual_one(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = sweeper("--help", cwd=tmp_path)
    assert done.returncode == 0 and "Usage: " in done.stdout and "│ delete " in done.stdout, done.stderr
