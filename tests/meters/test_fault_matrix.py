"""No fault yields a wrong energy without a word: every fault on every driver, end to end in virtual time.

``tests.support.fault_acceptance`` says what counts: a window is right within its stated uncertainty, or a gap of the
trace lies in it, or samples are told to be dropped, or there is a warning that a recording without a fault does not
have, or there is an error. Only what a protocol shows to nobody may pass with a warning that stands on every recording;
those cases are named here, one by one. ``tools/bench/fault_matrix.py`` runs more moments and seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import MeterError
from tests.support.fault_acceptance import FAULTS, FaultRecording, RecordingVerdict, judge_recording, record_with_fault
from tests.support.fault_rigs import FaultRig, make_fault, make_fault_rigs

RIGS = [
    "lvpm",
    "hvpm",
    "hvpm (LVPM)",
    "ppk2",
    "ppk2 (ranges)",
    "powersensor3",
    "lpm01a (ASCII)",
    "lpm01a (ASCII, current)",
    "lpm01a (ASCII, 5 kHz)",
    "lpm01a (binary)",
    "lpm01a (binary, current)",
    "joulescope",
    "line (counter)",
    "line (time)",
    "line (plain)",
    "line (total)",
    "line (wrapping)",
]

SECONDS = 1.6
"""Longest recording: enough for every window before, across and after a fault at any of ``MOMENTS``. The benchmark
records each rig for as long as ``FaultRig.seconds`` says."""

MOMENTS = (0.4, 0.0, 0.65)
"""When a fault strikes, shares of a recording; the load differs with the index."""

ONE_OF_EACH = ["lvpm", "hvpm", "lpm01a (ASCII)", "joulescope", "line (counter)"]

BLIND = {
    *(
        (rig, "voltage droop")
        for rig in ("ppk2", "ppk2 (ranges)", "lpm01a (ASCII, current)", "lpm01a (binary, current)")
    ),
    *(("line (plain)", fault) for fault in FAULTS if "byte" in fault),
}
"""What no reader can see: the instrument measures no voltage; a damaged digit in a line with nothing to check it by."""

ERRORS = {"endless stall", "unplug"}

Try = Callable[[str, str, float, int], tuple[FaultRecording, RecordingVerdict]]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FaultRig]:
    rigs = make_fault_rigs(Path(tmp_path_factory.mktemp("profiles")))
    return {name: replace(rig, seconds=min(rig.seconds, SECONDS)) for name, rig in rigs.items()}


@pytest.fixture(scope="module")
def clean(benches: dict[str, FaultRig]) -> Callable[[str, int], FaultRecording]:
    kept: dict[tuple[str, int], FaultRecording] = {}

    def get(rig: str, seed: int) -> FaultRecording:
        if (rig, seed) not in kept:
            kept[rig, seed] = record_with_fault(benches[rig], None, seed=seed)
        return kept[rig, seed]

    return get


@pytest.fixture
def try_fault(benches: dict[str, FaultRig], clean: Callable[[str, int], FaultRecording]) -> Try:
    def run(rig: str, fault: str, share: float, seed: int) -> tuple[FaultRecording, RecordingVerdict]:
        before = clean(rig, seed).trace
        assert before is not None
        done = record_with_fault(
            benches[rig], make_fault(benches[rig], fault, share * benches[rig].seconds, seed), seed=seed
        )
        return done, judge_recording(benches[rig], fault, done, before.warnings)

    return run


def test_the_list_of_rigs_is_complete(benches: dict[str, FaultRig]) -> None:
    assert set(RIGS) == set(benches)


@pytest.mark.parametrize("rig", RIGS)
def test_without_a_fault_every_window_is_right_and_nothing_is_dropped(rig: str, benches, clean) -> None:
    done = clean(rig, 1)
    assert done.trace is not None, done.error
    assert done.trace.dropped == 0
    verdict = judge_recording(benches[rig], "none", done, done.trace.warnings)
    assert verdict.way == "right", verdict.windows
    assert len(verdict.windows) >= 9


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("rig", RIGS)
def test_no_fault_yields_a_wrong_energy_without_a_word(rig: str, fault: str, try_fault: Try) -> None:
    # Which moment, and which size and place of the fault, depends on both; the benchmark runs through all of them.
    seed = (RIGS.index(rig) + FAULTS.index(fault)) % 3
    done, verdict = try_fault(rig, fault, MOMENTS[seed], seed)
    assert verdict.way != "wrong", verdict
    if verdict.way == "blind":
        assert (rig, fault) in BLIND
    if fault in ERRORS:
        assert isinstance(done.error, MeterError)
    elif fault == "missing calibration":
        assert done.error is not None or verdict.way == "right"  # line meters and Joulescopes do their own
    else:
        assert done.error is None


@pytest.mark.parametrize("fault", ["split reads", "stall with burst"])
@pytest.mark.parametrize("rig", ONE_OF_EACH)
def test_what_takes_nothing_away_leaves_no_trace(rig: str, fault: str, try_fault: Try) -> None:
    done, verdict = try_fault(rig, fault, 0.4, 3)
    assert done.trace is not None
    assert verdict.way == "right"
    assert done.trace.dropped == 0
    assert verdict.news == ()


@pytest.mark.parametrize("fault", ["lost bytes", "lost frames", "stall with loss", "clock step", "counter jump"])
@pytest.mark.parametrize("rig", ONE_OF_EACH)
def test_a_fault_spoils_nothing_long_before_it_or_after_it(rig: str, fault: str, try_fault: Try) -> None:
    _, verdict = try_fault(rig, fault, 0.4, 4)
    far = {name: verdict.windows[name] for name in ("first", "last") if name in verdict.windows}
    assert far
    for name, (way, off, stated) in far.items():
        assert way in ("right", "gap"), (name, off, stated, verdict.news)


@pytest.mark.parametrize("rig", ["lvpm", "hvpm", "lpm01a (ASCII)", "line (counter)"])
def test_what_is_dropped_is_what_was_lost(rig: str, try_fault: Try, benches: dict[str, FaultRig]) -> None:
    fault = make_fault(benches[rig], "lost frames", 1.3, 2)
    trace = record_with_fault(benches[rig], fault, seed=2).trace
    assert trace is not None
    assert trace.dropped == fault.lost > 0


@pytest.mark.parametrize("rig", ["lvpm", "line (counter)", "lpm01a (ASCII)"])
def test_more_loss_than_is_allowed_ends_in_an_error(rig: str, benches: dict[str, FaultRig]) -> None:
    done = record_with_fault(benches[rig], make_fault(benches[rig], "stall with loss", 1.3, 4), seed=4, max_loss=1e-3)
    assert isinstance(done.error, MeterError)
    assert "max_loss" in str(done.error)
    assert done.stage == "stop"


@pytest.mark.parametrize("rig", ["lvpm", "line (plain)"])
@pytest.mark.parametrize("wrong", ["scaled", "shifted", "one window"])
def test_the_judge_sees_a_wrong_energy(rig: str, wrong: str, clean, benches: dict[str, FaultRig]) -> None:
    """The matrix can fail: traces that are wrong without a word are found out."""
    done = clean(rig, 1)
    assert done.trace is not None
    trace = done.trace
    near = np.abs(trace.t_s - done.struck_s) < 0.05
    changed = {
        "scaled": lambda: replace(trace, power_w=1.1 * trace.power_w),
        "shifted": lambda: replace(trace, t_s=trace.t_s + 0.03),
        "one window": lambda: replace(trace, power_w=np.where(near, 1.5 * trace.power_w, trace.power_w)),
    }[wrong]()
    verdict = judge_recording(benches[rig], "none", replace(done, trace=changed), trace.warnings)
    assert verdict.way == "wrong"
    gap = replace(changed, gaps=((float(trace.t_s[0]), float(trace.t_s[-1])),))
    told = replace(changed, warnings=(*trace.warnings, "something new"))
    assert judge_recording(benches[rig], "none", replace(done, trace=told), trace.warnings).way == "told"
    assert judge_recording(benches[rig], "none", replace(done, trace=gap), trace.warnings).way != "wrong"
    routine = replace(changed, warnings=(*trace.warnings, "range switches: 5", *trace.warnings))
    assert judge_recording(benches[rig], "none", replace(done, trace=routine), trace.warnings).way == "wrong"
