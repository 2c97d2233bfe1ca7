"""Tables fit the terminal, and equal lines are one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.cli.fitted_tables import fit_table, fold_equal, format_operators, get_terminal_width, merge_names

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=8), st.integers(40, 200))
def test_no_line_is_longer_than_the_width(rows: list[tuple[str, str, str]], width: int) -> None:
    text = fit_table(("name", "what", "figure"), rows, width, right=(2,), elastic=(0, 1), dispensable=(1,))
    assert all(len(line) <= width for line in text.split("\n")) and len(text.split("\n")) >= 2


@given(st.sets(st.text("ab/", min_size=1, max_size=80), min_size=1, max_size=20))
def test_different_names_stay_different(names: set[str]) -> None:
    lines = fit_table(("name",), [(name,) for name in sorted(names)], 40).splitlines()[2:]
    assert len(set(lines)) == len(names)


def test_wide_tables_are_not_cut() -> None:
    assert fit_table(("a", "b"), [("x" * 50, "y" * 50)], 102).splitlines()[2] == "x" * 50 + "  " + "y" * 50


@pytest.mark.parametrize(
    ("names", "merged"),
    [
        (["/layer.0/MatMul", "/layer.11/MatMul"], "/layer.*/MatMul"),
        (["a1b2", "a1b3"], "a1b*"),
        (["a", "b"], "a"),
        (["only2"], "only2"),
    ],
)
def test_names_that_differ_in_numbers_are_written_as_one(names: list[str], merged: str) -> None:
    assert merge_names(names) == merged


@given(st.lists(st.integers(0, 5)))
def test_folding_keeps_every_item_and_the_order_of_the_first(items: list[int]) -> None:
    groups = fold_equal(items, lambda i: i % 3)
    assert sorted(i for g in groups for i in g) == sorted(items)
    assert [g[0] % 3 for g in groups] == list(dict.fromkeys(i % 3 for i in items))


def test_operators_that_quantise_are_said_in_short() -> None:
    assert format_operators(("DequantizeLinear", "MatMul", "Add", "Add", "QuantizeLinear")) == "MatMul+2xAdd+QDQ"
    assert format_operators(("DequantizeLinear",)) == "DequantizeLinear"


def test_the_width_is_that_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "91")
    assert get_terminal_width() == 91
    monkeypatch.setenv("COLUMNS", "wide")
    assert get_terminal_width() >= 40
