"""ONNX Runtime's profile: a list of events in Chrome's trace format.

Source: ONNX Runtime ``core/common/profiler.cc``; events of the category ``Node`` whose name ends in ``_kernel_time``
carry the operator and the execution provider, times are in microseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from deepen.devices.runtimes.parsers.text import parse_finite_number

__all__ = ["NodeTime", "parse_ort_profile"]

_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """Run time of a node of the executed graph.

    Attributes:
        name: Name of the node.
        op: Its operator; empty if not in the profile.
        provider: Execution provider that ran it; empty if not in the profile (of an old version).
        calls: Number of times it ran.
        total_s: Total time of all calls, seconds.
    """

    name: str
    op: str
    provider: str
    calls: int
    total_s: float

    @property
    def mean_s(self) -> float:
        """Mean time per call, seconds."""
        return self.total_s / self.calls


def parse_ort_profile(text: str) -> tuple[NodeTime, ...]:
    """Parse a profile into the times of its nodes, in the order in which they first ran.

    Of a file cut short (the process was killed), the complete lines are used.
    """
    found: dict[str, NodeTime] = {}
    for event in _load_events(text):
        name, arguments = event.get("name"), event.get("args")
        if event.get("cat") != "Node" or not isinstance(name, str) or not name.endswith(_SUFFIX):
            continue
        duration = event.get("dur")
        duration_us = parse_finite_number(str(duration)) if isinstance(duration, int | float) else None
        if duration_us is None or duration_us < 0:
            continue
        known = arguments if isinstance(arguments, dict) else {}
        node = name[: -len(_SUFFIX)]
        before = found.get(node, NodeTime(node, str(known.get("op_name", "")), str(known.get("provider", "")), 0, 0.0))
        found[node] = NodeTime(node, before.op, before.provider, before.calls + 1, before.total_s + duration_us * 1e-6)
    return tuple(found.values())


def _load_events(text: str) -> list[dict[str, Any]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = []
        for line in text.splitlines():
            try:
                whole.append(json.loads(line.strip().strip("[],")))
            except (ValueError, RecursionError):
                continue
    return [e for e in whole if isinstance(e, dict)] if isinstance(whole, list) else []
