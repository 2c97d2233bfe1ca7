"""Search spaces: NAS-Bench-201, NAS-Bench-101 and anything a Python function yields."""

from __future__ import annotations

from deepen.spaces.nasbench101 import NasBench101
from deepen.spaces.nasbench201 import NasBench201
from deepen.spaces.registry import SPACES, open_space
from deepen.spaces.space import Space
from deepen.spaces.user_defined import Generated

__all__ = ["SPACES", "Generated", "NasBench101", "NasBench201", "Space", "open_space"]
