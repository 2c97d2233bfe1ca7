"""Tabular benchmarks with energy as a column: build, import, query, search.

``spaces`` names networks, ``table`` holds their figures, ``query`` asks and counts the cost, ``optimisers`` search,
``pareto`` judges.
"""

from __future__ import annotations

from deepen.search.objectives import Objective, read_objectives
from deepen.search.query import Benchmark
from deepen.search.run import SearchResult, search, truth_of
from deepen.search.table import Table, build_table, import_table, join, read_table, write_table
from deepen.spaces import open_space

__all__ = [
    "Benchmark",
    "Objective",
    "SearchResult",
    "Table",
    "build_table",
    "import_table",
    "join",
    "open_space",
    "read_objectives",
    "read_table",
    "search",
    "truth_of",
    "write_table",
]
