"""Errors say what happened in one line, whatever was put into them."""

from __future__ import annotations

import pytest

from deepen.errors import ConfigError, DeepenError, MeterError, make_unknown_name_error


@pytest.mark.parametrize("kind", [DeepenError, ConfigError, MeterError])
def test_a_message_is_one_line_of_printable_characters(kind: type[DeepenError]) -> None:
    assert str(kind("it says '\x1b[31mred\x1b[0m\nand\tmore\r\n'; look")) == "it says ' [31mred [0m and more '; look"


@pytest.mark.parametrize("text", ["two  blanks stay", "35 \N{DEGREE SIGN}C", "", "it's fine"])
def test_a_printable_message_stays_as_it_is(text: str) -> None:
    assert str(MeterError(text)) == text


def test_names_with_line_ends_are_told_in_one_line() -> None:
    assert "\n" not in str(make_unknown_name_error("device", "pi\nxel", ["pixel\n8", "pixel 7"]))
