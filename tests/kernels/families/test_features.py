"""Features: one fixed order, sensitive to everything that matters (each defect of the predecessor is a test here)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import PredictorError
from deepen.graph import load_graph_from_proto
from deepen.kernels import (
    FEATURE_NAMES,
    FEATURES_VERSION,
    build_feature_matrix,
    build_kernel_model,
    compute_features,
    describe_kernel,
    load_families,
)
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.families.shape_features import count_broadcast_runs

CONV = {
    "c_in": 32, "c_out": 64, "spatial": [28, 28], "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1],
    "pads": [1, 1, 1, 1],
}  # fmt: skip


def of(family, **params):
    graph = load_graph_from_proto(build_kernel_model(family, params))
    return compute_features(describe_kernel(graph.nodes, graph))


def derive(family, **params):
    """Features without building a model."""
    return compute_features(make_kernel_from_params(family, params))


def test_names_are_frozen_with_the_version():
    digest = hashlib.sha256(",".join(FEATURE_NAMES).encode()).hexdigest()[:12]
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert {1: "b7e6d067eb2a", 2: "1a3f72fc59b4", 3: "16b214c4adbc"}[FEATURES_VERSION] == digest, (
        "names or order changed: raise FEATURES_VERSION and add its digest"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"spatial": [28, 14]}, {"batch": 2}, {"dtype": "float64"}, {"stride": [1, 2]}, {"dilation": [2, 1]},
        {"pads": [0, 1, 1, 1]}, {"kernel": [3, 1]}, {"c_in": 33}, {"c_out": 65}, {"bias": True}, {"activation": "relu"},
        {"residual": True},
    ],
)  # fmt: skip
def test_every_parameter_of_a_convolution_shows(change):
    """nn-Meter knew square maps, one stride, and neither padding, dilation, batch nor data type."""
    assert of("conv-bn-relu", **CONV) != of("conv-bn-relu", **{**CONV, **change})


def test_height_and_width_are_told_apart():
    wide, tall = of("conv-bn-relu", **{**CONV, "spatial": [7, 56]}), of("conv-bn-relu", **{**CONV, "spatial": [56, 7]})
    assert wide["macs"] == tall["macs"]
    assert (wide["h_in"], wide["w_in"], tall["h_in"], tall["w_in"]) == (7, 56, 56, 7)


def test_groups_divide_the_work():
    """nn-Meter predicted the same for resnext50_32x4d and wide_resnet50_2."""
    dense, grouped = of("conv-bn-relu", **CONV), of("groupconv", **CONV, groups=4)
    assert dense["macs"] == 4 * grouped["macs"]
    assert (grouped["groups"], grouped["gemm_batch"], grouped["n"]) == (4, 4, 16)
    assert grouped["bytes_weights"] * 4 == dense["bytes_weights"]


def test_padding_counts_in_the_work():
    same, valid = of("conv-bn-relu", **CONV), of("conv-bn-relu", **{**CONV, "pads": [0] * 4})
    assert same["macs"] / valid["macs"] == pytest.approx(28**2 / 26**2)


def test_global_pooling_knows_its_map():
    """nn-Meter always predicted global pooling with a map of 1 x 1."""
    small, large = of("global-avgpool", c=64, spatial=[7, 7]), of("global-avgpool", c=64, spatial=[14, 14])
    assert (small["h_in"], large["h_in"], large["axis_size"]) == (7, 14, 196)
    assert large["bytes_read"] == 4 * small["bytes_read"]


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_concat_of_any_number_has_the_same_columns(count):
    """nn-Meter trained concat on five features, predicted with six, and took at most four inputs."""
    found = of("concat", in_shapes=[[1, 16, 8, 8]] * count, sources=list(range(count)), axis=1)
    assert tuple(found) == FEATURE_NAMES
    assert (found["n_inputs"], found["c_out"], found["axis_size"]) == (count, 16 * count, 16 * count)


def test_tokens_count_in_a_fully_connected_layer():
    """nn-Meter looked at the last sizes only."""
    one, many = of("fc", m=1, k=64, n=32), of("fc", m=197, k=64, n=32)
    assert many["macs"] == 197 * one["macs"]
    assert (one["m"], many["m"]) == (1, 197)


@pytest.mark.parametrize("shape", [[], [8], [3, 8], [2, 3, 8], [1, 2, 3, 8], [1, 2, 3, 4, 5, 6]])
def test_addition_of_any_rank(shape):
    """nn-Meter failed with an IndexError below rank 4."""
    found = of("add", in_shapes=[shape, shape], sources=[0, 1])
    assert found["rank"] == len(shape)
    assert found["ops"] == np.prod(shape)


def test_broadcasting_shows():
    full = of("binary", op="Mul", in_shapes=[[1, 8, 4, 4]] * 2, sources=[0, 1])
    wide = of("binary", op="Mul", in_shapes=[[1, 8, 4, 4], [1, 8, 1, 1]], sources=[0, 1])
    assert (full["broadcast"], wide["broadcast"]) == (0, 1)
    assert wide["bytes_read"] == 4 * (128 + 8)


def find_longest_stretch(*offsets):
    """Length of the longest equal stretches in which every operand is contiguous, or (one of several) stands still."""
    count = offsets[0].size
    for length in (n for n in range(count, 0, -1) if count % n == 0):
        deltas = [np.diff(o.reshape(-1, length), axis=1) for o in offsets]
        if all((d == 1).all() or (len(offsets) > 1 and (d == 0).all()) for d in deltas):
            return length
    raise AssertionError


SHAPES = st.lists(st.integers(1, 4), max_size=4)


@given(st.data(), SHAPES)
def test_stretches_of_broadcast_operands_are_those_found_by_walking_them(data, out):
    shapes = [[data.draw(st.sampled_from((1, size))) for size in out][data.draw(st.integers(0, len(out))) :]
              for _ in range(data.draw(st.integers(1, 2)))]  # fmt: skip
    shapes.append(out)
    offsets = [np.broadcast_to(np.arange(np.prod(s, dtype=int)).reshape(s), out).ravel() for s in shapes]
    expected = np.prod(out, dtype=int) // find_longest_stretch(*offsets)
    assert count_broadcast_runs(shapes, out) == expected
    if len(shapes) == 2:
        assert derive("binary", op="Mul", in_shapes=shapes, sources=[0, 1])["inner_runs"] == expected
        assert derive("reshape", op="Expand", shape=shapes[0], out_shape=out)["inner_runs"] == expected


@given(st.data(), SHAPES.filter(len))
def test_stretches_of_strided_copies_are_those_found_by_walking_them(data, shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    perm = data.draw(st.permutations(range(len(shape))))
    copies = [("transpose", {"shape": shape, "perm": perm}, x.transpose(perm))]
    sizes = [data.draw(st.integers(1, size)) for size in shape]
    steps = [-1 if cut > 1 and data.draw(st.booleans()) else 1 for cut in sizes]
    cut = x[tuple(slice(None, size) if step > 0 else slice(None, -size - 1, -1)
                  for size, step in zip(sizes, steps, strict=True))]  # fmt: skip
    copies.append(("slice", {"shape": shape, "out_shape": sizes, "steps": steps}, cut))
    repeats = [data.draw(st.integers(1, 2)) for _ in shape]
    tiled = np.tile(x, repeats)
    copies.append(("reshape", {"op": "Tile", "shape": shape, "out_shape": list(tiled.shape)}, tiled))
    axis = data.draw(st.integers(0, len(shape) - 1))
    picked = x.take([0] * 2, axis=axis)
    for family, params, y in copies:
        assert derive(family, **params)["inner_runs"] == y.size // find_longest_stretch(y.ravel()), family
    runs = picked.size // np.prod(shape[axis + 1 :], dtype=int)
    assert derive("gather", op="Gather", shape=shape, indices_shape=[2], axis=axis)["inner_runs"] == runs
    assert derive("split", shape=[*shape, 4], axis=len(shape), sizes=[1, 3])["inner_runs"] == 2 * x.size
    joined = derive("concat", in_shapes=[[*shape, 3]] * 3, sources=[0, 1, 2], axis=len(shape))
    assert joined["inner_runs"] == 3 * x.size


def test_padding_copies_row_by_row():
    rows = {"shape": [1, 3, 5, 7], "mode": "constant"}
    assert derive("pad", pads=[0, 0, 0, 1, 0, 0, 0, 0], **rows)["inner_runs"] == 15
    assert derive("pad", pads=[0, 1, 0, 0, 0, 0, 0, 0], **rows)["inner_runs"] == 1


def test_equal_shapes_are_one_stretch_and_short_ones_are_many():
    """Real networks: 4,000 x 128 spans of 3 take 17 ns each, and nothing else of such a kernel tells."""
    assert derive("add", in_shapes=[[4000, 128, 3]] * 2, sources=[0, 1])["inner_runs"] == 1
    for other in ([4000, 128, 1], [4000, 1, 3]):
        assert derive("add", in_shapes=[[4000, 128, 3], other], sources=[0, 1])["inner_runs"] == 512_000
    both = derive("binary", op="Mul", in_shapes=[[4000, 128, 1], [4000, 1, 3]], sources=[0, 1])
    assert both["inner_runs"] == 512_000
    scaled = derive("addrelu", in_shapes=[[2, 8, 5, 5], [1, 8, 1, 1]], sources=[0, -1], activation="relu")
    assert scaled["inner_runs"] == 16


def test_operators_of_one_family_have_different_codes():
    from deepen.kernels.families.operator_costs import get_operator_code

    for family in load_families().values():
        if "op" in family.schema:
            codes = [get_operator_code(op) for op in family.schema["op"].choices]
            assert len(set(codes)) == len(codes), family.name
            assert min(codes) > 0, family.name


def test_activation_codes_differ():
    from deepen.kernels.families.operator_costs import ACTIVATIONS, OPERATORS

    assert len({code for code, _, _ in ACTIVATIONS.values()}) == len(ACTIVATIONS)
    assert len({cost.code for cost in OPERATORS.values()}) == len(OPERATORS)


def test_im2col_scratch():
    assert of("conv-bn-relu", **CONV)["im2col_bytes"] == 28 * 28 * 32 * 9 * 4
    pointwise = {**CONV, "kernel": [1, 1], "pads": [0] * 4}
    assert of("conv-bn-relu", **pointwise)["im2col_bytes"] == 0
    assert of("conv-bn-relu", **{**pointwise, "stride": [2, 2]})["im2col_bytes"] == 14 * 14 * 32 * 4


def test_waste_is_the_share_of_padding():
    found = of("fc", m=1, k=16, n=24)
    assert (found["waste_m_16"], found["waste_k_16"], found["waste_n_16"]) == (15 / 16, 0, 0.25)


def test_intensity_is_work_per_byte():
    found = of("fc", m=2, k=8, n=4, bias=True)
    assert found["intensity"] == (2 * 8 * 4 + 8) / (4 * (16 + 32 + 4 + 8))


def test_embedding_reads_what_it_picks():
    small, large = (of("gather", shape=[rows, 64], indices_shape=[16], constant=True) for rows in (100, 30000))
    assert small["bytes_read"] == large["bytes_read"] == 16 * 64 * 4 + 16 * 8
    assert (small["axis_size"], large["axis_size"]) == (100, 30000)


def test_matrix_keeps_order_and_refuses_other_names():
    rows = [of("fc", m=2, k=8, n=4), of("relu", shape=[1, 8])]
    array = build_feature_matrix([dict(reversed(list(r.items()))) for r in rows])
    assert array.shape == (2, len(FEATURE_NAMES))
    assert array.dtype == np.float64
    assert array[0, FEATURE_NAMES.index("macs")] == 64
    assert build_feature_matrix([]).shape == (0, len(FEATURE_NAMES))
    less = {k: v for k, v in rows[0].items() if k != "macs"}
    with pytest.raises(PredictorError, match=r"row 1 .*version 3.*missing macs"):
        build_feature_matrix([rows[0], less])
    with pytest.raises(PredictorError, match="unknown surprise"):
        build_feature_matrix([{**rows[0], "surprise": 1.0}])


def test_regressors_are_given_features_that_exist():
    for family in load_families().values():
        assert set(family.features) <= set(FEATURE_NAMES), family.name
        assert len(set(family.features)) == len(family.features) >= 5, family.name
        assert {"bytes_read", "bytes_written"} <= set(family.features), family.name
