"""Parsers of the output of benchmark tools: text in, numbers in SI units out, without a device.

A parser never raises: a value missing from the text is ``None``, and an inconsistent one is listed in ``problems``. The
formats of each generation are defined by the tools' own sources, which each module names.
"""

from __future__ import annotations

from deepen.devices.runtimes.parsers.benchmark_model import BenchmarkReport, Delegation, parse_benchmark_model
from deepen.devices.runtimes.parsers.op_profile import OpRow, OpTable, parse_op_profile
from deepen.devices.runtimes.parsers.ort_profile import NodeTime, parse_ort_profile
from deepen.devices.runtimes.parsers.perf_test import PerfReport, parse_perf_test
from deepen.devices.runtimes.parsers.text import RunStatistics
from deepen.devices.runtimes.parsers.trtexec import (
    LayerTime,
    TrtQuery,
    TrtReport,
    parse_layer_times,
    parse_query_times,
    parse_trtexec,
)

__all__ = [
    "BenchmarkReport",
    "Delegation",
    "LayerTime",
    "NodeTime",
    "OpRow",
    "OpTable",
    "PerfReport",
    "RunStatistics",
    "TrtQuery",
    "TrtReport",
    "parse_benchmark_model",
    "parse_layer_times",
    "parse_op_profile",
    "parse_ort_profile",
    "parse_perf_test",
    "parse_query_times",
    "parse_trtexec",
]
