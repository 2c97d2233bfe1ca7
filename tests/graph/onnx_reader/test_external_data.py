"""External data: never read for weights, never followed out of the model's folder."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deepen.errors import GraphError
from deepen.graph import list_weightless_tensors, load_graph


def external(name, dims, location, elem=TensorProto.FLOAT, **entries):
    tensor = TensorProto(name=name, data_type=elem, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def matmul(models, location, **entries):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = external("w", [40, 50], location, **entries)
    return models.model([node], [models.tensor("x", 2, 40)], [models.unshaped("y")], [weight])


def test_a_model_whose_weights_are_absent_loads(models, save):
    graph = load_graph(save(matmul(models, "weights.bin")))
    assert graph.outputs[0].shape == (2, 50)
    assert graph.tensors["w"].constant
    assert graph.warnings == ()
    assert [tensor.name for tensor in list_weightless_tensors(graph.model)] == ["w"]


def test_three_gibibytes_of_weights_are_not_read(models, save, tmp_path):
    rows = 3 << 18
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = external("w", [rows, 1024], "weights.bin", offset=0, length=rows * 4096)
    path = save(models.model([node], [models.tensor("x", 1, rows)], [models.unshaped("y")], [weight]))
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(rows * 4096)
    before = bytes_read()
    graph = load_graph(path)
    assert bytes_read() - before < 1 << 20
    assert graph.outputs[0].shape == (1, 1024)
    assert graph.tensors["w"].nbytes == 3 << 30
    assert graph.model.ByteSize() < 10_000


def bytes_read():
    if not os.path.exists("/proc/self/io"):  # noqa: PTH110
        pytest.skip("needs /proc/self/io to see what a process reads")
    with open("/proc/self/io") as file:  # noqa: PTH123
        return int(file.readline().split()[1])


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd", "../weights.bin", "sub/../../weights.bin", "C:\\weights.bin", "..\\weights.bin",
        "\\\\host\\share\\w", "sub/..", "C:weights.bin",
    ],
)  # fmt: skip
def test_locations_that_leave_the_folder_are_refused(models, save, location):
    with pytest.raises(GraphError, match=r"tensor 'w' at '.*' lies outside the model's folder") as caught:
        load_graph(save(matmul(models, location)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["", "a\0b"])
def test_locations_that_name_nothing_are_refused(models, save, location):
    with pytest.raises(GraphError, match="tensor 'w' names no file"):
        load_graph(save(matmul(models, location)))


def test_symbolic_links_out_of_the_folder_are_refused(models, save, tmp_path):
    outside = tmp_path / "outside.bin"
    outside.write_bytes(bytes(8000))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(outside)
    (folder / "here").symlink_to(tmp_path)
    for location in ("link.bin", "here/outside.bin"):
        with pytest.raises(GraphError, match="lies outside the model's folder"):
            load_graph(save(matmul(models, location), "model/m.onnx"))
    (folder / "round").symlink_to("round")
    with pytest.raises(GraphError, match="tensor 'w'"):
        load_graph(save(matmul(models, "round/w.bin"), "model/m.onnx"))
    (folder / "real.bin").write_bytes(bytes(8000))
    (folder / "inside.bin").symlink_to("real.bin")
    assert load_graph(save(matmul(models, "inside.bin"), "model/m.onnx")).outputs[0].shape == (2, 50)


def test_attribute_tensors_are_held_to_the_same_rule(models, save):
    node = helper.make_node("Constant", [], ["c"], value=external("c", [40, 50], "../c.bin"))
    with pytest.raises(GraphError, match="lies outside the model's folder"):
        load_graph(save(models.model([node], [], [models.unshaped("c")])))


def reshape(models, **entries):
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    shape = external("s", [2], "w.bin", TensorProto.INT64, **entries)
    return models.model(nodes, [models.tensor("x", 6)], [models.unshaped("y")], [shape])


def test_small_tensors_are_read_because_shapes_follow_from_them(models, save, tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(16) + np.array([3, 2], np.int64).tobytes())
    for entries in ({"offset": 16, "length": 16}, {"offset": 16}):
        graph = load_graph(save(reshape(models, **entries)))
        assert graph.values["s"].tolist() == [3, 2]
        assert graph.outputs[0].shape == (3, 2)
        assert not list_weightless_tensors(graph.model)


def test_small_tensors_without_their_file_are_a_warning(models, save):
    graph = load_graph(save(reshape(models)))
    assert graph.outputs[0].shape is None
    assert "1 small tensors lie in an external data file that is not there" in graph.warnings[0]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 4}, "lies beyond the end"),
        ({"offset": -1}, "impossible offset or length"),
        ({"length": 1 << 40}, "impossible offset or length"),
        ({"offset": "x"}, "malformed offset or length"),
    ],
)
def test_small_tensors_outside_their_file_are_refused(models, save, tmp_path, entries, message):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(GraphError, match=message):
        load_graph(save(reshape(models, **entries)))


def test_a_location_that_is_no_file_is_refused(models, save, tmp_path):
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(GraphError, match=r"external data '.*w.bin' (is not a file|cannot be)"):
        load_graph(save(reshape(models)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_does_not_hang(models, save, tmp_path):
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(GraphError, match="is not a file"):
        load_graph(save(reshape(models)))


def test_a_model_saved_by_onnx_with_everything_outside(models, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(
        models.dynamic_reshape(), path, save_as_external_data=True, location="m.data", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert (tmp_path / "m.data").stat().st_size > 0
    assert load_graph(path).outputs[0].shape == (1, 18, 8)


def test_a_model_stripped_of_its_weights_loads(models, save):
    built = models.convnet()
    for tensor in built.graph.initializer:
        tensor.ClearField("raw_data")
    graph = load_graph(save(built))
    assert graph.outputs[0].shape == (1, 10)
    assert len(list_weightless_tensors(graph.model)) == 4
