from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sweeper.tracking.projection import mlflow_environment

settings.register_profile("no deadline", deadline=None)  # speed is no test's business, and machines are loaded
settings.load_profile("no deadline")
os.environ["RAY_AUTH_MODE"] = "disabled"  # before anything imports Ray
OUR_VARIABLES = ("RAY_", "TUNE_", "MLFLOW_", "SWEEPER_", "OMP_")
FIRST_FILES, RAY_FILES = (
    ("test_sweep.py", "test_workers.py"),
    ("test_slots.py", "test_lost_slots.py", "test_cluster.py"),
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background jobs so, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def quiet_mlflow() -> Iterator[None]:
    with mlflow_environment():
        yield


@pytest.fixture(autouse=True)
def process_is_left_as_it_was() -> Iterator[None]:
    """Tests run in any order: what a test, or the code that it calls, switches in the process it switches back."""
    before = _switches()
    yield
    after = _switches()
    changed = [f"{name}: {before.get(name)} -> {after.get(name)}" for name in before if after.get(name) != before[name]]
    assert not changed, f"left changed in this process: {'; '.join(changed)}"


def _switches() -> dict[str, Any]:
    switches: dict[str, Any] = {
        "denormals are flushed": sys.float_info.min / 2 == 0.0,
        "signal handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "working directory": os.getcwd(),
    }
    for name in OUR_VARIABLES:
        switches[f"variables {name}*"] = {
            variable: value
            for variable, value in os.environ.items()
            if variable.startswith(name) and variable != "RAY_CLIENT_MODE"  # set by importing Ray (2.60)
        }
    if "torch" in sys.modules:
        switches["threads of PyTorch"] = sys.modules["torch"].get_num_threads()
    return switches


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs: to be copied, because its migration takes five seconds."""
    from sweeper.tracking.projection import create_store
    from sweeper.tracking.runs import find_store

    folder = tmp_path_factory.mktemp("store")
    create_store(find_store(folder, f"sqlite:///{folder / 'mlflow.db'}"))
    return folder / "mlflow.db"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, other files that start Ray after half of the rest: two Rays at a time slow each other down."""
    rest = [path for path in dict.fromkeys(item.path for item in items) if path.name not in (*FIRST_FILES, *RAY_FILES)]
    place = {path: float(number) for number, path in enumerate(rest)}
    first = {name: number - len(FIRST_FILES) for number, name in enumerate(FIRST_FILES)}
    middle = len(rest) // 2 - 0.5
    items.sort(key=lambda item: place.get(item.path, first.get(item.path.name, middle)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The order of the tests, to run them in it again: ``-q`` hides pytest-randomly's own line."""
    terminalreporter.write_line(f"order of the tests: --randomly-seed={config.getoption('randomly_seed', 'none')}")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray of the test session: six CPUs by its own account, in a folder of its own."""
    from sweeper.execution import cluster

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets: the path has to be short
    os.environ["RAY_TMPDIR"] = folder
    os.environ.pop("RAY_ADDRESS", None)
    cluster.connect(num_cpus=6)
    yield
    cluster.disconnect()
    del os.environ["RAY_TMPDIR"]
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system, driven by playwright."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("no Chromium: install it (Debian: apt-get install chromium)")
    switches = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium, args=switches, handle_sigint=False, handle_sigterm=False, handle_sighup=False
        )
        yield running
        running.close()
