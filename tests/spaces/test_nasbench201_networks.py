"""NAS-Bench-201: names of cells, and the network around one."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.spaces import nasbench201_networks as space

FULL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
EMPTY = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def test_every_cell_has_one_number_and_one_string() -> None:
    """Names and numbers are inverse to each other over the whole space."""
    cells = list(space.iter_cells())
    assert len(set(cells)) == space.SIZE == 15625
    assert [space.get_cell_index(cell) for cell in cells] == list(range(space.SIZE))
    assert all(space.format_cell(space.parse_cell(cell)) == cell for cell in cells[::97])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no NAS-Bench-201 cell"),
        ("|none~0|+|none~0|none~1|", "is no NAS-Bench-201 cell"),
        (EMPTY.replace("none~2", "none~1"), "is no NAS-Bench-201 cell"),
        (EMPTY.replace("none~2", "nor_conv_5x5~2"), "nor_conv_5x5"),
        (EMPTY[1:], "is no NAS-Bench-201 cell"),
    ],
)
def test_a_malformed_cell_is_named(text: str, says: str) -> None:
    """What is no cell is refused with the text."""
    with pytest.raises(ConfigError, match=says):
        space.parse_cell(text)
    with pytest.raises(ConfigError):
        space.get_cell_at_index(space.SIZE)


def test_the_network_is_the_published_one() -> None:
    """Parameters of the largest network are those NAS-Bench-201 states for it (1.53 M; 220 M multiply-accumulates)."""
    model = space.build_model(FULL, classes=10)
    counted = [t for t in model.graph.initializer if t.dims]
    statistics = 2 * sum(t.dims[0] for t in counted if len(t.dims) == 1 and t.dims[0] in (16, 32, 64)) // 4
    parameters = (
        sum(int(np.prod(t.dims)) for t in counted) - statistics
    )  # running means and variances are no parameters
    assert parameters / 1e6 == pytest.approx(1.531, abs=0.002)
    from deepen.kernels.describe import count_node_macs

    graph = space.build_graph(FULL)
    assert sum(count_node_macs(node, graph) for node in graph.nodes) / 1e6 == pytest.approx(220.1, rel=0.005)


def test_the_model_runs_and_its_weightless_twin_has_the_same_graph() -> None:
    """A built model is valid for ONNX Runtime; leaving out the weights changes nothing but their values."""
    import onnxruntime

    model = space.build_model(space.get_cell_at_index(7777), classes=100, cells=1)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": np.zeros((1, 3, 32, 32), np.float32)})
    assert logits.shape == (1, 100)
    bare = space.build_model(space.get_cell_at_index(7777), classes=100, cells=1, weights=False)
    assert [n.op_type for n in bare.graph.node] == [n.op_type for n in model.graph.node]
    assert bare.ByteSize() < model.ByteSize() / 3


def test_sizes_that_make_no_network_are_refused() -> None:
    """Classes, resolution and cells have least values."""
    with pytest.raises(ConfigError, match="classes of at least 1"):
        space.build_model(FULL, classes=0)
