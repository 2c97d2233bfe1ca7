"""One file of weights shared by the models of a folder."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from deepen.kernels import build_kernel_model
from deepen.kernels.building.parallel_copies import replicate_model
from deepen.kernels.families.random_weights import WeightPool

PARAMS = {"dtype": "float32", "m": 2, "k": 96, "n": 80, "bias": True}


def test_adopted_weights_are_finite_distinct_stretches_the_runtime_reads(tmp_path):
    model = replicate_model(build_kernel_model("fc", PARAMS, weights=False), 3)
    pool = WeightPool(tmp_path)
    pool.externalise_weights(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert path.stat().st_size < 5_000
    loaded = onnx.load(path)  # reads the stretches
    weights = [numpy_helper.to_array(t) for t in loaded.graph.initializer if list(t.dims) in ([96, 80], [80, 96])]
    assert len(weights) == 3
    assert all(np.all((np.abs(w) >= 0.0124) & (np.abs(w) <= 0.0501)) for w in weights)
    assert not np.array_equal(weights[0], weights[1])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()}
    outputs = session.run(None, feed)
    kept = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    gemm = loaded.graph.node[0]
    wide = kept[gemm.input[1]]
    expected = np.ones((2, 96), np.float32) @ (wide if wide.shape == (96, 80) else wide.T) + kept[gemm.input[2]]
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4)


def test_the_file_grows_only_when_it_must_and_keeps_its_values(tmp_path):
    pool = WeightPool(tmp_path)
    small, large = (build_kernel_model("fc", {**PARAMS, "k": k}, weights=False) for k in (96, 30_000))
    pool.externalise_weights(small)
    before = pool.path.read_bytes()
    pool.externalise_weights(large)
    after = pool.path.read_bytes()
    assert after[: len(before)] == before
    assert len(after) >= 30_000 * 80 * 4
    pool.externalise_weights(small)
    assert pool.path.stat().st_size == len(after)


def test_weights_a_model_carries_are_dropped_and_small_ones_stay(tmp_path):
    model = build_kernel_model("fc", PARAMS)
    size = model.ByteSize()
    assert WeightPool.size(model) == 4 * 96 * 80
    WeightPool(tmp_path).externalise_weights(model)
    assert model.ByteSize() < size - 4 * 96 * 80 + 200
    external = {t.name for t in model.graph.initializer if t.data_location == t.EXTERNAL}
    assert external < {t.name for t in model.graph.initializer}
