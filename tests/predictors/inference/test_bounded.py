"""However few rows there are and however far away a kernel lies, every learner stays near the physical form."""

from __future__ import annotations

import numpy as np
import pytest

from deepen import predictors
from deepen.kernels.features import build_feature_matrix
from deepen.predictors.fitting.recipes import LEARNERS, Recipe
from deepen.predictors.inference.columns import compute_work_terms
from deepen.predictors.inference.roofline import compute_log_roofline

_FACTOR = 6.0
_SMALLEST = 10_000


def large_adds(world, count):
    """Additions of at least 10,000 elements whose bytes cost more, the more of them there are."""
    found = {}
    while len(found) < count:
        record = world.kernel("add")
        moved = record.features["elements_out"]
        if moved >= _SMALLEST:
            dear = record.energy_j * (moved / _SMALLEST) ** 0.4
            found[record.id] = world.record(
                "kernel", "add", dear, family="add", features=record.features, params=record.params
            )
    return list(found.values())


def of_size(world, elements):
    """An addition of so many elements in one row of channels."""
    f = world.features("add")
    ones = dict.fromkeys(("h_in", "w_in", "h_out", "w_out"), 1.0)
    sizes = {"c_in": elements, "c_out": elements, "elements_in": 2 * elements, "elements_out": elements}
    moved = {"bytes_in": 8 * elements, "bytes_read": 8 * elements, "ops": elements, "intensity": 1 / 12}
    return f | ones | sizes | moved | {"bytes_written": 4 * elements, "bytes_out": 4 * elements}


@pytest.mark.parametrize("learner", [*LEARNERS, "auto"])
@pytest.mark.parametrize("seed", [50, 51])
def test_one_element_from_eight_large_additions(learner, seed, world_of, dataset_of):
    world = world_of(seed, noise=0.15)
    records = large_adds(world, 8) + world.kernels(20, ("relu",))
    recipe = "auto" if learner == "auto" else Recipe("one", learners=(learner,))
    predictor = predictors.train_predictor(dataset_of(records), recipe)
    kernels = [of_size(world, n) for n in (1, 3, 100, 10**7, 10**10)]
    raw = build_feature_matrix(kernels)
    found = predictor.energies(["add"] * len(kernels), raw)
    p = predictor.parameters
    physical = np.exp(compute_log_roofline(compute_work_terms(raw, p.feature_names), p.work[p.families.index("add")]))
    assert (found.energy_j / physical < _FACTOR).all() and (found.energy_j / physical > 1 / _FACTOR).all()
    smallest = min(r.energy_j for r in records if r.family == "add")
    assert (found.energy_j[:3] < 2 * smallest).all(), "less work never costs more than twice the least seen"
    assert found.energy_j[0] < found.energy_j[3] < found.energy_j[4]
    if predictor.card["families"]["add"]["method"] == "regressor":
        assert found.extrapolated[[0, 1, 3, 4]].all()
    else:
        assert learner != "auto"


def test_no_answer_leaves_what_was_seen(trained):
    """Even if the arrays of a learner were wrong, energy per unit of work stays near the values seen."""
    from dataclasses import replace

    _, records, predictor = trained
    p = predictor.parameters
    wild = replace(p, gaussian_alpha=np.full_like(p.gaussian_alpha, 50.0), constant=p.constant + 20.0)
    kernels = [r for r in records if r.family == "relu"]
    raw = build_feature_matrix([r.features for r in kernels])
    found = wild.predict(["relu"] * len(kernels), raw)
    physical = np.exp(compute_log_roofline(compute_work_terms(raw, p.feature_names), p.work[p.families.index("relu")]))
    assert (found.energy_j / physical < _FACTOR).all()
