"""Names in the user's options that the model does not have."""

import pytest

from deepen.errors import GraphError
from deepen.graph import ReadOptions, load_graph_from_proto


def make_loop(models):
    built = models.looping(3)
    built.graph.input[0].CopyFrom(models.tensor("x", "N", 8))
    return built


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ReadOptions(dims={"n": 1}), "the model has no symbolic dimension 'n'; it has N"),
        (ReadOptions(sizes={"loop.body/n": 1}), "the model has no tensor 'loop.body/n'; it has loop.body/"),
        (ReadOptions(sizes={"x": 1}), "the model has no tensor 'x'; it has"),
        (ReadOptions(rounds={"lop": 1}), "the model has no loop 'lop'; it has loop"),
        (ReadOptions(branches={"y": True}), "the model has no If node or input 'y'; it has"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_close_ones(models, options, message):
    with pytest.raises(GraphError) as caught:
        load_graph_from_proto(make_loop(models), options)
    assert str(caught.value).startswith(message)


def test_names_of_the_model_are_taken(models):
    built = make_loop(models)
    options = ReadOptions(dims={"N": 2}, rounds={"loop": 3}, branches={"x": True})
    assert load_graph_from_proto(built, options).inputs[0].shape == (2, 8)
