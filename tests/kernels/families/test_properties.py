"""The round trip holds for random configurations, not only for the listed ones."""

from __future__ import annotations

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from deepen.errors import ConfigError
from deepen.graph import load_graph_from_proto
from deepen.kernels import build_kernel_model, compute_features, describe_kernel
from deepen.kernels.families.catalog import check_params
from deepen.kernels.families.registry import get_family_definition

FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)

small = st.integers(1, 4)
size = st.integers(1, 12)
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def rebuilt(family, params):
    """Build and describe; reject configurations the family itself refuses."""
    full = check_params(family, params)
    try:
        get_family_definition(family).check(full)
    except ConfigError:
        assume(False)
    graph = load_graph_from_proto(build_kernel_model(family, params))
    kernel = describe_kernel(graph.nodes, graph)
    assert (kernel.family, kernel.params) == (family, full)
    written = sum(t.nbytes for t in graph.outputs)
    assert kernel.bytes_written == written
    assert all(v >= 0 for v in compute_features(kernel).values())
    return kernel, graph


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2, 4]))
    per = st.lists(small, min_size=rank, max_size=rank)
    return {
        "batch": draw(small), "c_in": groups * draw(small), "c_out": groups * draw(small), "groups": groups,
        "spatial": draw(st.lists(size, min_size=rank, max_size=rank)), "kernel": draw(per), "stride": draw(per),
        "dilation": draw(per), "pads": draw(st.lists(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank)),
        "bias": draw(st.booleans()), "residual": draw(st.booleans()),
        "activation": draw(st.sampled_from(["none", "relu", "clip", "silu", "hardswish", "gelu", "prelu"])),
    }  # fmt: skip


def family_of(params):
    if params["groups"] == 1:
        return "conv-bn-relu"
    return "dwconv-bn-relu" if params["groups"] == params["c_in"] else "groupconv"


@FEW
@given(convolutions())
def test_convolutions(params):
    kernel, graph = rebuilt(family_of(params), params)
    out = next(t for t in graph.outputs)
    window = 1
    for k in params["kernel"]:
        window *= k
    assert kernel.macs == out.elements * params["c_in"] // params["groups"] * window


@FEW
@given(convolutions(), st.data())
def test_transposed_convolutions(params, data):
    rank = len(params["spatial"])
    limits = [max(s, d) - 1 for s, d in zip(params["stride"], params["dilation"], strict=True)]
    extra = [data.draw(st.integers(0, limit)) for limit in limits]
    assert len(extra) == rank
    rebuilt("convtranspose", {**params, "output_padding": extra})


@FEW
@given(convolutions(), st.sampled_from(["maxpool", "avgpool"]), st.booleans(), st.booleans())
def test_pools(params, family, ceil, flag):
    keep = {k: params[k] for k in ("batch", "spatial", "kernel", "stride", "dilation", "pads")}
    extra = {"indices": flag} if family == "maxpool" else {"count_include_pad": flag}
    rebuilt(family, {**keep, "c": params["c_in"], "ceil": ceil, **extra})


@FEW
@given(st.lists(small, max_size=2), size, size, size, st.booleans(), st.booleans(), st.booleans())
def test_matrix_products(batch, m, n, k, ta, tb, residual):
    a, b = [*batch, *([k, m] if ta else [m, k])], [*batch, *([n, k] if tb else [k, n])]
    kernel, _ = rebuilt("matmul", {"a_shape": a, "b_shape": b, "trans_a": ta, "trans_b": tb, "residual": residual})
    total = m * n * k
    for s in batch:
        total *= s
    assert kernel.macs == total


@FEW
@given(
    size, size, size, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["none", "relu", "gelu", "prelu"])
)
def test_fully_connected_layers(m, k, n, ta, tb, bias, activation):
    kernel, _ = rebuilt(
        "fc", {"m": m, "k": k, "n": n, "trans_a": ta, "trans_b": tb, "bias": bias, "activation": activation}
    )
    assert kernel.macs == m * k * n


@FEW
@given(shapes, st.data())
def test_operators_with_broadcasting(shape, data):
    other = [s if data.draw(st.booleans()) else 1 for s in shape][data.draw(st.integers(0, len(shape))) :]
    order = data.draw(st.permutations([shape, other]))
    op = data.draw(st.sampled_from(["Mul", "Sub", "Div", "Max"]))
    rebuilt(
        "binary",
        {"op": op, "in_shapes": list(order), "sources": data.draw(st.sampled_from([[0, 1], [0, -1], [-1, 0]]))},
    )


@FEW
@given(shapes, st.data())
def test_concatenations_and_splits(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    parts = [[*shape[:axis], s, *shape[axis + 1 :]] for s in sizes]
    rebuilt("concat", {"in_shapes": parts, "sources": list(range(len(parts))), "axis": axis})
    whole = [*shape[:axis], sum(sizes), *shape[axis + 1 :]]
    rebuilt("split", {"shape": whole, "sizes": sizes, "axis": axis})


@FEW
@given(shapes, st.data())
def test_data_movement(shape, data):
    rebuilt("transpose", {"shape": shape, "perm": data.draw(st.permutations(range(len(shape))))})
    out = [data.draw(st.integers(1, s)) for s in shape]
    steps = [
        1 if o == 1 else data.draw(st.sampled_from([-1, 1])) * ((s - 1) // (o - 1))
        for s, o in zip(shape, out, strict=True)
    ]
    rebuilt("slice", {"shape": shape, "out_shape": out, "steps": steps})
    rebuilt(
        "pad",
        {
            "shape": shape,
            "pads": data.draw(st.lists(st.integers(0, 3), min_size=2 * len(shape), max_size=2 * len(shape))),
        },
    )
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    rebuilt("reduce", {"op": "ReduceMean", "shape": shape, "axes": axes, "keepdims": data.draw(st.booleans())})
    rebuilt("softmax", {"shape": shape, "axis": axes[0]})
    rebuilt("layernorm", {"shape": shape, "axis": axes[0], "bias": data.draw(st.booleans())})


@FEW
@given(shapes, st.lists(st.integers(1, 4), max_size=3), st.data())
def test_gathers(shape, indices, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    rebuilt("gather", {"shape": shape, "indices_shape": indices, "axis": axis, "constant": data.draw(st.booleans())})


@FEW
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]), small, small, size, size, st.integers(1, 2), st.booleans(),
    st.integers(0, 1),
    st.booleans(), st.integers(0, 1),
)  # fmt: skip
def test_recurrent_layers(op, seq, batch, width, hidden, ways, bias, initial, sequence, state):
    kernel, _ = rebuilt("recurrent", {
        "op": op, "seq": seq, "batch": batch, "input": width, "hidden": hidden, "directions": ways, "bias": bias,
        "initial": initial, "sequence_output": sequence, "state_outputs": state,
    })  # fmt: skip
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    assert kernel.macs == seq * batch * ways * gates * hidden * (width + hidden)


@FEW
@given(small, st.sampled_from([1, 2, 4]), size, size, small, small, st.booleans(), st.booleans())
def test_attention(batch, heads, q, kv, d, dv, mask, causal):
    params = {"batch": batch, "heads": heads, "kv_heads": 1, "q_len": q, "kv_len": kv, "head_dim": d, "v_head_dim": dv}
    kernel, _ = rebuilt("attention", {**params, "mask": mask, "causal": causal})
    assert kernel.macs == batch * heads * q * kv * (d + dv)
