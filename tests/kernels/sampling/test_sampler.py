from __future__ import annotations

from collections import Counter
from math import log10
from pathlib import Path

import pytest

from deepen.errors import ConfigError
from deepen.graph import load_graph
from deepen.kernels.building.single_kernel_model import build_kernel_model
from deepen.kernels.families.catalog import load_families
from deepen.kernels.sampling.real_configurations import (
    canonicalise_params,
    list_families_with_configurations,
    load_real_configurations,
)
from deepen.kernels.sampling.sampler import MAX_BYTES, SampledKernel, categorise_params, compute_stratum, sample_kernels
from deepen.kernels.splitting.split import split_graph
from deepen.kernels.types import hash_params

PARTS_ON_ONNXRUNTIME = {"addrelu", "bnrelu", "channelshuffle", "se"}
"""Families ONNX Runtime executes as several kernels; rules-based runtimes have them."""


@pytest.fixture(scope="module")
def thousand() -> list[SampledKernel]:
    return sample_kernels(None, 1000, seed=7)


def test_equal_seeds_give_equal_samples_and_others_do_not(thousand):
    assert sample_kernels(None, 200, seed=7) == thousand[:200]
    assert {k.key for k in sample_kernels(None, 200, seed=8)} != {k.key for k in thousand[:200]}


@pytest.mark.parametrize("count", [0, 1, 37, 400])
def test_every_prefix_is_the_sample_of_that_size(thousand, count):
    assert sample_kernels(None, count, seed=7) == thousand[:count]


def test_keys_are_content_hashes_and_never_repeat(thousand):
    assert all(k.key == hash_params(k.family, k.params) for k in thousand)
    assert len({k.key for k in thousand}) == 1000


def test_params_are_canonical(thousand):
    assert all(canonicalise_params(k.family, k.params) == k.params for k in thousand)


def test_excluded_keys_never_occur_and_the_rest_is_still_served(thousand):
    banned = {k.key for k in thousand[::3]}
    again = sample_kernels(None, 1000, seed=7, exclude=banned)
    assert len(again) == 1000
    assert not banned & {k.key for k in again}


def test_bounds_on_work_and_memory_hold(thousand):
    assert max(k.bytes for k in thousand) <= MAX_BYTES
    small = sample_kernels(None, 300, seed=7, max_macs=1_000_000)
    assert len(small) == 300
    assert max(k.macs for k in small) <= 1_000_000
    assert max(k.macs for k in thousand) > 1_000_000_000


def test_sizes_span_decades_evenly_enough(thousand):
    decades = Counter(int(log10(k.macs)) for k in thousand if k.family == "conv-bn-relu")
    assert {5, 6, 7, 8, 9} <= set(decades)
    assert max(decades.values()) < 0.6 * sum(decades.values())
    concat = [log10(k.bytes) for k in thousand if k.family == "concat"]
    assert max(concat) - min(concat) > 2.5


def test_any_prefix_has_families_in_proportion_to_their_weights(thousand):
    weights = {name: float(family.sampling["weight"]) for name, family in load_families().items()}
    total = sum(weights.values())
    for count in (50, 250, 1000):
        seen = Counter(k.family for k in thousand[:count])
        for name, weight in weights.items():
            assert abs(seen[name] - count * weight / total) <= 2, (name, count)


def test_any_prefix_has_small_and_large_kernels():
    first = sample_kernels(["conv-bn-relu"], 30, seed=1)
    sizes = sorted(k.macs for k in first)
    assert sizes[-1] / sizes[0] > 1e3
    assert len({stratum_of(k) for k in first}) >= 6


def stratum_of(kernel: SampledKernel) -> int:
    from deepen.kernels.families.kernel_work import compute_kernel_work

    return compute_stratum(compute_kernel_work(kernel.family, kernel.params))


def test_every_prefix_has_first_layers_wide_windows_and_pointwise_kernels():
    kinds = {categorise_params(k.params)[1:4] for k in sample_kernels(["conv-bn-relu"], 80, seed=2)}
    assert ("large", True, True) in kinds  # first layer: large window, stride, reads colours
    assert ("point", False, False) in kinds
    assert ("small", False, False) in kinds


def test_a_familys_kernels_do_not_depend_on_the_others():
    alone = [k.key for k in sample_kernels(["fc"], 40, seed=3)]
    among = [
        k.key
        for k in sample_kernels(["fc", "lrn", "conv-bn-relu"], 120, seed=3, weights={"fc": 15})
        if k.family == "fc"
    ]
    assert len(among) > 40
    assert among[:40] == alone


