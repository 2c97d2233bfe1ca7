from __future__ import annotations

import pickle

from deepen.graph.read_options import ReadOptions


def test_shapes_alone_become_options_and_options_stay_what_they_are() -> None:
    options = ReadOptions.from_shapes({"x": (1, 3, 8, 8)})
    assert options.shapes == {"x": (1, 3, 8, 8)}
    assert not options.allow_unknown
    assert ReadOptions.from_shapes(options) is options
    assert ReadOptions.from_shapes(None) == ReadOptions()


def test_options_travel_to_the_processes_that_read_models() -> None:
    options = ReadOptions(dims={"N": 2}, rounds={"loop": 7}, branches={"use_cache": True}, custom_ops=("ops.so",))
    assert pickle.loads(pickle.dumps(options)) == options
