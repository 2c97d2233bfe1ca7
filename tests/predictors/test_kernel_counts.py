"""Many models at once: files in several processes, counts of kernels, records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen.errors import ConfigError, GraphError, PredictorError
from deepen.graph import load_graph
from deepen.kernels.building.single_kernel_model import build_kernel_model
from deepen.kernels.features import build_feature_matrix
from deepen.kernels.splitting.split import split_graph
from deepen.predictors.kernel_counts import KernelCounts


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


def draw_counts(world, models, seed):
    """Models that run some of a world's kernels, in no order, some of them several times."""
    rng = np.random.default_rng(seed)
    records = [world.model(f"m{i}", int(rng.integers(1, 30)), 1e-5) for i in range(models)]
    twice = [replace(r, kernels=(*r.kernels, *r.kernels[: int(rng.integers(0, 9))])) for r in records]
    return KernelCounts.from_records(twice)


@pytest.mark.parametrize("seed", range(4))
def test_arrays_and_listed_predictions_are_one_thing(trained, world_of, seed):
    """Same energies, intervals, coverage and counts whether models come alone, together, or as a matrix."""
    predictor = trained[2]
    counts = draw_counts(world_of(31 + seed), 6, seed)
    families = tuple("other" if i % 7 == 3 else f for i, f in enumerate(counts.families))
    counts = replace(counts, families=families)
    found = predictor.predict_counts(counts)
    dense = predictor.predict_counts(KernelCounts.from_matrix(families, counts.features, counts.to_matrix()))
    for i, one in enumerate(predictor.predict_many(counts)):
        (alone,) = predictor.predict_many(counts.take(np.array([i])))
        assert alone == one
        assert one.energy_j == found.energy_j[i] == pytest.approx(dense.energy_j[i], rel=1e-12)
        assert one.interval_j == (found.low_j[i], found.high_j[i])
        assert one.interval_j == pytest.approx((dense.low_j[i], dense.high_j[i]), rel=1e-9)
        assert one.coverage == found.coverage[i] == pytest.approx(dense.coverage[i])
        assert one.extrapolated == found.extrapolated[i] == dense.extrapolated[i]
        assert sum(k.energy_j for k in one.kernels) + one.overhead_j == pytest.approx(one.energy_j, rel=1e-12)
        assert (one.coverage < 1) == bool(one.uncovered)
        roofline_j = sum(k.energy_j for k in one.kernels if k.method == "roofline")
        assert (roofline_j > 0.01 * one.energy_j) == any("roofline" in w for w in one.warnings)


def test_a_model_of_nothing_costs_its_overhead(trained, world_of):
    predictor, kernel = trained[2], world_of(32).kernel("fc")
    found = predictor.predict_counts(counts_of([kernel], np.zeros((1, 1))))
    assert found.energy_j[0] == found.low_j[0] == predictor.context.overhead_j and found.coverage[0] == 1.0


@pytest.mark.parametrize("counts", [np.ones((3, 2)), np.ones(2), np.full((1, 1), -1.0), np.full((1, 1), np.nan)])
def test_counts_that_do_not_fit_are_told(world_of, counts):
    with pytest.raises(PredictorError, match="counts of"):
        counts_of([world_of(32).kernel("fc")], counts)


def test_a_search_space_is_predicted_whole(trained):
    from deepen.spaces.nasbench201_kernels import count_kernels
    from deepen.spaces.nasbench201_networks import iter_cells

    kernels, counts = count_kernels(list(iter_cells())[:400])
    found = trained[2].predict_counts(KernelCounts.from_kernels(kernels, counts))
    assert found.energy_j.shape == (400,) and (found.low_j < found.energy_j).all()
    assert len(np.unique(found.energy_j)) > 100


def counts_of(records, counts):
    return KernelCounts.from_matrix(
        [r.family for r in records], build_feature_matrix([r.features for r in records]), counts
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_way_to_count_gives_the_same_sums(world_of, seed):
    counts = draw_counts(world_of(40 + seed), 8, seed)
    values = np.random.default_rng(seed).uniform(1, 2, len(counts.families))
    sums = counts.sums(values)
    np.testing.assert_allclose(counts.to_matrix() @ values, sums)
    model, kernel, times = counts.add_repeats()
    assert len(set(zip(model.tolist(), kernel.tolist(), strict=True))) == model.size <= counts.kernel.size
    np.testing.assert_allclose(np.bincount(model, times * values[kernel], minlength=8), sums)
    rows = np.random.default_rng(seed).integers(0, 8, 11)
    np.testing.assert_array_equal(counts.take(rows).sums(values), sums[rows])
    assert counts.take(np.arange(8) % 3 == 1).names == ("m1", "m4", "m7")
    again = KernelCounts.join([counts.take(np.array([i])) for i in range(8)])
    np.testing.assert_array_equal(again.features[again.kernel], counts.features[counts.kernel])
    assert again.names == counts.names and len(again.families) == len(counts.families)
    np.testing.assert_array_equal(counts.take_each_kernel().sums(values), values)


def test_kernels_are_the_same_by_family_and_all_features(world_of):
    kernel = world_of(5).kernel("relu")
    same = replace(kernel, params={"other": 1})
    other = replace(kernel, features={**kernel.features, "zero_operand": 1.0})
    counts = KernelCounts.from_records([kernel, same, replace(kernel, family="add"), other, kernel])
    assert counts.kernel.tolist() == [0, 0, 1, 2, 0] and counts.families == ("relu", "add", "relu")
    assert counts.params[0] == kernel.params


def test_features_of_another_version_are_refused(world_of):
    kernel = world_of(5).kernel("relu")
    with pytest.raises(PredictorError, match="features version"):
        KernelCounts.from_records([replace(kernel, features={"macs": 1.0})])
    turned = replace(kernel, features=dict(reversed(kernel.features.items())))
    assert len(KernelCounts.from_records([kernel, turned]).families) == 1
