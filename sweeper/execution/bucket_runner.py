"""A worker's runner for a sweep whose folder is in a bucket: fetches what a job reads, sends what it writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import UnavailableError
from sweeper.execution.worker import Channel, MakeRunner, Runner, WorkerContext
from sweeper.jobs import Job, JobResult, MeasureJob, SecondLookJob, TrainJob
from sweeper.remote.bucket import Bucket
from sweeper.remote.folder_copy import FolderCopy
from sweeper.remote.sweep_copy import SweepCopy

SEND_S = 1.0
"""Seconds between looks for files to send while a trial runs."""

_logger = logging.getLogger(__name__)


def make_bucket_runner(worker: WorkerContext, *, make: MakeRunner, uri: str, name: str, folder: Path) -> Runner:
    """Prepare a runner, and the copy of the sweep's folder.

    Args:
        make: makes the runner that does the jobs.
        uri: of the bucket.
        name: of the sweep.
        folder: of the sweep on each machine.
    """
    return _BucketRunner(make(worker), SweepCopy(Bucket(uri), name, folder), worker.rank)


class _BucketRunner:
    def __init__(self, runner: Runner, sweep: SweepCopy, rank: int) -> None:
        self._runner, self._sweep, self._rank = runner, sweep, rank

    def __call__(self, job: Job, channel: Channel) -> JobResult:
        match job:
            case TrainJob(folder=folder):
                trial = self._sweep.trial(folder)
                with channel.long_operation("fetching the trial's files"):
                    trial.pull_unless_ours()  # the workers of a trial share a machine: the first one fetches
                with self._sent(trial, channel):
                    return self._runner(job, channel)
            case MeasureJob(point=point) | SecondLookJob(point=point):
                if point is not None:
                    with channel.long_operation("fetching the point's weights"):
                        self._sweep.trial(point.folder).pull_unless_ours()
                result = self._runner(job, channel)
                if isinstance(job, MeasureJob) and self._rank == 0:
                    self._sweep.answers.push()
                return result
        return self._runner(job, channel)

    @contextmanager
    def _sent(self, trial: FolderCopy, channel: Channel) -> Iterator[None]:
        """Send what the trial writes while it runs, and all of it before its end is told."""
        if self._rank != 0:
            yield
            return
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(SEND_S):
                try:
                    trial.push()
                except UnavailableError as error:  # tried again; the last time its end depends on it
                    _logger.warning("%s", error)

        thread = threading.Thread(target=send, daemon=True, name="sending the trial's files")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with channel.long_operation("sending the trial's files"):
                trial.push()
