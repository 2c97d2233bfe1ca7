"""Many models at once: files in several processes, counts of kernels, tallies of records."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.errors import ConfigError, GraphError, PredictorError
from deepen.graph import load_graph
from deepen.kernels.building.single_kernel_model import build_kernel_model
from deepen.kernels.splitting.split import split_graph
from deepen.predictors.tally import count_record_kernels, predict_models


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Eighteen single kernels as model files."""
    import onnx

    folder = tmp_path_factory.mktemp("many")
    paths = []
    for i in range(18):
        path = folder / f"relu{i:02d}.onnx"
        onnx.save(build_kernel_model("relu", {"op": "Relu", "dtype": "float32", "shape": [1, 8 + i % 9, 14, 14]}), path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("workers", [1, 2])
def test_many_files_are_predicted_as_each_alone(trained, files, workers):
    predictor = trained[2]
    together = predictor.predict_many(files, workers=workers)
    assert [p.model for p in together] == [str(f) for f in files]
    for one, path in zip(together[:3], files, strict=False):
        alone = predictor.predict(path)
        assert one.energy_j == pytest.approx(alone.energy_j, rel=1e-12)
        assert one.interval_j == pytest.approx(alone.interval_j, rel=1e-12)
        assert one.kernels[0].family == "relu" and one.warnings == alone.warnings


def test_files_and_splits_mix(trained, files):
    parts = split_graph(load_graph(files[0]))
    named, plain = trained[2].predict_many([files[0], parts])
    assert plain.model == "model_1" and plain.energy_j == named.energy_j


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_is_named_and_the_others_go_on(trained, files, tmp_path, workers):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    mixed = [files[0], tmp_path / "bad.onnx", *files[1:], tmp_path / "absent.onnx"]
    failures = {}
    done = trained[2].predict_many(mixed, workers=workers, failures=failures)
    assert len(done) == 18 and set(failures) == {str(mixed[1]), str(mixed[-1])}
    assert isinstance(failures[str(mixed[1])], GraphError) and "bad.onnx" in str(failures[str(mixed[1])])
    with pytest.raises(GraphError, match=r"bad\.onnx"):
        trained[2].predict_many(mixed, workers=workers)


def test_another_runtime_is_said(trained, files):
    (found,) = trained[2].predict_many(files[:1], runtime="tflite-cpu")
    assert any("trained on onnxruntime" in w for w in found.warnings)


def test_nothing_and_nonsense(trained, files):
    assert trained[2].predict_many([]) == []
    with pytest.raises(ConfigError, match="workers"):
        trained[2].predict_many(files, workers=0)
    with pytest.raises(ConfigError, match="unknown runtime"):
        trained[2].predict_many(files, runtime="onnxruntim")


def test_counts_equal_models_one_by_one(trained, world_of):
    predictor, world = trained[2], world_of(31)
    kernels = world.kernels(2)
    families, raw = [r.family for r in kernels], predictor.matrix([r.features for r in kernels])
    counts = np.random.default_rng(0).integers(0, 4, (7, len(kernels)))
    found = predictor.predict_counts(families, raw, counts)
    for i, row in enumerate(counts):
        one = predictor.predict_described(
            [f"k{j}" for j in range(len(kernels))], families, [r.features for r in kernels], row, model="m"
        )
        assert found.energy_j[i] == pytest.approx(one.energy_j)
        assert (found.low_j[i], found.high_j[i]) == pytest.approx(one.interval_j)
        used = row > 0
        assert found.extrapolated[i] == sum(int(n) for n, k in zip(row, one.kernels, strict=True) if k.extrapolated)
        assert found.coverage[i] == 1.0 and used.any()


def test_a_model_of_nothing_costs_its_overhead(trained, world_of):
    predictor, kernel = trained[2], world_of(32).kernel("fc")
    found = predictor.predict_counts(["fc"], predictor.matrix([kernel.features]), np.zeros((1, 1)))
    assert found.energy_j[0] == found.low_j[0] == predictor.context.overhead_j and found.coverage[0] == 1.0


@pytest.mark.parametrize("counts", [np.ones((3, 2)), np.ones(2), np.full((1, 1), -1.0), np.full((1, 1), np.nan)])
def test_counts_that_do_not_fit_are_told(trained, world_of, counts):
    predictor, kernel = trained[2], world_of(32).kernel("fc")
    with pytest.raises(PredictorError, match="counts of"):
        predictor.predict_counts(["fc"], predictor.matrix([kernel.features]), counts)


def test_a_search_space_is_predicted_whole(trained):
    from deepen.spaces.nasbench201_kernels import count_kernels
    from deepen.spaces.nasbench201_networks import iter_cells

    kernels, counts = count_kernels(list(iter_cells())[:400])
    found = trained[2].predict_kernel_counts(kernels, counts)
    assert found.energy_j.shape == (400,) and (found.low_j < found.energy_j).all()
    assert len(np.unique(found.energy_j)) > 100


def test_tallies_equal_the_models_of_records(trained, world_of):
    predictor, world = trained[2], world_of(33)
    models = [world.model(f"m{i}", 5 + i, 1e-5) for i in range(4)]
    counted = count_record_kernels([*models, models[0]])
    assert counted.models == 5 and len(counted.families) == len({tuple(f.values()) for f in counted.features})
    energy, low, high, coverage = predict_models(predictor, counted)
    assert energy[0] == energy[4] and (coverage == 1).all()
    for i, record in enumerate(models):
        one = predictor.predict_described(
            [str(j) for j in range(len(record.kernels))],
            [k["family"] for k in record.kernels],
            [k["features"] for k in record.kernels],
            [k["multiplicity"] for k in record.kernels],
            model="m",
        )
        assert energy[i] == pytest.approx(one.energy_j) and (low[i], high[i]) == pytest.approx(one.interval_j)
