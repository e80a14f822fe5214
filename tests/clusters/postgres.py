"""A PostgreSQL of its own on this machine, for root: it runs as the user postgres in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

BINARIES = Path("/usr/lib/postgresql")
USER = "sweeper"


class Postgres:
    """Context manager: a server with password authentication that accepts connections of this machine only."""

    def __init__(self, port: int, password: str) -> None:
        self.port, self._password = port, password
        self._binaries = max(BINARIES.glob("*/bin"), key=lambda path: int(path.parent.name))
        self._folder = Path(tempfile.mkdtemp(prefix="swp", dir="/tmp"))

    def __enter__(self) -> Postgres:
        shutil.chown(self._folder, "postgres", "postgres")
        secret = self._folder / "password"
        secret.write_text(self._password)
        shutil.chown(secret, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}")
        secret.unlink()
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def uri(self, database: str) -> str:
        """Return the URI of a database, without the password: libpq takes that from PGPASSWORD.

        It names the driver: without it, SQLAlchemy 2.1 takes psycopg, earlier ones psycopg2.
        """
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/{database}"

    def version(self) -> str:
        return self.sql("SHOW server_version", "postgres").split()[0]

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        """Stop the server without a shutdown checkpoint, as a crash does; it recovers at its next start."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop", check=False)

    def refuse_writes(self, refused: bool) -> None:
        """Refuse all writes, as a standby server does after a failover, or accept them again."""
        value = "on" if refused else "off"
        self.sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}", "postgres")
        self.sql("SELECT pg_reload_conf()", "postgres")

    def sql(self, statement: str, database: str) -> str:
        """Return the rows of a statement, fields separated by ``|``."""
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-A", "-t"]
        # A setting of the session, so that writes can be accepted again.
        variables = {"PGPASSWORD": self._password, "PGOPTIONS": "-c default_transaction_read_only=off"}
        return subprocess.run(
            [str(self._binaries / "psql"), *options, "-c", statement],
            env={**os.environ, **variables}, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        # Output to nowhere: the server inherits it, and a pipe would stay open as long as the server lives.
        subprocess.run(
            ["runuser", "-u", "postgres", "--", str(self._binaries / program), *arguments],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check,
        )  # fmt: skip
