"""Groups of original nodes as exporters write them, and as runtimes fuse them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.graph import load_graph_from_proto
from deepen.kernels import build_kernel_model, compute_features, describe_kernel

node = helper.make_node
X = {"x": [1, 8, 10, 12]}
W = {"w": [16, 8, 3, 3], "b": [16]}
BN = {"s": [16], "o": [16], "m": [16], "v": [16]}


def conv(**attributes):
    return node("Conv", ["x", "w"], ["c"], name="conv", **attributes)


def bn(source="c", out="y"):
    return node("BatchNormalization", [source, "s", "o", "m", "v"], [out], name="bn")


def test_batch_norm_folded_into_a_convolution_only_adds_a_bias(kernel_of):
    folded = kernel_of([conv(), bn()], X, ["y"], {**W, **BN})
    biased = kernel_of([node("Conv", ["x", "w", "b"], ["y"], name="conv")], X, ["y"], W)
    assert folded.params["bias"] is True
    assert folded.key == biased.key
    assert compute_features(folded) == compute_features(biased)
    assert folded.op_types == ("Conv", "BatchNormalization")


def test_convolution_without_bias_is_another_kernel(kernel_of):
    plain = kernel_of([node("Conv", ["x", "w"], ["y"], name="conv")], X, ["y"], W)
    assert plain.params["bias"] is False
    assert plain.bytes_read == 4 * (8 * 10 * 12 + 16 * 8 * 9)


@pytest.mark.parametrize(
    ("tail", "activation"),
    [
        ([node("Relu", ["c"], ["y"], name="a")], "relu"),
        ([node("Clip", ["c", "lo", "hi"], ["y"], name="a")], "clip"),
        ([node("Sigmoid", ["c"], ["t"], name="a"), node("Mul", ["t", "c"], ["y"], name="b")], "silu"),
        ([node("HardSigmoid", ["c"], ["t"], name="a"), node("Mul", ["c", "t"], ["y"], name="b")], "hardswish"),
        (
            [
                node("Add", ["c", "three"], ["t"], name="a"),
                node("Clip", ["t", "lo", "hi"], ["u"], name="b"),
                node("Mul", ["c", "u"], ["p"], name="d"),
                node("Div", ["p", "six"], ["y"], name="e"),
            ],
            "hardswish",
        ),
        ([node("Softplus", ["c"], ["t"], name="a"), node("Tanh", ["t"], ["u"], name="b"),
          node("Mul", ["c", "u"], ["y"], name="d")], "mish"),
    ],
)  # fmt: skip
def test_activations_behind_a_convolution(kernel_of, tail, activation):
    scalars = {"lo": np.float32(0), "hi": np.float32(6), "three": np.float32(3),
               "six": np.float32(6)}  # fmt: skip
    used = {i for n in tail for i in n.input}
    kernel = kernel_of([conv(), *tail], X, ["y"], {**W, **{k: v for k, v in scalars.items() if k in used}})
    assert kernel.family == "conv-bn-relu"
    assert kernel.params["activation"] == activation
    assert kernel.params["bias"] is False


def test_residual_addition_and_relu(kernel_of):
    nodes = [conv(), bn(out="n"), node("Add", ["z", "n"], ["t"], name="add"), node("Relu", ["t"], ["y"], name="relu")]
    kernel = kernel_of(nodes, {**X, "z": [1, 16, 8, 10]}, ["y"], {**W, **BN})
    assert (kernel.params["residual"], kernel.params["bias"], kernel.params["activation"]) == (True, True, "relu")
    assert [t.name for t in kernel.inputs] == ["x", "z"]
    assert kernel.bytes_read == 4 * (8 * 10 * 12 + 16 * 8 * 9 + 16 + 16 * 8 * 10)


def test_an_addition_of_a_smaller_tensor_is_no_residual(kernel_of):
    nodes = [conv(), node("Add", ["c", "z"], ["y"], name="add")]
    kernel = kernel_of(nodes, {**X, "z": [1, 16, 1, 1]}, ["y"], W)
    assert kernel.family == "other"


def test_nodes_that_do_nothing_are_ignored(kernel_of):
    nodes = [
        node("Identity", ["x"], ["i"], name="id"), node("Conv", ["i", "w"], ["c"], name="conv"),
        node("Dropout", ["c"], ["d"], name="drop"), node("Relu", ["d"], ["y"], name="relu"),
    ]  # fmt: skip
    plain = kernel_of([conv(), node("Relu", ["c"], ["y"], name="relu")], X, ["y"], W)
    assert kernel_of(nodes, X, ["y"], W).key == plain.key


def test_pad_in_front_of_a_convolution_becomes_its_padding(kernel_of):
    nodes = [
        node("Pad", ["x", "p"], ["q"], name="pad"),
        node("Conv", ["q", "w"], ["y"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
    ]
    kernel = kernel_of(nodes, X, ["y"], {**W, "p": np.array([0, 0, 0, 1, 0, 0, 2, 1])})
    assert kernel.params["pads"] == [1, 2, 3, 2]
    assert kernel.params["spatial"] == [10, 12]


def test_pad_in_front_of_a_pool_becomes_its_padding(kernel_of):
    nodes = [
        node("Pad", ["x", "p"], ["q"], name="pad"), node("MaxPool", ["q"], ["y"], name="pool", kernel_shape=[3, 3])
    ]  # fmt: skip
    kernel = kernel_of(nodes, X, ["y"], {"p": np.array([0, 0, 0, 1, 0, 0, 2, 1])})
    assert (kernel.family, kernel.params["pads"]) == ("maxpool", [0, 1, 2, 1])


def test_scaling_and_transposing_fused_into_a_product(kernel_of):
    nodes = [
        node("Mul", ["x", "s"], ["t"], name="scale"), node("Transpose", ["t"], ["u"], name="turn", perm=[0, 2, 1]),
        node("MatMul", ["u", "z"], ["y"], name="m"),
    ]  # fmt: skip
    inputs = {"x": [4, 16, 49], "z": [4, 16, 49]}
    kernel = kernel_of(nodes, inputs, ["y"], {"s": np.float32(0.25)}, runtime_ops=["com.microsoft.FusedMatMul"])
    assert (kernel.family, kernel.params["a_shape"], kernel.params["trans_a"]) == ("matmul", [4, 16, 49], True)
    assert kernel.macs == 4 * 49 * 49 * 16


def test_an_addition_of_zero_the_runtime_left_out(kernel_of):
    """Python's ``sum([a, b])`` is exported as ``(0 + a) + b``."""
    nodes = [node("Add", ["x", "zero"], ["t"], name="none"), node("Add", ["t", "z"], ["y"], name="add")]
    inputs = {"x": [4, 8], "z": [4, 8]}
    kernel = kernel_of(nodes, inputs, ["y"], {"zero": np.float32(0)}, runtime_ops=["Add"])
    assert (kernel.family, kernel.params["sources"]) == ("add", [0, 1])
    assert kernel_of(nodes, inputs, ["y"], {"zero": np.float32(1)}, runtime_ops=["Add"]).family == "other"


