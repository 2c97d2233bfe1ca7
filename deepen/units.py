"""Renders SI quantities with prefixes; all other code has numbers in SI base units."""

from __future__ import annotations

import math

__all__ = ["format_count", "format_si"]

_PREFIXES = [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")]


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """Render a quantity with the SI prefix that keeps it readable.

    Args:
        value: The quantity in the base unit (J, W, s, B).
        unit: Symbol of the base unit.
        digits: Significant digits.

    Returns:
        For example ``"3.42 mJ"``; ``"0 J"`` for zero, ``"7e-09 nJ"`` for almost nothing, ``"nan J"`` for no number.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    scale, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s), _PREFIXES[-1])
    scaled = value / scale
    if abs(scaled) < 10**-digits:  # far below what any instrument resolves
        return f"{scaled:.0e} {prefix}{unit}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(scaled))))
    return f"{scaled:.{decimals}f} {prefix}{unit}"


def format_count(value: float) -> str:
    """Render a count with a metric prefix, for example ``"4.11 G"``."""
    return format_si(value, "").strip()
