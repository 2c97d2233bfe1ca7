"""onnxruntime_perf_test in the generations seen, and ONNX Runtime's profile; the figures are made up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.devices.runtimes.parsers import parse_ort_profile, parse_perf_test

NEW = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.0508382 s
First inference time cost: 20 ms
Total inference time cost: 1.99 s
Total inference requests: 100
Average inference time cost: 19.9 ms
Total inference run time: 1.99202 s
Number of inferences per second: 50.2002
Avg CPU usage: 12 %
Peak working set size: 109531136 bytes
Avg CPU usage:12
Peak working set size:109531136
Runs:100
Min Latency: 0.0197812 s
Max Latency: 0.0202704 s
P50 Latency: 0.0199047 s
P90 Latency: 0.0200251 s
P95 Latency: 0.0201534 s
P99 Latency: 0.0202704 s
P999 Latency: 0.0202705 s
"""
VENDOR = NEW.replace("Average inference time cost: 19.9 ms", "Average inference time cost total: 19.900000 ms")
MIDDLE = """\
Session creation time cost:0.0508382 s
Total inference time cost:1.99 s
Total inference requests:100
Average inference time cost:19.9 ms
Total inference run time:1.99202 s
"""
OLD = """\
Total time cost:1.99
Total iterations:100
Average time cost:19.9 ms
Min Latency is 0.0197812sec
Max Latency is 0.0202704sec
P50 Latency is 0.0199047sec
"""


@pytest.mark.parametrize("text", [NEW, VENDOR, MIDDLE, OLD], ids=["new", "vendor", "middle", "old"])
def test_every_generation(text: str) -> None:
    found = parse_perf_test(text)
    assert found.runs is not None
    assert found.runs.count == 100
    assert found.runs.mean_s == pytest.approx(0.0199)
    assert found.total_s == pytest.approx(1.99)
    assert (found.problems, found.errors, found.fallback) == ((), (), "")


def test_what_only_newer_builds_say() -> None:
    found = parse_perf_test(NEW)
    assert (found.session_s, found.first_s, found.wall_s) == (0.0508382, 0.02, 1.99202)
    assert (found.cpu_share, found.memory_bytes) == (pytest.approx(0.12), 109531136)
    assert found.runs is not None
    assert (found.runs.min_s, found.runs.max_s, found.runs.median_s) == (0.0197812, 0.0202704, 0.0199047)
    assert found.runs.percentiles_s == {
        50.0: 0.0199047, 90.0: 0.0200251, 95.0: 0.0201534, 99.0: 0.0202704, 99.9: 0.0202705
    }  # fmt: skip
    old = parse_perf_test(OLD)
    assert (old.session_s, old.first_s, old.wall_s) == (None, None, 1.99)  # no wall time: the runs' sum stands for it


def test_a_torn_output_has_no_result() -> None:
    assert parse_perf_test(NEW[: NEW.index("Total inference requests")]).runs is None
    assert parse_perf_test("").runs is None


def test_contradicting_figures_are_a_problem() -> None:
    assert "is not 0.0299 s each" in parse_perf_test(NEW.replace("cost: 19.9 ms", "cost: 29.9 ms")).problems[0]


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-22 14:00:00.1 [W:onnxruntime:, session_state.cc:1162 VerifyEachNodeIsAssignedToAnEp] Some nodes "
        "were not assigned to the preferred execution providers which may or may not have an negative impact on "
        "performance.",
        "CUDA is not supported in this build",
        "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
        "explicitly disabled by the user.",
        "[W:onnxruntime:Default, cc:7] Failed to create TensorrtExecutionProvider. Please reference",
    ],
)
def test_a_fallback_is_seen(line: str) -> None:
    assert parse_perf_test(f"{line}\n{NEW}").fallback == line


def event(name: str, dur: object = 10, cat: str = "Node", **args: str) -> dict[str, object]:
    return {"cat": cat, "name": name, "dur": dur, "ts": 0, "args": args}


def test_a_profile_is_summed_by_node() -> None:
    events = [
        event("model_run", 100, "Session"),
        event("conv_fence_before", 3),
        event("conv_kernel_time", 10, op_name="Conv", provider="CPUExecutionProvider"),
        event("relu_kernel_time", 1, op_name="Relu", provider="CUDAExecutionProvider"),
        event("conv_kernel_time", 30, op_name="Conv", provider="CPUExecutionProvider"),
        event("bad_kernel_time", "soon"),
        event("worse_kernel_time", -4),
        "not an event",
    ]
    conv, relu = parse_ort_profile(json.dumps(events))
    assert (conv.name, conv.op, conv.provider, conv.calls) == ("conv", "Conv", "CPUExecutionProvider", 2)
    assert (conv.mean_s, relu.total_s) == (pytest.approx(20e-6), pytest.approx(1e-6))
    lines = "[\n" + ",\n".join(json.dumps(e) for e in events) + ',\n{"cat": "No'
    assert parse_ort_profile(lines) == (conv, relu)  # the process was killed while it wrote


def test_an_old_profile_without_providers() -> None:
    assert parse_ort_profile('[{"cat": "Node", "name": "a_kernel_time", "dur": 5}]')[0].provider == ""


@given(st.text(max_size=300), st.integers(0, 900))
def test_nothing_makes_the_parsers_raise(junk: str, at: int) -> None:
    found = parse_perf_test(NEW[:at] + junk + NEW[at:])
    assert found.runs is None or (found.runs.count or 0) >= 1
    parse_ort_profile(junk)
    parse_ort_profile("[" * 5000 + junk)
