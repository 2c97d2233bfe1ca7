"""Quantities as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.units import format_count, format_si


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 W"),
        (1.5e-3, "1.50 mW"),
        (-2.0, "-2.00 W"),
        (4567.0, "4.57 kW"),
        (3e-10, "300 pW"),
        (1e-13, "100 fW"),
        (6.9e-17, "0.07 fW"),
        (6.9e-18, "0 W"),
        (0.9996, "1.00 W"),
        (999.6e-6, "1.00 mW"),
        (math.inf, "inf W"),
        (math.nan, "nan W"),
    ],
)
def test_quantities_keep_three_digits_and_a_readable_prefix(value: float, text: str) -> None:
    assert format_si(value, "W") == text


@given(st.floats(1e-15, 1e12), st.sampled_from([-1.0, 1.0]))
def test_the_text_says_the_value_to_three_digits_and_no_longer_than_needed(size: float, sign: float) -> None:
    number, unit = format_si(sign * size, "J").split(" ")
    scales = {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
    assert float(number) * scales[unit[:-1]] == pytest.approx(sign * size, rel=5.1e-3)
    assert "e" not in number and 1 <= abs(float(number)) < (1000 if size < 0.9995e12 else math.inf)
    assert len(number.lstrip("-").replace(".", "")) >= 3


def test_counts_have_prefixes_without_a_unit() -> None:
    assert format_count(4.11e9) == "4.11 G"
