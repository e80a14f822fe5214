"""Objects, copies of folders and leases in a bucket of a real S3 server."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sweeper.errors import UnavailableError, UserError
from sweeper.remote.bucket import Bucket
from sweeper.remote.bucket_lease import BucketLease, HeldBucketLease
from sweeper.remote.folder_copy import FolderCopy
from sweeper.spec.spec import load_spec
from sweeper.storage.remote_storage import open_storage
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.runners import patience
from tests.paths import ROOT


def copy_of(uri: str, folder: Path) -> FolderCopy:
    return FolderCopy(Bucket(uri), "sweep", folder, marker="session")


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_object_is_created_once(uri: str) -> None:
    bucket = Bucket(uri)
    wins = []

    def create(number: int) -> None:
        if bucket.create("a/b", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = wins
    assert bucket.read("a/b") == str(winner).encode()
    assert bucket.read("a/c") is None and bucket.stamp("a/c") is None
    assert bucket.folders() == ["a"]
    bucket.remove(["a/b", "a/c"])
    assert bucket.stamps("") == {}


def test_a_bucket_that_is_missing_and_a_store_that_is_unknown_are_told() -> None:
    with pytest.raises(UserError, match="storage ftp://x: a storage is a folder, or s3:// or gs://"):
        Bucket("ftp://x")
    with pytest.raises(UserError, match="storage gs://x needs the package gcsfs: pip install gcsfs"):
        Bucket("gs://x")


def test_a_store_that_does_not_answer_is_told(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="storage s3://absent/x: .*make the bucket first"):
        Bucket("s3://absent/x").write("a", b"1")


def test_a_folder_and_its_copy(uri: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "deep" / "er").mkdir(parents=True)
    (here / "a.txt").write_bytes(b"1")
    (here / "deep" / "er" / "b.bin").write_bytes(os.urandom(70_000))
    (here / ".a.txt.part").write_bytes(b"half")
    assert copy_of(uri, here).push() == 2
    assert copy_of(uri, here).push() == 0, "nothing has changed"
    copy_of(uri, there).pull()
    assert content(there) == content(here)
    (here / "a.txt").write_bytes(b"22")
    (here / "deep" / "er" / "b.bin").unlink()
    assert copy_of(uri, here).push() == 2
    copy_of(uri, there).pull()
    assert content(there) == content(here) == {"a.txt": b"22"}


def test_what_the_last_writer_had_not_sent_is_kept_unless_another_one_has_gone_on(uri: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "session").write_text("first")
    (here / "lines.jsonl").write_text("1\n")
    copy_of(uri, here).push()
    (here / "lines.jsonl").write_text("1\n2\n")  # killed before it was sent
    copy_of(uri, here).pull_unless_ours()
    assert (here / "lines.jsonl").read_text() == "1\n2\n"
    copy_of(uri, there).pull_unless_ours()
    (there / "session").write_text("second")
    (there / "lines.jsonl").write_text("1\nother\n")
    copy_of(uri, there).push()
    copy_of(uri, here).pull_unless_ours()
    assert content(here) == content(there) == {"session": b"second", "lines.jsonl": b"1\nother\n"}


def test_files_that_are_missing_are_fetched_and_others_are_left_as_they_are(uri: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    for name in ("a", "b"):
        (here / name).write_text("here")
    copy_of(uri, here).push()
    for name in ("b", "c"):
        (there / name).write_text("there")
    copy_of(uri, there).fetch_new()
    assert content(there) == {"a": b"here", "b": b"there", "c": b"there"}


def test_a_database_in_use_is_sent_as_of_one_moment(uri: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with closing(sqlite3.connect(here / "study.db")) as study:
        study.execute("pragma journal_mode=wal")
        study.execute("create table trials (number)")
        study.commit()
        for number in range(3):
            study.execute("insert into trials values (?)", (number,))
            study.commit()
            assert copy_of(uri, here).push() == 1, "the change lies in the write-ahead log only"
            copy_of(uri, there).pull()
            with closing(sqlite3.connect(there / "study.db")) as read:
                assert read.execute("select count(*) from trials").fetchone() == (number + 1,)


@pytest.mark.parametrize("seed", range(3))
def test_a_copy_that_was_cut_off_anywhere_has_no_checkpoint_without_its_lines(
    uri: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a trial writes: lines up to a step, then a checkpoint of it."""
    here, there, rng = tmp_path / "here", tmp_path / "there", random.Random(seed)
    here.mkdir()
    sent = 0

    class CutOff(Exception):
        pass

    upload = Bucket.upload

    def sometimes(bucket: Bucket, key: str, file: Path) -> None:
        nonlocal sent
        if rng.random() < 0.3:
            raise CutOff
        sent += 1
        upload(bucket, key, file)

    monkeypatch.setattr(Bucket, "upload", sometimes)
    for step in range(1, 16):
        with (here / "metrics.jsonl").open("a") as lines:
            lines.write(f"{step}\n")
        if rng.random() < 0.5:
            (here / "checkpoint.pt").write_text(str(step))
        with suppress(CutOff):
            copy_of(uri, here).push()
        copy_of(uri, there).pull()
        if (there / "checkpoint.pt").exists():
            assert int((there / "checkpoint.pt").read_text()) <= len((there / "metrics.jsonl").read_text().split())
    assert sent > 5


def lease(uri: str, name: str = "sweep") -> BucketLease:
    return BucketLease(Bucket(uri), name, name, renew_s=0.2, lease_s=2.0)


def test_one_of_many_drivers_gets_a_new_name(uri: str) -> None:
    held: list[HeldBucketLease] = []

    def take() -> None:
        if (one := lease(uri).create()) is not None:
            held.append(one)

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = held
    assert lease(uri).is_held() and "process" in (lease(uri).holder() or "")
    winner.release()
    assert not lease(uri).is_held() and lease(uri).create() is None, "the name stays taken"


def test_a_lease_that_is_held_is_refused_and_one_that_was_released_is_taken(uri: str) -> None:
    first = lease(uri).hold()
    with pytest.raises(UserError, match="sweep 'sweep' is being run by process"):
        lease(uri).hold()
    first.release()
    lease(uri).hold().release()


def test_a_lease_that_is_not_renewed_is_taken_over_by_one_and_its_holder_learns_it(uri: str) -> None:
    lost = threading.Event()
    first = lease(uri).hold()
    first.when_lost(lambda line: lost.set())
    first.stop_renewing()  # its machine is gone
    held: list[HeldBucketLease] = []
    refused: list[str] = []

    def take() -> None:
        try:
            held.append(lease(uri).hold())
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 4
    returned = HeldBucketLease(lease(uri), Bucket(uri), "sweep/lease/000001.json", "sweep", renew_s=0.2)
    returned.when_lost(lambda line: lost.set())
    returned.begin()  # it comes back
    with patience(60, "the old holder to learn that it has lost its lease") as again:
        while not lost.is_set() and again():
            time.sleep(0.05)
    returned.release()
    assert lease(uri).is_held(), "the old holder has released the lease of the new one"
    held[0].release()


def test_the_name_of_a_sweep_that_could_not_start_is_free_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_MIRROR", str(tmp_path))
    spec = load_spec(ROOT / "search_spaces" / "quickstart.yaml")
    for _ in range(2):
        folder = SweepFolder(open_storage(uri, to_write=True), "sweep")
        folder.remove_unstarted(folder.create_and_hold(spec, "text"))
        assert not folder.path.exists()
