"""Predicting models: sums, repeated kernels, labels, and what prediction must not import."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deepen import predictors
from deepen.graph import UnknownPart
from deepen.kernels.features import build_feature_matrix
from deepen.kernels.layer_labels import KernelLabel
from deepen.predictors.inference.model_overheads import ModelOverheads
from deepen.predictors.kernel_counts import KernelCounts


def predict(predictor, records, times=None, warnings=()):
    """Predict a model ``m`` of the kernels ``k0``, ``k1``, ... of some records."""
    parts = [
        {"family": r.family, "params": {}, "features": r.features, "multiplicity": t}
        for r, t in zip(records, times or [1.0] * len(records), strict=True)
    ]
    model = SimpleNamespace(kind="model", name="m", kernels=parts)
    counts = replace(
        KernelCounts.from_records([model]),
        labels=tuple(KernelLabel(f"k{i}") for i in range(len(records))),
        warnings=(warnings,),
    )
    return predictor.predict_many(counts)[0]


@pytest.fixture
def plain(trained):
    """The trained predictor without model-level terms."""
    _, _, predictor = trained
    return predictors.Predictor(predictor.card, predictor.parameters, ModelOverheads())


def test_a_model_is_its_kernels_plus_overhead(trained, world_of):
    _, _, predictor = trained
    prediction = predict(predictor, world_of(50).kernels(3))
    assert prediction.energy_j == pytest.approx(prediction.overhead_j + sum(k.energy_j for k in prediction.kernels))
    assert prediction.overhead_j == predictor.context.overhead_j
    assert [k.name for k in prediction.kernels] == [f"k{i}" for i in range(24)]
    assert prediction.label == ("predicted", "modelled") and prediction.predictor_id == predictor.id


def test_multiplicity_counts_and_zero_costs_nothing(plain, world_of):
    records = world_of(51).kernels(1, ("fc", "relu", "add"))
    once = predict(plain, records)
    times = predict(plain, records, [3.0, 1.0, 0.0])
    expected = [f * k.energy_j for f, k in zip((3, 1, 0), once.kernels, strict=True)]
    np.testing.assert_allclose([k.energy_j for k in times.kernels], expected)


def test_equal_kernels_share_one_error(plain, world_of):
    """Ten equal kernels are as uncertain as one, relatively; ten different ones are less so."""
    world = world_of(52)
    same = world.kernel("fc")
    one = predict(plain, [same]).interval_j
    ten = predict(plain, [same] * 10).interval_j
    drawn = [world.kernel("fc") for _ in range(20)]
    inside = [record for record in drawn if not predict(plain, [record]).extrapolated]
    different = predict(plain, inside[:10]).interval_j
    assert ten[1] / ten[0] == pytest.approx(one[1] / one[0])
    assert different[1] / different[0] < ten[1] / ten[0]


def test_unknown_families_are_counted_listed_and_priced(trained, world_of):
    _, _, predictor = trained
    known, strange = world_of(53).kernels(2, ("fc",))
    prediction = predict(predictor, [known, replace(strange, family="other")])
    assert prediction.coverage == 0.5 and prediction.uncovered == ("k1",)
    assert [k.method for k in prediction.kernels] == ["regressor", "roofline"]
    assert prediction.kernels[1].energy_j > 0
    assert any("roofline" in w and "other" in w for w in prediction.warnings)


def test_a_model_outside_the_training_range_is_said_to_be(trained, world_of):
    _, _, predictor = trained
    prediction = predict(predictor, world_of(54).kernels(4, ("conv-bn-relu",), size=20.0))
    assert prediction.extrapolated == 4 == sum(k.extrapolated for k in prediction.kernels)
    assert any("outside what the predictor was trained on" in w for w in prediction.warnings)


def test_a_model_without_kernels_costs_its_overhead(trained):
    _, _, predictor = trained
    prediction = predict(predictor, [], warnings=("w",))
    assert prediction.energy_j == prediction.overhead_j and prediction.coverage == 1.0
    assert prediction.warnings == ("w",)


def test_a_batch_equals_its_parts(trained, world_of):
    _, _, predictor = trained
    records = world_of(55).kernels(5)
    raw = build_feature_matrix([r.features for r in records])
    families = [r.family for r in records]
    together = predictor.energies(families, raw).energy_j
    alone = [predictor.energies([f], raw[i : i + 1]).energy_j[0] for i, f in enumerate(families)]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


@pytest.fixture(scope="module")
def relu_file(tmp_path_factory):
    import onnx

    from deepen.kernels import build_kernel_model

    path = tmp_path_factory.mktemp("m") / "relu.onnx"
    onnx.save(build_kernel_model("relu", {"op": "Relu", "dtype": "float32", "shape": [1, 16, 14, 14]}), path)
    return path


def test_a_model_file_is_loaded_split_and_predicted(trained, relu_file):
    _, _, predictor = trained
    prediction = predictor.predict(relu_file)
    assert [k.family for k in prediction.kernels] == ["relu"] and prediction.model == str(relu_file)
    # 16 * 14 * 14 elements of the world: 60 pJ per operation, 40 pJ per byte moved, 8 uJ per call.
    alone = predictors.Predictor(predictor.card, predictor.parameters, ModelOverheads()).predict(relu_file)
    assert alone.energy_j == pytest.approx(8e-6 + 3136 * (60e-12 + 8 * 40e-12), rel=0.1)


def test_prediction_imports_no_training_library(trained, relu_file, tmp_path):
    """In a fresh interpreter: load, predict, then look at what was imported."""
    _, _, predictor = trained
    path = predictor.save(tmp_path / "p")
    code = (
        "import sys; import deepen\n"
        f"p = deepen.load_predictor({str(path)!r}).predict({str(relu_file)!r})\n"
        "assert p.energy_j > 0\n"
        "print(','.join(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.strip().split(","))
    assert loaded.isdisjoint({"sklearn", "lightgbm", "pandas", "scipy", "pyarrow", "matplotlib"})
    assert "numpy" in loaded


LOOP = UnknownPart("a/<loop>", "Loop", "rounds", "the rounds of 'a/<loop>' are decided by its input", "--rounds a=3")


def predict_unknown(predictor, records, *parts):
    """Predict a model of some records in which some parts are unknown."""
    known = KernelCounts.from_records(records)
    model = np.zeros(known.kernel.size, dtype=np.int64)
    return predictor.predict_many(replace(known, names=("m",), model=model, unknowns=(parts,)))[0]


def test_an_unknown_part_opens_the_interval_and_is_named(plain, world_of):
    records = world_of(53).kernels(2)
    known, unknown = predict_unknown(plain, records), predict_unknown(plain, records, LOOP)
    assert not known.open_above and math.isfinite(known.interval_j[1])
    assert unknown.open_above and unknown.interval_j == (known.interval_j[0], math.inf)
    assert unknown.energy_j == known.energy_j and unknown.unknowns == (LOOP,)
    text = unknown.describe_energy()
    assert text.startswith("at least ") and text.endswith("'a/<loop>' (Loop) ends what is known: --rounds a=3")
    assert "at least" not in known.describe_energy() and "ends what is known" in repr(unknown)


def test_arrays_of_predictions_keep_an_interval_open(plain, world_of):
    counts = KernelCounts.from_records(world_of(54).kernels(1, ("fc", "relu")))
    found = plain.predict_counts(replace(counts, unknowns=((), (LOOP,))))
    assert np.isfinite(found.high_j).tolist() == [True, False] and np.isfinite(found.low_j).all()


def test_a_prediction_is_a_table_and_safe_html(plain, world_of):
    label = KernelLabel("k", "<script>", ("Conv", "Relu"), (1, 3, 8, 8), (4, 3, 3, 3), (1, 4, 8, 8))
    counts = replace(KernelCounts.from_records(world_of(55).kernels(1, ("fc",))), names=("<b>.onnx",), labels=(label,))
    found = plain.predict_many(replace(counts, warnings=(("a & b",),)))[0]
    frame = found.to_frame()
    assert frame["energy_j"].tolist() == [k.energy_j for k in found.kernels]
    assert frame.loc[0, ["layer", "op_types", "output_shape"]].tolist() == ["<script>", "Conv+Relu", "1x4x8x8"]
    page = found._repr_html_()
    assert "&lt;script&gt;" in page and "<script>" not in page and "<b>.onnx" not in page and "a &amp; b" in page
    assert len(repr(found)) < 200 and "<b>.onnx" in repr(found)


def test_notes_below_a_hundredth_of_the_energy_are_left_out(plain, world_of):
    small, large = (world_of(56).kernels(1, ("relu", "fc"))[i] for i in (0, 1))
    unseen = replace(small, family="no such family")
    assert any("roofline" in w for w in predict(plain, [unseen, large]).warnings)
    assert not any("roofline" in w for w in predict(plain, [unseen, large], [1.0, 1e9]).warnings)
