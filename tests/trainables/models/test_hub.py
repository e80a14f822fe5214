"""A hub that does not answer is not asked again and again."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from trainables.models.clip import load_clip
from trainables.models.hub import offline_where_unreachable
from trainables.settings.task import ModelSettings


@pytest.fixture(autouse=True)
def nothing_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_offline_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        offline_where_unreachable()
        assert not constants.HF_HUB_OFFLINE
    offline_where_unreachable()
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match="the hub cannot be reached, and its weights are not in the cache"):
        load_clip(ModelSettings(architecture="hf-hub:nobody/nothing"))


@pytest.mark.parametrize(("name", "value"), [("HF_HUB_OFFLINE", "0"), ("HTTPS_PROXY", "http://127.0.0.1:1")])
def test_users_decision_and_a_proxy_are_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    offline_where_unreachable()
    assert not constants.HF_HUB_OFFLINE
