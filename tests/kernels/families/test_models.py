"""Kernels of whole networks: each can be built again, and is then the same kernel with the same features."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deepen.graph import load_graph, load_graph_from_proto
from deepen.kernels import build_kernel_model, compute_features, count_node_macs
from deepen.kernels.splitting.split import split_graph

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NETWORKS = ["squeezenet", "shufflenet", "densenet121", "inception_v2"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kernel_is_known_and_can_be_built_again(name):
    graph = load_graph(LIGHT / f"light_{name}.onnx")
    found = split_graph(graph)
    assert not found.unassigned
    seen = set()
    for kernel in found.kernels:
        if kernel.key in seen:
            continue
        seen.add(kernel.key)
        (again,) = split_graph(load_graph_from_proto(build_kernel_model(kernel.family, kernel.params))).kernels
        assert again.key == kernel.key, kernel.params
        assert compute_features(again) == compute_features(kernel), kernel.params
    assert len(seen) > 15


@pytest.mark.parametrize("name", NETWORKS)
def test_work_and_bytes_are_those_of_the_nodes_and_tensors(name):
    graph = load_graph(LIGHT / f"light_{name}.onnx")
    nodes = {n.name: n for n in graph.nodes}
    for kernel in split_graph(graph).kernels:
        assert kernel.macs == sum(count_node_macs(nodes[name], graph) for name in kernel.node_names)
        assert kernel.bytes_written == sum(t.nbytes for t in kernel.outputs), kernel.name
        if kernel.family in ("reshape", "gather", "slice") or "BatchNormalization" in kernel.op_types[1:]:
            continue  # shapes and indices are no traffic; a folded normalisation leaves only a bias
        assert kernel.bytes_read == sum(t.nbytes for t in (*kernel.inputs, *kernel.weights)), kernel.name
