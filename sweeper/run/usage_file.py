"""The usage of a sweep on disk. Keys are those of the first versions."""

from __future__ import annotations

from dataclasses import asdict

from sweeper.run.budget import Forecast, Session, Usage
from sweeper.spec.quantities import parse_price
from sweeper.storage.files import read_if_whole
from sweeper.storage.sweep_folder import SweepFolder

USAGE_FILE = "usage.json"


def read_usage(folder: SweepFolder) -> Usage:
    """Return the usage of a sweep; empty before its first session, and if the file is damaged."""
    record = read_if_whole(folder.path / USAGE_FILE)
    if record is None:
        return Usage()
    try:
        return Usage(
            sessions=tuple(Session(**session) for session in record["goes"]),
            forecast=None if record["forecast"] is None else Forecast(**record["forecast"]),
            updated_at_s=float(record["told_s"]),
            price=None if record.get("price") is None else parse_price(record["price"]),
            not_begun=int(record.get("not_begun", 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Usage()


def write_usage(folder: SweepFolder, usage: Usage) -> None:
    record = {
        "goes": [asdict(session) for session in usage.sessions],
        "forecast": None if usage.forecast is None else asdict(usage.forecast),
        "told_s": usage.updated_at_s,
        "price": None if usage.price is None else str(usage.price),
        "not_begun": usage.not_begun,
    }
    folder.write_json(USAGE_FILE, record)
