"""docker/compose.yaml as it is written, and its commands for plain processes on this machine."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.paths import ROOT

COMPOSE = ROOT / "docker" / "compose.yaml"


@functools.cache
def services() -> dict[str, dict[str, Any]]:
    """The services of the file, by name."""
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@dataclass(frozen=True, kw_only=True)
class Places:
    """What stands for the network and the folders of the containers on this machine."""

    words: Mapping[str, str]
    """Text in the file -> what it is here: ``head:6379`` -> ``127.0.0.1:41234``."""

    def here(self, text: str) -> str:
        """Return a text of the file for this machine."""
        text = text.replace("$$", "$")
        for word, place in self.words.items():
            text = text.replace(word, place)
        return text

    def command(self, service: str) -> list[str]:
        """Return the command line of a service: its entry point and its command."""
        record = services()[service]
        return [self.here(str(word)) for word in [*record["entrypoint"], *record["command"]]]

    def health(self, service: str) -> list[str]:
        """Return the command line of a service's health check."""
        kind, *words = services()[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return [self.here(str(word)) for word in words]

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment variables of a service."""
        return {name: self.here(str(value)) for name, value in services()[service]["environment"].items()}
