"""``make notebooks``: execute the notebooks of this folder from top to bottom and write them with their outputs.

Each runs in an empty folder of its own, so that storages are new and paths in outputs are relative. Pictures are kept
with fewer colours than the API gives. Names of notebooks (``typographic``) may be given; by default all are executed.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
KERNEL_S, CELL_S = 300, 1800
"""Longest times for the start of a kernel and for a cell, on a busy machine too."""

PICTURE_BYTES = 100_000


def execute(path: Path) -> None:
    """Execute a notebook and write it back.

    Raises:
        ValueError: an output names a folder of this machine.
    """
    # tqdm (4.67) warns where ipywidgets is not installed, with the path of its file; nothing here draws its bars.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        places = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook,
            timeout=CELL_S,
            kernel_name="python3",
            record_timing=False,
            startup_timeout=KERNEL_S,
            resources=places,
        )
        client.execute()
        machine = [folder, str(HERE.parent), str(Path.home()), tempfile.gettempdir(), sys.prefix]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            named = [place for place in machine if place in str(output)]
            if named:
                raise ValueError(f"{path.name}: an output names {named[0]}:\n{output}\nof the cell\n{cell.source}")
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = base64.b64encode(small(base64.b64decode(output.data["image/png"]))).decode()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def small(png: bytes) -> bytes:
    """Return a picture with as many colours as ``PICTURE_BYTES`` allow, so that the repository stays small.

    Raises:
        ValueError: it is too large with few colours too.
    """
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        image.quantize(colours).save(file, "PNG", optimize=True)
        if len(file.getvalue()) < PICTURE_BYTES:
            return file.getvalue()
    raise ValueError(f"a picture of {len(png)} bytes is too large for a notebook")


def main() -> None:
    """Execute the notebooks that the command line names, or all."""
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.ipynb"))
    for name in names:
        began_s = time.monotonic()
        execute(HERE / f"{name}.ipynb")
        print(f"{name}: executed in {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
