"""Whether the sweeps that this container runs are alive: their drivers renew their leases. Standard library only.

The driver of a sweep renews ``lease.json`` in the sweep's folder every five seconds, on a thread of its own. A driver
that is stopped, or whose storage does not answer, does not. A container that runs no sweep is healthy.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

STALE_S = 60.0
"""Longer than a busy machine delays a renewal, and than another machine waits before it takes a lease over (30 s)."""


def stale_leases(storage: Path, host: str, now_s: float) -> list[str]:
    """Return a line for each sweep of a storage whose driver on ``host`` does not renew its lease.

    Args:
        now_s: seconds since 1970.
    """
    lines = []
    for lease in sorted(storage.glob("*/lease.json")):
        try:
            holder = json.loads(lease.read_text())["host"]
            age_s = now_s - lease.stat().st_mtime
        except FileNotFoundError:
            continue  # released in this moment
        except (ValueError, KeyError, TypeError):
            continue  # being repaired: the driver writes a damaged lease anew
        if holder == host and age_s > STALE_S:
            lines.append(f"sweep {lease.parent.name}: its driver has not renewed its lease for {age_s:.0f} s")
    return lines


def main() -> None:
    storage = Path(os.environ.get("SWEEPER_STORAGE", "sweeps"))
    lines = stale_leases(storage, socket.gethostname(), time.time())
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
