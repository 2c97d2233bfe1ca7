"""Candidates from CSV and TOML: units, uncertainties, records, predictions, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from deepen.errors import ConfigError, DatasetError, DeepenError, GraphError
from deepen.predictors.prediction import Prediction
from deepen.scoring.app_rows import NO_SOURCE
from deepen.scoring.lifecycle import LifecycleCandidates, read_candidates


def read(tmp_path: Path, text: str, name: str = "c.csv", **options: Any) -> LifecycleCandidates:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return read_candidates(file, **options)


def test_units_in_the_header_and_in_the_cell(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "name,accuracy,training_kwh,compression,retraining_MJ,inference_mj,remark\n"
        "a,0.7,2,1 kWh,3,5,x\nb,71.5 %,,,,4 J,\n",
    )
    assert found.names == ("a", "b")
    assert found.accuracy.tolist() == [0.7, 0.715]
    assert found.parts_j.tolist() == [[7.2e6, 3.6e6, 3e6], [0, 0, 0]]
    assert found.inference_j.tolist() == [5e-3, 4.0]
    assert not found.uncertain
    assert found.label == ("measured", "")
    assert found.notes == found.take([1]).notes == (NO_SOURCE,)  # nobody said that it was


def test_toml_is_the_same(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '[[candidate]]\nname = "a"\naccuracy = 0.7\ntraining = "2 kWh"\n'
        'inference = "5 mJ"\ninference_uncertainty = "10 %"\n'
        '[[candidate]]\nname = "b"\naccuracy = "71.5 %"\ninference = "4 J"\nsource = "modelled"\npue_included = 1.59\n',
        "c.toml",
    )
    assert found.training_j.tolist() == [7.2e6, 0.0]
    assert found.inference_u_j.tolist() == pytest.approx([5e-4, 0.0])
    assert found.pue_included.tolist() == [1.0, 1.59]
    assert found.sources == ("measured", "modelled")
    assert found.notes == ()


def test_uncertainties_are_shares_or_energies(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "name,accuracy,accuracy_uncertainty,training_kWh,training_uncertainty,search_kWh,search_uncertainty_kWh,"
        "inference_J,inference_uncertainty_mJ\na,0.7,0.5 %,2,5 %,1,0.5,1,20\nb,0.7,0.01,2,3 kJ,1,,1,2 %\n",
    )
    assert found.accuracy_u.tolist() == [0.005, 0.01]
    assert found.parts_u_j[:, 0].tolist() == pytest.approx([0.1 * 3.6e6, 3000.0])
    assert found.parts_u_j[:, 1].tolist() == [1.8e6, 0.0]
    assert found.inference_u_j.tolist() == pytest.approx([0.02, 0.02])


def test_search_and_compression_add_up(tmp_path: Path) -> None:
    found = read(tmp_path, "name,accuracy,search_J,compression_J,inference_J\na,0.5,3,4,1\n")
    assert found.parts_j.tolist() == [[0.0, 7.0, 0.0]]


def test_records_and_training_runs_bring_energy_uncertainty_and_label(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"energy_j": 0.25, "uncertainty_j": 0.01, "source": "modelled"}))
    (tmp_path / "t.json").write_text(json.dumps({"energy_j": 5e6, "uncertainty_j": None, "source": "measured"}))
    found = read(tmp_path, "name,accuracy,training_run,inference_J,record\na,0.7,t.json,,r.json\nb,0.7,,1,\n")
    assert found.inference_j.tolist() == [0.25, 1.0]
    assert found.inference_u_j.tolist() == [0.01, 0.0]
    assert found.training_j.tolist() == [5e6, 0.0]
    assert found.sources == ("modelled", "measured")


class OnePredictor:
    """Predicts 2 J with a 90 % interval of one joule either way, or fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, path: Path) -> Prediction:
        self.asked.append(path.name)
        if path.name == "bad.onnx":
            raise GraphError("bad.onnx: no graph")
        return Prediction(str(path), 2.0, (1.0, 3.0), 0.0, (), 1.0, (), 0, "p", "simulated")


