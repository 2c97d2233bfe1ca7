"""trtexec in three generations; the layout is the tool's, the figures are made up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.devices.runtimes.parsers import parse_layer_times, parse_query_times, parse_trtexec

TEN = """\
[I] === Performance summary ===
[I] Throughput: 44.5 qps
[I] Latency: min = 26.8655 ms, max = 31.8876 ms, mean = 27.9016 ms, median = 27.4583 ms, percentile(90%) = 29.5156 ms, \
percentile(95%) = 29.9088 ms, percentile(99%) = 31.5781 ms
[I] Enqueue Time: min = 0.684082 ms, max = 1.16016 ms, mean = 0.79691 ms, median = 0.771881 ms, percentile(90%) = \
0.862427 ms, percentile(95%) = 1.10266 ms, percentile(99%) = 1.15564 ms
[I] GPU Compute Time: min = 21.4507 ms, max = 26.4669 ms, mean = 22.4855 ms, median = 22.0431 ms, percentile(90%) = \
24.1021 ms, percentile(95%) = 24.494 ms, percentile(99%) = 26.1577 ms
[I] Total Host Walltime: 3.09059 s
[I] Total GPU Compute Time: 3.05803 s
[W] * GPU compute time is unstable, with coefficient of variance = 4.75734%.
[I] Explanations of the performance metrics are printed in the verbose logs.
[V] Total Host Walltime: the host walltime from when the first query is enqueued
"""
EIGHT = """\
[I] Starting inference
[I] Warmup completed 6 queries over 200 ms
[I] Timing trace has 89 queries over 3.07153 s
[I]
[I] === Performance summary ===
[I] Throughput: 28.9757 qps
[I] Latency: min = 34.6697 ms, max = 36.1511 ms, mean = 35.0057 ms, median = 34.916 ms, percentile(99%) = 36.1511 ms
[I] End-to-End Host Latency: min = 34.6746 ms, max = 36.156 ms, mean = 35.0105 ms, median = 34.9216 ms, \
percentile(99%) = 36.156 ms
[I] GPU Compute Time: min = 33.4643 ms, max = 34.8665 ms, mean = 33.664 ms, median = 33.5995 ms, percentile(99%) = \
34.8665 ms
[I] Total Host Walltime: 3.07153 s
[I] Total GPU Compute Time: 2.9961 s
[W] * Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized.
"""
SEVEN = """\
[I] Host Latency
[I] min: 2.65 ms (end to end 2.7 ms)
[I] max: 3.5 ms (end to end 3.6 ms)
[I] mean: 2.75 ms (end to end 2.8 ms)
[I] median: 2.7 ms (end to end 2.75 ms)
[I] percentile: 3.25 ms at 99% (end to end 3.3 ms at 99%)
[I] throughput: 363.5 qps
[I] walltime: 3.00825 s
[I] Enqueue Time
[I] min: 0.25 ms
[I] max: 0.5 ms
[I] median: 0.3 ms
[I] GPU Compute
[I] min: 2.5 ms
[I] max: 3.25 ms
[I] mean: 2.6 ms
[I] median: 2.55 ms
[I] percentile: 3.1 ms at 99%
[I] total compute time: 2.8 s
"""


def stamped(text: str) -> str:
    """As the logger prints it."""
    return "".join(f"[08/31/2025-21:07:11] {line}" for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("text", "mean_s", "compute_s", "percentile", "wall_s", "gpu_s", "rate_hz"),
    [
        (TEN, 0.0279016, 0.0224855, (95.0, 0.0299088), 3.09059, 3.05803, 44.5),
        (EIGHT, 0.0350057, 0.033664, (99.0, 0.0361511), 3.07153, 2.9961, 28.9757),
        (SEVEN, 0.00275, 0.0026, (99.0, 0.00325), 3.00825, 2.8, 363.5),
    ],
    ids=["10", "8", "7"],
)
def test_every_generation(
    text: str, mean_s: float, compute_s: float, percentile: tuple[float, float], wall_s: float, gpu_s: float,
    rate_hz: float,
) -> None:  # fmt: skip
    found = parse_trtexec(stamped(text))
    assert found.quantities["Latency"].mean_s == pytest.approx(mean_s)
    assert found.quantities["GPU Compute Time"].mean_s == pytest.approx(compute_s)
    assert found.quantities["Latency"].percentiles_s[percentile[0]] == pytest.approx(percentile[1])
    assert (found.wall_s, found.gpu_s, found.rate_hz) == (wall_s, gpu_s, rate_hz)
    assert found.errors == ()
    assert found.fallbacks == ()


def test_what_only_some_generations_say() -> None:
    assert parse_trtexec(stamped(EIGHT)).queries == 89
    assert parse_trtexec(stamped(TEN)).queries is None
    assert "End-to-End Host Latency" in parse_trtexec(stamped(EIGHT)).quantities
    assert parse_trtexec(stamped(SEVEN)).quantities["Enqueue Time"].median_s == pytest.approx(0.3e-3)
    assert [w[:30] for w in parse_trtexec(stamped(TEN)).warnings] == ["* GPU compute time is unstable"]


@pytest.mark.parametrize(("word", "passed"), [("PASSED", True), ("FAILED", False)])
def test_the_verdict_and_the_version(word: str, passed: bool) -> None:
    text = stamped(TEN) + f"&&&& {word} TensorRT.trtexec [TensorRT v100900] [b34] # trtexec --onnx=m.onnx\n"
    found = parse_trtexec(text)
    assert (found.passed, found.version) == (passed, "100900")
    assert parse_trtexec(stamped(TEN)).passed is None


def test_layers_that_leave_the_dla_are_listed() -> None:
    lines = (
        "[W] Default DLA is enabled but layer conv1 is not supported on DLA, falling back to GPU.\n"
        "[W] Layer 'Softmax_3' (Softmax): Unsupported on DLA. Switching this layer's device type to GPU. (cannot run "
        "on DLA)\n"
    )
    assert len(parse_trtexec(stamped(lines + TEN)).fallbacks) == 2


def query(start: float, end: float, **more: float) -> dict[str, float]:
    return {"startEnqMs": start, "endEnqMs": start, "endD2hMs": end, "computeMs": 1.5, **more}


def test_exported_times() -> None:
    first, second = parse_query_times(json.dumps([query(0.5, 3.0, latencyMs=2.25), query(3.5, 6.0)]))
    assert (first.start_s, first.end_s, first.compute_s) == (0.0005, 0.003, 0.0015)
    assert (first.latency_s, second.latency_s) == (pytest.approx(0.00225), None)
    older = {"startInMs": 1.0, "endOutMs": 2.0, "computeMs": 0.5}
    assert parse_query_times(json.dumps([older]))[0].end_s == 0.002


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[1]", json.dumps([query(0, 1), query(3, 2)]), '[{"startEnqMs": true}]', "[" * 9999]
)
def test_exported_times_that_make_no_sense_give_none(text: str) -> None:
    assert parse_query_times(text) == ()


def test_an_exported_profile() -> None:
    layers = [
        {"count": 88},
        {"name": "conv + relu", "timeMs": 44.0, "averageMs": 0.5, "medianMs": 0.45, "percentage": 80.0},
        {"name": "old", "timeMs": 11.0, "averageMs": 0.125, "percentage": 20.0},
        {"name": "torn"},
    ]
    count, found = parse_layer_times(json.dumps(layers))
    assert count == 88
    assert [(x.name, x.mean_s, x.median_s, x.share) for x in found] == [
        ("conv + relu", 0.0005, pytest.approx(0.00045), 0.8), ("old", 0.000125, None, 0.2)
    ]  # fmt: skip
    assert parse_layer_times("x") == (None, ())


@given(st.text(max_size=300), st.integers(0, 900))
def test_nothing_makes_the_parser_raise(junk: str, at: int) -> None:
    parse_trtexec(TEN[:at] + junk + TEN[at:])
    parse_trtexec(SEVEN[:at] + junk + SEVEN[at:])
    assert parse_query_times(junk) == ()
