"""The Joulescope driver on a stand-in of the maker's package."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.joulescope import driver
from deepen.meters.instruments.joulescope.driver import JoulescopeInstrument, JoulescopePort
from deepen.meters.instruments.joulescope.parser import INPUT, POWER, JoulescopeParser, frame_block
from deepen.meters.registry import open_meter
from deepen.meters.stream.types import Samples
from deepen.meters.types import MeterContext, MeterSpec
from deepen.testing.instruments.joulescope import FakeJoulescopeDriver
from deepen.testing.instruments.signal import BlockSignal, StepSignal


@pytest.fixture(autouse=True)
def lock_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeJoulescopeDriver], FakeJoulescopeDriver]:
    """Put a driver where the maker's package would be."""

    def put(driver: FakeJoulescopeDriver) -> FakeJoulescopeDriver:
        monkeypatch.setitem(sys.modules, "pyjoulescope_driver", SimpleNamespace(Driver=lambda: driver))
        return driver

    return put


def power(first: int, values: list[float], decimate: int = 10) -> bytes:
    return frame_block(POWER, first * decimate, decimate, np.array(values, "<f4").tobytes())


def bits(k: int, first: int, levels: list[int], decimate: int = 10) -> bytes:
    return frame_block(INPUT + k, first * decimate, decimate, np.packbits(levels, bitorder="little").tobytes())


def test_blocks_become_samples_at_their_own_numbers() -> None:
    parser = JoulescopeParser(1e5)
    found = parser.feed(power(50, [1.0, 2.0]) + power(52, [3.0]))
    assert found.index.tolist() == [50, 51, 52]
    assert found.power_w.tolist() == [1.0, 2.0, 3.0]
    assert found.logic is None


def test_missing_numbers_and_values_count_as_lost() -> None:
    parser = JoulescopeParser(1e5)
    found = parser.feed(power(0, [1.0, np.nan, 3.0]) + power(7, [4.0]))
    assert found.index.tolist() == [0, 2, 7]
    assert parser.tally.lost == 5


def test_a_block_that_comes_twice_counts_once() -> None:
    parser = JoulescopeParser(1e5)
    found = parser.feed(power(0, [1.0, 2.0]) * 2)
    assert found.index.tolist() == [0, 1]
    assert parser.tally.duplicates == 1


def test_power_waits_for_the_inputs_that_belong_to_it() -> None:
    parser = JoulescopeParser(1e5, (0, 2))
    assert parser.feed(power(0, [1.0] * 8) + bits(0, 0, [0, 0, 1, 1, 0, 0, 0, 0])).index.size == 0
    found = parser.feed(bits(2, 0, [0, 0, 0, 1, 1, 1, 1, 1]))
    assert found.logic is not None
    assert found.logic.tolist() == [0, 0, 1, 5, 4, 4, 4, 4]


def test_an_input_that_stops_coming_does_not_hold_power_for_ever() -> None:
    parser = JoulescopeParser(100, (1,))
    found = parser.feed(bits(1, 0, [1] * 8) + power(0, [1.0] * 8) + power(8, [2.0] * 150))
    assert found.index.tolist() == list(range(158))
    assert found.logic is not None
    assert found.logic.tolist() == [2] * 8 + [0] * 150
    assert any("stopped coming" in note for note in parser.tally.notes)


def test_a_gap_in_an_input_is_told() -> None:
    parser = JoulescopeParser(1e5, (0,))
    found = parser.feed(bits(0, 0, [1] * 8) + bits(0, 16, [0] * 8) + power(0, [1.0] * 24))
    assert found.logic is not None
    assert found.logic.tolist() == [1] * 16 + [0] * 8
    assert any("has gaps" in note for note in parser.tally.notes)


def test_the_next_block_is_found_after_damage() -> None:
    spoiled = bytearray(power(2, [9.0, 9.0]))
    spoiled[-6] ^= 1
    parser = JoulescopeParser(1e5)
    found = parser.feed(power(0, [1.0, 2.0]) + bytes(spoiled) + b"JSJ" + power(4, [5.0]))
    assert found.index.tolist() == [0, 1, 4]
    assert (parser.tally.corrupt, parser.tally.lost) == (1, 2)


def collect(stream: bytes, cuts: list[int]) -> tuple[list[float], list[int], list[int], object]:
    parser = JoulescopeParser(50, (0, 3))
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    found = Samples.join([parser.feed(stream[a:b]) for a, b in pairwise(edges)])
    return (
        found.power_w.tolist(),
        found.index.tolist(),
        [] if found.logic is None else found.logic.tolist(),
        parser.tally,
    )


def stream(seed: int, damage: int) -> bytes:
    rng = random.Random(seed)
    blocks = []
    for first in range(0, 200, 8):
        blocks += [power(first, [rng.random() for _ in range(8)])] * rng.choice([0, 1, 1, 1, 2])
        blocks += [bits(k, first, [rng.randrange(2) for _ in range(8)]) for k in (0, 3) if rng.random() < 0.9]
    out = bytearray(b"".join(blocks))
    for _ in range(damage):
        at = rng.randrange(len(out))
        out[at : at + rng.choice([0, 1])] = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1])))
    return bytes(out)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), st.lists(st.integers(0, 4000), max_size=10))