def test_a_quantised_addition_of_the_runtime(kernel_of):
    u8 = onnx.TensorProto.UINT8
    names = ["x", "s", "z", "w", "s", "z", "s", "z"]
    nodes = [node("QLinearAdd", names, ["y"], name="q", domain="com.microsoft")]
    constants = {"s": np.float32(0.1), "z": np.uint8(0)}
    kernel = kernel_of(nodes, {"x": ([4, 8], u8), "w": ([4, 8], u8)}, {"y": ([4, 8], u8)}, constants)
    assert (kernel.family, kernel.params["dtype"], kernel.bytes_read) == ("add", "uint8", 64)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("kernel", "stride"), [([3, 2], [2, 1]), ([4, 5], [1, 2])])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_auto_pad_becomes_the_same_explicit_padding(build_model, run_model, op, kernel, stride, mode):
    attributes = {"kernel_shape": kernel, "strides": stride, "auto_pad": mode}
    inputs = ["x", "w"] if op == "Conv" else ["x"]
    constants = {"w": np.random.default_rng(0).random((4, 8, *kernel), np.float32)} if op == "Conv" else {}
    original = build_model([node(op, inputs, ["y"], name="n", **attributes)], X, ["y"], constants)
    graph = load_graph_from_proto(original)
    params = describe_kernel(graph.nodes, graph).params
    explicit = {k: v for k, v in attributes.items() if k != "auto_pad"} | {"pads": params["pads"]}
    rebuilt = build_model([node(op, inputs, ["y"], name="n", **explicit)], X, ["y"], constants)
    data = {"x": np.random.default_rng(1).random((1, 8, 10, 12), np.float32)}
    np.testing.assert_allclose(run_model(original, data)[0], run_model(rebuilt, data)[0], rtol=1e-6)


