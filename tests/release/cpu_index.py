"""A stand-in for PyTorch's index of CPU wheels, where that index is not reachable.

torch is a CPU wheel that pip finds on this machine. torchvision's wheel on PyPI holds operators for CUDA, which cannot
be loaded beside it; the stand-in has none of them and declares the two names that the import of torchvision asks for.
sweeper and open_clip use torchvision's transforms only, which are Python. An image built with the stand-in tests
the Dockerfile and sweeper's own code on a torch without CUDA; it is not the image that a user builds.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import http.server
import io
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.release.environments import CheckError

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAND_IN = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
"""Versions that go together and that sweeper allows; those of constraints.txt where the index is reachable."""
_DECLARED = """

if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def is_reachable(url: str) -> bool:
    """Return whether the index at a URL lists torch."""
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=20) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """Make the stand-in's wheels in a folder and serve them on this machine; give its URL.

    Raises:
        CheckError: pip finds no such wheels.
    """
    for name, version in STAND_IN.items():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"]
        done = subprocess.run([*command, "--dest", str(folder / name)], capture_output=True, text=True)
        if done.returncode != 0:
            raise CheckError(
                f"{CPU_INDEX} is not reachable, and pip finds no {name}=={version}:\n{done.stderr[-2000:]}"
            )
    (wheel,) = (folder / "torchvision").iterdir()
    _without_operators(wheel)
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def constrained(text: str) -> str:
    """Return the text of constraints.txt with the versions of the stand-in."""
    lines = []
    for line in text.splitlines():
        name = line.partition("==")[0]
        lines.append(f"{name}=={STAND_IN[name]}" if name in STAND_IN else line)
    return "\n".join(lines) + "\n"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def _without_operators(wheel: Path) -> None:
    """Rewrite torchvision's wheel without its compiled operators."""
    target = wheel.with_suffix(".new")
    rows: list[list[str]] = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as written:
        (record,) = [name for name in source.namelist() if name.endswith(".dist-info/RECORD")]
        for name in source.namelist():
            if name == record or ".so" in name or name.endswith("/"):
                continue
            data = source.read(name) + (_DECLARED.encode() if name == "torchvision/extension.py" else b"")
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append([name, f"sha256={digest}", str(len(data))])
            written.writestr(name, data)
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([*rows, [record, "", ""]])
        written.writestr(record, table.getvalue())
    target.replace(wheel)
