from __future__ import annotations

import math
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepen import catalog
from deepen.clock.host_clock import monotonic_s
from deepen.errors import ConfigError, MeterError
from deepen.meters import open_meter
from deepen.meters.instruments.scpi import DRIVER, ScpiMeter, ScpiProfile
from deepen.meters.ports.visa_port import is_visa_resource
from deepen.meters.types import Meter, MeterContext, MeterSpec
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.faults import BadChecksum, LoseFrames, Unplug
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.scpi import ScpiAnalyzer
from deepen.testing.instruments.signal import StepSignal
from deepen.testing.instruments.virtual import VirtualPort

PROFILE = """
[scpi]
identity = "ACME,PA1"
setup = {setup}
query = "{query}"
field = {field}
unit = "{unit}"
ranges = ["RANGE?"]
update_s = 0.1
poll_s = {poll_s}
finish = ["SYST:LOC"]
accuracy = {{ reading = 0.003, reference = "its data sheet" }}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., str]:
    def write(**values: Any) -> str:
        path = tmp_path / "acme.toml"
        defaults = {"setup": "[]", "query": "MEAS:POW?", "field": 1, "unit": "W", "poll_s": 0.1}
        path.write_text(PROFILE.format(**{**defaults, **values}))
        return str(path)

    return write


class ScpiBench:
    """A meter in virtual time; the test does what its thread would do."""

    def __init__(self, emulator: ScpiAnalyzer, path: str, faults: list[Any] | None = None, **options: Any) -> None:
        self.clock = VirtualClock()
        self.port = VirtualPort(emulator, self.clock, latency_s=5e-3, jitter_s=1e-3, faults=faults or [])
        spec = MeterSpec("scpi", "", {"profile": path})
        self.meter = ScpiMeter(self.port, ScpiProfile.load(spec), "simulated", now=self.clock.now, **options)
        self.meter._sampler.start = lambda: None  # type: ignore[method-assign]

    def record(self, duration_s: float, period_s: float = 0.1) -> Any:
        self.meter.start()
        end = self.clock.now() + duration_s
        while self.clock.now() < end:
            self.clock.sleep(period_s)
            self.meter.mark()
        return self.meter.stop()


def test_it_reads_the_power_and_says_what_it_is(profile: Callable[..., str]):
    bench = ScpiBench(ScpiAnalyzer(StepSignal([], [2.5])), profile())
    trace = bench.record(2.0)
    assert isinstance(bench.meter, Meter)
    assert trace.power_w == pytest.approx(2.5)
    assert trace.meter_id == "scpi"
    assert trace.source == "simulated"
    assert [w.split(":")[0] for w in trace.warnings] == ["unchecked"]
    assert trace.calibration_id == "profile acme, ACME,PA1,0042,1.0, ranges 10"
    assert trace.accuracy.gain == pytest.approx(0.003 / math.sqrt(3))


def test_the_error_of_time_covers_round_trip_and_update(profile: Callable[..., str]):
    trace = ScpiBench(ScpiAnalyzer(StepSignal([], [1.0])), profile()).record(2.0)
    assert trace.clock is not None
    assert trace.clock.method == "ping"
    assert 0.1 / math.sqrt(3) < trace.clock.error_s < 0.11 / math.sqrt(3)


def test_a_field_of_several_values_in_amperes(profile: Callable[..., str]):
    bench = ScpiBench(ScpiAnalyzer(StepSignal([], [2.5])), profile(query="MEAS:ALL?", field=2, unit="A"), voltage_v=5.0)
    assert bench.record(1.0).power_w == pytest.approx(2.5)


def test_setup_is_sent_and_local_control_given_back(profile: Callable[..., str]):
    emulator = ScpiAnalyzer(StepSignal([], [0.5]))
    bench = ScpiBench(emulator, profile(setup='["RANGE 1"]'))
    bench.meter.close()
    assert emulator.range_w == 1.0
    assert emulator.received[-1] == "SYST:LOC"


def test_a_command_that_is_refused_is_named(profile: Callable[..., str]):
    with pytest.raises(MeterError, match=r"refuses 'RANGE 7' \(-113"):
        ScpiBench(ScpiAnalyzer(StepSignal([], [0.5])), profile(setup='["RANGE 7"]'))


def test_old_errors_are_cleared_and_new_ones_reported(profile: Callable[..., str]):
    emulator = ScpiAnalyzer(StepSignal([], [0.5]))
    emulator.queue.extend(['-100,"old"'] * 3)
    bench = ScpiBench(emulator, profile())
    assert not emulator.queue
    emulator.uncalibrate()
    assert any("-340" in w for w in bench.record(1.0).warnings)


def test_over_the_range_readings_are_gaps(profile: Callable[..., str]):
    emulator = ScpiAnalyzer(StepSignal([1002.0, 1003.0], [2.0, 20.0, 2.0]))
    trace = ScpiBench(emulator, profile()).record(5.0)
    assert trace.power_w == pytest.approx(2.0)
    assert trace.dropped > 5
    assert trace.gaps[0][0] < 1002.2
    assert trace.gaps[-1][1] > 1003.0


def test_a_range_that_changed_is_told(profile: Callable[..., str]):
    emulator = ScpiAnalyzer(StepSignal([1002.0], [0.5, 20.0]), range_w=1.0, auto=True)
    trace = ScpiBench(emulator, profile()).record(3.0)
    assert any("the ranges went from 1 to 100" in w for w in trace.warnings)


def test_another_instrument_is_named(profile: Callable[..., str]):
    with pytest.raises(MeterError, match=r"is 'FLUKE,8846A.*choose its profile"):
        ScpiBench(ScpiAnalyzer(StepSignal([], [0.5]), identity="FLUKE,8846A,1,1"), profile())


def test_wrong_line_ends_are_the_usual_cause_of_silence(profile: Callable[..., str]):
    with pytest.raises(MeterError, match=r"no answer to '\*IDN\?'.*line_end"):
        ScpiBench(ScpiAnalyzer(StepSignal([], [0.5]), line_end=b"\r"), profile())


def test_a_question_it_does_not_understand_is_named(profile: Callable[..., str]):
    with pytest.raises(MeterError, match="no number in field 4"):
        ScpiBench(ScpiAnalyzer(StepSignal([], [0.5])), profile(query="MEAS:ALL?", field=4))


def test_a_garbled_answer_is_a_lost_reading(profile: Callable[..., str]):
    trace = ScpiBench(ScpiAnalyzer(StepSignal([], [0.5])), profile(), [BadChecksum(1.0)]).record(3.0)
    assert trace.dropped == 1
    assert len(trace.gaps) == 1
    assert trace.power_w == pytest.approx(0.5)


def test_an_answer_that_does_not_come_ends_the_measurement(profile: Callable[..., str]):
    with pytest.raises(MeterError, match="no answer to 'MEAS:POW"):
        ScpiBench(ScpiAnalyzer(StepSignal([], [0.5])), profile(), [LoseFrames(1.0, 1)]).record(3.0)


def test_an_answer_that_comes_late_is_not_taken_for_the_next(profile: Callable[..., str]):
    bench = ScpiBench(ScpiAnalyzer(StepSignal([], [0.5])), profile())
    bench.port.write(b"*IDN?\n")  # somebody's question whose answer nobody read
    bench.clock.sleep(0.1)
    assert bench.record(1.0).dropped == 0


def test_unplugging_ends_in_an_error_and_close_still_works(profile: Callable[..., str]):
    bench = ScpiBench(ScpiAnalyzer(StepSignal([], [0.5])), profile(), [Unplug(1.0)])
    with pytest.raises(MeterError, match="gone"):
        bench.record(3.0)
    bench.meter.close()


@contextmanager
def tcp_server(emulator: ScpiAnalyzer) -> Iterator[int]:
    """Serve an analyser at a port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    while data := connection.recv(4096):
                        connection.sendall(emulator.receive(data, monotonic_s()))
        except OSError:  # closed
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=10)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "TCPIP::127.0.0.1::{}::SOCKET"])
def test_over_tcp_and_visa(profile: Callable[..., str], address: str):
    if "::" in address:
        pytest.importorskip("pyvisa_py")
    emulator = ScpiAnalyzer(StepSignal([], [2.5]))
    with tcp_server(emulator) as port:
        meter = open_meter(f"scpi:{address.format(port)}?profile={profile()}&rate_hz=50")
        try:
            meter.start()
            meter.mark()
            trace = meter.stop()
        finally:
            meter.close()
    assert trace.power_w == pytest.approx(2.5)
    assert trace.source == "simulated"
    assert trace.t_s.size >= 3
    assert emulator.received[0] == "*IDN?"


