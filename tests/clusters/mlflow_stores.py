"""A sweep's story told to three MLflow stores through outages, and ``sweeper sync``: each record is there once."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from sweeper.records import TrialRecord
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.outbox import Outbox
from sweeper.tracking.projection import create_store, mlflow_environment
from sweeper.tracking.runs import find_store
from sweeper.tracking.server import free_port
from sweeper.tracking.tracker import Tracker
from tests.clusters.postgres import Postgres
from tests.helpers.finished_sweep import SPEC, finished_sweep
from tests.paths import ROOT
from tests.sweeper.tracking.test_tracking import check_story, tell_story

PATIENCE_S = 400.0
RECOVERY_S = 20.0
ADMIN = "admin"


class Server:
    """An ``mlflow server`` with basic authentication, users and runs in PostgreSQL."""

    def __init__(self, folder: Path, port: int, postgres: Postgres, passwords: Mapping[str, str]) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._folder, self._port, self._store = folder, port, postgres.uri("mlflow_server")
        self._passwords = passwords
        settings = folder / "basic_auth.ini"
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {postgres.uri('mlflow_users')}\n"
            f"admin_username = {ADMIN}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
        )
        self._variables = {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_AUTH_ADMIN_PASSWORD": passwords["mlflow"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16), "PGPASSWORD": passwords["postgres"],
            "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "2", "--backend-store-uri", self._store]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**variables, **self._variables}, cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"the MLflow server does not start: {(self._folder / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class GatedTracker(Tracker):
    """Waits for a permit before each trial's end, so that every outage meets events that have just been told."""

    permits = threading.Semaphore(0)

    def trial_ended(self, record: TrialRecord, costs: Mapping[str, float] | None = None) -> None:
        """See ``Tracker``."""
        self.permits.acquire()
        super().trial_ended(record, costs or {})


