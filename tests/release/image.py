"""``make image-test``: the images of docker/Dockerfile are built from the tracked files, and run sweeps.

Docker, podman or buildah builds and runs, whichever works here. ``--base`` names another base image than the
Dockerfile's. Where that one cannot be pulled, buildah takes a ``python:3.11-slim`` that is on this machine: a machine
without an image registry can make that one by itself. ``--only cpu`` or ``--only cuda`` makes one image, ``--keep``
leaves them there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from sweeper.version import __version__
from tests.paths import ROOT
from tests.release.cpu_index import CPU_INDEX, constrained, is_reachable, stand_in
from tests.release.environments import CheckError

VARIANTS = ("cuda", "cpu")
FLOATING_BASE = "docker.io/library/python:3.11-slim"
USER = 4321
"""A user whom the images do not know, as `docker run --user "$(id -u):$(id -g)"` names one."""
FREE_BYTES = 25e9
PATIENCE_S = 900.0
SMALL = ("--set", "training.epochs=1", "--set", "sets.world.train=256", "--set", "sets.world.test=200")
HEALTH = ("python", "-I", "/usr/local/share/sweeper/health.py")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that ended in a container."""

    code: int
    text: str


class Engine:
    """Docker or podman; their command lines agree in what is used here."""

    def __init__(self, program: str) -> None:
        self.program = program

    def build(self, tag: str, context: Path, arguments: Mapping[str, str]) -> None:
        """Build the Dockerfile of a context. Raise CheckError where that fails."""
        words = [self.program, "build", *self._build_words(), "-f", str(context / "docker/Dockerfile"), "-t", tag]
        for name, value in arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        done = subprocess.run([*words, str(context)], capture_output=True, text=True)
        if done.returncode != 0:
            raise CheckError(
                f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )

    def inspect(self, tag: str) -> tuple[dict[str, object], int]:
        """Return an image's configuration and its size in bytes."""
        done = subprocess.run([self.program, "inspect", tag], capture_output=True, text=True, check=True)
        (record,) = json.loads(done.stdout)
        return record["Config"], int(record["Size"])

    @contextmanager
    def container(self, tag: str, folder: Path, user: int | None) -> Iterator[Container]:
        """A container of an image, with a folder at /data, as a user; None: the image's own."""
        words = [self.program, "run", "--rm", "--init", "--shm-size=2g", "--network=host", "-v", f"{folder}:/data"]
        yield Container([*words, *([f"--user={user}:{user}"] if user is not None else [])], tag, [])

    def remove(self, tag: str) -> None:
        """Remove an image."""
        subprocess.run([self.program, "rmi", tag], capture_output=True)

    def _build_words(self) -> list[str]:
        return ["--network=host"]


