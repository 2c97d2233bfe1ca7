"""Models for the splitter's tests: built ones, the nine of the onnx package, and those inside other packages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from deepen.graph import Graph, load_graph
from tests.support.model_files import write_model_file


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model from node tuples ``(op, inputs, outputs, attributes)``, input shapes and constants."""
    return functools.partial(write_model_file, tmp_path)


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
