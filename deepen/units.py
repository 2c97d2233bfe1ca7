"""Renders SI quantities with prefixes; all other code has numbers in SI base units."""

from __future__ import annotations

import math

__all__ = ["format_count", "format_si"]

_PREFIXES = (
    (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"),
)  # fmt: skip


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """Render a quantity with the SI prefix that keeps it readable.

    Args:
        value: The quantity in the base unit (J, W, s, B).
        unit: Symbol of the base unit.
        digits: Significant digits, 1 to 3.

    Returns:
        For example ``"3.42 mJ"``; ``"0 J"`` for zero and for less than the smallest prefix, femto, can show with these
        digits, ``"nan J"`` for no number.
    """
    if not math.isfinite(value):
        return f"{value:g} {unit}"
    size = float(f"{abs(value):.{digits - 1}e}")  # rounded first: 999.9 m is 1.00, not 1000 m
    scale, prefix = next(((s, p) for s, p in _PREFIXES if size >= s), _PREFIXES[-1])
    scaled = value / scale
    if abs(scaled) < 10.0 ** (1 - digits):
        return f"0 {unit}"
    decimals = max(0, digits - 1 - max(0, math.floor(math.log10(size / scale))))
    return f"{scaled:.{decimals}f} {prefix}{unit}"


def format_count(value: float) -> str:
    """Render a count with a metric prefix, for example ``"4.11 G"``."""
    return format_si(value, "").strip()
