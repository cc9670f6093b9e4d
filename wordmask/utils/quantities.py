"""Numbers as people read them: with a unit, and with as many digits as matter."""

from __future__ import annotations

import math

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def counted(number: int, what: str, plural: str | None = None) -> str:
    """A number with its noun: `counted(1, "step")` is `1 step`, and `counted(12300, "token")` is `12,300 tokens`."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits: 6.163, 0.002371, 12,300, and 5e-05 or 1.2e+09 beyond."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    if rounded and not 1e-3 <= abs(rounded) < 1e9:
        return f"{rounded:.{digits}g}"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded))) if rounded else digits - 1
    return f"{rounded:,.{max(decimals, 0)}f}"


def changed(new: float, old: float, decimals: int | None = None) -> str:
    """How a number has changed, to the digits that are shown of it: -0.210, +1.5, or `same`."""
    decimals = len(number(new).partition(".")[2]) if decimals is None else decimals
    if not math.isfinite(new - old):
        return f"was {number(old)}"
    difference = f"{new - old:+,.{decimals}f}"
    return difference if float(difference.replace(",", "")) else "same"


def percent(share: float) -> str:
    """A share of 0.2204 as `22.0%`."""
    return f"{share:.1%}"


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
