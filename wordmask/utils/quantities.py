"""Numbers as people read them: with a unit, and with as many digits as matter. And values of flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from typing import Any

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def counted(number: int, what: str, plural: str | None = None) -> str:
    """A number with its noun: `counted(1, "step")` is `1 step`, and `counted(12300, "token")` is `12,300 tokens`."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def first_of_many(names: Sequence[str], most: int) -> str:
    """Names for a sentence, at most so many of them: `a, b and 3 others`."""
    others = f" and {counted(len(names) - most, 'other')}" if len(names) > most else ""
    return ", ".join(names[:most]) + others


def as_written(value: object) -> str:
    """The value of a flag as on a command line, `0.7 0.3` for a list; `none` if it is not given."""
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def plain(value: Any) -> Any:
    """The value of an entry of an enumeration, as on a command line; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits: 6.163, 0.002371, 12,300, and 5e-05 or 1.2e+09 beyond."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    if not rounded:
        return "0"
    if not 1e-3 <= abs(rounded) < 1e9:
        return f"{rounded:.{digits}g}"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def loss(value: float) -> str:
    """A loss, with three decimals or more: 10.342, 6.163, 0.02371. Perplexity shows a change of 0.001, too."""
    return f"{value:,.3f}" if 1 <= abs(value) < 1e9 else number(value)


def changed(new: str, old: str) -> str:
    """How a figure has changed, from what is shown of it: `9.972` after `9.973` is `-0.001`.

    Args:
        new, old: as `number`, `loss` or `percent` shows them. The result has the decimals that both have.

    Returns:
        Such as `-0.210` or `+1.5`; `same` if both look the same; `was inf` if there is no difference to compute.
    """
    if new == old:
        return "same"
    values = [Decimal(shown.rstrip("%").replace(",", "")) for shown in (new, old)]
    if not all(value.is_finite() for value in values):
        return f"was {old}"
    difference = values[0] - values[1]
    if not Decimal("1e-5") <= abs(difference) < 10**9:
        return f"{float(difference):+.4g}"
    # 1,000 after 999.9 is +0.1: it has no decimal that both have, but is not the same.
    coarsest = max(int(value.as_tuple().exponent) for value in values)
    return f"{round(difference, -coarsest) or difference:+,f}"


def percent(share: float) -> str:
    """A share of 0.2204 as `22.0%`."""
    return f"{share:.1%}"


def share(count: float, total: float) -> str:
    """A part of a total with two digits: `0.41%`, `12%`, `>99%` for nearly all, and `100%` for all."""
    shown = number(100 * count / total, 2)
    return ">99%" if shown == "100" and count < total else f"{shown}%"


def short(value: float) -> str:
    """A large count with three digits: 850, 12.3 k, 4.21 M, 1.10 G."""
    exponent = 0
    while abs(value) >= 999.5 and exponent < 4:
        value, exponent = value / 1000, exponent + 1
    digits = 0 if not exponent else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {' kMGT'[exponent]}".rstrip()


def size(count: float) -> str:
    """A number of bytes: 512 B, 4.2 GB."""
    exponent = 0
    while count >= 999.5 and exponent < len(_SIZES) - 1:
        count, exponent = count / 1000, exponent + 1
    return f"{count:.{int(exponent > 0 and count < 99.95)}f} {_SIZES[exponent]}"


def duration(seconds: float) -> str:
    """A time: 0.8 s, 42 s, 3 min 05 s, 1 h 05 min, 2 d 03 h."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"
