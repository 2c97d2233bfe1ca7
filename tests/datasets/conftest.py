"""Records for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deepen.records import EnergyRecord
from tests.support.records import make_energy_record

MakeRecord = Callable[..., EnergyRecord]


@pytest.fixture(scope="session")
def make_record() -> MakeRecord:
    """Factory of records; ``index`` makes kernels differ, keywords replace fields."""
    return make_energy_record