class Buildah(Engine):
    """buildah with chroot isolation, which needs neither a daemon nor control groups."""

    def __init__(self) -> None:
        super().__init__("buildah")
        os.environ.setdefault("STORAGE_DRIVER", "overlay")
        os.environ.setdefault("BUILDAH_ISOLATION", "chroot")

    def base(self) -> str:
        """Return the Dockerfile's base image, or where it cannot be pulled the stand-in that is on this machine.

        Raises:
            CheckError: neither is.
        """
        (wanted,) = re.findall(r"^ARG BASE=(\S+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
        pinned = f"docker.io/library/{wanted}"
        pulled = subprocess.run(["buildah", "pull", "--policy=missing", "-q", pinned], capture_output=True)
        if pulled.returncode == 0:
            return pinned
        here = subprocess.run(["buildah", "inspect", "--type=image", FLOATING_BASE], capture_output=True)
        if here.returncode == 0:
            return FLOATING_BASE
        raise CheckError(f"{wanted} cannot be pulled, and {FLOATING_BASE} is not here; name a base with BASE=...")

    def inspect(self, tag: str) -> tuple[dict[str, object], int]:
        done = subprocess.run(["buildah", "inspect", "--type=image", tag], capture_output=True, text=True, check=True)
        record = json.loads(done.stdout)["Docker"]
        listed = subprocess.run(["buildah", "images", "--json", tag], capture_output=True, text=True, check=True)
        return record["config"], _bytes(json.loads(listed.stdout)[0]["size"])

    @contextmanager
    def container(self, tag: str, folder: Path, user: int | None) -> Iterator[Container]:
        made = subprocess.run(["buildah", "from", "--pull-never", tag], capture_output=True, text=True, check=True)
        name = made.stdout.strip()
        entry = self.inspect(tag)[0]["Entrypoint"]
        assert isinstance(entry, list)
        words = ["buildah", "run", "--network=host", "-v", f"{folder}:/data"]
        words += [f"--user={user}:{user}"] if user is not None else []
        try:
            yield Container([*words, name, "--"], None, entry)
        finally:
            subprocess.run(["buildah", "rm", name], capture_output=True)

    def _build_words(self) -> list[str]:
        return ["--format=docker", "--layers", "--network=host", "--pull-never"]


class Container:
    """Commands in a container."""

    def __init__(self, words: Sequence[str], tag: str | None, entry: Sequence[str]) -> None:
        """Prepare commands.

        Args:
            words: what runs a command in the container.
            tag: the image, where ``words`` do not name it and the engine adds the entry point by itself.
            entry: the entry point, where the engine does not add it.
        """
        self._words, self._tag, self._entry = list(words), tag, list(entry)

    def sweeper(self, *arguments: str) -> list[str]:
        """Return the command line of ``sweeper`` with arguments, by the image's entry point."""
        return [*self._words, *([self._tag] if self._tag else []), *self._entry, *arguments]

    def program(self, *command: str) -> list[str]:
        """Return the command line of another program in the image."""
        own = ["--entrypoint", command[0], self._tag] if self._tag else [command[0]]
        return [*self._words, *own, *command[1:]]


def ran(command: Sequence[str]) -> Done:
    """Run a command to its end."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S)
    return Done(code=done.returncode, text=done.stdout)


def expect(what: str, holds: bool, seen: object) -> None:
    """Say that something holds, or raise CheckError with what was seen."""
    if not holds:
        raise CheckError(f"{what}: does not hold; seen: {seen}")
    print(f"  {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="base image, instead of the Dockerfile's")
    parser.add_argument("--only", choices=VARIANTS)
    parser.add_argument("--keep", action="store_true", help="leave the images where they are")
    arguments = parser.parse_args()
    engine = _engine()
    base = arguments.base or (engine.base() if isinstance(engine, Buildah) else None)
    print(f"{engine.program}; base: {base or 'that of the Dockerfile'}", flush=True)
    for variant in VARIANTS:
        if arguments.only in (None, variant):
            with tempfile.TemporaryDirectory(prefix="sweeper-image-") as temporary:
                _check(engine, variant, base, Path(temporary), arguments.keep)


def _engine() -> Engine:
    """Return the first engine that answers."""
    for program in ("docker", "podman"):
        if shutil.which(program) and subprocess.run([program, "ps"], capture_output=True).returncode == 0:
            return Engine(program)
    if shutil.which("buildah"):
        return Buildah()
    raise CheckError("neither docker nor podman answers, and buildah is not installed")


def _check(engine: Engine, variant: str, base: str | None, temporary: Path, keep: bool) -> None:
    if shutil.disk_usage(temporary).free < FREE_BYTES:
        raise CheckError(f"less than {FREE_BYTES / 1e9:g} GB are free in {temporary}")
    tag = f"sweeper:test-{variant}"
    try:
        _build(engine, variant, tag, base, temporary)
        _look(engine, tag)
        folder = temporary / "data"
        folder.mkdir()
        os.chown(folder, USER, USER) if os.geteuid() == 0 else folder.chmod(0o777)
        temporary.chmod(0o755)
        _run_sweep(engine, tag, folder)
        if variant == "cuda":
            _stop_and_resume(engine, tag, folder)
    finally:
        if not keep:
            engine.remove(tag)


def _build(engine: Engine, variant: str, tag: str, base: str | None, temporary: Path) -> None:
    context = temporary / "context"
    _copy_tracked(context)
    arguments = {"VERSION": __version__, **({"BASE": base} if base is not None else {})}
    start_s = time.monotonic()
    if variant == "cuda":
        engine.build(tag, context, arguments)
        torch = "PyPI's torch, with CUDA"
    elif is_reachable(CPU_INDEX):
        engine.build(tag, context, {**arguments, "TORCH_INDEX": CPU_INDEX})
        torch = f"torch of {CPU_INDEX}"
    else:
        (context / "constraints.txt").write_text(constrained((context / "constraints.txt").read_text()))
        with stand_in(temporary / "index") as url:
            engine.build(tag, context, {**arguments, "TORCH_INDEX": url})
        torch = f"a stand-in, because {CPU_INDEX} is not reachable: tests/release/cpu_index.py"
    print(f"{tag}: built in {time.monotonic() - start_s:.0f} s; {torch}", flush=True)


def _copy_tracked(context: Path) -> None:
    """Copy what git tracks, as a fresh clone has it, with changes that are not committed yet."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)


def _look(engine: Engine, tag: str) -> None:
    configuration, size_bytes = engine.inspect(tag)
    print(f"  {size_bytes / 1e9:.1f} GB", flush=True)
    user, labels = str(configuration.get("User")), configuration.get("Labels")
    expect("its user is a number other than 0", re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) is not None, user)
    assert isinstance(labels, dict)
    expect("it is labelled with its version", labels.get("org.opencontainers.image.version") == __version__, labels)
    expect("it has a health check", bool(configuration.get("Healthcheck")), configuration)