def test_models_are_predicted_where_no_energy_is_given(tmp_path: Path) -> None:
    predictor = OnePredictor()
    text = "name,accuracy,inference_J,model\na,0.7,,m.onnx\nb,0.7,1,n.onnx\n"
    found = read(tmp_path, text, predictor=predictor)
    assert predictor.asked == ["m.onnx"]
    assert found.inference_j.tolist() == [2.0, 1.0]
    assert found.inference_u_j[0] == pytest.approx(1 / 1.645, rel=1e-3)
    assert found.sources == ("predicted", "measured") and found.learnt_from == "simulated"
    assert found.label == found.take([1, 0]).label == ("predicted", "simulated")
    assert found.take([1]).label == ("measured", "")
    with pytest.raises(ConfigError, match=r"line 2: its model must be predicted; name a predictor"):
        read(tmp_path, text)
    with pytest.raises(GraphError, match=r"line 2: bad.onnx: no graph"):
        read(tmp_path, text.replace("m.onnx", "bad.onnx"), predictor=predictor)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy,inference_J\n0.5,1\n", "no name"),
        ("name,inference_J\na,1\n", "no accuracy"),
        ("name,accuracy,inference_J\n", "no candidates below the header"),
        ("name,accuracy,training_J\na,0.5,1\n", "line 2: no inference energy"),
        ("name,accuracy,inference_J\na,0.5,\n", "line 2: no inference energy"),
        ("name,accuracy,inference_J\na,,1\n", "line 2: no accuracy"),
        ("name,accuracy,inference_J\na,74,1\n", "accuracy 74 is not above 0 and at most 1"),
        ("name,accuracy,inference\na,0.5,12\n", "line 2: inference: '12' has no unit; write for example '12 J'"),
        ("name,accuracy,inference_J\na,0.5,fast\n", "line 2: inference: 'fast' is no number"),
        ("name,accuracy,inference_J\na,0.5,3 W\n", "'W' is no unit of energy"),
        ("name,accuracy,inference_parsec\na,0.5,3\n", "column 'inference_parsec'"),
        ("name,accuracy,inference_J,inference_mJ\na,0.5,3,3\n", "'inference' is given in two columns"),
        ("name,accuracy,inference_J\na,0.5,-3\n", "inference_j -3"),
        ("name,accuracy,inference_J\na,0.5,1\na,0.5,2\n", "'a' appears twice"),
        ("name,accuracy,inference_J,source\na,0.5,1,felt\n", "source 'felt' is none of"),
        ("name,accuracy,inference_J,inference_uncertainty\na,0.5,1,-5 %\n", "uncertainty '-5 %'"),
        ("name,accuracy,inference_J,inference_uncertainty\na,0.5,1,5\n", "'5' has no unit"),
        ("name,accuracy,inference_J,pue_included\na,0.5,1,0.2\n", "PUE 0.2 is not 1 or more"),
        ("name,accuracy,record\na,0.5,none.json\n", "none.json: No such file"),
        ("name,accuracy,inference_J,record\na,0.5,1,r.json\n", "both inference and record"),
        ("name,accuracy,inference_J,training_J,training_run\na,0.5,1,1,r.json\n", "both training and training_run"),
        ("name,accuracy,record\na,0.5,junk.json\n", "junk.json is no output of 'deepen profile --json'"),
        ("name,accuracy,record\na,0.5,minus.json\n", "has the energy -1 J"),
    ],
)
def test_bad_files_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"energy_j": 1.0, "source": "measured"}))
    (tmp_path / "junk.json").write_text("[1, 2]")
    (tmp_path / "minus.json").write_text(json.dumps({"energy_j": -1.0, "source": "measured"}))
    with pytest.raises(DeepenError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no [[candidate]] tables"),
        ("candidate = 3\n", "no [[candidate]] tables"),
        ("[[candidate]\n", "not valid TOML"),
        ('[[candidate]]\nname = "a"\naccuracy = 0.5\ninferance = "1 J"\n', "unknown key 'inferance'"),
        ('[[candidate]]\nname = "a"\naccuracy = 0.5\ninference = 3\n', "candidate 'a': inference: '3' has no unit"),
    ],
)
def test_bad_toml_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, text, "c.toml")
    assert message in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name in ("c.csv", "c.toml"):
        with pytest.raises(ConfigError, match="No such file"):
            read_candidates(tmp_path / name)


def test_not_a_number_in_a_whole_column_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(DeepenError, match="'nan' is no number"):
        read(tmp_path, "name,accuracy,inference_J\na,0.5,nan\n")
    assert not math.isnan(read(tmp_path, "name,accuracy,inference_J\na,0.5,1\n").inference_j[0])
