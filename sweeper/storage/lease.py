"""The right to run a sweep: one process at a time, among all machines that see its folder.

On one machine the lock on ``lease.lock`` decides; the kernel releases it when its process ends, in any way. On a shared
folder a lock may be visible on its own machine only, or outlive a machine that lost its power. So the holder renews
``lease.json`` every ``RENEW_S``, and another machine takes over a lease that it has not seen renewed for ``LEASE_S``.
Clocks of two machines are never compared for that: a watcher waits by its own clock whether the file changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sweeper.errors import UserError
from sweeper.storage.files import replace_text, storage_in_reach

if TYPE_CHECKING:
    from sweeper.remote.bucket_lease import HeldBucketLease

RENEW_S = 5.0
LEASE_S = 30.0
CLOCKS_DIFFER_S = 60.0
"""Allowed difference in seconds between the clocks of two machines when a lease is only shown."""
ABANDONED_S = 3600.0
"""Seconds after which the folder that a process of another machine was making counts as abandoned."""
_LOCK_PATIENCE_S = 1.0
"""Seconds to wait for the lock: ``status`` tests it for a moment, which is no reason to refuse the lease."""


class Lease:
    """The right to run the sweep in a folder."""

    def __init__(self, folder: Path, sweep: str, *, renew_s: float = RENEW_S, lease_s: float = LEASE_S) -> None:
        """Prepare to take or show the lease of a folder.

        Args:
            renew_s: seconds between renewals.
            lease_s: seconds for which a lease is valid without renewal; several times ``renew_s``.
        """
        self._folder, self._sweep = folder, sweep
        self._lock_path, self._holder_path = _paths(folder)
        self._renew_s, self._lease_s = renew_s, lease_s

    def hold(self, on_lost: Callable[[str], None] | None = None) -> HeldLease:
        """Take the lease, a context manager that releases it. Its process keeps it until the process ends.

        Waits up to ``lease_s`` if a process of another machine held the lease last.

        Args:
            on_lost: called on a thread, with a line that names the new holder, if this process was stopped for so long
                that another machine took over. Without it the process prints the line and ends at once, with exit code
                3.

        Raises:
            UserError: another process has the lease; the message names it.
        """
        with storage_in_reach():
            while True:
                lock = self._locked()
                try:
                    seen = _look(self._holder_path)
                    holder = None if seen is None else seen.holder
                    if seen is None or holder is None or holder.is_decided_by_lock:
                        if lock is None:
                            raise self._taken_error(holder)
                        return self._take(lock, on_lost)
                    if self._stays_unchanged(seen):
                        return self._take_over(seen, on_lost)
                except BaseException:
                    if lock is not None:
                        lock.close()
                    raise
                if lock is not None:
                    lock.close()

    def is_held(self) -> bool:
        """Return whether a process holds the lease now, for display."""
        with storage_in_reach():
            seen = _look(self._holder_path)
            if seen is None or seen.holder is None or seen.holder.is_decided_by_lock:
                return _is_locked(self._lock_path)
            return time.time() - seen.renewed_s <= self._lease_s + CLOCKS_DIFFER_S

    def is_abandoned(self, now_s: float) -> bool:
        """Return whether a folder that is being made is abandoned, so that it can be removed.

        Args:
            now_s: a time of the clock that dates the storage's files, in seconds since 1970.
        """
        seen = _look(self._holder_path)
        if seen is not None and seen.holder is not None and seen.holder.is_decided_by_lock:
            return not _is_locked(self._lock_path)
        # The folder of another machine's process, or of one that has not written its name yet.
        renewed_s = self._folder.stat().st_mtime if seen is None else seen.renewed_s
        return now_s - renewed_s > ABANDONED_S

    def holder(self) -> str | None:
        """Return the holder of the lease, also if it was killed; None if there is none."""
        with storage_in_reach():
            seen = _look(self._holder_path)
        return None if seen is None or seen.holder is None else seen.holder.text

    def _locked(self) -> BinaryIO | None:
        """Return the lock file, locked; None if another process has the lock."""
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                lock = self._lock_path.open("ab")
            except FileNotFoundError as error:
                raise UserError(f"there is no sweep {self._sweep!r} any more: {self._folder} was removed") from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A process that takes a lease over puts a new file here: a lock on the old file has no effect.
                if os.fstat(lock.fileno()).st_ino == _inode(self._lock_path):
                    return lock
                lock.close()
            except BlockingIOError:
                lock.close()
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.05)
            except BaseException:
                lock.close()
                raise

    def _stays_unchanged(self, seen: _Seen) -> bool:
        """Watch the file of another machine's process for ``lease_s``; return whether it can be taken over.

        The result is False if the lease was released meanwhile.

        Raises:
            UserError: the lease was renewed.
        """
        deadline = time.monotonic() + self._lease_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._renew_s / 2))
            now = _look(self._holder_path)
            if now is None:
                return False
            if now != seen:
                raise self._taken_error(now.holder)
        return True

    def _take(self, lock: BinaryIO, on_lost: Callable[[str], None] | None) -> HeldLease:
        holder = Holder.this_process()
        _write_holder(self._holder_path, holder)
        return HeldLease(self._folder, self._sweep, holder, lock, renew_s=self._renew_s, on_lost=on_lost)

    def _take_over(self, seen: _Seen, on_lost: Callable[[str], None] | None) -> HeldLease:
        now = _look(self._holder_path)
        if now is not None and now != seen:
            raise self._taken_error(now.holder)
        holder = Holder.this_process()
        _write_holder(self._holder_path, holder)
        # If several processes take over at once, the last one to write has the lease.
        time.sleep(self._renew_s / 5)
        now = _look(self._holder_path)
        if now is None or now.holder is None or now.holder.token != holder.token:
            raise self._taken_error(None if now is None else now.holder)
        # The old lock file may still be locked for a machine that is gone.
        part = self._lock_path.with_name(f".{self._lock_path.name}.{os.getpid()}.part")
        lock = part.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(part, self._lock_path)
        except BaseException:
            lock.close()
            part.unlink(missing_ok=True)
            raise
        return HeldLease(self._folder, self._sweep, holder, lock, renew_s=self._renew_s, on_lost=on_lost)

    def _taken_error(self, holder: Holder | None) -> UserError:
        if holder is not None:
            return UserError(f"sweep {self._sweep!r} is being run by {holder.text}; wait for it or end it")
        return UserError(
            f"sweep {self._sweep!r} is being run by another process, which has {self._lock_path} locked; wait for it "
            "or end it. If that process is surely gone (a machine that lost its power), delete the file"
        )


class HeldLease:
    """A lease of this process, renewed on a thread until ``release`` or the end of the ``with`` block."""

    def __init__(
        self,
        folder: Path,
        sweep: str,
        holder: Holder,
        lock: BinaryIO,
        *,
        renew_s: float,
        on_lost: Callable[[str], None] | None,
    ) -> None:
        """Called by ``Lease.hold``.

        Args:
            lock: the lock file, locked, to be closed with the lease.
        """
        self._folder, self._sweep, self._holder, self._lock = folder, sweep, holder, lock
        self._lock_inode = os.fstat(lock.fileno()).st_ino
        self._renew_s, self._on_lost = renew_s, on_lost or _end_process
        self._renewed_s = time.monotonic()
        self._companion: HeldBucketLease | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name="lease")
        self._thread.start()

    def __enter__(self) -> HeldLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Call ``act`` from now on if the lease is lost, like ``on_lost`` of ``Lease.hold``."""
        self._on_lost = act

    def join(self, companion: HeldBucketLease) -> None:
        """Hold another lease together with this one: it is released with it, and its loss counts as this one's."""
        self._companion = companion
        companion.when_lost(lambda line: self._on_lost(line))

    def moved(self, folder: Path) -> None:
        """Continue in ``folder``, the new name of the lease's folder."""
        self._folder = folder

    def is_current(self) -> bool:
        """Return whether no other process has taken the lease over."""
        seen = _look(_paths(self._folder)[1])
        return seen is not None and seen.holder is not None and seen.holder.token == self._holder.token

    def stop_renewing(self) -> None:
        """Stop the renewals and leave the file unchanged; the lock stays."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=self._renew_s)  # not for ever: a storage may hang

    def release(self) -> None:
        """Release the lease."""
        self.stop_renewing()
        if self._companion is not None:
            self._companion.release()
        with contextlib.suppress(OSError):
            if not self._lock.closed and self.is_current():
                _paths(self._folder)[1].unlink()
        self._lock.close()

    def _keep_renewing(self) -> None:
        # soon: two machines that do not see each other's locks may have taken a free lease at once
        wait_s = self._renew_s / 5
        while not self._stopped.wait(wait_s):
            wait_s = self._renew_s
            try:
                other = self._renewed_by_another()
            except OSError:
                # a full or failing disk; whether another process has the lease can be read when the disk works again
                continue
            if other is not None and not self._stopped.is_set():
                self._on_lost(
                    f"sweep {self._sweep!r} was taken over by {other}: this process had not renewed its lease for "
                    f"{time.monotonic() - self._renewed_s:.0f} s; it ends without further writes"
                )
                return

    def _renewed_by_another(self) -> str | None:
        """Renew the lease, which needs no disk space; return the holder if it is another process, else None."""
        lock_path, holder_path = _paths(self._folder)
        try:
            with holder_path.open("rb") as file:
                holder = Holder.parsed(file.read())
                if holder is not None and holder.token == self._holder.token:
                    os.utime(file.fileno())
                    self._renewed_s = time.monotonic()
                    return None
        except FileNotFoundError:
            holder = None
        if holder is not None:
            return holder.text
        # Removed or damaged. If another process has had the lease meanwhile, the lock file is another one.
        try:
            inode = _inode(lock_path)
        except FileNotFoundError:
            return None  # the whole folder is gone, or is being renamed
        if inode != self._lock_inode:
            return "another process"
        _write_holder(holder_path, self._holder)
        self._renewed_s = time.monotonic()
        return None


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lease, as ``lease.json`` names it."""

    host: str
    pid: int
    since_s: float
    """Seconds since 1970 by its own clock, for display."""
    boot_id: str = ""
    token: str = ""
    """Random name of this holding of the lease; empty for earlier versions, which did not renew leases."""

    @classmethod
    def this_process(cls) -> Holder:
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            since_s=time.time(),
            boot_id=_boot_id(),
            token=uuid.uuid4().hex,
        )

    @classmethod
    def parsed(cls, content: bytes) -> Holder | None:
        """Return the holder that the content of a file names; None if it names none."""
        try:
            record = json.loads(content)
            return cls(
                host=str(record["host"]),
                pid=int(record["pid"]),
                since_s=float(record["since_s"]),
                boot_id=str(record.get("boot_id", "")),
                token=str(record.get("token", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None

    @property
    def is_decided_by_lock(self) -> bool:
        """Return whether the lock alone decides if this process still holds the lease."""
        return not self.token or (self.host, self.boot_id) == (socket.gethostname(), _boot_id())

    @property
    def text(self) -> str:
        try:
            since = f" since {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.since_s))}"
        except (TypeError, ValueError, OverflowError, OSError):
            since = ""
        return f"process {self.pid} on {self.host}{since}"


@dataclass(frozen=True)
class _Seen:
    """State of ``lease.json`` at one moment. Two states are equal if nobody has renewed or replaced the file in
    between.
    """

    holder: Holder | None
    inode: int
    mtime_ns: int

    @property
    def renewed_s(self) -> float:
        return self.mtime_ns / 1e9


def _look(holder_path: Path) -> _Seen | None:
    # Opened each time: NFS then asks the server again.
    try:
        with holder_path.open("rb") as file:
            state = os.fstat(file.fileno())
            return _Seen(Holder.parsed(file.read()), state.st_ino, state.st_mtime_ns)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _paths(folder: Path) -> tuple[Path, Path]:
    return folder / "lease.lock", folder / "lease.json"


def _write_holder(path: Path, holder: Holder) -> None:
    replace_text(path, json.dumps(asdict(holder), indent=1) + "\n")


def _is_locked(lock_path: Path) -> bool:
    """Return whether the file is locked, by a shared lock for a moment: two tests at once do not disturb each other."""
    try:
        with lock_path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        pass
    return False


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _boot_id() -> str:
    """Return the random number that the kernel drew when this machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _end_process(line: str) -> None:
    os.write(2, f"{line}\n".encode())
    os._exit(3)
