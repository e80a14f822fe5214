"""Ctrl-C and SIGTERM during a sweep."""

from __future__ import annotations

import os
import signal


class StopSignal:
    """The first Ctrl-C or SIGTERM asks the sweep to stop, the second ends the process. A context manager."""

    def __init__(self, name: str) -> None:
        """``name``: of the sweep."""
        self._name = name
        self.asked = False

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            os.write(2, f"\nended at once; go on with: sweeper resume {self._name}\n".encode())
            os._exit(130)
        self.asked = True
        os.write(2, b"\nstopping: running trials write a checkpoint (again: end at once)\n")
