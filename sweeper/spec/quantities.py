"""Device hours and durations as users write them: ``200gpu-h``, ``8h``, ``2h30m``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Device = Literal["gpu", "cpu"]
HOUR_S = 3600.0
_BUDGET = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(gpu|cpu)-h")
_PRICE = re.compile(r"([$€£¥])?\s*(\d+(?:\.\d*)?|\.\d+)\s*([$€£¥]|[A-Z]{3})?")
_TIME = re.compile(r"(?:(\d+(?:\.\d*)?|\.\d+)h)?\s*(?:(\d+(?:\.\d*)?|\.\d+)m)?\s*(?:(\d+(?:\.\d*)?|\.\d+)s)?")


@dataclass(frozen=True)
class Budget:
    """Device hours over the whole life of a sweep."""

    hours: float
    device: Device

    def __str__(self) -> str:
        return f"{self.hours:g}{self.device}-h"


def parse_budget(text: str) -> Budget:
    """Return the budget written as ``200gpu-h`` or ``12.5cpu-h``.

    Raises:
        ValueError: the text has another form; the message is worded to follow the text.
    """
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            "is not a budget; write hours and their device: for instance 200gpu-h, or 12cpu-h for a sweep on CPUs"
        )
    if float(match[1]) <= 0:
        raise ValueError(f"is not above 0; write for instance 12{match[2]}-h")
    return Budget(float(match[1]), "gpu" if match[2] == "gpu" else "cpu")


@dataclass(frozen=True)
class Price:
    """The price of a device hour, in any currency."""

    amount: float
    currency: str
    """A sign, which is written before the number, or a code of three letters, which is written after it."""

    def of(self, device_hours: float) -> str:
        """Return the price of ``device_hours``: ``$12.30``, ``12.30 EUR``."""
        return _money(device_hours * self.amount, self.currency)

    def __str__(self) -> str:
        """Return the price in the form that ``parse_price`` reads."""
        return f"{self.amount:.10f}".rstrip("0").rstrip(".") + self.currency


def parse_price(text: str) -> Price:
    """Return the price of a device hour written as ``2.49`` (dollars), ``2.49EUR`` or ``€2.49``.

    Raises:
        ValueError: the text has another form; the message is worded to follow the text.
    """
    match = _PRICE.fullmatch(text.strip())
    if match is None or (match[1] and match[3]):
        raise ValueError("is not a price; write money per device hour: for instance 2.49, 2.49EUR or €2.49")
    if float(match[2]) <= 0:
        raise ValueError("is not a price; write a number above 0, for instance 2.49")
    return Price(float(match[2]), match[1] or match[3] or "$")


def parse_time(text: str) -> float:
    """Return the seconds of ``8h``, ``90m``, ``2h30m`` or ``45s``.

    Raises:
        ValueError: the text has another form; the message is worded to follow the text.
    """
    match = _TIME.fullmatch(text.strip())
    seconds = 0.0
    if match is not None:
        seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (HOUR_S, 60.0, 1.0), strict=True))
    if seconds <= 0:
        raise ValueError("is not a time; write hours, minutes or seconds: for instance 8h, 90m or 2h30m")
    return seconds


def hours(value: float) -> str:
    """Return a number of hours with three significant digits, as a whole number from 100 on."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def rounded_up(value: float) -> float:
    """Return a positive number rounded up to two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 6)


def counted(number: int) -> str:
    """Return a number with spaces between thousands: ``4 000``."""
    return f"{number:,}".replace(",", " ")


def duration(seconds: float) -> str:
    """Return a duration as ``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _money(value: float, currency: str) -> str:
    number = f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.2g}"
    return f"{number} {currency}" if currency.isalpha() else f"{currency}{number}"