def test_auto_pad_with_dilation_follows_the_specification(kernel_of):
    nodes = [node("Conv", ["x", "w"], ["y"], name="c", auto_pad="SAME_UPPER", dilations=[2, 3], strides=[1, 2])]
    kernel = kernel_of(nodes, X, ["y"], W)
    assert kernel.params["pads"] == [2, 2, 2, 3]
    assert kernel.outputs[0].shape == (1, 16, 10, 6)


@pytest.mark.parametrize("extra", [{"auto_pad": "SAME_UPPER"}, {"output_shape": [21, 25]}, {"pads": [1, 0, 0, 1]}])
def test_transposed_convolution_keeps_its_output_size(graph_of, run_model, build_model, extra):
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], name="n", strides=[2, 2], kernel_shape=[3, 3], **extra)]
    model = build_model(nodes, X, ["y"], {"w": [8, 4, 3, 3]})
    graph = load_graph_from_proto(model)
    kernel = describe_kernel(graph.nodes, graph)
    assert kernel.family == "convtranspose"
    assert run_model(build_kernel_model("convtranspose", kernel.params))[0].shape == run_model(model)[0].shape


def test_depthwise_grouped_and_transposed_are_families_of_their_own(kernel_of):
    def family(op, group, weight):
        return kernel_of([node(op, ["x", "w"], ["y"], name="n", group=group)], X, ["y"], {"w": weight}).family

    assert family("Conv", 1, [16, 8, 3, 3]) == "conv-bn-relu"
    assert family("Conv", 8, [16, 1, 3, 3]) == "dwconv-bn-relu"
    assert family("Conv", 2, [16, 4, 3, 3]) == "groupconv"
    assert family("ConvTranspose", 1, [8, 4, 3, 3]) == "convtranspose"


def test_names_are_compared_whole(kernel_of):
    """nn-Meter took "se" out of "transpose" and "conv" out of "convtrans"."""
    assert kernel_of([node("Transpose", ["x"], ["y"], name="t")], X, ["y"]).family == "transpose"
    other = kernel_of([node("Selu", ["x"], ["y"], name="t")], X, ["y"])
    assert (other.family, other.params["op"]) == ("elementwise", "Selu")


