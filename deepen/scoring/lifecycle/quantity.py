"""Parses and spells energies and counts in everyday notation: ``12.5 kWh``, ``3.2 mJ``, ``3.1 million``."""

from __future__ import annotations

import math
import re

from deepen.errors import ConfigError

__all__ = [
    "JOULES",
    "get_joules_per_unit",
    "parse_count",
    "parse_energy",
    "parse_fraction",
    "spell_count",
    "spell_count_range",
]

_PREFIXES = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

JOULES = {f"{p}{u}": f * j for u, j in (("J", 1.0), ("Wh", 3600.0)) for p, f in _PREFIXES.items()}
"""Unit -> joules. Case distinguishes mJ from MJ."""

_QUANTITY = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµμ%]*)\s*")
_COUNT_WORDS = {"": 1.0, "thousand": 1e3, "k": 1e3, "million": 1e6, "M": 1e6, "billion": 1e9, "G": 1e9}


def get_joules_per_unit(unit: str) -> float:
    """Return the joules in a unit.

    Raises:
        ConfigError: If it is not a unit of energy.
    """
    if unit in JOULES:
        return JOULES[unit]
    raise ConfigError(f"'{unit}' is no unit of energy; write one of nJ, uJ, mJ, J, kJ, MJ, GJ, mWh, Wh, kWh, MWh")


def _split_quantity(text: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ConfigError(f"'{text}' is no number with a unit; write for example 3.2 mJ or 12.5 kWh")
    return float(match[1].replace("_", "")), match[2]


def parse_energy(text: str, unit: str = "") -> float:
    """Read an energy, joules.

    Args:
        text: For example ``12.5 kWh``, or a bare number in ``unit``.
        unit: Unit of a bare number; without it, a bare number is refused, except 0.

    Raises:
        ConfigError: If it is not an energy, or negative.
    """
    value, written = _split_quantity(text)
    if not written and not unit and value != 0:
        raise ConfigError(f"'{text}' has no unit; write for example '{text.strip()} J' or '{text.strip()} kWh'")
    joules = value * get_joules_per_unit(written or unit or "J")
    if not 0 <= joules < math.inf:
        raise ConfigError(f"energy '{text}' is not a number from 0 up; correct it")
    return joules


def parse_fraction(text: str, what: str) -> float:
    """Read a share: ``0.741`` or ``74.1 %``.

    Raises:
        ConfigError: If it is not from 0 to 1.
    """
    value, unit = _split_quantity(text)
    share = value / 100 if unit == "%" else value
    if unit not in ("", "%") or not 0 <= share <= 1:
        raise ConfigError(f"{what} '{text}' is not between 0 and 1; write a share such as 0.741, or 74.1 %")
    return share


def parse_count(text: str) -> float:
    """Read a number of inferences: ``250000``, ``2.5e5``, ``3.1 million``, ``40k``, ``2M``.

    Raises:
        ConfigError: If it is not a count from 0 up.
    """
    try:
        value, word = _split_quantity(text)
    except ConfigError:
        value, word = -1.0, ""
    if word not in _COUNT_WORDS or not 0 <= value < math.inf:
        raise ConfigError(f"'{text}' is no number of inferences; write for example 250000, 2.5e5 or '3.1 million'")
    return value * _COUNT_WORDS[word]


def spell_count(value: float, decimals: int = 1) -> str:
    """Spell a count with two or three digits: ``640``, ``12 thousand``, ``3.1 million``.

    Args:
        value: The count.
        decimals: Decimals of a count in thousands, millions, ...; more of them distinguish near counts.
    """
    if math.isinf(value):
        return "infinitely many"
    if value < 1 and value != 0:
        return f"{value:.2g}"
    for scale, word in ((1e15, ""), (1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e4, " thousand")):
        if value >= scale * 0.9995:
            return (
                f"{value:.2e}"
                if not word
                else f"{_format_digits(value / (1e3 if scale == 1e4 else scale), decimals)}{word}"
            )
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spell_count_range(start: float, end: float) -> tuple[str, str]:
    """Spell two counts, with as many decimals as it takes to distinguish them (six at most)."""
    spelt = spell_count(start), spell_count(end)
    for decimals in range(2, 7):
        if spelt[0] != spelt[1]:
            break
        spelt = spell_count(start, decimals), spell_count(end, decimals)
    return spelt


def _format_digits(value: float, decimals: int) -> str:
    if decimals > 1:
        return f"{value:.{decimals}f}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}".removesuffix(".0")
