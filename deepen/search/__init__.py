"""Tabular benchmarks with energy as a column: build, import, query, search.

``spaces`` names networks, ``table`` holds their figures, ``query`` asks and counts the cost, ``optimisers`` search,
``pareto`` judges.
"""

from __future__ import annotations

from deepen.search.objectives import Objective, read_objectives
from deepen.search.query import TabularBenchmark
from deepen.search.run import SearchResult, compute_exact_front, search_table
from deepen.search.table import BenchmarkTable, build_table, import_table, join_tables, read_table, write_table
from deepen.spaces import open_space

__all__ = [
    "BenchmarkTable",
    "Objective",
    "SearchResult",
    "TabularBenchmark",
    "build_table",
    "compute_exact_front",
    "import_table",
    "join_tables",
    "open_space",
    "read_objectives",
    "read_table",
    "search_table",
    "write_table",
]
