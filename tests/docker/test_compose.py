"""docker/compose.yaml: who reaches it, and with what secrets. ``test_compose_run.py`` runs its commands."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docker.compose import COMPOSE, services
from tests.paths import ROOT

OURS = ("head", "worker", "mlflow")


def test_ports_are_published_on_this_machine_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_secrets_come_from_files_that_git_and_the_image_leave_out() -> None:
    files = {secret["file"] for secret in yaml.safe_load(COMPOSE.read_text())["secrets"].values()}
    assert files == {"./secrets/ray_token", "./secrets/postgres_password"}
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()
    assert "**/secrets" in (ROOT / ".dockerignore").read_text().split()


def test_no_password_is_written_down() -> None:
    for service in services().values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "TOKEN" in name:
                assert str(value).startswith("/run/secrets/"), name
    assert not re.search(r"://[^\s/@]+:[^\s/@]+@", COMPOSE.read_text())


@pytest.mark.parametrize("name", ["head", "worker"])
def test_ray_asks_for_a_token(name: str) -> None:
    environment = services()[name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"].removeprefix("/run/secrets/") in services()[name]["secrets"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_run_without_privileges(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "${SWEEPER_USER:-1000:1000}"
    assert service["shm_size"] == "2gb"


def test_every_service_has_a_health_check() -> None:
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in services().values())


def test_images_of_others_are_pinned_by_version() -> None:
    others = [service["image"] for name, service in services().items() if name not in OURS]
    assert others
    for image in others:
        assert re.search(r":\d+\.\d+", image), image
