"""Bad input of any kind: exit 2 or 3, one clear message, no traceback, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def sweeper(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(ROOT)
    script = f"import sys; sys.path.insert(0, {root!r}); from sweeper.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=cwd)


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
        (("run", str(QUICKSTART), "--storage", "s3://bucket/sweeps"), "only folders are served"),
        (("run", str(QUICKSTART), "--storage", "broken.yaml"), "is a file"),
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
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'open_clip', 'matplotlib', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--gpus" in done.stdout
