"""``make notebooks``: execute the notebooks of this folder from top to bottom and write them with their outputs.

Each runs in an empty folder of its own, so that storages are new and paths in outputs are relative. Names of notebooks
(``typographic``) may be given; by default all are executed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
KERNEL_S, CELL_S = 300, 1800
"""Longest times for the start of a kernel and for a cell, on a busy machine too."""


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
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def main() -> None:
    """Execute the notebooks that the command line names, or all."""
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.ipynb"))
    for name in names:
        began_s = time.monotonic()
        execute(HERE / f"{name}.ipynb")
        print(f"{name}: executed in {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