def test_weights_decide_the_allocation():
    seen = Counter(k.family for k in sample_kernels(["fc", "lrn"], 100, weights={"fc": 3, "lrn": 1}))
    assert abs(seen["fc"] - 75) <= 1
    assert Counter(
        k.family
        for k in sample_kernels(
            None, 60, weights=dict.fromkeys(list_families_with_configurations(), 0) | {"softmax": 1}
        )
    ) == {"softmax": 60}


def test_families_without_default_weight_come_only_when_asked_for(thousand):
    assert not PARTS_ON_ONNXRUNTIME & {k.family for k in thousand}
    assert {k.family for k in sample_kernels(["se", "channelshuffle"], 20)} == {"se", "channelshuffle"}


def test_configurations_stay_joint(thousand):
    for kernel in thousand:
        params = kernel.params
        if kernel.family == "dwconv-bn-relu":
            assert params["groups"] == params["c_in"]
            assert params["c_out"] % params["c_in"] == 0
        elif kernel.family == "groupconv":
            assert params["c_in"] % params["groups"] == params["c_out"] % params["groups"] == 0
            assert 1 < params["groups"] < params["c_in"]


def test_a_bare_matmul_has_no_activation_because_no_runtime_fuses_one():
    found = [k.params for k in sample_kernels(["fc"], 600, seed=3)]
    assert any(p["op"] == "MatMul" for p in found)
    assert all(p["activation"] == "none" for p in found if p["op"] == "MatMul")
    assert any(p["activation"] != "none" for p in found)


def test_widths_are_mostly_multiples_of_eight_and_sometimes_odd(thousand):
    widths = [k.params["c_out"] for k in thousand if k.family == "conv-bn-relu"]
    assert 0.6 < sum(w % 8 == 0 for w in widths) / len(widths) < 0.98
    assert any(w % 2 for w in widths)


def test_most_activations_and_windows_are_those_of_real_kernels(thousand):
    convolutions = [k.params for k in thousand if k.family == "conv-bn-relu"]
    usual = sum(p["kernel"] in ([1, 1], [3, 3]) for p in convolutions) / len(convolutions)
    real = [row.params["kernel"] in ([1, 1], [3, 3]) for row in load_real_configurations("conv-bn-relu")]
    assert usual > 0.6 * sum(real) / len(real)
    assert {p["activation"] for p in convolutions} <= {
        row.params["activation"] for row in load_real_configurations("conv-bn-relu")
    }


@pytest.mark.parametrize("family", list_families_with_configurations())
def test_sampled_kernels_build_and_split_into_themselves(family: str, tmp_path: Path):
    import onnx

    kernels = sample_kernels([family], 5, seed=11, max_macs=100_000_000)
    assert len(kernels) == 5
    for number, kernel in enumerate(kernels):
        path = tmp_path / f"{number}.onnx"
        onnx.save(build_kernel_model(family, kernel.params), path)
        found = split_graph(load_graph(path))
        assert found.macs == kernel.macs
        if family in PARTS_ON_ONNXRUNTIME:
            assert len(found.kernels) > 1
        else:
            assert [k.key for k in found.kernels] == [kernel.key], kernel


def test_sampled_kernels_run(tmp_path: Path):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for kernel in sample_kernels(
        None, 60, seed=13, max_macs=30_000_000, weights=dict.fromkeys(list_families_with_configurations(), 1)
    ):
        if kernel.bytes > 50_000_000:
            continue
        model = build_kernel_model(kernel.family, kernel.params)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        feeds = {
            value.name: np.zeros(value.shape, _NUMPY[value.type.removeprefix("tensor(").removesuffix(")")])
            for value in session.get_inputs()
        }
        assert all(result.size for result in session.run(None, feeds))


_NUMPY = {
    "float": "float32", "double": "float64", "int64": "int64", "int32": "int32", "uint8": "uint8", "int8": "int8",
    "bool": "bool", "float16": "float16",
}  # fmt: skip


def test_without_spread_the_sample_is_the_priors_and_then_ends(monkeypatch):
    monkeypatch.setattr("deepen.kernels.sampling.sampler._SPREADS", ((0.0, 1.0),))
    found = sample_kernels(["lrn", "concat"], 100_000, seed=1)
    real = {hash_params(name, row.params) for name in ("lrn", "concat") for row in load_real_configurations(name)}
    assert {k.key for k in found} == real
    assert len(found) == len(real)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ["conv-bn-rellu"]}, "did you mean conv-bn-relu"),
        ({"weights": {"nothing": 1}}, "unknown kernel family 'nothing'"),
        ({"weights": {"fc": -1}}, "weight of family 'fc' is -1"),
        ({"count": -1}, "count is -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        sample_kernels(**arguments)
