"""Search spaces: NAS-Bench-201, NAS-Bench-101 and anything a Python function yields."""

from __future__ import annotations

from deepen.search.spaces.base import Space
from deepen.search.spaces.generated import Generated
from deepen.search.spaces.nasbench101 import NasBench101
from deepen.search.spaces.nasbench201 import NasBench201
from deepen.search.spaces.registry import SPACES, open_space

__all__ = ["SPACES", "Generated", "NasBench101", "NasBench201", "Space", "open_space"]