def test_quantise_dequantise_around_a_convolution_is_an_integer_convolution(kernel_of):
    nodes = [
        node("DequantizeLinear", ["x", "xs", "xz"], ["xf"], name="dx"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], name="dw", axis=0),
        node("DequantizeLinear", ["b", "bs"], ["bf"], name="db", axis=0),
        node("Conv", ["xf", "wf", "bf"], ["c"], name="conv"),
        node("Relu", ["c"], ["r"], name="relu"),
        node("QuantizeLinear", ["r", "xs", "xz"], ["y"], name="q"),
    ]
    constants = {
        "xs": np.float32(0.1), "xz": np.uint8(0), "w": np.ones((16, 8, 3, 3), np.int8),
        "ws": np.full(16, 0.1, np.float32), "wz": np.zeros(16, np.int8), "b": np.ones(16, np.int32),
        "bs": np.full(16, 0.01, np.float32),
    }  # fmt: skip
    u8 = onnx.TensorProto.UINT8
    kernel = kernel_of(nodes, {"x": ([1, 8, 10, 12], u8)}, {"y": (None, u8)}, constants, runtime_ops=["QLinearConv"])
    want = load_graph_from_proto(build_kernel_model("qconv", {
        "c_in": 8, "c_out": 16, "spatial": [10, 12], "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1],
        "pads": [0, 0, 0, 0], "bias": True,
    }))  # fmt: skip
    assert kernel.key == describe_kernel(want.nodes, want).key
    assert kernel.macs == 16 * 8 * 10 * 8 * 9
    assert kernel.bytes_written == 16 * 8 * 10


def test_layer_norm_written_out(kernel_of):
    nodes = [
        node("ReduceMean", ["x"], ["mean"], name="m", axes=[-1]), node("Sub", ["x", "mean"], ["d"], name="s"),
        node("Pow", ["d", "two"], ["p"], name="p"), node("ReduceMean", ["p"], ["var"], name="v", axes=[-1]),
        node("Add", ["var", "eps"], ["e"], name="e"), node("Sqrt", ["e"], ["r"], name="r"),
        node("Div", ["d", "r"], ["n"], name="n"), node("Mul", ["n", "g"], ["o"], name="o"),
        node("Add", ["o", "h"], ["y"], name="y"),
    ]  # fmt: skip
    constants = {"two": np.float32(2), "eps": np.float32(1e-5), "g": [16], "h": [16]}
    kernel = kernel_of(nodes, {"x": [2, 5, 16]}, ["y"], constants)
    whole = kernel_of(
        [node("LayerNormalization", ["x", "g", "h"], ["y"], name="ln")],
        {"x": [2, 5, 16]},
        ["y"],
        {"g": [16], "h": [16]},
    )
    assert kernel.family == "layernorm"
    assert kernel.key == whole.key
    assert compute_features(kernel) == compute_features(whole)


def test_rms_norm_written_out_with_a_skip(kernel_of):
    nodes = [
        node("Add", ["x", "z"], ["t"], name="skip"), node("Pow", ["t", "two"], ["p"], name="p"),
        node("ReduceMean", ["p"], ["var"], name="v", axes=[-1]), node("Add", ["var", "eps"], ["e"], name="e"),
        node("Sqrt", ["e"], ["r"], name="r"), node("Div", ["t", "r"], ["n"], name="n"),
        node("Mul", ["g", "n"], ["y"], name="y"),
    ]  # fmt: skip
    constants = {"two": np.float32(2), "eps": np.float32(1e-5), "g": [16]}
    kernel = kernel_of(nodes, {"x": [2, 5, 16], "z": [2, 5, 16]}, ["t", "y"], constants)
    assert kernel.family == "rmsnorm"
    assert (kernel.params["skip"], kernel.params["skip_output"], kernel.params["axis"]) == (True, True, 2)
    assert kernel.bytes_written == 2 * 4 * 2 * 5 * 16


def test_normalisation_over_other_axes_is_not_taken_for_layer_norm(kernel_of):
    nodes = [
        node("ReduceMean", ["x"], ["mean"], name="m", axes=[1]), node("Sub", ["x", "mean"], ["d"], name="s"),
        node("Pow", ["d", "two"], ["p"], name="p"), node("ReduceMean", ["p"], ["var"], name="v", axes=[1]),
        node("Add", ["var", "eps"], ["e"], name="e"), node("Sqrt", ["e"], ["r"], name="r"),
        node("Div", ["d", "r"], ["y"], name="n"),
    ]  # fmt: skip
    constants = {"two": np.float32(2), "eps": np.float32(1e-5)}
    assert kernel_of(nodes, {"x": [2, 5, 16]}, ["y"], constants).family == "other"


