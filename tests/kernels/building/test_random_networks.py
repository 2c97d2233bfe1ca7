from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.graph import load_graph
from deepen.kernels.building import random_networks
from deepen.kernels.building.random_networks import STYLES, compose_network, compose_networks, get_network_name
from deepen.kernels.splitting.split import split_graph


@pytest.mark.parametrize("index", range(len(STYLES)), ids=list(STYLES))
def test_each_style_splits_completely_counts_its_work_and_runs(index: int, tmp_path: Path):
    import onnx
    import onnxruntime

    made = compose_network(index, seed=4)
    assert made.name == get_network_name(index)
    onnx.checker.check_model(made.model, full_check=True)
    path = tmp_path / "network.onnx"
    onnx.save(made.model, path)
    found = split_graph(load_graph(path))
    assert not found.unassigned
    assert found.macs == made.macs
    assert random_networks.MIN_MACS <= made.macs <= random_networks.MAX_MACS
    assert {kernel.key for kernel in found.kernels} == made.keys
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options)
    (declared,) = session.get_inputs()
    feed = np.random.default_rng(0).random(declared.shape, np.float32)
    (result,) = session.run(None, {declared.name: feed})
    assert np.isfinite(result).all()
    assert result.std() > 0  # weights neither vanish nor saturate the network


def test_equal_seeds_give_equal_networks_and_others_do_not():
    first, again = compose_network(3, seed=1), compose_network(3, seed=1)
    assert first.keys == again.keys
    assert first.model == again.model
    assert compose_network(3, seed=2).keys != first.keys


def test_networks_are_a_prefix_of_more_networks():
    def shapes(made):
        return [(m.name, m.macs, m.keys) for m in made]

    assert shapes(compose_networks(4, seed=6)) == shapes(compose_networks(2, seed=6)) + shapes(
        [compose_network(i, 6) for i in (2, 3)]
    )


def test_networks_of_one_style_differ():
    assert not compose_network(8, seed=0).keys & compose_network(8 + len(STYLES), seed=0).keys


def test_a_network_with_an_excluded_kernel_is_drawn_again():
    first = compose_network(3, seed=1)
    banned = {next(iter(first.keys))}
    other = compose_network(3, seed=1, exclude=banned)
    assert other.name == first.name
    assert not banned & other.keys
    assert other.keys != first.keys


def test_what_cannot_be_avoided_is_an_error(monkeypatch):
    keys = compose_network(3, seed=1).keys
    monkeypatch.setattr(random_networks, "MAX_ATTEMPTS", 1)
    with pytest.raises(ConfigError, match=r"no separable network without an excluded kernel in 1 draws"):
        compose_network(3, seed=1, exclude=keys)


def test_networks_avoid_the_networks_of_the_onnx_wheel(unseen):
    for index in range(0, len(STYLES), 2):
        assert not set(unseen) & compose_network(index, seed=9, exclude=unseen).keys


def test_work_is_spread_over_the_range_of_each_style():
    sizes = []
    for index in range(60):
        style, seed = get_network_name(index).rpartition("-")[0], [0, index, 0]
        width = random_networks._tune_width(style, seed)
        if width is not None:
            sizes.append(random_networks._draw_network(style, seed, width, dry=True)[0].macs)
    assert len(sizes) > 45
    assert min(sizes) < 5e7
    assert max(sizes) > 1e9
