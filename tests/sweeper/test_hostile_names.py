"""Names from outside: they stay in their folder, and are text where they are shown."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.records import TrialRecord
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.descriptions import SweepLine, experiment_note, trial_line
from tests.helpers.image_files import list_split
from tests.paths import ROOT
from trainables.markdown import plain

EVIL = "</script><img src=x onerror=alert(1)>](javascript:alert(1)) | `x`\n# y"
OUTSIDE = ("../evil", "/evil", "..", ".", "", "a/b", "a\0b")
QUICKSTART = str(ROOT / "search_spaces" / "quickstart.yaml")


def an_image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 8)).save(file, "PNG")
    return file.getvalue()


def test_members_of_a_shard_are_read_where_they_are_and_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (10, 8), (255, 0, 0)).save(secret)
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    names = [f"../../up{i}" for i in range(2)] + [f"/absolute{i}" for i in range(2)]
    with tarfile.open(home / "shard.tar", "w") as archive:
        for number, name in enumerate(names):
            for suffix, content in (("png", an_image()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo()
                member.name, member.size = f"{name}.{suffix}", len(content)
                archive.addfile(member, io.BytesIO(content))
        for kind, target in ((tarfile.SYMTYPE, str(secret)), (tarfile.LNKTYPE, "../../secret.png")):
            link = tarfile.TarInfo(f"link{kind.decode()}.png")
            link.type, link.linkname = kind, target
            archive.addfile(link)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    listing = list_split("test", kind="webdataset", test=str(home / "shard.tar"), class_names=["cat", "dog"])
    assert len(listing.keys) == 4 and not [key for key in listing.keys if "link" in key]
    assert {listing.open(index).convert("RGB").getpixel((0, 0)) for index in range(4)} == {(0, 0, 0)}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not Path("/absolute0.png").exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_name_of_a_sweep_is_that_of_a_folder_in_the_storage(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the name of a folder"):
        SweepFolder(tmp_path, name)


@pytest.mark.parametrize(
    "command",
    [
        ("run", QUICKSTART, "--name", "../evil"),
        ("run", QUICKSTART, "--warm-start", "../evil"),
        ("resume", "../evil"),
        ("status", "../evil"),
        ("export", "../evil", "out"),
        ("delete", "../evil", "--yes"),
        ("ui", "../evil"),
    ],
    ids=lambda words: " ".join((words[0], *words[-2:])),
)
def test_no_command_takes_a_sweep_outside_its_storage(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE", str(tmp_path / "sweeps"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "spec.resolved.json").write_text("{}")
    result = CliRunner().invoke(app, [*command])
    assert isinstance(result.exception, UserError), result.output
    assert (tmp_path / "evil" / "spec.resolved.json").exists() and not (tmp_path / "out").exists()


def test_the_server_of_ui_listens_on_loopback_unless_told_otherwise() -> None:
    ui = get_command(app).commands["ui"]  # type: ignore[attr-defined]
    assert [parameter.default for parameter in ui.params if parameter.name == "host"] == ["127.0.0.1"]


@given(st.text(st.sampled_from("ab \n\\`[]()|<>&#!*\"'"), max_size=40) | st.text(max_size=40) | st.just(EVIL))
def test_a_text_in_markdown_is_text(text: str) -> None:
    shown = plain(text)
    assert "<" not in shown and ">" not in shown and len(shown.splitlines()) <= 1
    bare = shown.replace("\\\\", "")
    for mark in "`[]|":
        assert bare.count(mark) == bare.count(f"\\{mark}")


def test_what_mlflow_shows_of_a_sweep_and_a_trial_is_text() -> None:
    trial = TrialRecord(number=1, parameters={}, seed=0, state="failed", reason=f"no class {EVIL}")
    line = trial_line(trial, ["clean_accuracy"])
    links = {"sweep": "/#/s", "front": "/#/f", "all trials": "/#/a"}
    note = experiment_note([SweepLine(name=EVIL, state=EVIL, hypervolume=None, links=links)])
    for text in (line, note):
        assert "<" not in text and "](javascript" not in text.replace("\\](javascript", "")
    assert len(line.splitlines()) == 1 and len(note.splitlines()) == 7