def test_the_runtime_is_believed_about_forms_no_pattern_covers(kernel_of):
    nodes = [  # erf with a division by a product of constants on the other side
        node("Mul", ["x", "a"], ["t"], name="1"), node("Neg", ["t"], ["u"], name="2"),
        node("Erf", ["u"], ["v"], name="3"),
        node("Sub", ["one", "v"], ["s"], name="4"), node("Mul", ["x", "s"], ["p"], name="5"),
        node("Mul", ["p", "h"], ["y"], name="6"),
    ]  # fmt: skip
    constants = {k: np.float32(v) for k, v in {"a": 0.7071, "one": 1.0, "h": 0.5}.items()}
    assert kernel_of(nodes, {"x": [2, 8]}, ["y"], constants).family == "other"
    hinted = kernel_of(nodes, {"x": [2, 8]}, ["y"], constants, runtime_ops=["com.microsoft.Gelu"])
    assert (hinted.family, hinted.params["op"]) == ("gelu", "erf")


def test_attention_written_out(kernel_of):
    nodes = [
        node("Transpose", ["k"], ["kt"], name="t", perm=[0, 1, 3, 2]), node("MatMul", ["q", "kt"], ["s"], name="qk"),
        node("Div", ["s", "root"], ["d"], name="d"), node("Add", ["d", "mask"], ["m"], name="m"),
        node("Softmax", ["m"], ["p"], name="p", axis=-1), node("MatMul", ["p", "v"], ["y"], name="pv"),
    ]  # fmt: skip
    inputs = {"q": [2, 4, 6, 8], "k": [2, 4, 9, 8], "v": [2, 4, 9, 10], "mask": [6, 9]}
    kernel = kernel_of(nodes, inputs, ["y"], {"root": np.float32(2.8)})
    assert kernel.family == "attention"
    params = {"batch": 2, "heads": 4, "kv_heads": 4, "q_len": 6, "kv_len": 9, "head_dim": 8, "v_head_dim": 10}
    assert {k: kernel.params[k] for k in params} == params
    assert kernel.params["mask"] is True
    rebuilt = load_graph_from_proto(build_kernel_model("attention", kernel.params))
    again = describe_kernel(rebuilt.nodes, rebuilt)
    assert again.key == kernel.key
    assert again.macs == kernel.macs == 2 * 4 * 6 * 9 * (8 + 10)


def test_one_tensor_read_twice_counts_once(kernel_of):
    square = kernel_of([node("Mul", ["x", "x"], ["y"], name="m")], {"x": [4, 8]}, ["y"])
    product = kernel_of([node("Mul", ["x", "z"], ["y"], name="m")], {"x": [4, 8], "z": [4, 8]}, ["y"])
    assert (square.bytes_read, product.bytes_read) == (4 * 32, 4 * 64)
    assert square.key != product.key


def test_constant_operands_differ_from_activations_and_from_the_other_side(kernel_of):
    keys = {
        kernel_of([node("Sub", names, ["y"], name="m")], {"x": [4, 8]}, ["y"], {"c": [4, 8]}).key
        for names in (["x", "c"], ["c", "x"])
    }
    keys.add(kernel_of([node("Sub", ["x", "z"], ["y"], name="m")], {"x": [4, 8], "z": [4, 8]}, ["y"]).key)
    assert len(keys) == 3


def test_weights_computed_from_constants_are_constants(kernel_of):
    nodes = [node("Transpose", ["w"], ["wt"], name="t"), node("MatMul", ["x", "wt"], ["y"], name="m")]
    kernel = kernel_of(nodes, {"x": [3, 8]}, ["y"], {"w": [5, 8]})
    assert (kernel.family, kernel.params["n"], kernel.params["k"]) == ("fc", 5, 8)


