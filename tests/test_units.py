"""Quantities as people read them."""

from __future__ import annotations

import math

import pytest

from deepen.units import format_count, format_si


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 W"),
        (1.5e-3, "1.50 mW"),
        (-2.0, "-2.00 W"),
        (4567.0, "4.57 kW"),
        (3e-10, "0.300 nW"),
        (6.9e-18, "7e-09 nW"),
        (math.nan, "nan W"),
    ],
)
def test_quantities_keep_three_digits_and_a_readable_prefix(value: float, text: str) -> None:
    assert format_si(value, "W") == text


def test_counts_have_prefixes_without_a_unit() -> None:
    assert format_count(4.11e9) == "4.11 G"
