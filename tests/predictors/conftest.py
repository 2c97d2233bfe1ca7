"""Fixtures of a small world and of a device whose energies are known."""

from __future__ import annotations

import pytest

from tests.support.energy_world import FakeDataset, PowerLawDevice, World, train_world_predictor


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
