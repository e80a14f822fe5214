"""Who may run a sweep: one process at a time, of all machines that see its folder.

On one machine the lock on ``lease.lock`` decides; the kernel takes it from a process that ends, however it dies. On a
shared folder a lock may count on its own machine only, or outlive a machine that lost its power. So the holder renews
``lease.json`` every ``RENEW_S``, and another machine takes a lease over that it has not seen renewed for ``LEASE_S``.
No clocks of two machines are compared for that: a watcher waits by its own clock whether the file changes.
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
from typing import BinaryIO

from sweeper.errors import UserError
from sweeper.storage.files import replace_text, storage_in_reach

RENEW_S = 5.0
LEASE_S = 30.0
CLOCKS_DIFFER_S = 60.0
"""Allowed for between the clocks of two machines where a lease is only shown."""
ABANDONED_S = 3600.0
"""After this time the folder that a process of another machine was making counts as abandoned."""
_LOCK_PATIENCE_S = 1.0
"""``status`` tests the lock for a moment; that is no reason to refuse the lease."""


class Lease:
    """The right to run the sweep in a folder."""

    def __init__(self, folder: Path, sweep: str, *, renew_s: float = RENEW_S, lease_s: float = LEASE_S) -> None:
        """``lease_s``: how long a lease lasts that is not renewed; several times ``renew_s``."""
        self._folder, self._sweep = folder, sweep
        self._lock_path, self._holder_path = _paths(folder)
        self._renew_s, self._lease_s = renew_s, lease_s

    def hold(self, on_lost: Callable[[str], None] | None = None) -> HeldLease:
        """Take the lease: a context manager that releases it. The process that holds it keeps it until it ends.

        Waits up to ``lease_s`` where a process of another machine held the lease last.

        Args:
            on_lost: called on a thread, with a line that says who has the lease now, if this process was stopped for so
                long that another machine took over. Without it the process then says so and ends at once, with 3.

        Raise UserError naming the holder where another process has the lease.
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
        """Return whether a process holds the lease now, to show it."""
        with storage_in_reach():
            seen = _look(self._holder_path)
            if seen is None or seen.holder is None or seen.holder.is_decided_by_lock:
                return _is_locked(self._lock_path)
            return time.time() - seen.renewed_s <= self._lease_s + CLOCKS_DIFFER_S

    def is_abandoned(self, now_s: float) -> bool:
        """Return whether nobody works in a folder that is still being made, so that it can be removed.

        ``now_s``: a time of the clock that dates the storage's files.
        """
        seen = _look(self._holder_path)
        if seen is not None and seen.holder is not None and seen.holder.is_decided_by_lock:
            return not _is_locked(self._lock_path)
        # Another machine's, or one whose maker has not come as far as writing its name.
        renewed_s = self._folder.stat().st_mtime if seen is None else seen.renewed_s
        return now_s - renewed_s > ABANDONED_S

    def holder(self) -> str | None:
        """Return who holds the lease, or held it last and was killed."""
        with storage_in_reach():
            seen = _look(self._holder_path)
        return None if seen is None or seen.holder is None else seen.holder.text

    def _locked(self) -> BinaryIO | None:
        """Return the lock file, locked; None where another process has it."""
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                lock = self._lock_path.open("ab")
            except FileNotFoundError as error:
                raise UserError(f"there is no sweep {self._sweep!r} any more: {self._folder} was removed") from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who takes a lease over puts a new file here: a lock on the old one is worth nothing.
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

        False where it was given back meanwhile. Raise UserError where it was renewed.
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
        # Of several that take over at once the last one to write has it.
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
            "or end it. Where that process is surely gone (a machine that lost its power), delete the file"
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
        """For ``Lease.hold``. ``lock``: the lock file, locked, to be closed with the lease."""
        self._folder, self._sweep, self._holder, self._lock = folder, sweep, holder, lock
        self._lock_inode = os.fstat(lock.fileno()).st_ino
        self._renew_s, self._on_lost = renew_s, on_lost or _end_process
        self._renewed_s = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name="lease")
        self._thread.start()

    def __enter__(self) -> HeldLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Call ``act`` from now on where the lease is lost, as ``on_lost`` of ``Lease.hold``."""
        self._on_lost = act

    def moved(self, folder: Path) -> None:
        """Go on in ``folder``, which the folder of the lease was renamed to."""
        self._folder = folder

    def is_current(self) -> bool:
        """Return whether no other process has taken the lease over."""
        seen = _look(_paths(self._folder)[1])
        return seen is not None and seen.holder is not None and seen.holder.token == self._holder.token

    def stop_renewing(self) -> None:
        """Leave the file as it is; the lock stays."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=self._renew_s)  # not for ever: a storage may hang

    def release(self) -> None:
        """Give the lease back."""
        self.stop_renewing()
        with contextlib.suppress(OSError):
            if not self._lock.closed and self.is_current():
                _paths(self._folder)[1].unlink()
        self._lock.close()

    def _keep_renewing(self) -> None:
        wait_s = self._renew_s / 5  # soon: two machines whose locks do not meet may have taken a free lease at once
        while not self._stopped.wait(wait_s):
            wait_s = self._renew_s
            try:
                other = self._renewed_by_another()
            except OSError:
                continue  # a full or failing disk; whether another has the lease shows when it is back
            if other is not None and not self._stopped.is_set():
                self._on_lost(
                    f"sweep {self._sweep!r} was taken over by {other}: this process had not renewed its lease for "
                    f"{time.monotonic() - self._renewed_s:.0f} s; it ends, and leaves the sweep alone"
                )
                return

    def _renewed_by_another(self) -> str | None:
        """Renew the lease, which needs no space on the disk; return who has it where that is another process."""
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
        # Removed or damaged. Where another has had the lease meanwhile, the lock file is another one.
        try:
            inode = _inode(lock_path)
        except FileNotFoundError:
            return None  # the whole folder is gone, or just being renamed
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
    """Seconds since 1970 by its own clock, to be shown."""
    boot_id: str = ""
    token: str = ""
    """Of this one time that a process held a lease; empty for earlier versions, which did not renew theirs."""

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
        """Return the holder that a file names; None where it names none."""
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
        """Return whether the lock alone says if this process still holds the lease."""
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
    """``lease.json`` at one moment. Two are equal where nobody has renewed or replaced it in between."""

    holder: Holder | None
    inode: int
    mtime_ns: int

    @property
    def renewed_s(self) -> float:
        return self.mtime_ns / 1e9


def _look(holder_path: Path) -> _Seen | None:
    # Opened each time: NFS asks the server again then.
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
    """A shared lock for a moment: two who test at once do not take each other for the holder."""
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
    """Return a number that the kernel drew when this machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _end_process(line: str) -> None:
    os.write(2, f"{line}\n".encode())
    os._exit(3)
