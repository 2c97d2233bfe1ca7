"""Labels of numbers: their order, and what a sum of several kinds is called."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import ConfigError, MeasureError
from deepen.predictors.prediction import Prediction
from deepen.records import (
    EnergyRecord,
    FigureLabel,
    RecordLabel,
    Source,
    SourceLabel,
    describe_mixed_labels,
    find_weakest_label,
    find_weakest_source,
    parse_label,
)

FIGURES, RECORDS = get_args(FigureLabel), get_args(RecordLabel)
LABELS = st.one_of(
    st.sampled_from(RECORDS).map(SourceLabel), st.sampled_from(RECORDS).map(lambda s: SourceLabel("predicted", s))
)


def test_a_reading_is_never_published_and_a_record_never_predicted():
    assert set(get_args(Source)) < set(RECORDS) < set(FIGURES)
    assert set(FIGURES) - set(RECORDS) == {"predicted"}
    assert set(RECORDS) - set(get_args(Source)) == {"published"}


@given(st.lists(LABELS, min_size=1))
def test_a_sum_carries_the_weakest_label_and_is_predicted_as_soon_as_a_part_is(labels):
    found = find_weakest_label(labels)
    assert all(FIGURES.index(found.source) >= FIGURES.index(x.source) for x in labels)
    assert (found.source == "predicted") == any(x.source == "predicted" for x in labels)
    assert bool(found.learnt_from) == (found.source == "predicted")
    assert parse_label(*found) == found
    everything = {x.learnt_from or x.source for x in labels}
    assert (found.learnt_from or found.source) == find_weakest_source(everything)


@given(st.lists(LABELS, min_size=1), st.lists(LABELS, min_size=1))
def test_the_label_of_a_sum_does_not_depend_on_how_it_is_put_together(some, others):
    assert find_weakest_label([find_weakest_label(some), find_weakest_label(others)]) == find_weakest_label(
        [*others, *some]
    )


@given(st.lists(LABELS))
def test_labels_that_differ_are_counted_in_words(labels):
    text = describe_mixed_labels(labels)
    assert bool(text) == (len(set(labels)) > 1)
    assert not text or sum(int(part.split()[0]) for part in text.split(", ")) == len(labels)


@pytest.mark.parametrize(
    ("source", "learnt_from", "words"),
    [
        ("guessed", "", "guessed"),
        ("predicted", "", "needs learnt_from"),
        ("predicted", "predicted", "needs learnt_from"),
        ("measured", "modelled", "remove it"),
    ],
)
def test_a_label_that_says_too_little_or_too_much_is_refused(source, learnt_from, words):
    with pytest.raises(ConfigError, match=words):
        parse_label(source, learnt_from)


def test_a_prediction_cannot_be_called_anything_else():
    with pytest.raises(TypeError):
        Prediction("m", 1.0, (0.5, 2.0), 0.0, (), 1.0, (), 0, "p", "measured", source="measured")  # type: ignore[call-arg]
    assert Prediction("m", 1.0, (0.5, 2.0), 0.0, (), 1.0, (), 0, "p", "measured").label == ("predicted", "measured")


@pytest.mark.parametrize("source", FIGURES)
def test_records_take_the_labels_of_records(source):
    values = (1.0, 0.1, 1.0, 0.1, 0.0, 0.0, 1, "r", "b", "d", "m", source, 1, (1.0,), "")
    if source in RECORDS:
        assert EnergyRecord("i", "kernel", "n", *values).source == source
    else:
        with pytest.raises((ConfigError, MeasureError), match="source"):
            EnergyRecord("i", "kernel", "n", *values)