def test_how_bytes_are_split_makes_no_difference(seed: int, damage: int, cuts: list[int]) -> None:
    whole = stream(seed, damage)
    assert collect(whole, cuts) == collect(whole, [])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                frame_block,
                st.sampled_from([POWER, INPUT, INPUT + 3, 7]),
                st.integers(0, 2**64 - 1),
                st.integers(0, 2**32 - 1),
                st.binary(max_size=40),
            ),
            st.builds(
                frame_block,
                st.sampled_from([POWER, INPUT, INPUT + 3]),
                st.integers(0, 400),
                st.integers(1, 3),
                st.binary(max_size=40),
            ),
        ),
        max_size=20,
    )
)
def test_any_bytes_are_taken(parts: list[bytes]) -> None:
    parser = JoulescopeParser(50, (0, 3))
    last = -1
    for part in parts:
        found = parser.feed(part)
        assert np.all(np.diff(found.index) > 0)
        assert found.index.size == 0 or found.index[0] > last
        assert np.isfinite(found.power_w).all()
        last = int(found.index[-1]) if found.index.size else last


def test_what_is_set_and_started(install: Any) -> None:
    driver = install(FakeJoulescopeDriver(StepSignal([], [1.0])))
    port = JoulescopePort(driver, "u/js220/000415")
    instrument = JoulescopeInstrument(port, MeterSpec.parse("joulescope?rate_hz=20000&inputs=0,3"), "measured")
    assert (instrument.serial, instrument.rate_hz) == ("000415", 20000)
    instrument.begin()
    instrument.end()
    port.close()
    topics = [(t.removeprefix("u/js220/000415/"), v) for t, v in driver.published]
    assert topics[:3] == [("h/fs", 20000), ("s/i/range/mode", "auto"), ("s/v/range/mode", "auto")]
    assert topics[3:] == [(f"{s}/ctrl", on) for on in (1, 0) for s in ("s/gpi/0", "s/gpi/3", "s/p")]
    assert driver.finalized
    assert driver.opened == []


def test_a_js110_has_its_own_topics(install: Any) -> None:
    driver = install(FakeJoulescopeDriver(StepSignal([], [1.0]), ("u/js110/002557",)))
    JoulescopeInstrument(JoulescopePort(driver, "u/js110/002557"), MeterSpec.parse("joulescope"), "measured")
    assert ("u/js110/002557/s/i/range/select", "auto") in driver.published


@pytest.mark.parametrize("option", ["rate_hz=12345", "rate_hz=0", "inputs=4", "inputs=x", "volts=3"])
def test_wrong_options_are_refused(install: Any, option: str) -> None:
    driver = install(FakeJoulescopeDriver(StepSignal([], [1.0])))
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        open_meter(f"joulescope?{option}")
    assert driver.finalized or not driver.opened


@pytest.mark.serial
def test_a_recording_has_the_energy_and_the_marks(install: Any) -> None:
    origin = time.monotonic()
    edge = origin + 1.5  # late enough for a busy machine to have begun
    driver = install(
        FakeJoulescopeDriver(
            StepSignal([edge], [0.5, 2.0]), input_lag=300, levels=lambda k, t_s: (t_s >= edge) & (k == 1)
        )
    )
    driver.run()
    meter = open_meter("joulescope:000415?rate_hz=10000&inputs=0,1")
    meter.start()
    time.sleep(edge + 0.4 - time.monotonic())
    trace = meter.stop()
    meter.close()
    assert trace.dropped == 0
    assert trace.logic is not None
    rise = int(np.argmax(trace.logic))
    assert set(trace.logic.tolist()) == {0, 2}
    assert abs(int(np.argmax(trace.power_w > 1.0)) - rise) <= 1
    assert trace.power_w[rise + 2 :] == pytest.approx(2.0)
    assert abs(trace.t_s[rise] - edge) < 0.1


def test_samples_the_instrument_lost_are_counted(install: Any) -> None:
    driver = install(FakeJoulescopeDriver(BlockSignal(0.5, 1.0, [(0.0, 1.0)])))
    port = JoulescopePort(driver, "u/js220/000415")
    instrument = JoulescopeInstrument(port, MeterSpec.parse("joulescope?rate_hz=10000"), "measured")
    parser = instrument.begin()
    driver.lost, driver.skipped = [(100, 150)], [(3000, 3001)]
    driver.advance(1.0)
    found = parser.feed(port.read(0.0))
    assert parser.tally.lost == 50 + 1000
    assert found.index.size == 10_000 - 1050
    assert found.index[0] == 123_456_000 // 100


def test_unplugging_is_told(install: Any) -> None:
    driver = install(FakeJoulescopeDriver(StepSignal([], [1.0])))
    port = JoulescopePort(driver, "u/js220/000415")
    driver.unplug("u/js220/000999")
    assert port.read(0.0) == b""
    driver.unplug("u/js220/000415")
    with pytest.raises(MeterError, match="joulescope:000415 is gone"):
        port.read(0.0)


def test_finding_one_of_none_one_and_several(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeJoulescopeDriver(StepSignal([], [1.0]), ()))
    assert driver.DRIVER.probe(MeterContext()).cause == "none is plugged in"
    with pytest.raises(MeterError, match="no instrument is plugged in"):
        open_meter("joulescope")
    install(FakeJoulescopeDriver(StepSignal([], [1.0]), ("u/js220/1", "u/js110/2", "u/mb/3")))
    assert [f.serial for f in driver.DRIVER.probe(MeterContext()).found] == ["1", "2"]
    with pytest.raises(MeterError, match=r"several here.*name one"):
        open_meter("joulescope")
    open_meter("joulescope:2").close()
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", None)
    assert "Python 3.12" in driver.DRIVER.probe(MeterContext()).cure
    with pytest.raises(MeterError, match=r"deepen\[joulescope\]"):
        open_meter("joulescope")


def test_an_instrument_in_use_is_refused(install: Any) -> None:
    install(FakeJoulescopeDriver(StepSignal([], [1.0])))
    first = open_meter("joulescope")
    with pytest.raises(MeterError, match="in use"):
        open_meter("joulescope")
    first.close()
    open_meter("joulescope").close()