def _run_sweep(engine: Engine, tag: str, folder: Path) -> None:
    with engine.container(tag, folder, None) as own:
        version = ran(own.sweeper("--version"))
        expect("sweeper --version", version.code == 0 and __version__ in version.text, version)
        who = ran(own.program("id", "-u"))
        expect("it runs as user 1000", who.text.strip() == "1000", who)
        if os.geteuid() == 0:
            refused = ran(own.sweeper("run", "quickstart", "--trials", "2"))
            told = refused.code == 3 and "cannot be written to" in refused.text and "Traceback" not in refused.text
            expect("a folder that the user may not write is told", told, refused)
    with engine.container(tag, folder, USER) as mounted:
        start_s = time.monotonic()
        done = ran(mounted.sweeper("run", "quickstart", "--trials", "2", *SMALL))
        front = folder / "sweeps/quickstart/front/front.json"
        expect(f"a sweep of 2 trials, {time.monotonic() - start_s:.0f} s", done.code == 0 and front.exists(), done)
        owner = front.stat().st_uid
        expect("its files belong to who ran it", owner == (USER if os.geteuid() == 0 else os.geteuid()), owner)
        shown = ran(mounted.sweeper("front", "quickstart"))
        expect("sweeper front reads it", shown.code == 0 and "untouched" in shown.text, shown)


def _stop_and_resume(engine: Engine, tag: str, folder: Path) -> None:
    """SIGTERM to the process in the container, as `docker stop` sends it, and the same command again."""
    with engine.container(tag, folder, USER) as mounted:
        command = mounted.sweeper("run", "quickstart", "--name", "stopped", "--trials", "3", "--resume", *SMALL)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
            _wait_for_training(running, folder / "sweeps/stopped")
            health = ran(mounted.program(*HEALTH))
            expect("the health check passes while it runs", health.code == 0, health)
            _driver(running.pid).send_signal(signal.SIGTERM)
            text, _ = running.communicate(timeout=PATIENCE_S)
        expect("SIGTERM ends it with 130 and the command to go on", "resume stopped" in text, text)
        expect("its exit code is 130", running.returncode == 130, running.returncode)
        done = ran(command)
        expect("the same command with --resume ends it", done.code == 0, done)


def _wait_for_training(running: subprocess.Popen[str], sweep: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not list(sweep.glob("trials/*/metrics.jsonl")):
        if running.poll() is not None or time.monotonic() > until:
            raise CheckError(f"no trial began: {running.communicate(timeout=10)[0][-3000:]}")
        time.sleep(0.5)


def _driver(pid: int) -> psutil.Process:
    """Return the process of sweeper in a container: below the engine's, or anywhere for an engine with a daemon."""
    below = psutil.Process(pid).children(recursive=True)
    for process in [*below, *psutil.process_iter()]:
        words = process.cmdline()
        if [Path(word).name for word in words[:3]] == ["python", "sweeper", "run"] and "stopped" in words:
            return process
    raise CheckError("the process of sweeper is not there")


def _bytes(text: str) -> int:
    """Return the bytes that buildah prints as 6.8 GB."""
    number, unit = text.split()
    return int(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])


if __name__ == "__main__":
    main()
