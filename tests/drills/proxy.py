"""A TCP proxy in a thread that refuses, swallows, answers with errors or cuts connections."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from typing import Literal

Mode = Literal["pass", "refuse", "swallow", "error", "cut"]
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
    b"Connection: close\r\n\r\nsorry"
)


class Proxy:
    """Passes connections on to ``port`` of this machine, unless told otherwise. A context manager."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self._target, self._rng = port, rng
        self.mode: Mode = "pass"
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.harmed = 0
        """Connections that did not get their answer; refused ones are not counted."""
        self._listen()

    def set(self, mode: Mode) -> None:
        """Treat connections so from now on; those that are open are closed."""
        before, self.mode = self.mode, mode
        if mode == "refuse":
            _close(self._listener)
        elif before == "refuse":
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listen()
        for connection in list(self._open):
            _close(connection)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.set("refuse")

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        mode = self.mode
        self.harmed += mode != "pass"
        with contextlib.suppress(OSError):
            if mode == "swallow":
                while client.recv(65536):
                    pass
            elif mode == "error":
                client.recv(65536)
                client.sendall(_ERROR)
            else:
                # Requests arrive whole for half of the cut connections: MLflow has done what the client does not know.
                limit = self._rng.choice((self._rng.randrange(1, 400), 0)) if mode == "cut" else None
                self._pass_on(client, limit)
        self._open.discard(client)
        _close(client)

    def _pass_on(self, client: socket.socket, limit: int | None) -> None:
        """``limit``: cut the request after so many bytes; 0: let requests through and the answer not."""
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            self._open.add(server)
            answers = threading.Thread(target=_pump, args=(server, client, limit != 0), daemon=True)
            answers.start()
            left = limit or None
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data if left is None else data[:left])
                    left = None if left is None else left - len(data)
                    if left is not None and left <= 0:
                        break
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR if limit else socket.SHUT_WR)
            answers.join(10)
            self._open.discard(server)


def _pump(source: socket.socket, target: socket.socket, deliver: bool) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if not deliver:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
