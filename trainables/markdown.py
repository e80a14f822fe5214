"""Texts of users inside Markdown."""

from __future__ import annotations

import re

_SYNTAX = re.compile(r"[\\`\[\]|]")


def plain(text: str) -> str:
    """Return a text in a form that Markdown shows as it is, in one line: no markup, link, table cell or HTML."""
    shown = _SYNTAX.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
