"""The folder of a sweep, ``<storage>/<name>/``: its spec, study, trials, test measurements and lease."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pwd
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.commands import command, shown_storage
from sweeper.errors import UnavailableError, UserError
from sweeper.records import Confirmation, PointName, SecondLooks, UntouchedModel
from sweeper.spec.spec import Spec
from sweeper.storage.files import read_if_whole, read_record, replace_text, storage_in_reach
from sweeper.storage.lease import HeldLease, Lease
from sweeper.storage.remote_storage import remote_storage
from trainables.files import remove_partial_files, sync_folder
from trainables.json_lines import append_line, read_lines
from trainables.records import Measurement, SecondLook
from trainables.training.trial_folder import TrialFolder

SPEC_FILE = "spec.resolved.json"
ABOUT_FILE = "sweep.json"
UNTOUCHED_FILE = "untouched.json"
MEASUREMENTS_FILE = "test.jsonl"
SECOND_LOOK_FILE = "second_look.jsonl"
CONFIRMATIONS_FILE = "confirm.json"

_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.(?P<state>new|removed)")
"""Folders of sweeps that are being made or removed."""
_EARLIER_PART = re.compile(r"\.[^.].*\.\d+")
"""Names ``.NAME.PID`` and ``.NAME.ATTEMPT.PID`` of unfinished files of earlier versions."""


class SweepFolder:
    """Paths and records of one sweep. Every write replaces or appends as a whole."""

    def __init__(self, storage: Path, name: str) -> None:
        """Name the folder; it need not exist.

        Raises:
            UserError: the name is that of another place than a folder in the storage.
        """
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UserError(f"no sweep {name!r} in {storage}: the name of a sweep is the name of a folder in it")
        self.storage, self.name = storage.absolute(), name
        self.path = self.storage / name
        found = remote_storage(self.storage)
        self.remote = None if found is None else found.sweep(name)
        """The sweep in a bucket; None where the storage is a folder."""
        self._created: _Created | None = None

    @property
    def study_path(self) -> Path:
        return self.path / "study.db"

    @property
    def log_path(self) -> Path:
        """Return the file with the lines of all sessions: what ``sweeper run`` prints where there is no terminal."""
        return self.path / "log.txt"

    @property
    def front_path(self) -> Path:
        return self.path / "front"

    @property
    def cache_path(self) -> Path:
        """Return the folder of prepared images and reference embeddings, shared by the sweeps of a storage."""
        return self.storage / "cache"

    def trial(self, number: int, *, attempt: int = 1) -> TrialFolder:
        """Return the folder of a trial.

        Args:
            attempt: number of the attempt that writes into it.
        """
        return TrialFolder(self.path / "trials" / f"{number:05d}", attempt=attempt)

    def answers_path(self, point: PointName) -> Path:
        """Return the file of a point's answers on the test images."""
        trial, weights, strength = point
        name = "untouched" if trial is None else f"{trial:05d}-{weights}-{strength:g}"
        return self.path / "answers" / f"{name}.csv.gz"

    def retrieved_path(self, point: PointName) -> Path:
        """Return the file with the data of a point's picture, for tasks that draw retrievals."""
        answers = self.answers_path(point)
        return answers.with_name(answers.name.removesuffix(".csv.gz") + ".retrieved.npz")

    def command(self, verb: str, *words: str) -> str:
        """Return the command ``sweeper VERB NAME ...`` for this sweep, to be copied into a shell."""
        return command(verb, self.name, *words, storage=self.storage)

    def exists(self) -> bool:
        return (self.path / SPEC_FILE).exists()

    def has_begun(self) -> bool:
        """Return whether the untouched model was measured; before that there is nothing to be resumed."""
        return (self.path / UNTOUCHED_FILE).exists()

    def create(self, spec: Spec, text: str, commit: str | None = None, warm_start: Sequence[str] = ()) -> None:
        """Make the folder of a new sweep that no process runs yet; arguments and errors of ``create_and_hold``."""
        self.create_and_hold(spec, text, commit, warm_start).release()

    def create_and_hold(
        self,
        spec: Spec,
        text: str,
        commit: str | None = None,
        warm_start: Sequence[str] = (),
        on_lost: Callable[[str], None] | None = None,
    ) -> HeldLease:
        """Make the folder of a new sweep and return its lease. At every moment either both exist or neither.

        Args:
            text: the spec as the user wrote it.
            commit: commit of the repository that the spec lies in.
            warm_start: sweeps that the search learns from.
            on_lost: see ``Lease.hold``.

        Raises:
            NameTakenError: the name is taken.
            UnavailableError: the storage fails.
        """
        if self.remote is not None:
            return self._create_in_bucket(spec, text, commit, warm_start, on_lost)
        return self._create_here(spec, text, commit, warm_start, on_lost)

    def _create_in_bucket(
        self,
        spec: Spec,
        text: str,
        commit: str | None,
        warm_start: Sequence[str],
        on_lost: Callable[[str], None] | None,
    ) -> HeldLease:
        """Take the name in the bucket, then make the folder on this machine; what an earlier sweep has left goes."""
        assert self.remote is not None
        held = self.remote.lease.create()
        if held is None and self.remote.bucket.stamp(f"{self.name}/{SPEC_FILE}") is None:
            held = self.remote.lease.hold()  # of a sweep that could not start, or was deleted, the leases are left
        if held is None:
            raise NameTakenError(
                f"a sweep {self.name!r} exists in {self.remote.bucket.uri}; go on with "
                f"`{self.command('resume')}`, or start another with --name OTHER (--new takes the next free name)"
            )
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            lease = self._create_here(spec, text, commit, warm_start, on_lost)
        except BaseException:
            held.release()
            raise
        lease.join(held)
        return lease

    def _create_here(
        self,
        spec: Spec,
        text: str,
        commit: str | None,
        warm_start: Sequence[str],
        on_lost: Callable[[str], None] | None,
    ) -> HeldLease:
        with storage_in_reach():
            self._check_free()
            hidden, storage_is_new = _hidden_folder(self.storage, self.name)
            lease: HeldLease | None = None
            try:
                lease = Lease(hidden, self.name).hold(on_lost)
                about = {"sweep_id": uuid.uuid4().hex, "created_s": time.time(), "git_commit": commit}
                _write_json(hidden / ABOUT_FILE, about | {"warm_start": list(warm_start)})
                replace_text(hidden / "spec.yaml", text)
                _write_json(hidden / SPEC_FILE, spec.resolved())
                try:
                    os.rename(hidden, self.path)  # refused unless the target is missing or an empty folder
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        self._check_free()
                    raise
                sync_folder(self.storage)
            except BaseException:
                if lease is not None:
                    lease.release()
                shutil.rmtree(hidden, ignore_errors=True)
                if storage_is_new:
                    _remove_if_empty(self.storage)
                raise
            lease.moved(self.path)
            self._created = _Created(str(about["sweep_id"]), storage_is_new)
            _remove_abandoned(self.storage)
        return lease

    def remove_unstarted(self, lease: HeldLease) -> None:
        """Remove a sweep that this object has created and that could not start, and release its lease.

        Nothing is removed if the untouched model has been measured, or if another sweep has this name now. The storage
        is removed too if it was made for this sweep and holds nothing else.
        """
        created = self._created
        if created is None or self.has_begun():
            return
        # After the renaming another sweep may have the name: the lease must not be renewed there.
        lease.stop_renewing()
        with storage_in_reach():
            if not lease.is_current() or self.sweep_id != created.sweep_id:
                return
        self.remove(lease)
        if created.storage_too:
            _remove_if_empty(self.storage)

    def remove(self, lease: HeldLease) -> None:
        """Remove the sweep, whose lease the caller holds, and release the lease. It is removed whole, or not at all."""
        lease.stop_renewing()
        if self.remote is not None:
            self.remote.remove()
        removed = self.storage / f".{self.name}.{uuid.uuid4().hex}.removed"
        with storage_in_reach():
            os.rename(self.path, removed)
        lease.moved(removed)
        lease.release()
        shutil.rmtree(removed, ignore_errors=True)

    def _check_free(self) -> None:
        """Check that the path of a new sweep is free.

        Raises:
            NameTakenError: it is not.
        """
        if not os.path.lexists(self.path) or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        # In this order: another process's sweep appears at once, but may do so between two checks.
        if self.exists():
            raise NameTakenError(
                f"a sweep {self.name!r} exists in {self.storage}; go on with `{self.command('resume')}`, "
                "or start another with --name OTHER (--new takes the next free name)"
            )
        if self.path.is_dir() and {path.name for path in self.path.glob("[!.]*")} <= {"spec.yaml", ABOUT_FILE}:
            raise NameTakenError(
                f"{self.path} was begun by an earlier version of sweeper, which was killed: it is not a sweep. Delete "
                "the folder, or take another name with --name OTHER"
            )
        raise NameTakenError(f"{self.path} exists and is not a sweep; take another name with --name OTHER")

    def remove_partial_files(self) -> None:
        """Delete the partial files that killed writes have left, including those of earlier versions.

        Only the holder of the lease may call this, before any other write into the folder.
        """
        with storage_in_reach():
            trials = self.path / "trials"
            folders = [self.path, self.front_path, self.path / "answers"]
            folders += [path for path in trials.iterdir() if path.is_dir()] if trials.is_dir() else []
            for folder in folders:
                remove_partial_files(folder)
                for path in folder.glob(".*"):
                    if _EARLIER_PART.fullmatch(path.name) and path.is_file():
                        path.unlink(missing_ok=True)

    def save_spec(self, spec: Spec) -> None:
        self.write_json(SPEC_FILE, spec.resolved())

    def spec(self) -> Spec:
        """Return the resolved spec.

        Raises:
            UserError: the sweep does not exist, or its spec is damaged.
        """
        if not self.exists():
            found = remote_storage(self.storage)
            known = ", ".join(names(self.storage) if found is None else found.names()) or "none"
            where = shown_storage(self.storage)
            raise UserError(f"no sweep {self.name!r} in {where}; there are: {known}. Name another --storage?")
        path = self.path / SPEC_FILE
        record = read_record(path, "restore it from a backup; spec.yaml holds the spec as it was written")
        try:
            return Spec.from_resolved(record)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @property
    def sweep_id(self) -> str:
        return str(self._about["sweep_id"])

    @property
    def git_commit(self) -> str | None:
        """Return the commit of the repository that the spec lay in when the sweep began; None outside a repository."""
        commit: str | None = self._about.get("git_commit")
        return commit

    @property
    def warm_start(self) -> list[str]:
        """Return the names of the sweeps in the same storage that this sweep's search learns from."""
        names: list[str] = self._about.get("warm_start", [])
        return names

    @property
    def _about(self) -> dict[str, Any]:
        return _read_about(self.path)

    def untouched(self) -> UntouchedModel | None:
        """Return the first workers' measurements of the untouched model; None before.

        A damaged file is not simply measured again, because a resumed sweep compares its digests with model and images.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / UNTOUCHED_FILE
        if not path.exists():
            return None
        advice = (
            f"restore it from a backup, or delete it: `{self.command('resume')}` then measures the untouched "
            "model again, but can no longer tell whether model and images are those that the sweep began with"
        )
        record = read_record(path, advice)
        try:
            return UntouchedModel.from_json(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a record of an untouched model: {error!r}; {advice}") from error

    def write_untouched(self, untouched: UntouchedModel) -> None:
        self.write_json(UNTOUCHED_FILE, untouched.to_json())

    def append_measurement(self, point: PointName, measured: Measurement) -> None:
        """Record the test metrics of a point, which is measured once; the line is on disk when this returns.

        Raises:
            UnavailableError: the storage fails.
        """
        trial, weights, strength = point
        place = {"trial": trial, "weights": weights, "strength": strength}
        append_line(self.path / MEASUREMENTS_FILE, {**place, **measured.to_json()})

    def measurements(self) -> dict[PointName, Measurement]:
        """Return the test metrics by point. Of several lines of a point the first counts; damaged lines are ignored."""
        by_point: dict[PointName, Measurement] = {}
        with storage_in_reach():
            records = read_lines(self.path / MEASUREMENTS_FILE)
        for record in records:
            try:
                point = (record["trial"], record["weights"], record["strength"])
                by_point.setdefault(point, Measurement.from_json(record))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return by_point

    def append_second_look(self, point: PointName, looked: SecondLook) -> None:
        """Record the second look's values of a point; the line is on disk when this returns."""
        trial, weights, strength = point
        place = {"trial": trial, "weights": weights, "strength": strength}
        append_line(self.path / SECOND_LOOK_FILE, {**place, **looked.to_json()})

    def end_second_look(self, trials: int) -> None:
        """Record that the second look has a line for each of its points.

        Args:
            trials: number of complete trials of the search.
        """
        append_line(self.path / SECOND_LOOK_FILE, {"complete_trials": trials})

    def second_looks(self) -> SecondLooks:
        """Return the results of second looks. Of several lines of a point the first counts."""
        by_point: dict[PointName, SecondLook] = {}
        trials = 0
        with storage_in_reach():
            records = read_lines(self.path / SECOND_LOOK_FILE)
        for record in records:
            try:
                if "complete_trials" in record:
                    trials = int(record["complete_trials"])
                else:
                    point = (record["trial"], record["weights"], record["strength"])
                    by_point.setdefault(point, SecondLook.from_json(record))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return SecondLooks(points=by_point, trials=trials)

    def write_confirmations(self, confirmations: Mapping[PointName, Confirmation]) -> None:
        """Record the confirmations of the confirm phase, in place of earlier ones."""
        points = [
            {"trial": trial, "weights": weights, "strength": strength, "confirmation": asdict(confirmation)}
            for (trial, weights, strength), confirmation in confirmations.items()
        ]
        self.write_json(CONFIRMATIONS_FILE, {"points": points})

    def confirmations(self) -> dict[PointName, Confirmation]:
        """Return the confirmations by point; empty before the end of a confirm phase, and if the file is damaged."""
        record = read_if_whole(self.path / CONFIRMATIONS_FILE)
        try:
            return {
                (point["trial"], point["weights"], point["strength"]): Confirmation.from_json(point["confirmation"])
                for point in (record or {"points": []})["points"]
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}

    def check_access(self, *, writing: bool) -> None:
        """Check that this user may use the sweep.

        Args:
            writing: whether the sweep is to be run, not only read.

        Raises:
            UnavailableError: the sweep belongs to another user who does not permit it.
        """
        try:
            owner = os.stat(self.path).st_uid
        except OSError:
            return  # the sweep does not exist, or the whole storage cannot be read: reported elsewhere
        wanted = os.R_OK | os.X_OK | (os.W_OK if writing else 0)
        needed = [self.path, self.path / SPEC_FILE, *([self.path / "lease.lock", self.study_path] if writing else [])]
        for path in [path for path in needed if os.path.lexists(path)]:
            if not os.access(path, wanted if path == self.path else wanted & ~os.X_OK) and owner != os.geteuid():
                raise UnavailableError(
                    f"sweep {self.name!r} belongs to {_user_name(owner)}, and {path} may not be "
                    f"{'written to' if writing else 'read'}: ask for access to the folder, or copy it into a storage "
                    "of your own and name that with --storage"
                )

    def is_held(self) -> bool:
        """Return whether a process runs the sweep now, for display."""
        return self.lease.is_held() if self.remote is None else self.remote.lease.is_held()

    def holder(self) -> str | None:
        """Return the process that runs the sweep, also if it was killed; None if there is none."""
        return self.lease.holder() if self.remote is None else self.remote.lease.holder()

    def hold(self) -> HeldLease:
        """Take the lease of the sweep that exists; for a storage in a bucket, there first.

        Raises:
            UserError: another process holds it.
        """
        if self.remote is None:
            return self.lease.hold()
        held = self.remote.lease.hold()
        try:
            self.remote.fetch(ours=True)
            lease = self.lease.hold()
        except BaseException:
            held.release()
            raise
        lease.join(held)
        return lease

    @property
    def lease(self) -> Lease:
        """Return the lease of the sweep."""
        return Lease(self.path, self.name)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of the folder in one step.

        Raises:
            StorageError: the disk fails.
        """
        _write_json(self.path / name, value)


class NameTakenError(UserError):
    """The name of a new sweep is taken."""


@dataclass(frozen=True)
class _Created:
    """A sweep that this process has made."""

    sweep_id: str
    storage_too: bool
    """Whether the storage was made for it."""


def create_under_free_name(
    storage: Path,
    spec: Spec,
    text: str,
    commit: str | None = None,
    warm_start: Sequence[str] = (),
    on_lost: Callable[[str], None] | None = None,
) -> tuple[SweepFolder, Spec, HeldLease]:
    """Make the folder of a new sweep under a free name.

    The name is that in ``spec``, or the first of ``name-2``, ``name-3``, ... that is free. Arguments and errors are
    those of ``SweepFolder.create_and_hold``.

    Returns:
        The folder, the spec under that name, and the lease.
    """
    while True:
        folder = SweepFolder(storage, free_name(storage, spec.name))
        named = spec.model_copy(update={"name": folder.name})
        try:
            return folder, named, folder.create_and_hold(named, text, commit, warm_start, on_lost)
        except NameTakenError:
            continue  # another process was faster


def names(storage: Path) -> list[str]:
    """Return the names of the sweeps of a storage, oldest first.

    They are followed by sweeps whose ``sweep.json`` is damaged, and by folders that cannot be read, which may hold
    sweeps.
    """
    with storage_in_reach():
        folders = [path for path in storage.glob("[!.]*") if _may_hold_a_sweep(path)]
    return [path.name for path in sorted(folders, key=lambda path: (_created_s(path), path.name))]


def free_name(storage: Path, name: str) -> str:
    """Return ``name``, or the first of ``name-2``, ``name-3``, ... that is not taken."""
    candidate, number = name, 1
    remote = remote_storage(storage)
    taken = set() if remote is None else set(remote.bucket.folders())
    while candidate in taken or os.path.lexists(storage / candidate):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _may_hold_a_sweep(folder: Path) -> bool:
    try:
        return (folder / SPEC_FILE).exists()
    except PermissionError:
        return True


def _created_s(folder: Path) -> float:
    try:
        return float(_read_about(folder)["created_s"])
    except (UserError, UnavailableError, KeyError, TypeError, ValueError):
        return math.inf


def _read_about(folder: Path) -> dict[str, Any]:
    """Return the content of ``sweep.json``.

    Raises:
        UserError: the file is damaged.
    """
    path, advice = folder / ABOUT_FILE, "restore it from a backup"
    about = read_record(path, advice)
    if not isinstance(about.get("sweep_id"), str) or not isinstance(about.get("warm_start", []), list):
        raise UserError(f"{path} does not say which sweep this is; {advice}")
    return about


def _write_json(path: Path, value: Any) -> None:
    replace_text(path, json.dumps(value, indent=1) + "\n")


def _hidden_folder(storage: Path, name: str) -> tuple[Path, bool]:
    """Return a new folder in which a sweep is made, and whether the storage had to be made for it."""
    storage_is_new = False
    while True:
        hidden = storage / f".{name}.{uuid.uuid4().hex}.new"
        try:
            hidden.mkdir()
            return hidden, storage_is_new
        except FileNotFoundError:  # no storage, or one that another process has just removed
            storage.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                storage.mkdir()
                storage_is_new = True


def _remove_abandoned(storage: Path) -> None:
    """Remove the hidden folders of killed drivers that were making or removing a sweep.

    The storage was just written to, which gives a time of its clock.
    """
    now_s = storage.stat().st_mtime
    for path in storage.glob(".*"):
        match = _HIDDEN.fullmatch(path.name)
        if match is None:
            continue
        with contextlib.suppress(OSError):
            if match["state"] == "removed":
                shutil.rmtree(path, ignore_errors=True)
            elif Lease(path, match["name"]).is_abandoned(now_s):
                removed = path.with_suffix(".removed")
                os.rename(path, removed)
                shutil.rmtree(removed, ignore_errors=True)


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
