"""Search spaces: NAS-Bench-201, NAS-Bench-101 and anything a Python function yields."""

from __future__ import annotations

from deepen.spaces.nasbench101 import NasBench101Space
from deepen.spaces.nasbench201 import NasBench201Space
from deepen.spaces.registry import SPACES, open_space
from deepen.spaces.space import SearchSpace
from deepen.spaces.user_defined import GeneratedSpace

__all__ = ["SPACES", "GeneratedSpace", "NasBench101Space", "NasBench201Space", "SearchSpace", "open_space"]
