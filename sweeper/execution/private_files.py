"""Files of sweeper's own Rays that no other user of the machine may open: Ray opens its folders to all (Ray 2.60)."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def ray_folder() -> Path:
    """Return this user's folder for the files of Rays; it need not exist.

    In Ray's own folders other users could put sockets in the place of Ray's.
    """
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(os.path.abspath(temporary)) / f"sweeper-{os.geteuid()}"


def is_own(folder: Path) -> bool:
    """Return whether an existing folder is this user's, and no link to another."""
    return not folder.is_symlink() and folder.stat().st_uid == os.geteuid()


def make_ray_folder() -> Path:
    """Make this user's folder for the files of Rays, closed to others, and return it.

    Raises:
        OSError: it is another user's, or cannot be made.
    """
    folder = ray_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not is_own(folder):
        raise PermissionError(f"{folder} is another user's or a link")
    folder.chmod(0o700)
    return folder


def protect_token() -> None:
    """Make the token that a new Ray takes where there is none, and close it to other users.

    A user who reads it can run code in every Ray of this user; Ray writes it so that everybody can read it.
    """
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if named or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # Ray itself says what is wrong with a home that cannot be written to
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if file.stat().st_uid == os.geteuid():
                file.chmod(0o600)
        else:
            with os.fdopen(descriptor, "w") as opened:
                opened.write(secrets.token_hex(32))
