"""Bad files: one line of GraphError, whatever is in them."""

import os
import random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import load_graph, load_graph_from_proto


def refused(path, match):
    with pytest.raises(GraphError, match=match) as caught:
        load_graph(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"This is not a model.\n", "damaged|not an ONNX model"),
        (b"hello", "damaged|not an ONNX model"),
        (b"\x1c\0\0\0TFL3" + bytes(40), "this is a TensorFlow Lite model, not an ONNX model"),
        (b"PK\x03\x04" + bytes(40), "this is a zip archive"),
        (b'{"a": 1}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x08\x08", "holds no graph"),
        (b"\x3a\x00", "states no IR version"),
        (bytes(100), "damaged"),
        (b"\xff" * 100, "damaged"),
        (numpy_helper.from_array(np.arange(3.0), "t").SerializeToString(), "damaged|not an ONNX model|holds no graph"),
    ],
)
def test_files_of_another_kind(save, content, match):
    refused(save(content), match)


def test_a_folder_a_missing_file_and_one_without_permission(tmp_path, monkeypatch, models, save):
    refused(tmp_path, "this is a folder")
    refused(tmp_path / "none.onnx", "no such file")
    refused(save(models.convnet()) / "m.onnx", "cannot be read: .*[Nn]ot a directory")
    path = save(models.convnet())

    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    refused(path, "no permission")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")


def test_a_cycle(models, save):
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"], "two")]
    refused(save(models.model(nodes, [models.tensor("x", 2)], [models.tensor("b", 2)])), "a cycle through node 'one'")
    nodes = [helper.make_node("Add", ["x", "a"], ["a"], "self")]
    refused(save(models.model(nodes, [models.tensor("x", 2)], [models.tensor("a", 2)])), "a cycle through node 'self'")


def test_references_to_nothing(models, save):
    nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], "sum")]
    built = models.model(nodes, [models.tensor("x", 2)], [models.tensor("y", 2)])
    refused(save(built), "node 'sum' reads tensor 'ghost', which nothing defines")
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    built = models.model(nodes, [models.tensor("x", 2)], [models.tensor("z", 2)])
    refused(save(built), "output 'z' is written by no node")


def test_a_body_may_not_read_the_body_of_another(models, save):
    first = helper.make_graph([helper.make_node("Relu", ["x"], ["mine"])], "a", [], [models.unshaped("mine")])
    second = helper.make_graph([helper.make_node("Relu", ["mine"], ["t"])], "b", [], [models.unshaped("t")])
    node = helper.make_node("If", ["cond"], ["y"], "choose", then_branch=first, else_branch=second)
    inputs = [models.tensor("x", 2), models.tensor("cond", elem=models.BOOL)]
    refused(save(models.model([node], inputs, [models.unshaped("y")])), "reads tensor 'mine', which nothing defines")


def test_tensors_defined_twice(models, save):
    relu = [helper.make_node("Relu", ["x"], ["y"], name) for name in ("one", "two")]
    x, y = models.tensor("x", 2), models.tensor("y", 2)
    refused(save(models.model(relu, [x], [y])), r"tensor 'y' is written twice \(by node 'two'\)")
    refused(save(models.model(relu[:1], [x], [y], [models.weight("y", 2)])), "tensor 'y' is written twice")
    refused(save(models.model(relu[:1], [x, x], [y])), "input 'x' is declared twice")


def test_a_node_without_operator_and_a_foreign_data_type(models, save):
    built = models.convnet()
    built.graph.node[1].op_type = ""
    refused(save(built), "node 'relu' names no operator")
    built = models.convnet()
    built.graph.initializer[1].data_type = 99
    refused(save(built), "tensor 'b' has the unknown data type 99")


def test_an_operator_name_that_is_no_text(models, save):
    data = models.convnet().SerializeToString()
    refused(save(data.replace(b"MaxPool", b"Max\xff\xfeol")), "the operator name .* is no text")


def test_small_weights_that_do_not_fit(models, save):
    built = models.convnet()
    built.graph.initializer[1].raw_data = b"\0" * 7
    refused(save(built), "tensor 'b' cannot be read")


@pytest.mark.parametrize("version", [0, -3, 2**40])
def test_impossible_opsets(models, save, version):
    built = models.convnet()
    built.opset_import[0].version = version
    refused(save(built), "operator set 'ai.onnx' has the impossible version")


