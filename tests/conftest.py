from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # speed is no test's business, and machines are loaded
settings.load_profile("no deadline")
os.environ["RAY_AUTH_MODE"] = "disabled"  # before anything imports Ray
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs: to be copied, because its migration takes five seconds."""
    from sweeper.tracking import find_store
    from sweeper.tracking.projection import create_store

    folder = tmp_path_factory.mktemp("store")
    create_store(find_store(folder, f"sqlite:///{folder / 'mlflow.db'}"))
    return folder / "mlflow.db"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: what else there is runs beside it."""
    items.sort(key=lambda item: item.path.name != "test_sweep.py")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray of the test session: six CPUs by its own account, in a folder of its own."""
    from sweeper import cluster

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets: the path has to be short
    os.environ["RAY_TMPDIR"] = folder
    os.environ.pop("RAY_ADDRESS", None)
    cluster.connect(num_cpus=6)
    yield
    cluster.disconnect()
    del os.environ["RAY_TMPDIR"]
    shutil.rmtree(folder, ignore_errors=True)
