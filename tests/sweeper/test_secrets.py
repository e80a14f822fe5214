"""Passwords and tokens are in no text: addresses in every form, errors that repeat them, the environment."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.secrets import Redacting, has_secret, shown_uri, without_secrets
from tests.paths import ROOT

QUICKSTART = str(ROOT / "search_spaces" / "quickstart.yaml")
SECRET = "t0p/secret@7"
PLAIN = "t0psecret7"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:t0psecret7@tracker/x", "https://tracker/x"),
        ("https://t0psecret7@tracker:5000", "https://tracker:5000"),
        ("http://me:t0p@secret7@tracker:5000/a@b", "http://tracker:5000/a@b"),
        ("postgresql+psycopg2://me:t0p/secret7@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("postgresql://me:t0psecret7@db:5432/mlflow?sslmode=require", "postgresql://db:5432/mlflow?sslmode=require"),
        ("postgresql://db/mlflow?user=me&password=t0psecret7", "postgresql://db/mlflow?user=me"),
        ("mssql+pyodbc:///?odbc_connect=SERVER%3Ddb%3BPWD%3Dt0psecret7", "mssql+pyodbc:///"),
        ("postgres://me:t0psecret7@db/mlflow", "postgres://db/mlflow"),
    ],
)
def test_a_shown_address_has_no_secret(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown and has_secret(uri) and not has_secret(shown)
    assert "secret7" not in without_secrets(f"API request to {uri}/api failed; 'secret7' was refused", uri).replace(
        "'secret7'", ""
    )


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////home/me@work/mlflow.db",
        "sqlite:///mlflow.db?mode=ro",
        "http://tracker:5000/x@y",
        "databricks",
        "postgresql://db/mlflow?sslmode=require",
        "./mlruns",
    ],
)
def test_an_address_without_secret_is_shown_as_it_is(uri: str) -> None:
    assert shown_uri(uri) == uri and not has_secret(uri)


@given(
    user=st.text("abcXYZ09._-", max_size=8),
    password=st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=8, max_size=20),
    rest=st.sampled_from(["/mlflow", "", ":5000", "/a/b?sslmode=require"]),
)
def test_a_quoted_password_is_in_no_text(user: str, password: str, rest: str) -> None:
    quoted = quote(password, safe="")
    uri = f"postgresql://{user}:{quoted}@db{rest}"
    assert quoted not in shown_uri(uri)
    text = without_secrets(f"could not connect to {uri}: password {password} ({quoted}) for {user}", uri)
    assert password not in text and quoted not in text


def test_secrets_of_the_environment_and_of_tracebacks_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from-the-environment")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PLAIN}@tracker")
    monkeypatch.setenv("NUMBER_OF_TOKEN", "12")
    try:
        raise ValueError(f"http://me:{PLAIN}@tracker and from-the-environment")
    except ValueError:
        made = logging.LogRecord("mlflow", logging.WARNING, "", 0, "12 %s", (PLAIN,), sys.exc_info())
    text = Redacting("%(message)s").format(made)
    assert PLAIN not in text and "from-the-environment" not in text
    assert "ValueError: http://tracker" in text and text.startswith("12 ")


def sweeper(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment | variables)


@pytest.mark.parametrize("command", [("run", QUICKSTART), ("check", QUICKSTART), ("resume", "x"), ("ui",)])
def test_a_password_on_the_command_line_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    """It would be in the list of processes, and Ray keeps a driver's command line in its table of jobs."""
    done = sweeper(*command, "--tracking-uri", f"postgresql://me:{PLAIN}@db/mlflow", cwd=tmp_path)
    assert done.returncode == 2 and "MLFLOW_TRACKING_URI" in done.stderr
    assert PLAIN not in done.stdout + done.stderr and not any(tmp_path.iterdir())


@pytest.mark.parametrize("uri", [f"postgres://me:{PLAIN}@db/mlflow", f"http://me:{PLAIN}@127.0.0.1:1"])
def test_a_password_in_the_environment_is_not_repeated(uri: str, tmp_path: Path) -> None:
    done = sweeper("check", QUICKSTART, "--set", "model.architecture=nothing", cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 2 and PLAIN not in done.stdout + done.stderr
    assert ("tracking URI 'postgres://db/mlflow'" in done.stderr) or ("at http://127.0.0.1:1" in done.stderr)
