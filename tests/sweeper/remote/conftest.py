"""A real S3 server of this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

ROOT_URI = "s3://sweeps"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the URL of an S3 server with the bucket ``sweeps``."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        ).create_bucket(Bucket="sweeps")
        yield url
    finally:
        server.stop()


@pytest.fixture
def uri(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a folder of the bucket that nothing is in; the environment has the access."""
    for name, value in access(s3_server).items():
        monkeypatch.setenv(name, value)
    return f"{ROOT_URI}/{next(_numbers)}"


def access(url: str) -> dict[str, str]:
    """Return the environment with which a process reaches the server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
