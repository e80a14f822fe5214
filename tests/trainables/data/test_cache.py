"""The store of arrays: what killed builders and full disks leave, and entries that are cut off."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.data.cache import Allocate, Store, digest_of
from trainables.files import StorageError

KEY = {"of": "a test"}


def build(allocate: Allocate) -> dict[str, np.ndarray]:
    allocate("large", (100, 1000), np.uint8)[:] = 7
    return {"small": np.arange(5), "none": np.zeros((0, 3))}


def limited(run: Callable[[], None], file_bytes: int) -> tuple[int, str]:
    """``run`` in a child that may write no file above so many bytes: its exit code and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        import resource

        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            run()
            code = 0
        except StorageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize("file_bytes", [50_000, 200], ids=["large array", "small array"])
def test_a_disk_that_takes_no_more_is_a_storage_error_and_nothing_stays(file_bytes: int, tmp_path: Path) -> None:
    def fill() -> None:
        if file_bytes == 200:
            Store(tmp_path).get(KEY, lambda: {"small": np.arange(1000)})
        else:
            Store(tmp_path).filled(KEY, build)

    code, text = limited(fill, file_bytes)
    assert code == 1 and text.startswith(str(tmp_path)) and text.endswith("cannot be written: File too large")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert Store(tmp_path).filled(KEY, build)["large"].shape == (100, 1000)


def test_space_is_set_aside_before_mapped_memory_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"large\.npy cannot be written: No space left on device"):
        Store(tmp_path).filled(KEY, build)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_builder_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; import numpy as np\n"
        "from trainables.data.cache import Store\n"
        "def build(allocate):\n"
        "    allocate('large', (100, 1000), np.uint8)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Store(Path(sys.argv[1])).filled({KEY!r}, build)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    part, folder = tmp_path / f".part-{digest_of(KEY)[:32]}", tmp_path / digest_of(KEY)[:32]
    assert part.exists() and not folder.exists()
    Store(tmp_path).filled(KEY, build)
    assert not part.exists() and folder.exists()


@pytest.mark.parametrize("left_bytes", [0, 20, 5000])
def test_an_entry_that_is_cut_off_is_built_again(left_bytes: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.filled(KEY, build)
    os.truncate(tmp_path / digest_of(KEY)[:32] / "large.npy", left_bytes)
    again = store.filled(KEY, build)
    assert torch.equal(again["small"], first["small"]) and bool((again["large"] == 7).all())


def test_everything_is_on_disk_before_the_entry_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync, replace = os.fsync, os.replace

    def record(descriptor: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def check(source: Path, target: Path) -> None:
        assert {"large.npy", "small.npy", "none.npy", "key.json"} <= synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", check)
    Store(tmp_path).filled(KEY, build)
    assert tmp_path.name in synced
