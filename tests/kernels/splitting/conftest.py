"""Models for the splitter's tests: built ones, the nine of the onnx package, and those inside other packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deepen.graph import Graph, load_graph


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model from node tuples ``(op, inputs, outputs, attributes)``, input shapes and constants."""

    def make(
        nodes: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]],
        inputs: dict[str, Sequence[int]],
        outputs: Sequence[str],
        constants: dict[str, Any] | None = None,
        *,
        names: bool = True,
        opset: int = 17,
        ir_version: int = 8,
        inputs_list_constants: bool = False,
        dtype: int = onnx.TensorProto.FLOAT,
        file: str = "model.onnx",
    ) -> Path:
        protos = []
        for index, (op, ins, outs, attrs) in enumerate(nodes):
            rest = {key: value for key, value in attrs.items() if key != "domain"}
            name = f"n{index}" if names else ""
            protos.append(helper.make_node(op, ins, outs, name=name, domain=attrs.get("domain", ""), **rest))
        values = {key: np.asarray(value) for key, value in (constants or {}).items()}
        declared = [helper.make_tensor_value_info(n, dtype, list(s)) for n, s in inputs.items()]
        if inputs_list_constants:
            declared += [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
                for n, v in values.items()
            ]
        graph = helper.make_graph(
            protos,
            "g",
            declared,
            [helper.make_value_info(o, onnx.TypeProto()) for o in outputs],
            [numpy_helper.from_array(v, n) for n, v in values.items()],
        )
        for value in graph.output:
            value.type.tensor_type.elem_type = dtype
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=ir_version,
        )
        path = tmp_path / file
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def make_graph(make_model: Callable[..., Path]) -> Callable[..., Graph]:
    """The same, loaded."""
    return lambda *args, **kwargs: load_graph(make_model(*args, **kwargs))


@pytest.fixture(scope="session")
def light_dir() -> Path:
    """The nine architectures that come with the onnx package (weights made by ConstantOfShape nodes)."""
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.fixture(scope="session")
def packaged() -> Callable[[str, str], Path]:
    """Path of a model file inside an installed package; skips, saying so, where it is not installed."""

    def find(package: str, inside: str) -> Path:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"package {package} is not installed (pip install --no-deps {package.replace('_', '-')})")
        path = Path(spec.submodule_search_locations[0]) / inside
        if not path.is_file():
            pytest.skip(f"this version of {package} has no {inside}")
        return path

    return find


@pytest.fixture
def weights() -> Callable[..., np.ndarray]:
    """Seeded float32 values of a shape."""
    rng = np.random.default_rng(20261122)
    return lambda *shape: rng.standard_normal(shape, dtype=np.float32)


@pytest.fixture(scope="session")
def optimised() -> Callable[[Path], onnx.ModelProto]:
    """What ONNX Runtime makes of a model file with its real weights, asked without any of our tricks."""

    def ask(path: Path, folder: Path) -> onnx.ModelProto:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / "real.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(folder / "real.onnx", load_external_data=False)

    return ask