def test_over_a_terminal(profile: Callable[..., str]):
    with serve_emulator(ScpiAnalyzer(StepSignal([], [1.5]))) as served:
        meter = open_meter(f"scpi:{served.path}?profile={profile()}&source=measured")
        try:
            meter.start()
            trace = meter.stop()
        finally:
            meter.close()
    assert trace.power_w == pytest.approx(1.5)
    assert trace.source == "measured"


def test_a_visa_address_where_nothing_answers(profile: Callable[..., str]):
    pytest.importorskip("pyvisa_py")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MeterError, match=r"TCPIP::127.*Connection refused.*address"):
        open_meter(f"scpi:TCPIP::127.0.0.1::{port}::SOCKET?profile={profile()}")


def test_without_pyvisa_the_cure_is_named(profile: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyvisa", None)
    with pytest.raises(MeterError, match=r"pip install 'deepen\[visa\]'"):
        open_meter(f"scpi:USB0::0x0B21::0x0025::C2PC1234::INSTR?profile={profile()}")


@pytest.mark.parametrize("name", ["USB0::1::2::3::INSTR", "tcpip::host::INSTR", "GPIB::5::INSTR"])
def test_visa_names_are_known(name: str):
    assert is_visa_resource(name)
    assert not is_visa_resource("/dev/ttyUSB0")
    assert not is_visa_resource("tcp://host:5025")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("scpi:/dev/null?profile={}&volts=3", "no option 'volts'"),
        ("scpi?profile={}", "where the instrument is"),
        ("scpi:/dev/null?profile={}&voltage_v=5", "leave voltage_v out"),
        ("scpi:/dev/null", "scpi-example"),
    ],
)
def test_wrong_specifications_are_refused(profile: Callable[..., str], spec: str, words: str):
    with pytest.raises(ConfigError, match=words):
        open_meter(spec.format(profile()))


def test_a_current_needs_a_voltage(profile: Callable[..., str]):
    with pytest.raises(ConfigError, match=r"add \?voltage_v"):
        open_meter(f"scpi:/dev/null?profile={profile(unit='mA')}")


@pytest.mark.parametrize("name", ["scpi-example", "yokogawa-wt300"])
def test_shipped_profiles_are_right(name: str):
    assert ScpiProfile.load(MeterSpec("scpi", "x", {"profile": name})).name == name
    assert catalog.load_toml("devices", "meters", name)["meter"] == f"scpi?profile={name}"


def test_it_is_listed_with_what_to_write():
    found = DRIVER.probe(MeterContext())
    assert not found.available
    assert "scpi:tcp://" in found.cure
