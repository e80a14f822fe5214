"""The files of a report: the page, tables as CSV and LaTeX, figures as PNG and PDF."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from sweeper.environment import package_versions
from sweeper.errors import UserError
from sweeper.report.content import Making, Report, gather
from sweeper.report.csv_tables import csv_table
from sweeper.report.figures import figures
from sweeper.report.gallery import pictures
from sweeper.report.html import Pictures, page
from sweeper.report.latex import latex_paragraph, latex_table
from sweeper.spec.spec import Spec
from sweeper.storage.files import storage_in_reach, write_bytes, write_text
from sweeper.storage.sweep_folder import SweepFolder

PAGE = "report.html"
_MOST_BYTES_OF_SVG = 400_000
"""A figure with thousands of points is smaller as PNG."""


def write_report(sweep: SweepFolder, spec: Spec, folder: Path) -> tuple[Path, str | None]:
    """Write all files of the report on a sweep; each replaces the file of an earlier report.

    Returns:
        The path of the page, and why the images of its gallery are not shown (None if they are).

    Raises:
        UserError: the sweep has not measured anything yet, or the folder cannot be made.
        UnavailableError: the storage fails.
    """
    making = Making(
        time=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=package_versions() | {"matplotlib": version("matplotlib")},
    )
    report = gather(sweep, spec, making)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; name a folder")
    png, pdf = figures(report, "png"), figures(report, "pdf")
    beside = {f"figures/{name}.png": content for name, content in png.items()}
    beside |= {f"figures/{name}.pdf": content for name, content in pdf.items()}
    sources, digests = _figures(report, png)
    images, undrawn = _images(spec, report)
    for place, content in enumerate(images):
        sources[f"image/{place}"] = data_uri("image/jpeg", content)
        digests[f"image/{place}"] = digest(content)
    digests |= {path: digest(content) for path, content in beside.items()}
    with storage_in_reach():
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in beside.items():
            write_bytes(folder / path, content)
        for path, text in table_files(report).items():
            write_text(folder / path, text)
        write_text(folder / PAGE, page(report, Pictures(sources=sources, undrawn=undrawn, digests=digests)))
    return folder / PAGE, undrawn


def table_files(report: Report) -> dict[str, str]:
    """Return the tables of a report as files: path below its folder -> content."""
    files = {f"tables/{name}.csv": text for name, text in report.files.items()}
    for section in report.sections:
        for table in section.tables:
            files[f"tables/{table.name}.csv"] = csv_table(table)
            files[f"tables/{table.name}.tex"] = latex_table(table)
        if section.name == "checklist":
            files["tables/checklist.tex"] = latex_paragraph(section)
    return files


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _figures(report: Report, png: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the data URIs and the digests of the figures within the page.

    Args:
        png: the figures as PNG, in place of large SVGs.
    """
    sources, digests = dict[str, str](), dict[str, str]()
    for name, content in figures(report, "svg").items():
        large = len(content) > _MOST_BYTES_OF_SVG
        shown = png[name] if large else content
        sources[f"figure/{name}"] = data_uri("image/png" if large else "image/svg+xml", shown)
        digests[f"figure/{name}"] = digest(shown)
    return sources, digests


def _images(spec: Spec, report: Report) -> tuple[list[bytes], str | None]:
    """Return the images of the gallery, or none and the reason."""
    if not report.gallery.images:
        return [], None
    try:
        return pictures(spec, report.gallery), None
    except (ValueError, OSError, UserError) as error:
        return [], str(error)
