"""The folder of a sweep, ``<storage>/<name>/``: its spec, study, trials and test measurements, and who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.records import Confirmation, PointName
from sweeper.spec.spec import Spec


class SweepFolder:
    """Paths and records of one sweep. Every write replaces or appends as a whole."""

    def __init__(self, storage: Path, name: str) -> None:
        self.storage, self.name = storage.absolute(), name
        self.path = self.storage / name

    @property
    def study_path(self) -> Path:
        return self.path / "study.db"

    @property
    def front_path(self) -> Path:
        return self.path / "front"

    @property
    def cache_path(self) -> Path:
        """Prepared images and reference embeddings, shared by the sweeps of a storage."""
        return self.storage / "cache"

    def trial_path(self, number: int) -> Path:
        return self.path / "trials" / f"{number:05d}"

    def answers_path(self, point: PointName) -> Path:
        """What a point answered on the test images, one by one."""
        trial, weights, strength = point
        name = "untouched" if trial is None else f"{trial:05d}-{weights}-{strength:g}"
        return self.path / "answers" / f"{name}.csv.gz"

    def exists(self) -> bool:
        return (self.path / "spec.resolved.json").exists()

    def create(self, spec: Spec, text: str, commit: str | None = None, warm_start: Sequence[str] = ()) -> None:
        """``commit``: of the repository that the spec lies in; ``warm_start``: sweeps that the search learns from.

        Raises UserError where the name is taken.
        """
        if self.exists():
            raise UserError(
                f"a sweep {self.name!r} exists in {self.storage}; go on with `sweeper resume {self.name}`, "
                "or start another with --name OTHER (--new takes the next free name)"
            )
        # A driver killed in here leaves the first two of its files; the third makes the folder a sweep.
        if self.path.exists() and {path.name for path in self.path.glob("[!.]*")} - {"spec.yaml", "sweep.json"}:
            raise UserError(f"{self.path} exists and is no sweep; take another name with --name OTHER")
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("spec.yaml", text)
        about = {"sweep_id": uuid.uuid4().hex, "created_s": time.time(), "git_commit": commit}
        self.write_json("sweep.json", about | {"warm_start": list(warm_start)})
        self.save_spec(spec)

    def save_spec(self, spec: Spec) -> None:
        self.write_json("spec.resolved.json", spec.resolved())

    def spec(self) -> Spec:
        """Raises UserError where there is no such sweep."""
        if not self.exists():
            known = ", ".join(names(self.storage)) or "none"
            raise UserError(f"no sweep {self.name!r} in {self.storage}; there are: {known}. Name another --storage?")
        return Spec.from_resolved(self.read_json("spec.resolved.json"))

    @property
    def sweep_id(self) -> str:
        return str(self.read_json("sweep.json")["sweep_id"])

    @property
    def git_commit(self) -> str | None:
        """Of the repository that the spec lay in when the sweep began."""
        commit: str | None = self.read_json("sweep.json").get("git_commit")
        return commit

    @property
    def warm_start(self) -> list[str]:
        """Sweeps of the same storage that this one's search learns from."""
        names: list[str] = self.read_json("sweep.json").get("warm_start", [])
        return names

    def untouched(self) -> dict[str, Any] | None:
        """What the first workers measured of the untouched model on validation."""
        return self.read_json("untouched.json") if (self.path / "untouched.json").exists() else None

    def attempts(self, number: int) -> int:
        """How many attempts of a trial have begun."""
        path = self.trial_path(number) / "attempt"
        return int(path.read_text()) if path.exists() else 0

    def append_test(self, point: PointName, measured: dict[str, Any]) -> None:
        """Each point is measured on test once; the line is on disk when this returns."""
        trial, weights, strength = point
        line = json.dumps({"trial": trial, "weights": weights, "strength": strength, **measured})
        path = self.path / "test.jsonl"
        cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" * cut_off + line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def tests(self) -> dict[PointName, dict[str, Any]]:
        """Test measurements by point; the first one counts."""
        path = self.path / "test.jsonl"
        found: dict[PointName, dict[str, Any]] = {}
        for text in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):  # a line cut off by a kill
                line = json.loads(text)
                found.setdefault((line["trial"], line["weights"], line["strength"]), line)
        return found

    def write_confirmations(self, found: Mapping[PointName, Confirmation]) -> None:
        """What the confirm phase found, in place of what an earlier one did."""
        points = [
            {"trial": trial, "weights": weights, "strength": strength, "confirmation": asdict(one)}
            for (trial, weights, strength), one in found.items()
        ]
        self.write_json("confirm.json", {"points": points})

    def confirmations(self) -> dict[PointName, Confirmation]:
        """By point; empty before a confirm phase has ended."""
        if not (self.path / "confirm.json").exists():
            return {}
        found = {}
        for point in self.read_json("confirm.json")["points"]:
            about = dict(point["confirmation"])
            for key in ("intervals", "simultaneous"):
                if about[key] is not None:
                    about[key] = {goal: (low, high) for goal, (low, high) in about[key].items()}
            found[point["trial"], point["weights"], point["strength"]] = Confirmation(**about)
        return found

    def reports(self, number: int) -> list[dict[str, Any]]:
        """A trial's metric lines by step; the last line of a step counts."""
        path = self.trial_path(number) / "metrics.jsonl"
        found: dict[int, dict[str, Any]] = {}
        for text in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                found[line.get("step", line["epoch"])] = line  # earlier versions looked after epochs only
        return [found[step] for step in sorted(found)]

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Holds the sweep for this process. The lock goes with the process, however it dies.

        Raises UserError naming the holder where another process has it.
        """
        with (self.path / "lease.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"sweep {self.name!r} is being run by {self.holder() or 'another process'}; wait for it or end it"
                ) from error
            self.write_json("lease.json", {"host": socket.gethostname(), "pid": os.getpid(), "since_s": time.time()})
            try:
                yield
            finally:
                (self.path / "lease.json").unlink(missing_ok=True)

    def is_running(self) -> bool:
        """Whether a process holds the sweep now."""
        path = self.path / "lease.lock"
        if not path.exists():
            return False
        with path.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False

    def holder(self) -> str | None:
        """Who holds the sweep, or held it last and was killed."""
        try:
            lease = self.read_json("lease.json")
        except (OSError, ValueError):
            return None
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(lease["since_s"]))
        return f"process {lease['pid']} on {lease['host']} since {since}"

    def read_json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.path / name).read_text())
        return value

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_text(text)
        os.replace(part, target)


def names(storage: Path) -> list[str]:
    """The sweeps of a storage, oldest first."""
    found = [path.parent for path in storage.glob("*/sweep.json") if (path.parent / "spec.resolved.json").exists()]
    return [
        path.name for path in sorted(found, key=lambda path: json.loads((path / "sweep.json").read_text())["created_s"])
    ]


def free_name(storage: Path, name: str) -> str:
    """``name``, or the first of ``name-2``, ``name-3``, ... that is not taken."""
    candidate, number = name, 1
    while (storage / candidate).exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate
