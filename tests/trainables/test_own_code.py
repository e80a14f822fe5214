"""Modules of a user's own: found, known by their file, the same in a process that cannot import them."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from trainables.own_code import find_module, function_named, install, names_function

SOURCE = (
    "from dataclasses import dataclass\n\n@dataclass\nclass Pair:\n    a: int\n\ndef double(x):\n    return 2 * x\n"
)


def module_name(folder: Path) -> str:
    """A name that no other test uses: modules stay imported."""
    return f"own_{folder.name.replace('-', '_')}"


def test_names_of_functions() -> None:
    assert all(map(names_function, ("mine:loss", "package.module:loss", "_a.b2:c_3")))
    assert not any(
        map(names_function, ("mine", "mine:", ":loss", "a-b:c", "a..b:c", "a:b:c", "a.b:c d", "2a:b", "dpo"))
    )


def test_a_module_in_the_working_folder_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = module_name(tmp_path)
    file = tmp_path / f"{name}.py"
    file.write_text(SOURCE)
    module = find_module(name)
    assert name not in sys.modules, "it is not run"
    assert module.digest == hashlib.sha256(file.read_bytes()).hexdigest() and module.path == str(file)
    install(module)
    double = function_named(f"{name}:double")
    assert double(21) == 42
    install(module)
    assert function_named(f"{name}:double") is double, "the same code is not run again"
    file.write_text(SOURCE.replace("2 * x", "3 * x"))
    assert function_named(f"{name}:double") is double, "until it is installed"
    changed = find_module(name)
    assert changed.digest != module.digest
    install(changed)
    assert function_named(f"{name}:double")(21) == 63


def test_a_module_that_python_has_imported_stays_the_same_one() -> None:
    import examples.objectives

    install(find_module("examples.objectives"))
    assert function_named("examples.objectives:simpo") is examples.objectives.simpo


def test_a_process_that_cannot_import_it_runs_the_bytes_that_it_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "losses.py").write_text(SOURCE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    module = find_module("package.losses")
    (tmp_path / "package" / "losses.py").unlink()
    script = (
        "import pickle, sys\n"
        "from trainables.own_code import function_named, install\n"
        "install(pickle.load(sys.stdin.buffer))\n"
        "print(function_named('package.losses:double')(4))\n"
    )
    with_its_package = script.replace("import pickle, sys\n", "import pickle, sys, package\n") + (
        "import package.losses\nprint(package.losses.double(5))\n"
    )
    for text, printed in ((script, b"8\n"), (with_its_package, b"8\n10\n")):
        done = subprocess.run(
            [sys.executable, "-c", text],
            input=pickle.dumps(module),
            capture_output=True,
            cwd=tmp_path / "elsewhere" if text == script else tmp_path,
            env={"PYTHONPATH": str(ROOT)},
        )
        assert done.stdout == printed, done.stderr


def test_a_module_is_written_where_another_machine_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module_name(tmp_path)
    (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / name / "inner" / "losses.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    find_module(f"{name}.inner.losses").write_below(tmp_path / "sent")
    script = f"import {name}.inner.losses as losses; print(losses.double(5), losses.__file__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path / "sent", env={})
    assert done.stdout == f"10 {tmp_path / 'sent' / name / 'inner' / 'losses.py'}\n", done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"there is no module own_\w+ in the working folder .*; go to the folder that holds it"),
        ("def f(:\n", r"cannot be imported: SyntaxError: .*own_\w+.py, line 1"),
        ("import torch\n\nraise KeyError('k')\n", r"cannot be imported: KeyError: 'k' \(.*own_\w+.py:3\)$"),
        (
            "import no_such_package\n",
            r"cannot be imported: ModuleNotFoundError: No module named 'no_such_package' \(.*:1\)",
        ),
    ],
    ids=["missing", "syntax", "raising", "lacking"],
)
def test_a_module_that_cannot_be_used(
    source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = module_name(tmp_path)
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ValueError, match=message) as caught:
        install(find_module(name))
    assert "\n" not in str(caught.value) and name not in sys.modules


def test_a_module_without_a_file_of_python_is_refused() -> None:
    with pytest.raises(ValueError, match="is no file of Python"):
        find_module("_struct")
