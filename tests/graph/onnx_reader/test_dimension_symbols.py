"""Symbols that are expressions over others: computed, solved, and left alone where that is not exact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.graph.onnx_reader.dimension_symbols import compute_symbol, list_symbol_names, solve_symbols


@pytest.mark.parametrize(
    ("symbol", "size"),
    [
        ("past_sequence_length + sequence_length", 21),
        ("2*sequence_length", 10),
        ("sequence_length + 1", 6),
        ("sequence_length - 1", 4),
        ("floor(sequence_length/2 + 1/2)", 3),
        ("(sequence_length + 1)//2", 3),
        ("Max(1, sequence_length)", 5),
        ("math.ceil(sequence_length/4)", 2),
        ("batch-size * sequence_length", 15),
        ("unk__1 + 2", 9),
        ("sequence_length/2", None),
        ("sequence_length - 6", None),
        ("sequence_length % 0", None),
        ("other + 1", None),
        ("__import__('os')", None),
        ("sequence_length ** 9", None),
        ("sequence_length +", None),
    ],
)
def test_an_expression_over_symbols(symbol, size):
    known = {"past_sequence_length": 16, "sequence_length": 5, "batch-size": 3, "unk__1": 7}
    assert compute_symbol(symbol, known) == size


def test_the_names_in_a_symbol():
    assert list_symbol_names("batch-size") == ["batch-size"]
    assert list_symbol_names("a.b + 2*c") == ["a.b + 2*c", "a.b", "c"]
    assert solve_symbols(["batch-size"], {"batch": 3, "size": 2}) == {"batch": 3, "size": 2}


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 64))
def test_a_symbol_is_solved_for_exactly(first, second, factor):
    total = f"{factor}*first + second"
    symbols = ["first", "second", total, f"{total} - 1"]
    known = {"second": second, total: factor * first + second}
    assert solve_symbols(symbols, known)["first"] == first
    assert solve_symbols(symbols, {"first": first, "second": second})[total] == known[total]


def test_what_does_not_follow_is_not_guessed():
    assert solve_symbols(["floor(n/2)"], {"floor(n/2)": 4}) == {"floor(n/2)": 4}
    assert solve_symbols(["a + b"], {"a + b": 4}) == {"a + b": 4}
    assert solve_symbols(["2*a"], {"2*a": 5}) == {"2*a": 5}
