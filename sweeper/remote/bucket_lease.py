"""The right to run a sweep whose folder is in a bucket: one process among all machines.

Each holder creates an object of the next number, ``lease/000007.json``, by a write that fails where the object exists
(``If-None-Match``), so that of several takers one gets it. The holder renews it by writing it again, and has lost it
when an object of a higher number appears. A taker watches by its own clock whether the last object changes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sweeper.errors import UnavailableError, UserError
from sweeper.remote.bucket import Bucket

RENEW_S = 5.0
LEASE_S = 30.0
CLOCKS_DIFFER_S = 60.0
"""Allowed difference in seconds between the clocks of two machines when a lease is only shown."""


@dataclass(frozen=True)
class _Last:
    number: int
    content: dict[str, object]

    @property
    def is_free(self) -> bool:
        return bool(self.content.get("released"))

    @property
    def text(self) -> str:
        return f"process {self.content.get('pid')} on {self.content.get('host')} since {self.content.get('since')}"


class BucketLease:
    """The lease of the sweep whose objects are below a key."""

    def __init__(
        self, bucket: Bucket, key: str, sweep: str, *, renew_s: float = RENEW_S, lease_s: float = LEASE_S
    ) -> None:
        """Name the lease; times as of ``storage.lease.Lease``."""
        self._bucket, self._key, self._sweep = bucket, key, sweep
        self._renew_s, self._lease_s = renew_s, lease_s

    def create(self) -> HeldBucketLease | None:
        """Take the lease of a name that nobody has ever taken; None: it is taken."""
        return None if self._last() is not None else self._create(1)

    def hold(self) -> HeldBucketLease:
        """Take the lease. Waits up to ``lease_s`` if it was not released.

        Raises:
            UserError: a process holds it.
        """
        last = self._last()
        if last is not None and not last.is_free:
            deadline = time.monotonic() + self._lease_s
            while time.monotonic() < deadline:
                time.sleep(min(1.0, self._renew_s / 2))
                now = self._last()
                if now is None or now.is_free:
                    break
                if now != last:
                    raise self._taken(now)
        held = self._create(1 if last is None else last.number + 1)
        if held is None:
            raise self._taken(self._last())
        return held

    def is_held(self) -> bool:
        """Return whether a process holds the lease now, for display."""
        last = self._last()
        if last is None or last.is_free:
            return False
        renewed_s = last.content.get("renewed_s")
        return isinstance(renewed_s, float) and time.time() - renewed_s <= self._lease_s + CLOCKS_DIFFER_S

    def holder(self) -> str | None:
        """Return the holder, also if it was killed; None if there is none."""
        last = self._last()
        return None if last is None or last.is_free else last.text

    def _create(self, number: int) -> HeldBucketLease | None:
        held = HeldBucketLease(self, self._bucket, self._object(number), self._sweep, renew_s=self._renew_s)
        if not self._bucket.create(self._object(number), held.content()):
            return None
        held.begin()
        return held

    def last_number(self) -> int:
        """Return the number of the last object; 0 if there is none."""
        return max((int(key[-11:-5]) for key in self._bucket.stamps(f"{self._key}/lease")), default=0)

    def _last(self) -> _Last | None:
        number = self.last_number()
        content = self._bucket.read(self._object(number)) if number else None
        if content is None:
            return None
        try:
            record = json.loads(content)
        except ValueError:
            record = {}
        return _Last(number, record if isinstance(record, dict) else {})

    def _object(self, number: int) -> str:
        return f"{self._key}/lease/{number:06d}.json"

    def _taken(self, last: _Last | None) -> UserError:
        who = "another process" if last is None else last.text
        return UserError(f"sweep {self._sweep!r} is being run by {who}; wait for it or end it")


class HeldBucketLease:
    """A lease of this process, renewed on a thread until ``release``."""

    def __init__(self, lease: BucketLease, bucket: Bucket, key: str, sweep: str, *, renew_s: float) -> None:
        self._lease, self._bucket, self._key, self._sweep, self._renew_s = lease, bucket, key, sweep, renew_s
        self._number = int(key[-11:-5])
        self._since = time.strftime("%Y-%m-%d %H:%M")
        self._on_lost: Callable[[str], None] = lambda line: None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name="lease in the bucket")

    def begin(self) -> None:
        self._thread.start()

    def content(self, *, released: bool = False) -> bytes:
        """Return the content of the object; no two are equal."""
        record = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "renewed_s": time.time()}
        return json.dumps(record | {"released": released}).encode()

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Call ``act`` with a line, on a thread, if another process takes the lease over."""
        self._on_lost = act

    def stop_renewing(self) -> None:
        self._stopped.set()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join(timeout=self._renew_s)

    def release(self) -> None:
        self.stop_renewing()
        with suppress(UnavailableError):
            if self._lease.last_number() == self._number:
                self._bucket.write(self._key, self.content(released=True))

    def _keep_renewing(self) -> None:
        while not self._stopped.wait(self._renew_s):
            with suppress(UnavailableError):  # the store is away: whether the lease is lost can be read later
                if self._lease.last_number() > self._number:
                    self._on_lost(
                        f"sweep {self._sweep!r} was taken over by another process: this one had not renewed its lease; "
                        "it ends without further writes"
                    )
                    return
                self._bucket.write(self._key, self.content())
