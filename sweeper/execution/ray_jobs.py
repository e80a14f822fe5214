"""Jobs of a Ray cluster (Ray Jobs, over HTTP): a driver that runs on the cluster's head."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweeper.errors import UnavailableError, UserError
from sweeper.execution.address import own_token

ANSWER_S = 10.0
BEGIN_S = 120.0
OPEN = ("PENDING", "RUNNING")
"""States of a job that has not ended."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job to submit."""

    name: str
    """Prefix of its number on the cluster."""
    entrypoint: str
    """Shell command."""
    folder: Path
    """Folder that is sent to the cluster, where the command starts in it."""
    begun: str
    """Text in its output once it has accepted its input."""
    marks: Mapping[str, str]
    """Identity of the job: an open job with the same marks is the same job."""


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job on the cluster."""

    id: str
    is_new: bool
    """False: the same job was open already, and none was submitted."""


def submit(address: str, request: JobRequest) -> SubmittedJob:
    """Submit a job, unless the same job is open already, and wait until it has begun. Our packages are sent along.

    Args:
        address: URL of the cluster's dashboard, ``http://head:8265``.

    Raises:
        UserError: the address has another form, or the job has refused its input.
        UnavailableError: no Ray answers there, or it refuses the token of this machine, or the job fails.
    """
    headers = _headers(address)
    from ray.job_submission import JobSubmissionClient

    import sweeper
    import trainables

    modules = [str(Path(str(module.__file__)).parent) for module in (sweeper, trainables)]
    environment = {"working_dir": str(request.folder), "py_modules": modules, "excludes": ["__pycache__"]}
    try:
        client = JobSubmissionClient(address, headers=headers)
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private"):  # they tell of every package that is sent
            logging.getLogger(name).setLevel(logging.ERROR)
        job = _submitted(client, request, environment)
    except (RuntimeError, ConnectionError) as error:
        told = " ".join(str(error).split())[:300]
        raise UnavailableError(f"the Ray cluster at {address} does not take the job: {told}") from error
    if job.is_new:
        _await_begin(client, job.id, request.begun)
    return job


def _submitted(client: Any, request: JobRequest, environment: Mapping[str, Any]) -> SubmittedJob:
    jobs = client.list_jobs()
    if (same := _open_job(jobs, request.marks)) is not None:
        return SubmittedJob(id=same, is_new=False)
    submission = f"{request.name}-{1 + sum(_is_marked(job, request.marks) for job in jobs)}"
    try:
        client.submit_job(
            entrypoint=request.entrypoint,
            submission_id=submission,
            runtime_env=environment,
            metadata=dict(request.marks),
        )
    except RuntimeError:
        if (same := _open_job(client.list_jobs(), request.marks)) is None:
            raise
        return SubmittedJob(id=same, is_new=False)  # another process has just submitted the same
    return SubmittedJob(id=submission, is_new=True)


def _await_begin(client: Any, job: str, begun: str) -> None:
    """Wait until the output of a job says that it has begun, ``BEGIN_S`` at most: a cluster may have to grow first."""
    until_s = time.monotonic() + BEGIN_S
    while time.monotonic() < until_s:
        status, output = client.get_job_status(job), str(client.get_job_logs(job))
        if status == "SUCCEEDED" or begun in output:
            return
        if status in ("FAILED", "STOPPED"):
            said = str(client.get_job_info(job).message)
            lines = [line for line in output.splitlines() if line.strip()]
            if lines and lines[-1].startswith("ModuleNotFoundError"):
                raise UserError(
                    f"job {job}: {lines[-1]}: the Python of the cluster's head lacks sweeper's packages; install them "
                    "there, or name a Python that has them with --python"
                )
            text = "\n".join([f"job {job} has ended before the sweep began:", *(lines[-8:] or [said])])
            raise UserError(text) if "exit code 2" in said else UnavailableError(text)
        time.sleep(0.5)


def _open_job(jobs: list[Any], marks: Mapping[str, str]) -> str | None:
    return next((str(job.submission_id) for job in jobs if _is_marked(job, marks) and job.status in OPEN), None)


def _is_marked(job: Any, marks: Mapping[str, str]) -> bool:
    return marks.items() <= (job.metadata or {}).items()


def _headers(address: str) -> dict[str, str]:
    """Return the headers that the cluster wants, after a check that it answers."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"--address {address!r} is not a URL; give that of the cluster's dashboard, for instance "
            "http://head:8265 (`run --address` takes the GCS, host:port)"
        )
    if _status(address, {}) != 401:
        return {}
    token, source = own_token()
    where = "put the cluster's own token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
    if token is None:
        raise UnavailableError(f"the Ray cluster at {address} asks for a token, and there is none here: {where}")
    headers = {"authorization": f"Bearer {token}"}
    if _status(address, headers) in (401, 403):
        raise UnavailableError(f"the Ray cluster at {address} refuses the token of {source}: {where}")
    return headers


def _status(address: str, headers: Mapping[str, str]) -> int:
    """Return the HTTP status of the cluster's version."""
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        raise UnavailableError(
            f"no dashboard of a Ray cluster answers at {address} ({error}); is this the address that "
            "`ray start --head` printed for it, and is ray[default] installed there?"
        ) from error
