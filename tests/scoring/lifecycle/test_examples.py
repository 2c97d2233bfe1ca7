"""The worked examples on data of others give what is known of that data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deepen.scoring.lifecycle import LifecycleConditions, analyse_lifecycle


@pytest.fixture(scope="module")
def examples(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lifecycle_examples", repo_root / "tools/bench/lifecycle_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_ec_nas_energies_contain_the_pue_and_repeat_to_two_percent(examples: ModuleType, shared_dir: Path) -> None:
    candidates, ratio, cv = examples.ec_nas(shared_dir / "data/ec_nas/train_results_4V.tar.gz")
    assert len(candidates) == 91
    assert ratio == pytest.approx(1.590, abs=5e-4)
    assert cv == pytest.approx(0.022, abs=5e-4)
    watt_hours = candidates.training_j / 3600
    assert [watt_hours.min(), np.median(watt_hours), watt_hours.max()] == pytest.approx([5.3, 16.7, 38.4], rel=0.03)
    # With the PUE of the data, the building's energy is the figure in the data: it is not applied twice.
    found = analyse_lifecycle(candidates, LifecycleConditions(training_pue=1.59))
    ranked = {r.candidate: r for r in found.at(0.0)}
    name = candidates.names[0]
    assert ranked[name].training_j == pytest.approx(candidates.training_j[0])
    cheapest = found.regimes[0].candidate
    assert ranked[cheapest].rank == 1


def test_training_longer_pays_only_with_use(examples: ModuleType, shared_dir: Path) -> None:
    """Zeus: the same network trained to higher targets; regimes ascend in accuracy and in training energy."""
    candidates = examples.zeus(shared_dir / "data/training_traces", "shufflenetv2", "v100")
    found = analyse_lifecycle(candidates)
    chosen = [candidates.index(r.candidate) for r in found.regimes]
    assert len(chosen) >= 3
    assert (np.diff(candidates.accuracy[chosen]) > 0).all()
    assert (np.diff(candidates.training_j[chosen]) > 0).all()
    assert found.candidates.label == ("modelled", "")
    assert all(0 <= r.confidence <= 1 for r in found.regimes)
