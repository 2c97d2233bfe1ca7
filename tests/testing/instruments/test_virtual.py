"""The port in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.errors import MeterError
from deepen.meters.ports.protocol import Port
from deepen.testing.clock import VirtualClock
from deepen.testing.device import FakeRuntime, RunCost
from deepen.testing.instruments.faults import SplitReads, Stall, Unplug
from deepen.testing.instruments.ppk2 import Ppk2Emulator
from deepen.testing.instruments.signal import BlockSignal, EventSignal, StepSignal
from deepen.testing.instruments.virtual import VirtualPort
from deepen.testing.power import PowerTimeline

ON_START, METADATA = b"\x0c\x01\x06", b"\x19"


def port(clock: VirtualClock, **options) -> VirtualPort:
    return VirtualPort(Ppk2Emulator(BlockSignal(0.1, 1.0, [(1000.3, 1000.6)])), clock, **options)


def test_it_is_a_port(clock) -> None:
    made = port(clock)
    assert isinstance(made, Port)
    assert (made.name, made.pseudo, made.fileno()) == ("virtual:ppk2", True, None)


def test_an_answer_takes_a_round_trip_of_virtual_time(clock) -> None:
    made = port(clock, latency_s=3e-3)
    made.write(METADATA)
    assert made.read(5e-3) == b""
    assert clock.now() == pytest.approx(1000.005)
    assert made.read(1.0).endswith(b"END\n")
    assert clock.now() == pytest.approx(1000.006)
    assert made.read(0.5) == b""
    assert clock.now() == pytest.approx(1000.506)
    assert made.written == [(1000.0, METADATA)]


def arrivals(clock: VirtualClock, made: VirtualPort, until_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Moment of every read, and the true time at which its last sample was complete."""
    moments, complete, count = [], [], 0
    while clock.now() < until_s:
        count += len(made.read(1.0)) // 4
        moments.append(clock.now())
        complete.append(1000.0 + count * 1e-5)
    return np.array(moments), np.array(complete)


def test_arrivals_jitter_but_keep_their_order(clock) -> None:
    made = port(clock, latency_s=2e-3, jitter_s=5e-3, seed=4)
    made.write(ON_START)
    moments, complete = arrivals(clock, made, 1010.0)
    delay = moments - complete - 2e-3  # the start command took as long to get there
    assert (np.diff(moments) > 0).all()
    assert delay.min() > 0.002 - 1e-9
    assert delay.min() < 0.003
    assert 0.008 < np.median(delay) < 0.02
    assert delay.max() < 0.045


def test_the_same_seed_gives_the_same_arrivals() -> None:
    found = []
    for seed in (1, 1, 2):
        clock = VirtualClock()
        made = port(clock, jitter_s=5e-3, seed=seed)
        made.write(ON_START)
        found.append(arrivals(clock, made, 1000.5)[0].tolist())
    assert found[0] == found[1] != found[2]


def test_what_comes_does_not_depend_on_how_it_is_read() -> None:
    streams = []
    for stride_s in (0.0, 0.013, 0.5):
        clock = VirtualClock()
        made = port(clock, jitter_s=2e-3, latency_s=1e-3)
        made.write(ON_START)
        data = bytearray()
        while clock.now() < 1001.0 - 1e-9:
            if stride_s:
                clock.sleep(min(stride_s, 1001.0 - clock.now()))
                data += made.read(0.0)
            else:
                data += made.read(1001.0 - clock.now())
        streams.append(bytes(data))
    assert streams[0] == streams[1] == streams[2]
    assert len(streams[0]) > 395_000


def test_flush_forgets_what_has_arrived(clock) -> None:
    made = port(clock)
    made.write(ON_START)
    clock.sleep(0.1)
    made.flush_input()
    assert made.read(0.0) == b""
    assert len(made.read(1.0)) == 400


