"""Whatever a host writes, an emulator goes on, and its stream is the same however time passes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.lvpm import LvpmEmulator, frame_lvpm_packet
from deepen.testing.instruments.powersensor3 import PowerSensor3Emulator
from deepen.testing.instruments.ppk2 import Ppk2Emulator
from deepen.testing.instruments.signal import BlockSignal

ACTIONS = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=8).map(frame_lvpm_packet),
        st.sampled_from(b"RWMISTXQVBZY\x06\x07\x19\x20").map(lambda b: bytes([b])),
        st.sampled_from(
            [frame_lvpm_packet(b"\x02\xff\xff\xff\xff\x03\xe8"), frame_lvpm_packet(b"\x01\x01\xff"), b"\x0c\x01"]
        ),
        st.floats(0.0, 0.1),
    ),
    max_size=30,
)


def unit(name: str) -> Emulator:
    signal = BlockSignal(0.5, 6.0, [(1000.05, 1000.1), (1000.3, 1002.0)])
    return {"ppk2": Ppk2Emulator, "powersensor3": PowerSensor3Emulator, "lvpm": LvpmEmulator}[name](signal)


def play(emulator: Emulator, actions: list[bytes | float], steps: int) -> bytes:
    now_s, out = 1000.0, b""
    for action in actions:
        if isinstance(action, bytes):
            out += emulator.receive(action, now_s)
            continue
        for k in range(1, steps + 1):
            out += emulator.advance(now_s + action * k / steps)
        now_s += action
    return out


@pytest.mark.parametrize("name", ["lvpm", "ppk2", "powersensor3"])
@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_any_input(name: str, actions: list[bytes | float]) -> None:
    first, again = unit(name), unit(name)
    assert play(first, actions, 1) == play(again, actions, 7)
    total_s = sum(a for a in actions if isinstance(a, float))
    assert first.energy_j(1000.0, 1000.0 + total_s) == pytest.approx(again.energy_j(1000.0, 1000.0 + total_s))
