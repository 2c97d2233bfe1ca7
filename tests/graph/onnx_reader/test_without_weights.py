"""The wire-format walk: what it drops, what it keeps, and how it fails."""

import mmap

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import SMALL_ELEMENTS, WEIGHTLESS
from deepen.graph.onnx_reader.without_weights import strip_weights


def holding(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], [tensor]))


def is_weightless(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL and [(e.key, e.value) for e in tensor.external_data] == [
        ("location", WEIGHTLESS)
    ]


def parsed(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(strip_weights(model.SerializeToString()))


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.bool_]
)
def test_only_tensors_above_the_limit_lose_their_data(dtype):
    small = numpy_helper.from_array(np.ones(SMALL_ELEMENTS, dtype), "small")
    large = numpy_helper.from_array(np.ones((5, SMALL_ELEMENTS), dtype), "large")
    assert parsed(holding(small)).graph.initializer[0] == small
    kept = parsed(holding(large)).graph.initializer[0]
    assert (kept.name, list(kept.dims), kept.data_type) == ("large", [5, SMALL_ELEMENTS], large.data_type)
    assert is_weightless(kept)
    assert not kept.raw_data


@pytest.mark.parametrize(
    ("elem", "values"),
    [
        (TensorProto.FLOAT, np.arange(2000, dtype=float)),
        (TensorProto.DOUBLE, np.arange(2000, dtype=float)),
        (TensorProto.INT32, np.arange(2000)),
        (TensorProto.INT64, np.arange(2000)),
        (TensorProto.UINT64, np.arange(2000)),
        (TensorProto.STRING, [b"text"] * 2000),
    ],
)
def test_typed_data_is_dropped_too(elem, values):
    tensor = helper.make_tensor("t", elem, [2000], list(values))
    kept = parsed(holding(tensor)).graph.initializer[0]
    assert is_weightless(kept)
    assert len(strip_weights(holding(tensor).SerializeToString())) < 200


def test_a_model_without_large_tensors_is_copied_byte_for_byte(models):
    data = models.looping().SerializeToString()
    assert strip_weights(data) == data


def test_everything_but_the_data_survives(models):
    original = models.convnet()
    kept = parsed(original)
    for tensor in original.graph.initializer:
        if np.prod(tensor.dims) > SMALL_ELEMENTS:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=WEIGHTLESS)
    assert kept == original


def test_large_tensors_are_found_wherever_they_hide(models):
    large = models.weight("big", 50, 50)
    sparse = helper.make_sparse_tensor(models.weight("v", 2000), models.ints("i", *range(2000)), [100, 100])
    constant = helper.make_node("Constant", [], ["c"], value=large)
    body = helper.make_graph([constant], "b", [], [models.tensor("c", 50, 50)], [large])
    choose = helper.make_node("If", ["cond"], ["y"], then_branch=body, else_branch=body)
    several = helper.make_node("Custom", [], ["z"], domain="d")
    several.attribute.append(helper.make_attribute("ts", [large, large]))
    several.attribute.append(helper.make_attribute("gs", [body]))
    several.attribute.append(helper.make_attribute("sp", sparse))
    function = helper.make_function("d", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    graph = helper.make_graph([choose, several], "g", [], [], [large], sparse_initializer=[sparse])
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().initialization.CopyFrom(body)
    data = strip_weights(model.SerializeToString())
    assert model.ByteSize() > 10_000
    assert len(data) < 3000
    kept = onnx.ModelProto.FromString(data)
    assert is_weightless(kept.graph.sparse_initializer[0].values)
    assert is_weightless(kept.graph.sparse_initializer[0].indices)
    assert is_weightless(kept.functions[0].node[0].attribute[0].t)
    assert is_weightless(kept.graph.node[0].attribute[1].g.initializer[0])
    assert is_weightless(kept.training_info[0].initialization.node[0].attribute[0].t)


def test_unpacked_fields_are_understood():
    name, body = b"t", b""
    for dim in (40, 50):
        body += bytes((1 << 3, dim))  # dims, one varint each
    body += bytes((2 << 3, 1)) + bytes((8 << 3 | 2, 1)) + name
    body += b"".join(bytes((4 << 3 | 5,)) + bytes(4) for _ in range(2000))  # float_data, one fixed32 each
    graph = bytes((5 << 3 | 2,)) + varint(len(body)) + body
    kept = onnx.ModelProto.FromString(strip_weights(bytes((7 << 3 | 2,)) + varint(len(graph)) + graph))
    assert is_weightless(kept.graph.initializer[0])
    assert list(kept.graph.initializer[0].dims) == [40, 50]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))


def test_external_tensors_stay_as_they_are():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4096, 4096], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="a" * 400)
    assert parsed(holding(tensor)).graph.initializer[0] == tensor


def test_a_file_above_two_gibibytes_is_skimmed(tmp_path):
    """Protobuf itself cannot read such a file; the bytes of the weights (a hole in the file) are never visited."""
    size = 5 << 29
    head = bytes((1 << 3 | 2,)) + varint(len(varint(size))) + varint(size)  # dims, packed
    head += bytes((2 << 3, TensorProto.INT8)) + bytes((9 << 3 | 2,)) + varint(size)  # data_type, raw_data
    graph = bytes((5 << 3 | 2,)) + varint(len(head) + size) + head
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.write(bytes((1 << 3, 8, 7 << 3 | 2)) + varint(len(graph) + size) + graph)
        file.truncate(file.tell() + size)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = strip_weights(mapped)
    assert len(data) < 100
    assert is_weightless(onnx.ModelProto.FromString(data).graph.initializer[0])


def test_data_that_does_not_fit_its_dimensions_is_refused(models):
    tensor = models.weight("w", 64, 64)
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(GraphError, match=r"tensor 'w' of shape 64x64 needs 16,384 bytes but the file holds 16,380"):
        strip_weights(holding(tensor).SerializeToString())


@pytest.mark.parametrize("dims", [[-1, 2000], [2**62, 2**62]])
def test_impossible_dimensions_are_refused(dims):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(1000))
    with pytest.raises(GraphError, match="tensor 'w' has impossible dimensions"):
        strip_weights(holding(tensor).SerializeToString())


def test_more_than_a_gibibyte_besides_weights_is_refused(tmp_path):
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.write(bytes((6 << 3 | 2,)) + varint(2 << 30))  # doc_string
        file.truncate(file.tell() + (2 << 30))
    with path.open("rb") as file, pytest.raises(GraphError, match="more than 1 GiB besides its weights"):
        strip_weights(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def test_every_truncation_is_noticed_or_parses_alike(models):
    """Cut anywhere, the walk either refuses or returns what protobuf itself would have made of the same bytes."""
    data = models.convnet().SerializeToString()
    refused = 0
    for length in range(0, len(data), 7):
        try:
            kept = strip_weights(data[:length])
        except GraphError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert onnx.ModelProto.FromString(kept).ByteSize() <= length
    assert refused > len(data) / 7 * 0.9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 60), max_size=3), st.sampled_from([np.float32, np.int64, np.uint8])),
        max_size=6,
    )
)
def test_small_tensors_are_equal_and_large_ones_weightless(specs):
    tensors = [numpy_helper.from_array(np.zeros(dims, dtype), f"t{i}") for i, (dims, dtype) in enumerate(specs)]
    model = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    for before, after in zip(tensors, parsed(model).graph.initializer, strict=True):
        assert (after.name, list(after.dims), after.data_type) == (before.name, list(before.dims), before.data_type)
        if np.prod(before.dims) > SMALL_ELEMENTS:
            assert is_weightless(after)
        else:
            assert after == before