def test_old_softmax_works_on_a_matrix(kernel_of):
    new = kernel_of([node("Softmax", ["x"], ["y"], name="s", axis=1)], {"x": [2, 5, 7]}, ["y"], opset=13)
    old = kernel_of([node("Softmax", ["x"], ["y"], name="s", axis=1)], {"x": [2, 5, 7]}, ["y"], opset=11)
    assert (new.params["shape"], new.params["axis"]) == ([2, 5, 7], 1)
    assert (old.params["shape"], old.params["axis"]) == ([2, 35], 1)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("DepthToSpace", {"mode": "DCR"}), ("DepthToSpace", {"mode": "CRD"}), ("SpaceToDepth", {})],
)
def test_depth_to_space_is_the_transpose_it_is_defined_as(build_model, run_model, op, attributes):
    model = build_model([node(op, ["x"], ["y"], name="d", blocksize=2, **attributes)], X, ["y"])
    graph = load_graph_from_proto(model)
    kernel = describe_kernel(graph.nodes, graph)
    assert kernel.family == "transpose"
    data = np.arange(8 * 10 * 12, dtype=np.float32).reshape(X["x"])
    moved = np.transpose(data.reshape(kernel.params["shape"]), kernel.params["perm"])
    expected = run_model(model, {"x": data})[0]
    np.testing.assert_array_equal(moved.reshape(expected.shape), expected)


def test_slices_that_make_up_a_split(kernel_of):
    nodes = [
        node("Slice", ["x", "zero", "three", "one"], ["a"], name="a"),
        node("Slice", ["x", "three", "end", "one"], ["b"], name="b"),
    ]  # fmt: skip
    constants = {"zero": np.array([0]), "three": np.array([3]), "end": np.array([99]), "one": np.array([1])}
    kernel = kernel_of(nodes, X, ["a", "b"], constants, runtime_ops=["Split"])
    assert (kernel.family, kernel.params["axis"], kernel.params["sizes"]) == ("split", 1, [3, 5])
    partly = {**constants, "end": np.array([7])}
    assert kernel_of(nodes, X, ["a", "b"], partly, runtime_ops=["Split"]).family == "other"


def test_squeeze_and_excitation_as_a_whole_group(graph_of):
    graph = load_graph_from_proto(build_kernel_model("se", {"c": 8, "spatial": [7, 9], "mid": 2}))
    kernel = describe_kernel(graph.nodes, graph)
    assert kernel.family == "se"
    assert kernel.macs == 2 * 8 * 2
    assert kernel.bytes_written == 4 * 8 * 63


def test_what_no_family_matches_is_other_with_its_tensors(kernel_of):
    kernel = kernel_of([node("NonZero", ["x"], ["y"], name="n")], {"x": [3, 4]}, {"y": (None, onnx.TensorProto.INT64)})
    assert kernel.family == "other"
    assert kernel.params["op_types"] == ["NonZero"]
    assert kernel.params["in_shapes"] == [[3, 4]]
    assert kernel.bytes_read == 48
    assert compute_features(kernel)["bytes_read"] == 48


def test_a_group_with_something_left_over_is_not_forced_into_a_family(kernel_of):
    nodes = [conv(), node("Relu", ["c"], ["r"], name="relu"), node("Softmax", ["r"], ["y"], name="soft")]
    assert kernel_of(nodes, X, ["y"], W).family == "other"


def test_boundary_and_weights_are_worked_out(graph_of):
    nodes = [conv(), node("Relu", ["c"], ["r"], name="relu"), node("Exp", ["r"], ["y"], name="exp")]
    graph = graph_of(nodes, X, ["y"], W)
    kernel = describe_kernel(graph.nodes[:2], graph)
    assert [t.name for t in kernel.inputs] == ["x"]
    assert [t.name for t in kernel.weights] == ["w"]
    assert [t.name for t in kernel.outputs] == ["r"]
    assert kernel.name == "conv"
    assert describe_kernel(graph.nodes[:2], graph, multiplicity=3.0).multiplicity == 3.0
