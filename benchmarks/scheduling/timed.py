"""Records when the first step of a trial began."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from sweeper.execution.worker import Channel
from trainables.records import Report


class TimedChannel:
    """A ``Channel`` that records when the first step began: ``interrupted`` is called before every step."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.first_s = 0.0
        """When the first step began, in seconds since 1970; 0 before."""

    def interrupted(self) -> bool:
        self.first_s = self.first_s or time.time()
        return self._channel.interrupted()

    def heartbeat(self) -> None:
        self._channel.heartbeat()

    def long_operation(self, what: str) -> AbstractContextManager[None]:
        return self._channel.long_operation(what)

    def report(self, report: Report) -> None:
        self._channel.report(report)

    def log(self, line: str) -> None:
        self._channel.log(line)
