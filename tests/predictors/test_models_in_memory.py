"""``deepen.predict`` takes a model in any form and gives one answer."""

from __future__ import annotations

import onnx
import pytest

from deepen import predictors
from deepen.errors import ConfigError, GraphError
from tests.support.model_files import write_model_file


@pytest.fixture
def model_file(tmp_path):
    nodes = [("Relu", ["x"], ["a"], {}), ("Add", ["a", "x"], ["y"], {})]
    return write_model_file(tmp_path, nodes, {"x": ("n", 8)}, ["y"])


def test_every_form_of_a_model_has_the_same_energy(trained, model_file, tmp_path):
    predictor = trained[2]
    shapes = {"x": (4, 8)}
    forms = [model_file, str(model_file), model_file.read_bytes(), onnx.load(model_file)]
    found = [predictors.predict(form, predictor=predictor, shapes=shapes) for form in forms]
    assert len({p.energy_j for p in found}) == 1 and found[0].energy_j > 0
    assert [p.model for p in found] == [str(model_file), str(model_file), "bytes", "ModelProto"]
    assert predictors.predict(forms[2], predictor=predictor, shapes=shapes, name="mine").model == "mine"
    path = predictor.save(tmp_path / "p")
    assert predictors.predict(model_file, predictor=path, dims={}, shapes=shapes).energy_j == found[0].energy_j


@pytest.mark.parametrize(("data", "error"), [(b"", GraphError), (b"\xff" * 50, GraphError), (7, ConfigError)])
def test_what_is_no_model_is_refused(trained, data, error):
    with pytest.raises(error):
        predictors.predict(data, predictor=trained[2])


def test_unknown_options_are_refused_by_name(trained, model_file):
    with pytest.raises(ConfigError, match="shapes, dims"):
        predictors.predict(model_file, predictor=trained[2], shape={"x": (4, 8)})
