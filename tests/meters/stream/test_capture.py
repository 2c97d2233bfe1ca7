"""From bytes with arrival times to a trace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import MeterError
from deepen.meters.stream.capture import PositionIntervals, StreamCapture, StreamSummary, describe_stream_counts
from deepen.meters.stream.types import Samples, StreamCounts
from deepen.records import Accuracy, PowerTrace

RATE = 1000.0


class Given:
    """A parser whose answers are written down."""

    def __init__(self, *answers: Samples, tally: StreamCounts | None = None) -> None:
        self.tally = tally or StreamCounts()
        self._answers = list(answers)

    def feed(self, data: bytes) -> Samples:
        return self._answers.pop(0)


def samples(index: list[int], power: list[float] | None = None, **fields: Any) -> Samples:
    found = np.array(index, dtype=np.int64)
    return Samples(found, np.full(found.size, 2.0) if power is None else np.array(power, dtype=float), **fields)


def captured(
    *answers: Samples, tally: StreamCounts | None = None, **options: Any
) -> tuple[StreamCapture, StreamSummary]:
    """Pump the answers, each arriving 1 ms after its last sample."""
    capture = StreamCapture(Given(*answers, tally=tally), RATE, **options)
    for answer in answers:
        last = int(answer.index[-1]) if answer.index.size else 0
        capture.pump(b"x", 100.0 + (last + 1) / RATE + 1e-3)
    return capture, capture.finish("toy")


def trace_of(capture: StreamCapture, ending: StreamSummary) -> PowerTrace:
    return capture.trace(
        ending, meter_id="toy", calibration_id="c", source="simulated", accuracy=Accuracy(0.1, 0.2, "sheet")
    )


def test_times_come_from_the_index_and_not_from_the_reads() -> None:
    rng = np.random.default_rng(3)
    answers = [samples(list(range(k, k + 10))) for k in range(0, 5000, 10)]
    capture = StreamCapture(Given(*answers), RATE)
    for answer in answers:
        capture.pump(b"x", 100.0 + (int(answer.index[-1]) + 1) / RATE + 5e-4 + rng.exponential(2e-3))
    ending = capture.finish("toy")
    trace = trace_of(capture, ending)
    assert trace.t_s.size == 5000
    assert np.diff(trace.t_s) == pytest.approx(np.full(4999, 1 / RATE), rel=1e-3)
    error_s = trace.t_s - (100.0 + (np.arange(5000) + 0.5) / RATE)
    assert np.abs(error_s).max() < 4 * ending.clock.error_s
    assert (trace.dropped, trace.gaps, trace.warnings) == (0, (), ())
    assert (ending.mean_w, ending.min_w, ending.max_w) == (2.0, 2.0, 2.0)
    assert trace.accuracy.reference == "sheet"
    assert trace.clock is ending.clock
    assert trace.sampling == "point"


def test_a_hole_in_the_index_is_a_loss_and_a_gap() -> None:
    capture, ending = captured(samples([0, 1, 2, 6]), samples([9, 10]), tally=StreamCounts(lost=5))
    trace = trace_of(capture, ending)
    assert trace.dropped == ending.dropped == 5
    assert ending.loss == 5 / 11
    assert ending.index_gaps == ((2, 6), (6, 9))
    assert trace.gaps == ((trace.t_s[2], trace.t_s[3]), (trace.t_s[3], trace.t_s[4]))
    assert trace.t_s[3] - trace.t_s[2] == pytest.approx(4 / RATE, rel=1e-6)
    assert any(w.startswith("lost: 5 samples") for w in trace.warnings)


def test_a_mean_carries_the_end_of_its_period_and_a_point_the_middle() -> None:
    times = {}
    for sampling in ("point", "mean"):
        capture, ending = captured(samples(list(range(100))), sampling=sampling)
        trace = trace_of(capture, ending)
        assert trace.sampling == sampling
        assert trace.clock is not None
        assert trace.t_s == pytest.approx(trace.clock.to_host(np.arange(100) / RATE))
        times[sampling] = trace.t_s
    assert times["mean"] - times["point"] == pytest.approx(np.full(100, 0.5 / RATE), rel=1e-6)


def test_self_calibration_is_a_gap_but_no_loss() -> None:
    _, ending = captured(samples([0, 1, 3, 4, 8]), tally=StreamCounts(lost=3, paused=1))
    assert ending.dropped == 3
    assert ending.index_gaps == ((1, 3), (4, 8))
    assert any(w.startswith("paused: ") for w in ending.warnings)


def test_a_pause_after_the_last_sample_hides_no_loss() -> None:
    tally = StreamCounts()
    capture = StreamCapture(Given(samples([0]), samples([1, 3]), tally=tally), RATE)
    capture.pump(b"x", 100.0)
    tally.lost, tally.paused = 1, 1
    capture.pump(b"x", 100.01)
    assert capture.finish("toy").dropped == 1


def test_a_loss_the_parser_counts_without_moving_its_index_is_told() -> None:
    tally = StreamCounts()
    capture = StreamCapture(Given(samples([0, 1]), samples([2, 3]), tally=tally), RATE)
    capture.pump(b"x", 100.0)
    tally.lost = 7
    capture.pump(b"x", 100.002)
    assert capture.finish("toy").dropped == 7


def test_what_was_lost_before_the_first_sample_does_not_count() -> None:
    _, ending = captured(samples([40, 41]), tally=StreamCounts(lost=40))
    assert ending.dropped == 0


def test_losses_no_counter_saw_are_found_by_the_clock_and_times_stay_true() -> None:
    def index_at(k: int) -> int:
        return k if k < 2000 else k - 256

    answers = [samples([index_at(k) for k in range(a, a + 10)]) for a in (*range(0, 2000, 10), *range(2256, 6000, 10))]
    rng = np.random.default_rng(5)
    capture = StreamCapture(Given(*answers), RATE, quantum=256)
    true = [*range(0, 2000, 10), *range(2256, 6000, 10)]
    for a in true:
        capture.pump(b"x", 100.0 + (a + 10) / RATE + rng.uniform(1e-3, 4e-3))
    ending = capture.finish("toy")
    trace = trace_of(capture, ending)
    assert trace.dropped == 256
    assert len(trace.gaps) == 1
    assert trace.gaps[0][0] <= 102.001
    assert trace.gaps[0][1] >= 102.255
    expected = (np.concatenate([np.arange(a, a + 10) for a in true]) + 0.5) / RATE + 100.0
    outside = (trace.t_s < trace.gaps[0][0]) | (trace.t_s > trace.gaps[0][1])
    assert np.abs(trace.t_s - expected)[outside].max() < 5e-3
    assert any("unseen by the counters" in w for w in trace.warnings)


@pytest.mark.parametrize(("jump", "doubled", "quantum"), [(40, 0, 1), (41, 0, 1), (40, 24, 64)])
def test_a_counter_that_jumps_without_a_loss_is_found_out_by_the_clock(jump: int, doubled: int, quantum: int) -> None:
    rng = np.random.default_rng(jump)
    starts = range(0, 8000, 10)
    answers = [samples(list(range(k, k + 10))) for k in (k + (jump if k >= 4000 else 0) for k in starts)]
    tally = StreamCounts()
    capture = StreamCapture(Given(*answers, tally=tally), RATE, quantum=quantum)
    for k in starts:
        late = k >= 4000
        tally.lost = jump if late else 0
        end = k + 10 - (doubled if late else 0)
        capture.pump(b"x", 100.0 + end / RATE + 5e-4 + rng.exponential(1e-3))
    ending = capture.finish("toy")
    trace = trace_of(capture, ending)
    assert (ending.dropped, ending.doubled) == (0, doubled)
    assert any(w.startswith(f"counter: it jumped by {jump}") for w in trace.warnings)
    true_s = 100.0 + (np.concatenate([np.arange(4000), np.arange(4000, 8000) - doubled]) + 0.5) / RATE
    sure = np.ones(8000, bool)
    for start_s, end_s in trace.gaps:
        sure &= (trace.t_s <= start_s) | (trace.t_s >= end_s)
    assert np.abs(trace.t_s - true_s)[sure].max() < 4 * ending.clock.error_s
    assert np.count_nonzero(~sure) <= doubled + 1


def test_doubts_that_come_later_are_gaps_and_tell_no_time() -> None:
    class Doubting(Given):
        doubts: list[tuple[int, int]]

    answers = [samples(list(range(k, k + 10))) for k in range(0, 4000, 10)]
    parser = Doubting(*answers)
    parser.doubts = []
    capture = StreamCapture(parser, RATE)
    for k in range(0, 4000, 10):
        early = 0.02 if 1000 <= k < 2000 else 0.0  # positions in this stretch were 20 too high
        capture.pump(b"x", 100.0 + (k + 10) / RATE + 5e-4 - early)
        if k == 2000:
            parser.doubts.append((999, 2000))
    ending = capture.finish("toy")
    assert parser.doubts == []
    assert ending.index_gaps == ((999, 2000),)
    assert (ending.dropped, ending.doubled) == (0, 0)
    assert np.abs(trace_of(capture, ending).t_s - 100.0 - (np.arange(4000) + 0.5) / RATE).max() < 1e-3


def test_suspect_samples_are_a_gap_between_their_good_neighbours() -> None:
    flags = np.array([False, True, True, False])
    capture, ending = captured(
        samples([0, 1, 2, 3], suspect=flags),
        samples([4, 5, 6], suspect=np.array([False, False, True])),
        samples([7, 8], suspect=np.array([True, False])),
    )
    trace = trace_of(capture, ending)
    assert ending.index_gaps == ((0, 3), (5, 8))
    assert trace.gaps[1] == (trace.t_s[5], trace.t_s[8])
    assert trace.dropped == 0
    assert any(w.startswith("suspect: 4 samples") for w in trace.warnings)


def test_gaps_at_the_ends_stay_inside_the_trace() -> None:
    capture, ending = captured(samples([5, 6, 7], suspect=np.array([True, False, True])))
    trace = trace_of(capture, ending)
    assert ending.index_gaps == ((5, 6), (6, 7))
    assert trace.gaps[0][0] == trace.t_s[0]
    assert trace.gaps[-1][1] == trace.t_s[-1]


def test_positions_seen_before_and_values_that_are_none_are_left_out_and_told() -> None:
    capture, ending = captured(samples([0, 1, 2]), samples([1, 2, 3, 3]), samples([4, 5, 6], [1.0, np.nan, np.inf]))
    trace = trace_of(capture, ending)
    assert trace.power_w.tolist() == [2.0, 2.0, 2.0, 2.0, 1.0]
    assert np.all(np.isfinite(trace.power_w))
    assert any(w.startswith("duplicates: 3 samples") for w in trace.warnings)
    assert any(w.startswith("invalid: 2 samples") for w in trace.warnings)


def test_a_value_that_is_none_inside_the_stream_is_lost() -> None:
    _, ending = captured(samples([0, 1, 2], [1.0, np.nan, 3.0]))
    assert ending.dropped == 1
    assert ending.index_gaps == ((0, 2),)
    assert ending.mean_w == 2.0


def test_logic_inputs_are_kept_in_step_with_the_samples() -> None:
    capture, ending = captured(
        samples([0, 1, 1], logic=np.array([1, 2, 3], dtype=np.uint8)),
        samples([2]),
        samples([3], logic=np.array([4], dtype=np.uint8)),
    )
    logic = trace_of(capture, ending).logic
    assert logic is not None
    assert logic.tolist() == [1, 2, 0, 4]


def test_a_sink_gets_every_sample_and_memory_none() -> None:
    got: list[tuple[list[int], list[float], list[int] | None]] = []

    class CapturedSamples:
        def append(self, index: Any, power_w: Any, logic: Any = None) -> None:
            got.append((index.tolist(), power_w.tolist(), None if logic is None else logic.tolist()))

    opened: list[tuple[bool, float]] = []

    def open_sink(inputs: bool, start_s: float) -> CapturedSamples:
        opened.append((inputs, start_s))
        return CapturedSamples()

    _, ending = captured(samples([]), samples([0, 1]), samples([2, 4], [5.0, 6.0]), open_sink=open_sink)
    assert opened == [(False, pytest.approx(100.002))]
    assert got == [([0, 1], [2.0, 2.0], None), ([2, 4], [5.0, 6.0], None)]
    assert (ending.samples, ending.dropped, ending.max_w, ending.mean_w) == (4, 1, 6.0, 3.75)


def test_a_stream_without_samples_is_an_error_that_says_what_came_instead() -> None:
    capture = StreamCapture(Given(samples([]), tally=StreamCounts(skipped_bytes=300)), RATE)
    capture.pump(b"junk", 100.0)
    assert not capture.has_reached(0.0)
    with pytest.raises(MeterError, match=r"toy gave no samples.*300 bytes.*right instrument"):
        capture.finish("toy")


def test_covering_a_moment_needs_samples_taken_after_it() -> None:
    capture = StreamCapture(Given(samples(list(range(100))), samples(list(range(100, 120)))), RATE)
    capture.pump(b"x", 100.1)  # floor of the delay: position 0 was at 100.0
    assert not capture.has_reached(100.1)
    capture.pump(b"x", 100.12)
    assert capture.has_reached(100.1)
    assert not capture.has_reached(100.12)


def test_every_count_of_a_tally_becomes_a_line_that_begins_with_a_stable_word() -> None:
    names = ("ambiguous", "corrupt", "skipped_bytes", "duplicates", "uncalibrated", "paused", "clipped")
    words = {describe_stream_counts(StreamCounts(**{name: 3}))[0].split(":")[0] for name in (*names, "range_switches")}
    assert words == {
        *("ambiguous", "corrupt", "resynchronised", "duplicates", "uncalibrated", "paused", "clipped"),
        "range switches",
    }
    assert describe_stream_counts(StreamCounts(lost=3)) == []  # told with the trace's own count
    assert describe_stream_counts(StreamCounts(notes=["n"])) == ["n"]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=60),
    st.integers(1, 8),
)
def test_stretches_never_lose_one_and_stay_few(steps: list[tuple[int, int]], limit: int) -> None:
    kept = PositionIntervals(limit)
    added = []
    start = 0
    for step, length in steps:
        start += step
        added.append((start, start + length))
        kept.add(start, start + length)
    items = kept.items
    assert len(items) <= limit
    assert all(a[1] <= b[0] for a, b in pairwise(items))
    assert all(any(a <= start and end <= b for a, b in items) for start, end in added)
    if added:
        assert items[0][0] == added[0][0]
        assert items[-1][1] == max(end for _, end in added)


def test_few_stretches_are_kept_exactly() -> None:
    kept = PositionIntervals(10)
    for stretch in ((1, 2), (2, 5), (7, 8)):
        kept.add(*stretch)
    assert kept.items == ((1, 2), (2, 5), (7, 8))
    kept.add(7, 9)
    assert kept.items[-1] == (7, 9)


def test_the_toy_reads_the_same_however_its_bytes_are_split(
    toy_parser: Callable[[], Any], toy_frames: Callable[..., bytes]
) -> None:
    data = toy_frames(list(range(300)), [1.0] * 300)
    whole = toy_parser().feed(data).index.tolist()
    parser = toy_parser()
    split = [i for k in range(len(data)) for i in parser.feed(data[k : k + 1]).index.tolist()]
    assert split == whole == list(range(300))
