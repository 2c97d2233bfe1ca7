"""Real models: the nine architectures inside the onnx wheel, and the exported networks where they are there."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.errors import GraphError
from deepen.graph import list_weightless_tensors, load_graph

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))

# Output shapes as published with the models.
OUTPUTS = {
    "bvlc_alexnet": (1, 1000),
    "densenet121": (1, 1000, 1, 1),
    "inception_v1": (1, 1000),
    "inception_v2": (1, 1000),
    "resnet50": (1, 1000),
    "shufflenet": (1, 1000),
    "squeezenet": (1, 1000, 1, 1),
    "vgg19": (1, 1000),
    "zfnet512": (1, 1000),
}


def test_the_wheel_has_all_nine():
    assert {path.stem.removeprefix("light_") for path in LIGHT} == set(OUTPUTS)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_every_tensor_of_the_nine_has_a_shape(path):
    graph = load_graph(path)
    proto = onnx.load(path).graph
    assert len(graph.nodes) == len(proto.node)
    assert [tensor.shape for tensor in graph.tensors.values() if tensor.shape is None] == []
    assert graph.outputs[0].shape == OUTPUTS[path.stem.removeprefix("light_")]
    assert [tensor.shape for tensor in graph.inputs] == [(1, 3, 224, 224)]
    assert graph.warnings == ()


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_weights_made_by_nodes_are_constant(path):
    """These files build every weight with ConstantOfShape."""
    graph = load_graph(path)
    weighted = [node for node in graph.nodes if node.op_type in {"Conv", "Gemm"}]
    assert weighted
    for node in weighted:
        assert not graph.tensors[node.inputs[0]].constant
        assert all(graph.tensors[name].constant for name in node.inputs[1:])


def test_the_runtime_agrees_on_every_shape():
    """ONNX Runtime runs SqueezeNet and reports every tensor; shapes, types and constants must be what we say."""
    import onnxruntime

    path = next(path for path in LIGHT if "squeezenet" in path.stem)
    graph = load_graph(path)
    proto = graph.model
    names = [name for node in graph.nodes for name in node.outputs if name and node.op_type != "Dropout"]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(names, {graph.inputs[0].name: np.zeros(graph.inputs[0].shape, np.float32)})
    for name, result in zip(names, results, strict=True):
        assert graph.tensors[name].shape == result.shape
        assert graph.tensors[name].dtype == result.dtype.name
        if name in graph.values:
            np.testing.assert_array_equal(graph.values[name], result)


@pytest.mark.slow
def test_every_tensor_of_the_exported_networks_has_a_shape(zoo_dir):
    for path in sorted(zoo_dir.glob("*.onnx")):
        graph = load_graph(path)
        assert [tensor.name for tensor in graph.tensors.values() if tensor.shape is None] == [], path.name
        assert graph.model.ByteSize() < 5_000_000, path.name
        assert all(tensor.data_location == tensor.EXTERNAL for tensor in list_weightless_tensors(graph.model))


def test_another_batch_goes_through_a_whole_network_or_names_what_stops_it():
    squeezenet, vgg = (next(path for path in LIGHT if name in path.stem) for name in ("squeezenet", "vgg19"))
    graph = load_graph(squeezenet, {load_graph(squeezenet).inputs[0].name: (4, 3, 224, 224)})
    assert graph.outputs[0].shape == (4, 1000, 1, 1)
    assert {graph.tensors[node.outputs[0]].shape[0] for node in graph.nodes if node.op_type == "Conv"} == {4}
    with pytest.raises(GraphError, match=r"\(Reshape\): 4x512x7x7 cannot become 1x25088"):  # the file fixes the batch
        load_graph(vgg, {load_graph(vgg).inputs[0].name: (4, 3, 224, 224)})
