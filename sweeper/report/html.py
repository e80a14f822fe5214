"""A report as one HTML file that needs neither network nor a script.

Every number stands in ``<data value="KEY">`` and, under its key, in a block of JSON; ``verify`` reads both back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape as escaped
from importlib.resources import files

from sweeper.report.content import Report
from sweeper.report.figures import ALT
from sweeper.report.gallery import GalleryImage, Kind
from sweeper.report.numbers import Bounded, Cell, Number, Section, Table, Text
from trainables.spelling import label_form

_TITLES: Mapping[Kind, str] = {
    "cured": "only the knee is right",
    "still wrong": "neither is right",
    "broken": "only the untouched model is right",
}
_LONGEST_WORD = 32
"""Number of characters of a cell that are kept on a line."""
_GALLERY_AFTER = "held-out"
"""Name of the section that the gallery follows."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of a page and of the files beside it."""

    sources: Mapping[str, str]
    """Name of a picture -> its data URI. Figures are ``figure/NAME``, images of the gallery ``image/NUMBER``."""
    undrawn: str | None = None
    """Reason why the images of the gallery are not shown; None if they are."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Picture, or path of a figure beside the page -> sha256."""


def page(report: Report, pictures: Pictures) -> str:
    """Return the report as an HTML document."""
    title = _escape(f"Report on the sweep {report.sweep}")
    made = f"Made by sweeper {report.making.versions['sweeper']} at {report.making.time}. Task: {report.task}."
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="sweeper {_escape(report.making.versions["sweeper"])}">',
        f"<title>{title}</title>",
        f"<style>\n{_style()}\n</style>",
        "</head>",
        "<body>",
        f"<header>\n<h1>{title}</h1>",
        f'<p class="made">{_escape(made)}</p>',
        *(
            f'<p class="{"first" if place == len(report.head) - 1 else "unfinished"}">{_text(text)}</p>'
            for place, text in enumerate(report.head)
        ),
        _contents(report),
        "</header>",
        "<main>",
    ]
    for section in report.sections:
        parts.append(_section(section, pictures))
        if section.name == _GALLERY_AFTER:
            parts.append(_gallery(report, pictures))
    parts += [
        "</main>",
        f'<script type="application/json" id="numbers">{_block(report, pictures)}</script>',
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _block(report: Report, pictures: Pictures) -> str:
    """Return what ``verify`` reads back, as JSON that cannot end a script element; each number on a line of its own."""
    head = {
        "sweep": report.sweep,
        "sweep_id": report.sweep_id,
        "time": report.making.time,
        "versions": dict(report.making.versions),
        "undrawn": pictures.undrawn,
        "digests": dict(sorted(pictures.digests.items())),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    numbers = [
        f"{json.dumps(key)}: {json.dumps({'value': one.recorded, 'shown': one.shown})}"
        for key, one in report.numbers().items()
    ]
    text = "{\n" + ",\n".join([*lines, '"numbers": {\n' + ",\n".join(numbers) + "\n}"]) + "\n}"
    return text.replace("<", "\\u003c")


def _style() -> str:
    return files("sweeper.report").joinpath("report.css").read_text(encoding="utf-8").strip()


def _contents(report: Report) -> str:
    places = [(section.name, section.title) for section in report.sections]
    after = [name for name, _ in places].index(_GALLERY_AFTER) + 1
    places.insert(after, ("gallery", "Gallery"))
    entries = "\n".join(f'<li><a href="#{name}">{_escape(title)}</a></li>' for name, title in places)
    return f'<nav aria-label="contents">\n<ul>\n{entries}\n</ul>\n</nav>'


def _section(section: Section, pictures: Pictures) -> str:
    parts = [f'<section id="{section.name}">', f"<h2>{_escape(section.title)}</h2>"]
    parts += [f"<p>{_text(text)}</p>" for text in section.texts]
    for name in section.figures:
        source = pictures.sources.get(f"figure/{name}")
        if source is not None:
            image = f'<img data-picture="figure/{name}" alt="{_escape(ALT[name])}" src="{source}">'
            caption = f"<figcaption>{_escape(ALT[name])}</figcaption>"
            parts.append(f'<figure class="figure"><div class="scroll">{image}</div>{caption}</figure>')
    parts += [_table(table) for table in section.tables]
    if section.plain is not None:
        # HTML drops a first line break.
        parts.append(f"<pre>\n{_escape(section.plain)}</pre>")
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    columns = range(len(table.columns))
    numeric = [any(isinstance(row[place], Number | Bounded) for row in table.rows) for place in columns]
    kinds = ["" if right else ' class="text"' for right in numeric]
    heading = "".join(
        f'<th scope="col"{kind}>{_escape(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True)
    )
    lines = [
        '<div class="scroll" tabindex="0" role="region" aria-label="' + _escape(table.title) + '"><table>',
        f"<caption>{_escape(table.title)}</caption>",
        f"<thead><tr>{heading}</tr></thead>",
        "<tbody>",
    ]
    for row in table.rows:
        lines.append("<tr>")
        lines += [f"<td{_long(cell) or kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)]
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody>", "</table></div>"])


def _long(cell: Cell) -> str:
    """Return the class of a cell with a long text, which is broken into lines; empty for others."""
    return ' class="text long"' if isinstance(cell, str) and len(cell) > _LONGEST_WORD else ""


def _gallery(report: Report, pictures: Pictures) -> str:
    shown = report.gallery
    parts = ['<section id="gallery">', "<h2>Gallery</h2>", *(f"<p>{_text(text)}</p>" for text in shown.texts)]
    if pictures.undrawn is not None:
        parts.append(f"<p>The images cannot be drawn again here: {_escape(pictures.undrawn)}</p>")
    if shown.images:
        parts.append('<ul class="gallery">')
        for place, image in enumerate(shown.images):
            parts.append(_image(image, f"image/{place}", pictures.sources.get(f"image/{place}")))
        parts.append("</ul>")
    return "\n".join([*parts, "</section>"])


def _image(image: GalleryImage, name: str, source: str | None) -> str:
    written = f" with the word {image.written!r} on it" if image.written else ""
    alt = _escape(f"An image of {image.true!r}{written}.")
    parts = ["<li>"]
    if source is not None:
        parts.append(f'<img data-picture="{name}" alt="{alt}" src="{source}">')
    parts.append(f"<b>{_TITLES[image.kind]}</b>")
    parts.append(f"true: {_escape(image.true)}<br>")
    if image.written:
        parts.append(f"written: {_escape(image.written)}<br>")
    for what, answer in (("untouched", image.before), ("knee", image.after)):
        mark = "right" if label_form(answer) == label_form(image.true) else "wrong"
        parts.append(f'{what}: <span class="{mark}">{_escape(answer)} ({mark})</span><br>')
    return "\n".join([*parts, f'<span class="key">{_escape(image.key)}</span>', "</li>"])


def _escape(text: str) -> str:
    """Return a text as HTML; characters that are not printable, which HTML does not permit, are marked."""
    return escaped("".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text))


def _text(text: Text) -> str:
    return "".join(_number(piece) if isinstance(piece, Number) else _escape(piece) for piece in text)


def _cell(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Bounded):
        bounds = f"[{_number(cell.low)}, {_number(cell.high)}]"
        return f'{_number(cell.value)} <span class="bounds">{bounds}</span>'
    return _number(cell) if isinstance(cell, Number) else _escape(cell)


def _number(number: Number) -> str:
    return f'<data value="{_escape(number.key)}">{_escape(number.shown)}</data>'
