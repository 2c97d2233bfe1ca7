"""Errors say what happened in one line, whatever was put into them."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import ConfigError, DeepenError, MeterError, make_unknown_name_error


@pytest.mark.parametrize("kind", [DeepenError, ConfigError, MeterError])
def test_a_message_is_one_line_of_printable_characters(kind: type[DeepenError]) -> None:
    assert str(kind("it says '\x1b[31mred\x1b[0m\nand\tmore\r\n'; look")) == "it says ' [31mred [0m and more '; look"


@pytest.mark.parametrize("text", ["two  blanks stay", "35 \N{DEGREE SIGN}C", "", "it's fine"])
def test_a_printable_message_stays_as_it_is(text: str) -> None:
    assert str(MeterError(text)) == text


def test_names_with_line_ends_are_told_in_one_line() -> None:
    assert "\n" not in str(make_unknown_name_error("device", "pi\nxel", ["pixel\n8", "pixel 7"]))


_TEXTS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=12)


@given(cause=_TEXTS, subject=_TEXTS, cure=_TEXTS)
def test_subject_cause_and_cure_are_fields_that_the_text_joins(cause: str, subject: str, cure: str) -> None:
    error = MeterError(cause, subject=subject, cure=cure)
    assert (error.cause, error.subject, error.cure) == (cause, subject, cure)
    assert str(error) == (f"{subject}: " if subject else "") + cause + (f"; {cure}" if cure else "")


@given(cause=_TEXTS, subject=_TEXTS, cure=_TEXTS)
def test_an_error_crosses_processes_with_its_fields(cause: str, subject: str, cure: str) -> None:
    error = MeterError(cause, subject=subject, cure=cure)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.cause, back.subject, back.cure) == (MeterError, cause, subject, cure)


@given(cause=_TEXTS, subject=_TEXTS, cure=_TEXTS, other=_TEXTS.filter(bool))
def test_an_error_gets_a_subject_once_and_loses_nothing(cause: str, subject: str, cure: str, other: str) -> None:
    error = ConfigError(cause, subject=subject, cure=cure)
    named = error.with_subject(other)
    assert (type(named), named.subject, named.cure) == (ConfigError, other, cure)
    assert str(named) == (str(error) if subject == other else f"{other}: {error}")
    assert str(named.with_subject(other)) == str(named)
