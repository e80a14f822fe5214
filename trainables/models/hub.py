"""Use of the model hub without waiting when it cannot be reached."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

PROBE_S = 3.0
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def offline_where_unreachable() -> None:
    """Switch huggingface_hub to its offline mode in this process if its host does not answer.

    Cached files are then read at once, and a missing file is an error at once. Otherwise each of several files is
    requested with five retries, a minute or more without a message (huggingface_hub 1.x). The mode is left alone if the
    user has set HF_HUB_OFFLINE, and behind a proxy, which may reach hosts that this process cannot.
    """
    from huggingface_hub import constants

    if "HF_HUB_OFFLINE" in os.environ or any(os.environ.get(name) for name in _PROXIES):
        return
    parts = urlsplit(constants.ENDPOINT)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=PROBE_S).close()
        constants.HF_HUB_OFFLINE = False
    except OSError:
        constants.HF_HUB_OFFLINE = True