def test_reads_may_be_split(clock) -> None:
    made = port(clock, faults=[SplitReads(most=3)])
    made.write(METADATA)
    clock.sleep(0.01)
    reads = [made.read(0.0) for _ in range(2000)]
    assert {len(r) for r in reads} == {0, 1, 2, 3}
    assert b"".join(reads).endswith(b"END\n")
    assert clock.now() == 1000.01


def test_a_pulled_cable_ends_reads_and_writes(clock) -> None:
    made = port(clock, faults=[Unplug(0.5)])
    made.write(ON_START)
    clock.sleep(1.0)
    assert len(made.read(0.0)) == 200_000
    for act in (lambda: made.read(1.0), lambda: made.write(b"x")):
        with pytest.raises(MeterError, match="plug it in"):
            act()


def test_a_stall_is_silence(clock) -> None:
    made = port(clock, faults=[Stall(0.1, np.inf)])
    made.write(ON_START)
    clock.sleep(0.2)
    assert len(made.read(0.0)) == 40_000
    assert made.read(2.0) == b""


def test_the_last_command_arrives_though_the_port_is_closed(clock) -> None:
    made = port(clock, latency_s=1e-3)
    emulator = made.line.emulator
    made.write(ON_START)
    clock.sleep(0.5)
    made.write(b"\x07\x0c\x00")
    made.close()
    made.close()
    assert emulator.supply.volts == 0
    assert not emulator.clock.running
    assert emulator.energy_j(1000.0, 1002.0) == pytest.approx(0.1 * 0.3 + 1.0 * 0.2 + 1e-3 * (1.0 - 0.1), rel=1e-6)
    for act in (lambda: made.read(0.0), lambda: made.write(b"x")):
        with pytest.raises(MeterError, match="open it again"):
            act()


def test_a_unit_can_be_opened_again(clock) -> None:
    unit = Ppk2Emulator(StepSignal([], [1.0]))
    for _ in range(2):
        made = VirtualPort(unit, clock, latency_s=1e-3)
        made.write(ON_START)
        clock.sleep(0.1)
        assert len(made.read(0.0)) == 4 * 9800
        made.write(b"\x07")
        made.close()


def test_the_events_of_a_running_workload_are_in_the_stream(clock, tmp_path, ppk2_reading) -> None:
    timeline = PowerTimeline(0.1)
    runtime = FakeRuntime(clock, timeline, lambda path: RunCost(latency_s=2e-3, power_w=0.9))
    unit = Ppk2Emulator(EventSignal(timeline))
    made = VirtualPort(unit, clock)
    made.write(ON_START)
    (tmp_path / "model").touch()
    loaded = runtime.load(tmp_path / "model")
    clock.sleep(0.05)
    runs = [loaded.run(n) for n in (5, 20)]
    clock.sleep(0.05)
    amperes = ppk2_reading(made.read(0.0), unit.metadata().decode(), 3.3).amperes
    true_j = 0.1 * (clock.now() - 1000.0) + 0.9 * 25 * 2e-3
    assert unit.energy_j(1000.0, clock.now()) == pytest.approx(true_j)
    assert sum(amperes) * 3.3 * 1e-5 == pytest.approx(true_j, rel=0.02)
    inside = [k for k in range(len(amperes)) if any(r.start_s < 1000 + k * 1e-5 < r.end_s - 1e-5 for r in runs)]
    assert len(inside) == pytest.approx(5000, abs=4)
    assert [amperes[k] for k in inside] == pytest.approx([1.0 / 3.3] * len(inside), rel=0.01)


def test_an_hour_of_long_transfers_is_quick_to_make(clock) -> None:
    made = VirtualPort(Ppk2Emulator(StepSignal([], [1e-3])), clock, batch_s=0.25, jitter_s=1e-3)
    made.write(METADATA)
    clock.sleep(3600.0)
    assert made.read(0.0).endswith(b"END\n")
    made.write(ON_START)
    count = 0
    for _ in range(40):
        clock.sleep(0.25)
        count += len(made.read(0.0)) // 4
    assert 974_000 < count <= 1_000_000