@dataclass(kw_only=True)
class Told:
    """What was done to a store, and what it has in the end."""

    store: str
    outages: list[str] = field(default_factory=list)
    events: int = 0
    runs: int = 0
    metrics: int = 0
    removed: int = 0
    """Runs that a request answered too late had made a second time; deleted by the sender."""
    duplicates: int = 0
    problems: list[str] = field(default_factory=list)


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the context."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def kill_sender() -> None:
    """Kill the process that sends to MLflow, if there is one."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "sweeper.tracking.sender" in process.cmdline():
                process.kill()


def wrong_password_told(
    folder: Path, uri: str, wrong: Mapping[str, str], hidden: Mapping[str, str], told: Told
) -> None:
    """Tell a store with a wrong password: it is said in one line, without a secret."""
    with variables(wrong):
        tracker = Tracker(folder, uri, folder.parent, "quickstart", "id-1")
        tracker.sweep_started({"name": "quickstart", "goals": {}}, {})
        until_s = time.monotonic() + PATIENCE_S
        while tracker.problem() is None and time.monotonic() < until_s:
            time.sleep(0.2)
        said = tracker.problem() or ""
        tracker.close()
    print(f"{told.store}, wrong password after {PATIENCE_S - until_s + time.monotonic():.0f} s: {said}", flush=True)
    if not said or "\n" in said:
        told.problems.append(f"the wrong password is told as {said!r}")
    written = said + "".join(path.read_text(errors="replace") for path in folder.glob("tracking.*"))
    for value in (*wrong.values(), *hidden.values()):
        if value != ADMIN and value in written:
            told.problems.append("a secret is in a message or in a file of tracking")
    (folder / "tracking.jsonl").unlink()
    (folder / "tracking.cursor").unlink(missing_ok=True)
    told.outages.append("wrong password")


def tell(
    storage: Path,
    uri: str,
    told: Told,
    outages: Mapping[str, Callable[[random.Random], None]],
    *,
    trials: int,
    times: int,
    rng: random.Random,
) -> None:
    """Tell the story through ``times`` outages; then send everything again, half as often, each time cut short."""
    folder = storage / "quickstart"

    def harm(name: str) -> None:
        cursor, size = Outbox(folder).cursor(), Outbox(folder).size()
        outages[name](rng)
        told.outages.append(name)
        print(f"{told.store}: {name}, when {cursor.offset} of {size} bytes were sent", flush=True)

    each = [*outages, *rng.choices(sorted(outages), k=times)][:times]
    tracker = GatedTracker(folder, uri, storage, "quickstart", "id-1")
    tracker.permits = threading.Semaphore(0)
    story = threading.Thread(target=tell_story, args=(tracker, folder, trials), daemon=True)
    story.start()
    for name in each:
        tracker.permits.release(max(1, trials // (times + 1)))
        time.sleep(rng.uniform(0.0, 3.0))
        size = Outbox(folder).size()
        harm(name)
        until_s = time.monotonic() + RECOVERY_S  # a killed sender is only replaced at the next event
        while Outbox(folder).cursor().offset < size and time.monotonic() < until_s:
            time.sleep(0.1)
    tracker.permits.release(trials)
    story.join()
    _flushed(tracker, told)
    for name in rng.sample(each, k=max(1, times // 2)):
        (folder / "tracking.cursor").unlink(missing_ok=True)
        tracker = GatedTracker(folder, uri, storage, "quickstart", "id-1")
        tracker.permits = threading.Semaphore(trials)
        tell_story(tracker, folder, trials)
        time.sleep(rng.uniform(2.0, 20.0))
        harm(name)
        tracker.close()
    tracker = GatedTracker(folder, uri, storage, "quickstart", "id-1")
    tracker.sweep_ended("complete")
    _flushed(tracker, told)
    told.events = len(Outbox(folder).read())


def _flushed(tracker: Tracker, told: Told) -> None:
    if not tracker.flush(PATIENCE_S) or tracker.problem() is not None:
        told.problems.append(f"not sent: {tracker.problem()}")
    tracker.close()


def count(client: Any, sweep_id: str, told: Told, trials: int) -> None:
    """Count what a store has of a sweep; a metric has one value per step, but those of the front, the newest of which
    counts.
    """
    experiment = client.get_experiment_by_name("sweeper")
    query = f"tags.`sweeper.sweep_id` = '{sweep_id}'"
    runs = client.search_runs([experiment.experiment_id], query, max_results=5000)
    deleted = client.search_runs([experiment.experiment_id], query, run_view_type=2, max_results=5000)
    told.runs, told.removed, told.metrics = len(runs), len(deleted), 0
    by_trial = Counter(run.data.tags.get("sweeper.trial") for run in runs)
    told.duplicates = sum(number - 1 for number in by_trial.values())
    if set(by_trial) != {None, *map(str, range(trials))}:
        told.problems.append(f"runs of the trials {sorted(map(str, by_trial))}")
    for run in runs:
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            told.metrics += len(history)
            newest = key.startswith("front/") and key != "front/hypervolume"
            places = [(one.step, one.timestamp if newest else 0) for one in history]
            told.duplicates += len(places) - len(set(places))
    if told.duplicates:
        told.problems.append(f"{told.duplicates} duplicates")


def look(client: Any, told: Told, trials: int) -> None:
    """Count what a store has, and check it against the story."""
    count(client, "id-1", told, trials)
    try:
        check_story(client, trials)
    except AssertionError as error:
        told.problems.append(f"the story is not whole: {str(error)[:500]}")


def locked(database: Path, rng: random.Random) -> None:
    """Lock an SQLite file for some seconds."""
    with contextlib.closing(sqlite3.connect(database, timeout=30.0, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(rng.uniform(3.0, 10.0))
        connection.execute("ROLLBACK")


def to_sqlite(home: Path, trials: int, times: int, rng: random.Random) -> Told:
    """Tell the story to an SQLite file."""
    told, storage = Told(store="SQLite file"), home / "sqlite"
    (storage / "quickstart").mkdir(parents=True)
    create_store(find_store(storage))
    outages: dict[str, Callable[[random.Random], None]] = {
        "file locked by another process": lambda rng: locked(storage / "mlflow.db", rng),
        "sender killed": lambda rng: kill_sender(),
    }
    uri = find_store(storage).uri
    tell(storage, uri, told, outages, trials=trials, times=times, rng=rng)
    look(create_store(find_store(storage)), told, trials)
    return told


def _stopped(postgres: Postgres, rng: random.Random) -> None:
    postgres.stop()
    time.sleep(rng.uniform(0.0, 6.0))
    postgres.start()


def _read_only(postgres: Postgres, rng: random.Random) -> None:
    postgres.refuse_writes(True)
    time.sleep(rng.uniform(3.0, 10.0))
    postgres.refuse_writes(False)


def of_postgres(postgres: Postgres) -> dict[str, Callable[[random.Random], None]]:
    """Return the outages of a PostgreSQL."""
    return {
        "PostgreSQL stopped (immediate)": lambda rng: _stopped(postgres, rng),
        "PostgreSQL refuses writes": lambda rng: _read_only(postgres, rng),
        "sender killed": lambda rng: kill_sender(),
    }


def to_postgres(home: Path, postgres: Postgres, password: str, trials: int, times: int, rng: random.Random) -> Told:
    """Tell the story to PostgreSQL itself."""
    told, storage = Told(store=f"PostgreSQL {postgres.version()}"), home / "postgres"
    (storage / "quickstart").mkdir(parents=True)
    postgres.sql("CREATE DATABASE mlflow_direct", "postgres")
    uri, right = postgres.uri("mlflow_direct"), {"PGPASSWORD": password}
    wrong_password_told(storage / "quickstart", uri, {"PGPASSWORD": "not-the-pass-word"}, right, told)
    with variables(right):
        tell(storage, uri, told, of_postgres(postgres), trials=trials, times=times, rng=rng)
        look(create_store(find_store(storage, uri)), told, trials)
    return told


def to_server(
    home: Path,
    postgres: Postgres,
    server: Server,
    right: Mapping[str, str],
    trials: int,
    times: int,
    rng: random.Random,
) -> Told:
    """Tell the story to an MLflow server with basic authentication on PostgreSQL."""
    told, storage = Told(store=f"HTTP, basic authentication, PostgreSQL {postgres.version()}"), home / "http"
    (storage / "quickstart").mkdir(parents=True)

    def killed(rng: random.Random) -> None:
        server.kill()
        time.sleep(rng.uniform(0.0, 3.0))
        server.start()

    outages = {"MLflow server killed": killed, **of_postgres(postgres)}
    wrong = {**right, "MLFLOW_TRACKING_PASSWORD": "not-the-pass-word"}
    wrong_password_told(storage / "quickstart", server.uri, wrong, right, told)
    with variables(right):
        tell(storage, server.uri, told, outages, trials=trials, times=times, rng=rng)
        look(create_store(find_store(storage, server.uri)), told, trials)
    return told


def synced(home: Path, server: Server, right: Mapping[str, str], trials: int) -> Told:
    """``sweeper sync`` of a sweep whose server was away to its end, twice, and to a second store, twice."""
    told = Told(store="`sweeper sync`: HTTP, then an SQLite file")
    spec = SPEC + "name: quickstart\n"
    folder, _ = finished_sweep(home / "sync", spec)
    server.kill()
    with variables(right):
        tracker = Tracker(folder.path, server.uri, folder.storage, folder.name, folder.sweep_id)
        tell_story(tracker, folder.path, trials)
        if tracker.flush(5.0):
            told.problems.append("a server that is away took everything")
        tracker.close()
    told.outages += ["away until the end"]
    server.start()
    other = f"sqlite:///{home}/other.db"
    events = []
    for uri in (server.uri, server.uri, other, other):
        with variables(right):
            client = create_store(find_store(folder.storage, uri))
            done = _sync(folder, uri)
            print(f"sync to {uri}: exit code {done.returncode}, {done.stderr.strip()}", flush=True)
            if done.returncode != 0:
                told.problems.append(f"sync to {uri} ends with {done.returncode}: {done.stderr}")
                continue
            count(client, folder.sweep_id, told, trials)
            events.append((told.runs, told.metrics))
    if len(set(events)) != 1:
        told.problems.append(f"runs and metrics after each sync: {events}")
    told.events = len(Outbox(folder.path).read())
    return told


def _sync(folder: SweepFolder, uri: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", "sync", folder.name, "--storage", str(folder.storage)]
    return subprocess.run(
        [*command, "--tracking-uri", uri], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )


def main(trials: int, times: int, seed: int) -> int:
    """Run the drill and print what it has found; return the number of problems."""
    passwords = {"postgres": secrets.token_hex(12), "mlflow": secrets.token_hex(12)}
    right = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": passwords["mlflow"]}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    found: list[Told] = []
    with (
        tempfile.TemporaryDirectory(prefix="swm", dir="/tmp") as text,
        mlflow_environment(),
        Postgres(free_port("127.0.0.1", 25432), passwords["postgres"]) as postgres,
    ):
        home = Path(text)
        (home / "server").mkdir()
        for database in ("mlflow_server", "mlflow_users"):
            postgres.sql(f"CREATE DATABASE {database}", "postgres")
        server = Server(home / "server", free_port("127.0.0.1", 25600), postgres, passwords)
        try:
            found.append(to_sqlite(home, trials, times, random.Random(seed)))
            found.append(to_postgres(home, postgres, passwords["postgres"], trials, times, random.Random(seed)))
            server.start()
            found.append(to_server(home, postgres, server, right, trials, times, random.Random(seed)))
            found.append(synced(home, server, right, trials))
        finally:
            server.kill()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "sqlalchemy", "psycopg2-binary"))
    again = max(1, times // 2)
    print(f"{packages}; {trials} trials, {times} outages of the story, {again} of sending it again, seed {seed}")
    print("| store | outages | events | runs | metric values | runs made twice and deleted | duplicates |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for told in found:
        counted = ", ".join(
            name if number == 1 else f"{name} ({number})" for name, number in sorted(Counter(told.outages).items())
        )
        print(
            f"| {told.store} | {counted} | {told.events} | {told.runs} | {told.metrics} | {told.removed} "
            f"| {told.duplicates} |"
        )
    problems = [f"{told.store}: {problem}" for told in found for problem in told.problems]
    for problem in problems:
        print(f"problem: {problem}")
    return len(problems)