@pytest.mark.parametrize("levels", [40, 300, 5000])
def test_bodies_nested_without_end(models, save, levels):
    """Written byte by byte: protobuf refuses to build what it would refuse to read."""

    def delimited(number, payload):
        size, encoded = len(payload), bytearray()
        while size > 127:
            encoded.append(size & 127 | 128)
            size >>= 7
        return bytes((number << 3 | 2, *encoded, size)) + payload

    graph = models.branching(True).graph.SerializeToString()
    for _ in range(levels):
        attribute = delimited(1, b"then_branch") + delimited(6, graph) + bytes((0xA0, 1, 5))
        graph = delimited(1, delimited(1, b"cond") + delimited(2, b"y") + delimited(4, b"If") + delimited(5, attribute))
    refused(save(bytes((8, 8)) + delimited(7, graph)), "decode|nests messages more than 100 deep")


def test_bodies_nested_within_reason_take_time_in_proportion(models):
    """Twenty loops whose state changes shape: walking each body twice would be a million walks."""
    graph = helper.make_graph(
        [helper.make_node("Concat", ["v0", "v0"], ["o"], axis=0)], "g", [], [models.unshaped("o")]
    )
    for level in range(20):
        formal = [
            models.tensor("i", elem=models.INT64),
            models.tensor("c", elem=models.BOOL),
            models.unshaped(f"v{level}"),
        ]
        body = helper.make_graph(graph.node, "b", formal, [models.tensor("c", elem=models.BOOL), models.unshaped("o")])
        outer = "x" if level == 19 else f"v{level + 1}"
        loop = helper.make_node("Loop", ["n", "", outer], ["o"], body=body)
        graph = helper.make_graph([loop], "g", [], [models.unshaped("o")])
    n = numpy_helper.from_array(np.array(1, np.int64), "n")
    loaded = load_graph_from_proto(models.model(list(graph.node), [models.tensor("x", 2)], [models.unshaped("o")], [n]))
    assert len(loaded.nodes) == 21
    assert loaded.outputs[0].shape is None


def test_a_long_chain_needs_no_deep_recursion(models):
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    built = models.model(nodes, [models.tensor("t0", 2)], [models.tensor("t3000", 2)])
    assert load_graph_from_proto(built).outputs[0].shape == (2,)


def test_absurd_sizes(models, save):
    built = models.model(
        [helper.make_node("ConstantOfShape", ["s"], ["y"])],
        [],
        [models.unshaped("y")],
        [models.ints("s", 2**31, 2**31)],
    )
    refused(save(built), "tensor 'y' would have 4,611,686,018,427,387,904 elements")
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    refused(
        save(models.model(relu, [models.tensor("x", 2**40, 2**20)], [models.unshaped("y")])), "input 'x' would have"
    )


def test_values_too_large_to_fold_are_not_begun(models):
    """A terabyte that a later node would shrink again is never allocated."""
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    built = models.model(nodes, [models.tensor("x", 2)], [models.unshaped("y")], [models.ints("s", 2**20, 2**18)])
    graph = load_graph_from_proto(built)
    assert graph.tensors["huge"].constant
    assert "sum" not in graph.values


def test_names_with_line_breaks_stay_on_one_line(models, save):
    built = models.convnet()
    built.graph.node[1].input[0] = "evil\nTraceback (most recent call last):\n" + "x" * 5000
    path = save(built)
    refused(path, "which nothing defines|reads tensor 'evil Traceback")
    with pytest.raises(GraphError) as caught:
        load_graph(path)
    assert len(str(caught.value)) < 1000


def test_a_graph_that_contradicts_itself_without_our_asking_is_a_warning(models):
    add = helper.make_node("Add", ["x", "w"], ["y"], "add")
    graph = load_graph_from_proto(
        models.model([add], [models.tensor("x", 1, 5)], [models.unshaped("y")], [models.weight("w", 6)])
    )
    assert graph.tensors["y"].shape is None
    assert graph.warnings[0].startswith("shape inference failed at node 'add'")


