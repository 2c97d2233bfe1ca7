"""Records, models and trained predictors that commands are tried on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deepen.records import EnergyRecord
from tests.support.energy_world import FakeDataset, PowerLawDevice, World, train_world_predictor
from tests.support.records import make_energy_record


@pytest.fixture(scope="session")
def make_record() -> Callable[..., EnergyRecord]:
    """Factory of records; ``index`` makes kernels differ, keywords replace fields."""
    return make_energy_record


@pytest.fixture(scope="session")
def world_of():
    """Factory of worlds: ``world_of(seed, noise=...)``."""
    return World


@pytest.fixture(scope="session")
def dataset_of():
    """Factory of datasets from records."""
    return FakeDataset


@pytest.fixture(scope="session")
def trained():
    """A predictor trained on 40 rows of each family and 12 models, after the world and the records it came from."""
    return train_world_predictor()


@pytest.fixture(scope="session")
def device_of():
    """Factory of devices: ``device_of(seed=..., noise=...)``."""
    return PowerLawDevice
