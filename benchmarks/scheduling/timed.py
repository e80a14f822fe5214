"""When a trial's first step began."""

from __future__ import annotations

import time

from sweeper.execution.worker import Channel
from sweeper.records import Report


class Timed:
    """A channel that notes when the first step began: it is asked before each whether to stop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.first_s = 0.0

    def interrupted(self) -> bool:
        self.first_s = self.first_s or time.time()
        return self._channel.interrupted()

    def alive(self) -> None:
        self._channel.alive()

    def report(self, report: Report) -> None:
        self._channel.report(report)

    def log(self, line: str) -> None:
        self._channel.log(line)
