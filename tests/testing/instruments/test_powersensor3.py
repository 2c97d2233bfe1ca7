"""The PowerSensor3 emulator, byte by byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.powersensor3 import PowerSensor3Emulator, SensorPair
from deepen.testing.instruments.signal import BlockSignal, StepSignal


def streaming(signal, **options) -> PowerSensor3Emulator:
    unit = PowerSensor3Emulator(signal, **options)
    assert unit.receive(b"S", 1000.0) == b""
    return unit


def read_config(unit: PowerSensor3Emulator, t_s: float = 1000.0) -> list[bytes]:
    return [unit.receive(b"R", t_s), *(unit.receive(b".", t_s) for _ in range(8))]


def test_it_is_an_emulator() -> None:
    assert isinstance(PowerSensor3Emulator(StepSignal([], [1.0])), Emulator)


def test_a_frame_is_a_time_stamp_and_eight_levels() -> None:
    # 12 V and 2 A: (1.65 + 0.24) * 1023 / 3.3 = 586 (585.9); 12 * 0.0877 * 310 = 326 (326.2)
    data = streaming(StepSignal([], [24.0])).advance(1000.00005)
    stamp = int(1000.00005e6) % 1024
    expected = [0xF0 | stamp >> 6, 0x40 | stamp & 63, 0x80 | 586 >> 6, 586 & 63, 0x90 | 326 >> 6, 326 & 63]
    assert data == bytes(expected + [b for k in range(2, 8) for b in (0x80 | k << 4, 0)])


def test_the_configuration_comes_in_eight_records() -> None:
    unit = PowerSensor3Emulator(
        StepSignal([], [1.0]), pairs=[SensorPair(share=0.5), SensorPair("3V3", 3.3, 0.5, gain=0.3)]
    )
    *records, end = read_config(unit)
    assert end == b"D"
    assert [len(r) for r in records] == [41] * 8
    kind, name, vref, sensitivity, used = struct.unpack("<16s16sff?", records[0])
    assert (kind.rstrip(b"\0"), name.rstrip(b"\0"), used) == (b"MLX91221-10A", b"12V", True)
    assert (vref, sensitivity) == (np.float32(1.65), np.float32(0.12))
    assert struct.unpack("<16s16sff?", records[3])[1:4] == (b"3V3" + bytes(13), 0.0, np.float32(0.3))
    assert [r[-1] for r in records] == [1] * 4 + [0] * 4
    assert unit.receive(b"V", 1001.0) == b"F411-1.6.1\r\n"


def test_a_configuration_is_written_record_by_record() -> None:
    unit = PowerSensor3Emulator(StepSignal([], [1.0]))
    new = b"".join(struct.pack("<16s16sff?", b"type", b"pair", k, 1.5, True) for k in range(8))
    answers = unit.receive(b"W" + new[:100], 1.0)
    assert answers == b"SS"
    assert unit.receive(new[100:], 2.0) == b"SSSSSSD"
    assert unit.config == new


@pytest.mark.parametrize("command", [b"R", b"W"])
def test_a_late_host_makes_it_reset(command: bytes) -> None:
    unit = streaming(StepSignal([], [1.0]))
    unit.receive(command, 1000.0)
    unit.advance(1001.9)
    assert unit.resets == 0
    unit.advance(1002.1)
    assert unit.resets == 1
    assert unit.advance(1003.0) == b""
    assert read_config(unit, 1004.0)[-1] == b"D"


def test_the_stream_rests_during_a_hand_shake(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [1.0]))
    unit.receive(b"R", 1000.0)
    assert unit.advance(1000.01) == b""
    for _ in range(8):
        unit.receive(b".", 1000.01)
    read = powersensor3_reading(unit.advance(1000.02))
    assert len(read.levels) == 200
    assert read.stamps_us[0] == int(1000.01005e6) % 1024


def test_time_stamps_wrap_and_run_with_its_own_clock(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [1.0]), ppm=100.0)
    read = powersensor3_reading(unit.advance(1010.0))
    assert len(read.stamps_us) == 200_020
    assert set(np.diff(read.stamps_us) % 1024) == {50}


def test_the_energy_read_is_the_true_energy(powersensor3_reading) -> None:
    pairs = [SensorPair("12V", 12.0, 0.75), SensorPair("5V", 5.0, 0.25, gain=0.2)]
    unit = streaming(BlockSignal(3.0, 60.0, [(1000.2, 1000.6)]), pairs=pairs, noise_a=0.1, noise_v=0.05, seed=3)
    levels = np.array(powersensor3_reading(unit.advance(1001.0)).levels)
    values = np.zeros((20_000, 8))
    for k, record in enumerate(read_config(unit, 1001.0)[:4]):
        vref, sensitivity = struct.unpack("<16s16sff?", record)[2:4]
        values[:, k] = (3.3 * levels[:, k] / 1023 - vref) / sensitivity
    watts = values[:, 0] * values[:, 1] + values[:, 2] * values[:, 3]
    assert unit.energy_j(1000.0, 1001.0) == pytest.approx(3.0 * 0.6 + 60.0 * 0.4)
    assert watts.sum() / 20_000 == pytest.approx(unit.energy_j(1000.0, 1001.0), rel=3e-3)


def test_markers_are_on_sensor_zero_one_per_frame(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [1.0]))
    unit.advance(1000.0002)
    unit.receive(b"MM", 1000.0002)
    read = powersensor3_reading(unit.advance(1000.0005))
    assert read.marked == [True, True, False, False, False, False]
    assert unit.marks == pytest.approx([1000.00025, 1000.0003])


def test_markers_come_out_before_it_stops(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [1.0]))
    unit.receive(b"MMT", 1000.0)
    assert powersensor3_reading(unit.advance(1001.0)).marked == [True, True]
    assert unit.advance(1002.0) == b""


def test_stop_signal_single_set_and_counter(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [24.0]))
    assert unit.receive(b"I", 1000.0) == b""
    assert struct.unpack("<I", unit.receive(b"Q", 1000.5)) == (80_000,)
    assert unit.receive(b"X", 1001.0) == b"\xff\x3f\xff\x3f"
    assert powersensor3_reading(unit.receive(b"I", 1002.0)).levels[0][:2] == [586, 326]
    assert unit.receive(b"B~", 1003.0) == b""
    unit.receive(b"Z", 1004.0)
    assert unit.resets == 1


def test_an_erased_memory_reads_no_numbers() -> None:
    unit = PowerSensor3Emulator(StepSignal([], [1.0]))
    unit.uncalibrate()
    record = read_config(unit)[0]
    assert record == b"\xff" * 41
    assert np.isnan(struct.unpack_from("<ff", record, 32)).all()


def test_levels_end_at_the_ends_of_the_scale(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [1e4]), pairs=[SensorPair(gain=1.0)])
    assert powersensor3_reading(unit.advance(1000.0001)).levels[0][:2] == [1023, 1023]


def test_a_droop_lowers_the_rail(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [24.0]))
    unit.supply.sag(1000.0, 1001.0, 6.0)
    amperes, volts = powersensor3_reading(unit.advance(1000.0001)).levels[0][:2]
    assert (amperes, volts) == (round((1.65 + 0.48) * 310), round(6 * 0.0877 * 310))


def test_lost_frames_and_jumps_show_in_the_time_stamps(powersensor3_reading) -> None:
    unit = streaming(StepSignal([], [1.0]))
    before = powersensor3_reading(unit.advance(1000.0001)).stamps_us[-1]
    toll = unit.wire.lose(4)
    unit.wire.jump(7)
    after = powersensor3_reading(unit.advance(1000.0005)).stamps_us[0]
    assert (after - before) % 1024 == 5 * 50 + 7
    assert toll.samples == 4
    assert [unit.samples_in(*span) for span in [(0, 0), (0, 18), (17, 19), (18, 20)]] == [0, 1, 2, 1]


def test_pairs_that_do_not_make_a_whole_are_refused() -> None:
    for pairs in [(), (SensorPair(share=0.4),), (SensorPair(share=0.2),) * 5]:
        with pytest.raises(ValueError, match="one to four pairs"):
            PowerSensor3Emulator(StepSignal([], [1.0]), pairs=pairs)