@pytest.mark.parametrize(
    ("node", "match"),
    [
        (helper.make_node("Conv", ["x"], ["y"]), "it takes at least 2 inputs, not 1"),
        (helper.make_node("Relu", ["x", "x"], ["y"]), "it takes at most 1 inputs, not 2"),
        (helper.make_node("Relu", ["x"], ["y", "z"]), "it takes at most 1 outputs, not 2"),
        (helper.make_node("Loop", [], ["y"]), "it takes at least 2 inputs, not 0"),
        (helper.make_node("MaxPool", ["x"], ["y"]), "its attribute 'kernel_shape' is missing"),
        (helper.make_node("If", ["x"], ["y"]), "its attribute 'else_branch' is missing"),
        (helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=7), "its attribute 'body' is missing"),
        (helper.make_node("Shape", ["x"], ["y"], start="a"), "its attribute 'start' has the wrong type"),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[0.5]), "its attribute 'perm' has the wrong type"),
    ],
)
def test_nodes_that_do_not_fit_their_operator(models, save, node, match):
    built = models.model([node], [models.tensor("x", 1, 3, 8, 8)], [models.unshaped("y")])
    refused(save(built), f"node '{node.op_type}_0' .* is malformed: {match}")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / "m.onnx"


def load_or_refuse(path, data):
    path.write_bytes(data)
    try:
        load_graph(path)
    except GraphError as error:
        assert str(error).startswith(f"{path}: ")
        assert len(str(error).splitlines()) == 1


def test_every_prefix_of_a_model(models, scratch):
    data = models.branching().SerializeToString()
    for length in range(0, len(data), 5):
        load_or_refuse(scratch, data[:length])


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.data())
def test_bytes_changed_at_random(models, scratch, data):
    name = data.draw(st.sampled_from(sorted(models.ALL)))
    content = bytearray(models.ALL[name]().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "flip", "cut", "insert", "end"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case "end":
                del content[at + 1 :]
        content = content or bytearray(1)
    load_or_refuse(scratch, bytes(content))


@pytest.mark.parametrize("seed", range(8))
def test_fields_changed_at_random(models, scratch, seed):
    """Damage that protobuf cannot see: names, types, dimensions and attributes that make no sense together."""
    rng = random.Random(seed)
    originals = [build() for _, build in sorted(models.ALL.items())]
    for _ in range(60):
        changed = onnx.ModelProto.FromString(rng.choice(originals).SerializeToString())
        for _ in range(rng.choice([1, 1, 2, 4])):
            mutate(changed, rng)
        load_or_refuse(scratch, changed.SerializeToString())


def is_list(value):
    """A repeated field; ``FieldDescriptor.is_repeated`` is newer than the oldest protobuf that is supported."""
    return hasattr(value, "extend")


def mutate(model, rng):
    places = []

    def collect(message):
        for spec, value in message.ListFields():
            places.append((message, spec))
            if spec.type == spec.TYPE_MESSAGE:
                for child in value if is_list(value) else [value]:
                    collect(child)

    collect(model)
    message, spec = rng.choice(places)
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    value = getattr(message, spec.name)
    if rng.random() < 0.2:
        message.ClearField(spec.name)
    elif spec.type == spec.TYPE_MESSAGE:
        if is_list(value) and rng.random() < 0.5:
            del value[rng.randrange(len(value))]
        elif is_list(value):
            value.add().CopyFrom(rng.choice(list(value)))
    else:
        new = {
            spec.TYPE_STRING: lambda: rng.choice([*names, "", "other", "MatMul", "Loop", "N"]),
            spec.TYPE_BYTES: lambda: rng.choice([b"", bytes(8), b"\xff" * 7, b"SAME_UPPER"]),
            spec.TYPE_FLOAT: lambda: rng.choice([0.0, 1e30, float("nan")]),
            spec.TYPE_DOUBLE: lambda: 0.0,
            spec.TYPE_ENUM: lambda: rng.randrange(12),
            spec.TYPE_INT32: lambda: rng.choice([0, 1, 7, 9, TensorProto.INT4, 300]),
        }.get(spec.type, lambda: rng.choice([0, 1, -1, 2, 7, 1000, 2**31, 2**62, 2**63 - 1]))()
        if not is_list(value):
            setattr(message, spec.name, new)
        elif rng.random() < 0.5:
            value[rng.randrange(len(value))] = new
        else:
            value.append(new)
