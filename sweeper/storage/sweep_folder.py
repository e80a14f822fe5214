"""The folder of a sweep, ``<storage>/<name>/``: its spec, study, trials, test measurements and lease."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.records import Confirmation, PointName, UntouchedModel
from sweeper.spec.spec import Spec
from sweeper.storage.files import write_text
from sweeper.storage.lease import Lease
from trainables.json_lines import append_line, read_lines
from trainables.records import Measurement
from trainables.training.trial_folder import TrialFolder

UNTOUCHED_FILE = "untouched.json"
MEASUREMENTS_FILE = "test.jsonl"
CONFIRMATIONS_FILE = "confirm.json"


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

    def trial(self, number: int, *, attempt: int = 1) -> TrialFolder:
        """Return the folder of a trial; ``attempt``: of the one who writes into it."""
        return TrialFolder(self.path / "trials" / f"{number:05d}", attempt=attempt)

    def answers_path(self, point: PointName) -> Path:
        """Return the file of a point's answers on the test images."""
        trial, weights, strength = point
        name = "untouched" if trial is None else f"{trial:05d}-{weights}-{strength:g}"
        return self.path / "answers" / f"{name}.csv.gz"

    def exists(self) -> bool:
        return (self.path / "spec.resolved.json").exists()

    def create(self, spec: Spec, text: str, commit: str | None = None, warm_start: Sequence[str] = ()) -> None:
        """Make the folder of a new sweep.

        Args:
            text: of the spec as the user wrote it.
            commit: of the repository that the spec lies in.
            warm_start: sweeps that the search learns from.

        Raise UserError where the name is taken.
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
        """Return the resolved spec. Raise UserError where there is no such sweep."""
        if not self.exists():
            known = ", ".join(names(self.storage)) or "none"
            raise UserError(f"no sweep {self.name!r} in {self.storage}; there are: {known}. Name another --storage?")
        return Spec.from_resolved(self.read_json("spec.resolved.json"))

    @property
    def sweep_id(self) -> str:
        return str(self.read_json("sweep.json")["sweep_id"])

    @property
    def git_commit(self) -> str | None:
        """Commit of the repository that the spec lay in when the sweep began; None outside of one."""
        commit: str | None = self.read_json("sweep.json").get("git_commit")
        return commit

    @property
    def warm_start(self) -> list[str]:
        """Sweeps of the same storage that this one's search learns from."""
        names: list[str] = self.read_json("sweep.json").get("warm_start", [])
        return names

    def untouched(self) -> UntouchedModel | None:
        """Return what the first workers measured of the untouched model; None before."""
        path = self.path / UNTOUCHED_FILE
        return UntouchedModel.from_json(json.loads(path.read_text())) if path.exists() else None

    def write_untouched(self, untouched: UntouchedModel) -> None:
        self.write_json(UNTOUCHED_FILE, untouched.to_json())

    def append_measurement(self, point: PointName, measured: Measurement) -> None:
        """Record the test metrics of a point, which is measured once; the line is on disk when this returns."""
        trial, weights, strength = point
        place = {"trial": trial, "weights": weights, "strength": strength}
        append_line(self.path / MEASUREMENTS_FILE, {**place, **measured.to_json()})

    def measurements(self) -> dict[PointName, Measurement]:
        """Return the test metrics by point. Of several lines of a point the first one counts."""
        by_point: dict[PointName, Measurement] = {}
        for line in read_lines(self.path / MEASUREMENTS_FILE):
            point = (line["trial"], line["weights"], line["strength"])
            by_point.setdefault(point, Measurement.from_json(line))
        return by_point

    def write_confirmations(self, confirmations: Mapping[PointName, Confirmation]) -> None:
        """Record what the confirm phase measured, in place of what an earlier one did."""
        points = [
            {"trial": trial, "weights": weights, "strength": strength, "confirmation": asdict(confirmation)}
            for (trial, weights, strength), confirmation in confirmations.items()
        ]
        self.write_json(CONFIRMATIONS_FILE, {"points": points})

    def confirmations(self) -> dict[PointName, Confirmation]:
        """Return them by point; empty before a confirm phase has ended."""
        if not (self.path / CONFIRMATIONS_FILE).exists():
            return {}
        points = self.read_json(CONFIRMATIONS_FILE)["points"]
        return {
            (point["trial"], point["weights"], point["strength"]): Confirmation.from_json(point["confirmation"])
            for point in points
        }

    @property
    def lease(self) -> Lease:
        """Who may run the sweep."""
        return Lease(self.path, self.name)

    def read_json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.path / name).read_text())
        return value

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Replace a file of the folder in one step."""
        write_text(self.path / name, text)


def names(storage: Path) -> list[str]:
    """Return the names of the sweeps of a storage, oldest first."""
    folders = [path.parent for path in storage.glob("*/sweep.json") if (path.parent / "spec.resolved.json").exists()]
    created_s = {path: json.loads((path / "sweep.json").read_text())["created_s"] for path in folders}
    return [path.name for path in sorted(folders, key=lambda path: created_s[path])]


def free_name(storage: Path, name: str) -> str:
    """Return ``name``, or the first of ``name-2``, ``name-3``, ... that is not taken."""
    candidate, number = name, 1
    while (storage / candidate).exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate
