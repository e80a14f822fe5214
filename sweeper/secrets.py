"""Passwords in the addresses of stores, and secrets in texts for people and files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlencode

_HIDDEN = "..."
_SHORTEST_PASSWORD, _SHORTEST_VALUE = 4, 8
"""Characters of a password, and of a variable's value, that is looked for in texts; shorter ones are parts of words."""
_VARIABLES = re.compile(r"[A-Z0-9_]*(PASSWORD|PASSWD|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|ACCESS_KEY_ID|API_KEY)")
"""Environment variables whose values are secrets."""
_ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI")
_QUERY = re.compile(r"pass|pwd|secret|token|odbc_connect|(^|_)key$", re.IGNORECASE)
"""Parameters of an address whose values are secrets."""
_ACCOUNT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"]*@")
"""User and password of an address in a text."""
_HOST_AND_PORT = re.compile(r"[^/:@]*:\d+(/|$)")


def shown_uri(uri: str) -> str:
    """Return the URI of a store without user, password and secret parameters."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.startswith("sqlite"):
        return uri
    address, question, query = rest.partition("?")
    account = _account(address)
    address = address[len(account) + 1 :] if account is not None else address
    public = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if not _QUERY.search(name)]
    if question and len(public) < len(parse_qsl(query, keep_blank_values=True)):
        query, question = urlencode(public), "?" if public else ""
    return f"{scheme}://{address}{question}{query}"


def has_secret(uri: str) -> bool:
    """Return whether the URI of a store holds a password or a secret parameter."""
    return bool(list(_secrets_of(uri)))


def without_secrets(text: str, *uris: str) -> str:
    """Return a text without the secrets of ``uris`` and of this process's environment, and without any password in an
    address.
    """
    known = [*uris, *(os.environ[name] for name in _ADDRESSES if name in os.environ)]
    for uri in known:
        text = text.replace(uri, shown_uri(uri))
    secrets = {secret for uri in known for secret in _secrets_of(uri) if len(secret) >= _SHORTEST_PASSWORD}
    values = {value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)}
    secrets |= {value for value in values if len(value) >= _SHORTEST_VALUE}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _ACCOUNT.sub(rf"\1{_HIDDEN}@", text)


class Redacting(logging.Formatter):
    """Formatter of log records, tracebacks included, without secrets."""

    def __init__(self, format: str, *uris: str) -> None:
        super().__init__(format)
        self._uris = uris

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record), *self._uris)


def _account(address: str) -> str | None:
    """Return user and password of an address without scheme and query; None if it has none.

    SQLAlchemy takes a password with a slash in it, so the account need not end before the first one.
    """
    host, slash, _ = address.partition("/")
    if "@" in host:
        return host.rpartition("@")[0]
    if slash and "@" in address and ":" in host and not _HOST_AND_PORT.match(address):
        return address.rpartition("@")[0]
    return None


def _secrets_of(uri: str) -> Iterator[str]:
    """Yield the secrets of a URI as they are written in it, and decoded."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.startswith("sqlite"):
        return
    address, _, query = rest.partition("?")
    account = _account(address)
    if account is not None:
        user, colon, password = account.partition(":")
        secret = password if colon else user  # a token may stand in the user's place
        yield from {secret, unquote(secret)} - {""}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if value and _QUERY.search(name):
            yield from {value, unquote(value)}
