"""The commands of docker/compose.yaml as plain processes on this machine, and sweeps on them.

What differs from containers: all processes share one network, so ports are free ones and each Ray gets ports of its
own; PostgreSQL's folder is made as its image makes it (initdb with the password file); the driver of MLflow for
PostgreSQL, which the image holds, is installed into a temporary folder. Needs PostgreSQL (Debian: apt-get install
postgresql).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.docker.compose import Places, services
from tests.docker.test_manifests import manifest, pinned, pods
from tests.paths import ROOT

PATIENCE_S = 240.0
STOP_S = 60
"""``stop_grace_period`` of the file."""
PROGRAMS = Path(sys.executable).parent
pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The services, running."""

    places: Places
    environment: Mapping[str, str]
    """What a command in the container of ``head`` has."""
    folder: Path
    """What is /data in the containers."""
    secrets: Path
    postgres_port: int
    ports: Mapping[int, int]
    """Ports of the head: in containers -> here."""
    head: subprocess.Popen[bytes]

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec head` does."""
        return subprocess.run(
            [str(PROGRAMS / command[0]), *command[1:]],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S * 2,
        )

    def sql(self, query: str, password: str | None = None) -> subprocess.CompletedProcess[str]:
        """Ask the database as MLflow does."""
        password = (self.secrets / "postgres_password").read_text() if password is None else password
        uri = f"postgresql://mlflow@127.0.0.1:{self.postgres_port}/mlflow"
        environment = {**os.environ, "PGPASSWORD": password.strip()}
        return subprocess.run(["psql", "-At", uri, "-c", query], env=environment, capture_output=True, text=True)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(what: str, holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        ended = process.poll() is not None
        assert not ended and time.monotonic() < until, f"{what}: {log.read_text()[-4000:]}"
        time.sleep(0.5)


@contextmanager
def service(
    name: str, command: list[str], environment: Mapping[str, str], folder: Path, user: str | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process of a service with its log, stopped as `docker compose stop` does: SIGTERM, later SIGKILL."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=out, stderr=subprocess.STDOUT, user=user
        )
    try:
        yield process, log
    finally:
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(started, timeout=10)
        for child in alive:
            child.kill()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """All services of the file, healthy by its own health checks."""
    for program in ("initdb", "psql"):
        assert postgres_program(program), "PostgreSQL is not installed; Debian: apt-get install postgresql"
    with ExitStack() as stack:
        # Short: paths of Ray's sockets have 107 bytes.
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sw", dir="/tmp")))
        base.chmod(0o755)
        folder, kept, home = base / "data", base / "secrets", base / "home"
        for path in (folder, kept, home):
            path.mkdir()
        gcs, dashboard, client, agent, other_agent, mlflow, postgres = free_ports(7)
        for name in ("ray_token", "postgres_password"):
            (kept / name).write_text(secrets.token_hex(32) + "\n")
        words = {
            "head:6379": f"127.0.0.1:{gcs}",
            "--port=6379": f"--port={gcs}",
            "--port 5000": f"--port {mlflow}",
            ":5000": f":{mlflow}",
            "mlflow:": "127.0.0.1:",
            "postgres:5432": f"127.0.0.1:{postgres}",
            "0.0.0.0": "127.0.0.1",
            "/run/secrets": str(kept),
            "/data/": f"{folder}/",
            ":52365": f":{other_agent}",
        }
        # The user mlflow of the URI is no host.
        places = Places(words={"//mlflow@": "//mlflow@", **words})
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        plain |= {"HOME": str(home), "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "RAY_TMPDIR": str(base / "r")}
        plain |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        plain |= {"PYTHONPATH": str(ROOT)}  # this checkout, wherever the environment's sweeper is

        stack.enter_context(database(places, base, postgres))
        driver = base / "driver"
        install = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(driver),
            f"psycopg2-binary=={pinned('psycopg2-binary')}",
        ]
        subprocess.run([str(PROGRAMS / install[0]), *install[1:]], check=True)
        environment = {**plain, **places.environment("mlflow"), "PYTHONPATH": str(driver)}
        process, log = stack.enter_context(service("mlflow", places.command("mlflow"), environment, base))
        wait_until("MLflow", lambda: healthy(places.health("mlflow"), plain), process, log)

        shared = ["--min-worker-port=0", "--max-worker-port=0"]
        own = [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", *shared]
        environment = {**plain, **places.environment("head"), "SWEEPER_STORAGE": str(folder / "sweeps")}
        command = [
            *places.command("head"),
            *own,
            f"--dashboard-agent-listen-port={agent}",
            "--node-ip-address=127.0.0.1",
        ]
        head, log = stack.enter_context(service("head", command, environment, base))
        wait_until("the head", lambda: healthy(places.health("head"), environment), head, log)

        command = [*places.command("worker"), *shared, f"--dashboard-agent-listen-port={other_agent}"]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=2"]
        process, log = stack.enter_context(service("worker", command, {**plain, **places.environment("worker")}, base))
        wait_until("the worker", lambda: healthy(places.health("worker"), plain), process, log)
        yield Cluster(
            places=places,
            environment=environment,
            folder=folder,
            secrets=kept,
            postgres_port=postgres,
            ports={8265: dashboard, 52365: agent},
            head=head,
        )


def healthy(command: list[str], environment: Mapping[str, str]) -> bool:
    return subprocess.run(command, env=dict(environment), capture_output=True).returncode == 0


def postgres_program(name: str) -> str | None:
    """A program of PostgreSQL; Debian keeps those of the server off PATH."""
    folders = sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
    return shutil.which(name, path=":".join([*reversed(folders), os.environ["PATH"]]))


@contextmanager
def database(places: Places, base: Path, port: int) -> Iterator[None]:
    """PostgreSQL with the user, the database and the password file of the file's service, made as its image does."""
    record = places.environment("postgres")
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    folder = base / "postgres"
    folder.mkdir()
    password = base / "password_of_initdb"
    shutil.copy(record["POSTGRES_PASSWORD_FILE"], password)
    if user is not None:
        for path in (folder, password):
            shutil.chown(path, user)
    made = ["initdb", "-D", str(folder), f"--username={record['POSTGRES_USER']}", f"--pwfile={password}"]
    made += record["POSTGRES_INITDB_ARGS"].split()
    subprocess.run([str(postgres_program(made[0])), *made[1:]], cwd="/", user=user, check=True, capture_output=True)
    command = [str(postgres_program("postgres")), "-D", str(folder), "-p", str(port), "-k", str(folder)]
    with service("database", [*command, "-c", "listen_addresses=127.0.0.1"], os.environ, base, user) as (process, log):
        ready = ["pg_isready", "--host=127.0.0.1", f"--port={port}", *places.health("postgres")[1:]]
        wait_until("PostgreSQL", lambda: healthy(ready, os.environ), process, log)
        environment = {**os.environ, "PGPASSWORD": password.read_text().strip()}
        words = ["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", record["POSTGRES_USER"], record["POSTGRES_DB"]]
        subprocess.run(words, env=environment, check=True)
        yield


def small_spec(folder: Path) -> Path:
    """The quickstart on few images."""
    text = (ROOT / "search_spaces" / "quickstart.yaml").read_text()
    for before, after in (
        ("train: 1024, validation: 2700, test: 1000", "train: 512, validation: 700, test: 200"),
        ("images: 700", "images: 200"),
        ("trials: 16", "trials: 2"),
    ):
        assert before in text
        text = text.replace(before, after)
    spec = folder / "sweep.yaml"
    spec.write_text(text)
    return spec


def test_a_sweep_runs_on_the_cluster_and_is_in_the_database(cluster: Cluster) -> None:
    spec = small_spec(cluster.folder)
    done = cluster.run("sweeper", "run", str(spec), "--name", "exec", "--resume")
    assert done.returncode == 0, done.stdout
    assert "2 of" in done.stdout and "free: " in done.stdout
    statuses = cluster.sql("select status from runs").stdout.split()
    assert statuses == ["FINISHED"] * 3, statuses  # the sweep and two trials
    artifacts = cluster.folder / "sweeps" / "mlartifacts"
    assert list(artifacts.rglob("front.png"))


def test_the_database_and_the_cluster_refuse_others(cluster: Cluster) -> None:
    refused = cluster.sql("select 1", password="another")
    assert refused.returncode != 0
    assert "password authentication failed" in refused.stderr
    other = cluster.folder / "other_token"
    other.write_text("0" * 64)
    environment = {"RAY_AUTH_TOKEN_PATH": str(other)}
    done = cluster.run("sweeper", "run", "quickstart", "--name", "refused", environment=environment)
    assert done.returncode == 3, done.stdout
    assert "refuses the token" in done.stdout and "Traceback" not in done.stdout


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_of_the_manifests_needs_no_token(cluster: Cluster, probe: str) -> None:
    asked = pods("raycluster.yaml")[0]["containers"][0][probe]["httpGet"]
    url = f"http://127.0.0.1:{cluster.ports[asked['port']]}{asked['path']}"
    until = time.monotonic() + PATIENCE_S
    while (code := status(url)) == 503 and time.monotonic() < until:  # not ready: Kubernetes asks again too
        time.sleep(1)
    assert code == 200


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_jobs_need_the_token(cluster: Cluster) -> None:
    assert status(f"http://127.0.0.1:{cluster.ports[8265]}/api/jobs/") in (401, 403)


def test_the_entrypoint_of_the_rayjob_resumes_after_its_driver_was_killed(cluster: Cluster) -> None:
    """The second submission of the same line, as after a retry, ends the sweep with the trials of the first."""
    spec = small_spec(cluster.folder)
    entrypoint = manifest("rayjob.yaml")["spec"]["entrypoint"].replace("/spec/sweep.yaml", str(spec)).split()
    sweep = cluster.folder / "sweeps" / "sweep"
    submit = [
        str(PROGRAMS / "ray"),
        *("job", "submit", f"--address=http://127.0.0.1:{cluster.ports[8265]}", "--", *entrypoint),
    ]
    log = cluster.folder.parent / "job.log"
    with log.open("wb") as out:
        first = subprocess.Popen(submit, env=dict(cluster.environment), stdout=out, stderr=subprocess.STDOUT)
    wait_until("a trial", lambda: bool(list(sweep.glob("trials/*/metrics.jsonl"))), first, log)
    driver = json.loads((sweep / "lease.json").read_text())["pid"]
    os.kill(driver, signal.SIGKILL)
    assert first.wait(timeout=PATIENCE_S) != 0
    before = {path.parent.name for path in sweep.glob("trials/*/trial.json")}

    done = cluster.run(*("ray", *submit[1:]))
    assert done.returncode == 0, done.stdout
    shown = cluster.run("sweeper", "trials", "sweep", "--format", "json")
    trials = json.loads(shown.stdout)
    assert [trial["state"] for trial in trials] == ["complete"] * 2, trials
    assert before <= {path.parent.name for path in sweep.glob("trials/*/trial.json")}


def test_the_head_ends_at_sigterm(cluster: Cluster) -> None:
    """Last: `docker compose stop` gives it a minute."""
    period = yaml.safe_load(str(services()["head"]["stop_grace_period"]).removesuffix("s"))
    assert period == STOP_S
    cluster.head.terminate()
    cluster.head.wait(timeout=STOP_S)
