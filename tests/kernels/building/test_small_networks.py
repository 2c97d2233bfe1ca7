"""Small networks: runnable, distinct, of the kinds their styles promise, and never with a kernel to be kept unseen."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from deepen.errors import ConfigError
from deepen.graph import load_graph_from_proto
from deepen.kernels.building.small_networks import SMALL_STYLES, compose_small_network, get_small_network_name
from deepen.kernels.splitting.split import split_graph

ROUNDS = 3


@pytest.mark.parametrize("index", range(ROUNDS * len(SMALL_STYLES)))
def test_every_network_runs_and_stays_small(index):
    made = compose_small_network(index, seed=5)
    onnx.checker.check_model(made.model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (out,) = session.run(None, {given.name: np.ones(given.shape, np.float32)})
    assert np.isfinite(out).all()
    split = split_graph(load_graph_from_proto(made.model))
    assert not [k for k in split.kernels if k.family == "other"]
    assert sum(k.macs for k in split.kernels) == made.macs < 1e9
    assert sum(t.nbytes for k in split.kernels for t in k.weights) < 64 * 2**20


def test_every_other_network_is_a_chain_of_nodes_that_compute_next_to_nothing():
    executed = []
    for index in range(0, 24, 2):
        assert get_small_network_name(index) == f"chain-small-{index:03d}"
        kernels = split_graph(load_graph_from_proto(compose_small_network(index, seed=1).model)).kernels
        assert all(k.macs == 0 and k.bytes_read + k.bytes_written < 40_000 for k in kernels)
        executed.append(len(kernels))
    assert min(executed) < 10 and max(executed) > 100, "one run's own cost, and that of many nodes"


def test_weights_of_the_others_span_what_caches_keep():
    weights = [
        sum(len(w.raw_data) for w in compose_small_network(index, seed=2).model.graph.initializer)
        for index in range(1, 48, 2)
    ]
    assert min(weights) < 2**17 and max(weights) > 2**22


def test_equal_arguments_give_equal_networks_and_excluded_kernels_do_not_occur():
    for index in range(len(SMALL_STYLES)):
        first = compose_small_network(index, seed=3)
        assert compose_small_network(index, seed=3).model == first.model
        assert compose_small_network(index, seed=4).keys != first.keys
        banned = sorted(first.keys)[:1]
        assert not compose_small_network(index, seed=3, exclude=banned).keys & set(banned)


def test_excluding_all_is_an_error(monkeypatch):
    monkeypatch.setattr("deepen.kernels.building.small_networks._MAX_ATTEMPTS", 1)
    keys = compose_small_network(1, seed=3).keys
    with pytest.raises(ConfigError, match="autoencoder"):
        compose_small_network(1, seed=3, exclude=keys)
