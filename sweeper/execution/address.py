"""The address of a Ray cluster to join: its form, whether a cluster answers there, and whether it takes our token."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import UnavailableError, UserError

CONNECT_S = 2.0
ANSWER_S = 5.0
RETRY_S = 1.0
"""Seconds between two attempts to reach a cluster that is waited for."""
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call that every GCS answers, without arguments (Ray 2.59 and 2.60)."""


@dataclass(frozen=True)
class ClusterAddress:
    """The place of a Ray cluster that is to be joined."""

    text: str
    named_by: str
    """The option or the environment variable that names the address."""

    @property
    def place(self) -> tuple[str, int]:
        """Return host and port.

        Raises:
            UserError: the address has another form.
        """
        host, colon, port = self.text.rpartition(":")
        if not colon or not port.isdigit() or "://" in self.text:
            own = "" if self.named_by.startswith("--") else ", or unset it for a Ray of sweeper's own"
            raise UserError(
                f"{self.named_by} {self.text!r} is not of the form host:port; give the address of the head's GCS, for "
                f"instance 10.0.0.1:6379 (`ray start --head` prints it){own}"
            )
        return host, int(port)

    def reach(self, wait_s: float = 0.0) -> None:
        """Check that a cluster answers.

        Args:
            wait_s: seconds to wait for it.

        Raises:
            UserError: the address has another form.
            UnavailableError: nobody answers.
        """
        place, until_s = self.place, time.monotonic() + wait_s
        while True:
            try:
                socket.create_connection(place, timeout=CONNECT_S).close()
                return
            except (OSError, OverflowError) as error:
                if time.monotonic() < until_s:
                    time.sleep(RETRY_S)
                    continue
                own = "" if self.named_by.startswith("--") else f" {self.named_by} names it: unset it for a Ray of "
                own += "" if self.named_by.startswith("--") else "sweeper's own"
                raise UnavailableError(
                    f"no Ray cluster answers at {self.text} ({error}); is it up (`ray start --head`), and is this the "
                    f"GCS address and port it printed?{own}"
                ) from error

    def check_token(self) -> bool:
        """Return whether the cluster asks for a token, after a check that it takes the one of this machine.

        Ray itself answers a wrong token after 20 s of attempts, and a token that the cluster does not ask for ends
        calls with an error that names neither (Ray 2.60).

        Raises:
            UnavailableError: the cluster asks for a token, and there is none here or another one.
        """
        if not self._refuses(None):
            return False
        where = "put the cluster's own token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
        token, source = own_token()
        if token is None:
            raise UnavailableError(f"the Ray cluster at {self.text} asks for a token, and there is none here: {where}")
        if self._refuses(token):
            raise UnavailableError(f"the Ray cluster at {self.text} refuses the token of {source}: {where}")
        return True

    def _refuses(self, token: str | None) -> bool:
        """Return whether the cluster refuses a call with this token, or without one."""
        import grpc  # type: ignore[import-untyped]

        headers = None if token is None else [("authorization", f"Bearer {token}")]
        host, port = self.place
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            try:
                channel.unary_unary(_CHECK_ALIVE)(b"", timeout=ANSWER_S, metadata=headers)
            except grpc.RpcError as error:
                # Other errors (no Ray, TLS) are told by Ray when it connects.
                return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
        return False


def named_address(address: str | None) -> ClusterAddress | None:
    """Return the cluster to join; None for a Ray of sweeper's own."""
    if address is not None:
        return ClusterAddress(address, "--address")
    variable = os.environ.get("RAY_ADDRESS", "")  # a Ray job finds its cluster there
    return None if variable in ("", "local") else ClusterAddress(variable, "the environment variable RAY_ADDRESS")


def own_token() -> tuple[str | None, str]:
    """Return the token that Ray would use here, and its source, in Ray's own order."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return file.read_text().strip() or None, str(file)
    except OSError:
        return None, str(file)
