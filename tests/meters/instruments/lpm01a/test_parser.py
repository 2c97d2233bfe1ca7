from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.meters.instruments.lpm01a.parser import Lpm01aAsciiParser, Lpm01aBinaryParser, Lpm01aScale
from deepen.meters.stream.types import Parser, Samples

CURRENT = Lpm01aScale(1000.0, "current", 3.0, 0.05)
ENERGY = Lpm01aScale(1000.0, "energy", 3.0, 0.05)


def line(mantissa: int, exponent: int) -> bytes:
    return f"{mantissa:04d}{exponent:+03d}\r\n".encode()


def stamp(second: int, ms: int = 0, load: int = 0) -> bytes:
    return f"TimeStamp: {second:03d}s {ms:03d}ms, buff {load:02d}%\r\n".encode()


def binary_stamp(ms: int, load: int = 0) -> bytes:
    return b"\xf0\xf3" + ms.to_bytes(4, "big") + bytes([load]) + b"\xff\xff"


def drain(parser: Parser, data: bytes, cuts: list[int] | None = None) -> Samples:
    edges = [0, *sorted(min(c, len(data)) for c in cuts or []), len(data)]
    parts = [parser.feed(data[a:b]) for a, b in pairwise(edges)]
    parts = [p for p in parts if p.index.size] or [Samples.none()]
    return Samples(
        np.concatenate([p.index for p in parts]),
        np.concatenate([p.power_w for p in parts]),
        logic=np.concatenate([p.logic for p in parts]) if parts[0].logic is not None else None,
        suspect=np.concatenate([p.suspect for p in parts]) if parts[0].suspect is not None else None,
    )


class TestAscii:
    def test_the_example_of_the_manual_is_640_9_microamperes(self):
        samples = Lpm01aAsciiParser(CURRENT).feed(b"6409-07\r\n")
        assert samples.current_a is not None
        assert samples.current_a[0] == pytest.approx(640.9e-6)
        assert samples.power_w[0] == pytest.approx(640.9e-6 * 3.0)

    def test_energy_of_a_period_becomes_its_mean_power(self):
        samples = Lpm01aAsciiParser(ENERGY).feed(b"2500-08\r\n1000+00\r\n")
        assert samples.power_w.tolist() == pytest.approx([25e-6 * 1000, 1e6])
        assert samples.current_a is None

    def test_a_second_that_is_whole_needs_no_correction(self):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, stamp(0) + line(1000, -6) * 1000 + stamp(1) + line(1000, -6) * 5)
        assert samples.index.tolist() == list(range(1005))
        assert parser.tally.lost == 0

    def test_samples_missing_before_a_stamp_are_counted(self):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, stamp(0) + line(1000, -6) * 990 + stamp(1) + line(1000, -6) * 2)
        assert parser.tally.lost == 10
        assert samples.index[-2:].tolist() == [1000, 1001]

    def test_samples_that_came_twice_do_not_shift_time_for_good(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = stamp(0) + line(1000, -6) * 1003 + stamp(1) + line(1000, -6) * 1000 + stamp(2) + line(1000, -6)
        samples = drain(parser, body)
        assert parser.tally.duplicates == 3
        assert parser.tally.lost == 0
        assert samples.index[-1] == 2000

    def test_a_damaged_line_is_one_lost_sample_where_it_stood(self):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, line(1000, -6) + b"10x0-06\r\n" + line(1000, -6))
        assert samples.index.tolist() == [0, 2]
        assert (parser.tally.lost, parser.tally.corrupt) == (1, 1)

    def test_lines_run_together_are_as_many_lost_samples(self):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, line(1000, -6) + b"1000-061000-06\r\n" + line(1000, -6))
        assert samples.index.tolist() == [0, 3]

    def test_a_truncated_number_is_never_taken_for_one(self):
        parser = Lpm01aAsciiParser(CURRENT)
        assert not drain(parser, b"409-07\r\n6409-0\r\n409-07\n").index.size
        assert parser.tally.corrupt == 3

    def test_prompts_and_acknowledgements_are_no_damage(self):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, b"PowerShield > ack start\r\n\x006409-07\r\nPowerShield > 6409-07\r\n")
        assert samples.index.tolist() == [0, 1]
        assert parser.tally.corrupt == 0

    def test_events_turn_the_mark_on_and_off(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = line(1, 0) + b"event 1 ris\r\n" + line(1, 0) * 2 + b"event 02 ris\r\n" + line(1, 0)
        logic = drain(parser, body).logic
        assert logic is not None
        assert logic.tolist() == [0, 0x80, 0x80, 0]

    def test_a_missing_event_is_told(self):
        parser = Lpm01aAsciiParser(CURRENT)
        parser.feed(b"event 1 ris\r\nevent 4 ris\r\n")
        assert any("2 events were lost" in n for n in parser.tally.notes)

    @pytest.mark.parametrize("text", [b"error: board overcurrent\r\n", b"Error: acquisition aborted\r\n"])
    def test_after_a_fault_nothing_is_trusted(self, text: bytes):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, line(1000, -6) + text + line(1000, -6))
        assert samples.suspect is not None
        assert samples.suspect.tolist() == [False, True]
        assert parser.tally.notes

    def test_samples_above_the_range_are_suspect(self):
        parser = Lpm01aAsciiParser(CURRENT)
        samples = drain(parser, line(4900, -5) + line(5100, -5))
        assert samples.suspect is not None
        assert samples.suspect.tolist() == [False, True]
        assert parser.tally.clipped == 1

    def test_a_damaged_stamp_alone_moves_nothing(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = stamp(0) + line(1000, -6) * 1000 + stamp(9) + line(1000, -6) * 1000 + stamp(2) + line(1000, -6)
        samples = drain(parser, body)
        assert samples.index[-1] == 2000
        assert parser.tally.lost == 0
        assert parser.tally.ambiguous == 1

    def test_a_long_loss_counts_once_the_next_stamp_agrees(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = stamp(0) + line(1000, -6) * 1000 + stamp(9) + line(1000, -6) * 1000 + stamp(10) + line(1000, -6)
        samples = drain(parser, body)
        assert parser.tally.lost == 8000
        assert samples.index[-1] == 10_000
        assert samples.suspect is not None
        assert samples.suspect[1000:2000].all()
        assert not samples.suspect[2000]

    def test_stamps_that_go_back_are_told_and_move_nothing(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = stamp(50) + line(1000, -6) * 1000 + stamp(3) + line(1000, -6) * 1000 + stamp(4) + line(1000, -6)
        assert drain(parser, body).index[-1] == 2000
        assert any("went back" in n for n in parser.tally.notes)

    def test_stamps_start_again_after_999_seconds(self):
        parser = Lpm01aAsciiParser(CURRENT)
        assert drain(parser, stamp(999) + line(1000, -6) * 1000 + stamp(0) + line(1000, -6)).index[-1] == 1000
        assert parser.tally.lost == 0

    def test_a_line_without_end_does_not_fill_memory(self):
        parser = Lpm01aAsciiParser(CURRENT)
        for _ in range(100):
            parser.feed(b"7" * 1000)
        assert len(parser._rest) <= 4096 + 1000
        assert parser.tally.skipped_bytes > 90_000

    def test_a_full_send_buffer_is_told(self):
        parser = Lpm01aAsciiParser(CURRENT)
        parser.feed(stamp(1, load=95))
        assert any("send buffer" in n for n in parser.tally.notes)

    def test_a_second_with_a_loss_nobody_saw_is_doubtful(self):
        parser = Lpm01aAsciiParser(CURRENT)
        drain(parser, stamp(0) + line(1000, -6) * 1000 + stamp(1) + line(1000, -6) * 960 + stamp(2) + line(1000, -6))
        assert parser.doubts == [(999, 2000)]

    def test_damage_that_accounts_for_a_loss_says_where_it_was(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = line(1000, -6) * 400 + b"??#\xff" * 9 + b"\r\n" + line(1000, -6) * 597
        samples = drain(parser, stamp(0) + body + stamp(1) + line(1000, -6))
        assert parser.tally.lost == 3
        assert parser.doubts == [(399, 1000)]
        assert samples.index[-1] == 1000

    def test_damage_too_small_for_a_loss_says_nothing(self):
        parser = Lpm01aAsciiParser(CURRENT)
        body = line(1000, -6) * 400 + b"??#\r\n" + line(1000, -6) * 500
        drain(parser, stamp(0) + body + stamp(1))
        assert parser.doubts == [(-1, 1000)]

    def test_a_second_with_too_many_samples_is_doubtful(self):
        parser = Lpm01aAsciiParser(CURRENT)
        drain(parser, stamp(0) + line(1000, -6) * 1003 + stamp(1) + line(1000, -6) * 1000 + stamp(2))
        assert parser.doubts == [(-1, 1003)]

    def test_losses_that_rounding_hid_go_back_to_the_last_stamp_that_agreed(self):
        parser = Lpm01aAsciiParser(Lpm01aScale(5000.0, "current", 3.0, 0.05))
        seconds = [5000, 4998, 4998]
        body = b"".join(stamp(k) + line(1000, -6) * n for k, n in enumerate(seconds))
        drain(parser, body + stamp(3))
        assert parser.tally.lost == 4
        assert parser.doubts == [(4999, 15_000)]


class TestBinary:
    BODY = bytes.fromhex("52A0")

    def test_the_example_of_the_manual_is_640_9_microamperes(self):
        parser = Lpm01aBinaryParser(CURRENT)
        samples = drain(parser, binary_stamp(0) + self.BODY * 1000 + binary_stamp(1000))
        assert samples.index.tolist() == list(range(1000))
        assert samples.power_w[0] == pytest.approx(0x2A0 / 16**5 * 3.0)

    def test_samples_wait_for_the_stamp_that_confirms_them(self):
        parser = Lpm01aBinaryParser(CURRENT)
        assert not parser.feed(binary_stamp(0) + self.BODY * 500).index.size
        assert parser.feed(self.BODY * 500 + binary_stamp(1000)).index.size == 1000

    @pytest.mark.parametrize("cut", [(101, 102), (100, 102), (100, 110), (3, 4)])
    def test_a_second_with_lost_bytes_counts_as_lost(self, cut: tuple[int, int]):
        parser = Lpm01aBinaryParser(CURRENT)
        whole = self.BODY * 1000
        body = whole[: cut[0]] + whole[cut[1] :]
        samples = drain(parser, binary_stamp(0) + body + binary_stamp(1000) + whole + binary_stamp(2000))
        assert samples.index.tolist() == list(range(1000, 2000))
        assert samples.power_w == pytest.approx(0x2A0 / 16**5 * 3.0)
        assert parser.tally.lost == 1000
        assert parser.tally.corrupt == 1

    def test_bytes_that_came_twice_cost_their_second_too(self):
        parser = Lpm01aBinaryParser(CURRENT)
        body = binary_stamp(0) + self.BODY * 1004 + binary_stamp(1000) + self.BODY * 1000 + binary_stamp(2000)
        samples = drain(parser, body)
        assert samples.index.tolist() == list(range(1000, 2000))
        assert parser.tally.duplicates == 4

    def test_text_before_the_stream_is_passed_over(self):
        parser = Lpm01aBinaryParser(CURRENT)
        samples = drain(
            parser, b"PowerShield > ack start\r\n" + binary_stamp(0) + self.BODY * 1000 + binary_stamp(1000)
        )
        assert samples.index.size == 1000

    def test_how_far_the_stream_has_come_is_told_before_it_is_confirmed(self):
        parser = Lpm01aBinaryParser(CURRENT)
        assert parser.received is None
        parser.feed(binary_stamp(0) + self.BODY * 500 + b"\x52")
        assert parser.received == 500
        parser.feed(b"\xa0" + self.BODY * 499 + binary_stamp(1000)[:5])
        assert parser.received == 1000
        parser.feed(binary_stamp(1000)[5:] + self.BODY * 7)
        assert parser.received == 1007

    def test_what_a_stamp_refutes_is_doubtful(self):
        parser = Lpm01aBinaryParser(CURRENT)
        drain(parser, binary_stamp(0) + self.BODY * 1004 + binary_stamp(1000) + self.BODY * 990 + binary_stamp(2000))
        assert parser.doubts == [(-1, 1004), (999, 2000)]

    def test_overcurrent_spoils_what_follows(self):
        parser = Lpm01aBinaryParser(CURRENT)
        body = binary_stamp(0) + self.BODY * 400 + b"\xf0\xf5\xff\xff" + self.BODY * 600 + binary_stamp(1000)
        samples = drain(parser, body)
        assert samples.suspect is not None
        assert samples.suspect.tolist() == [False] * 400 + [True] * 600
        assert any("overcurrent" in n for n in parser.tally.notes)

    def test_the_end_confirms_the_rest(self):
        parser = Lpm01aBinaryParser(CURRENT)
        samples = drain(parser, binary_stamp(0) + self.BODY * 70 + b"\xf0\xf4\xff\xff")
        assert samples.index.size == 70
        assert parser.finished

    def test_events_come_as_information(self):
        parser = Lpm01aBinaryParser(CURRENT)
        body = binary_stamp(0) + self.BODY * 10 + b"\xf0\xf2event 1 ris\xff\xff" + self.BODY * 990 + binary_stamp(1000)
        logic = drain(parser, body).logic
        assert logic is not None
        assert logic.tolist() == [0] * 10 + [0x80] * 990

    def test_the_highest_bit_of_a_stamp_is_no_time(self):
        parser = Lpm01aBinaryParser(CURRENT)
        first = binary_stamp((1 << 31) | 5000)
        samples = drain(parser, first + self.BODY * 1000 + binary_stamp(6000))
        assert samples.index.size == 1000

    def test_no_stamp_for_long_does_not_fill_memory(self):
        parser = Lpm01aBinaryParser(CURRENT)
        parser.feed(binary_stamp(0))
        for _ in range(200):
            assert not parser.feed(self.BODY * 100).index.size
            assert len(parser._rest) + sum(len(part) for part, _ in parser._parts) < 8000
        drain(parser, b"".join(binary_stamp(20_000 + 1000 * k) + self.BODY * 1000 for k in range(3)))
        assert parser.tally.lost == 20_000
        assert parser.tally.corrupt == 1

    def test_overlong_lines_are_counted_alike_however_they_are_split(self):
        one, many = Lpm01aAsciiParser(CURRENT), Lpm01aAsciiParser(CURRENT)
        text = line(1, 0) + b"7" * 10_000 + b"\r\n" + line(2, 0)
        drain(one, text)
        drain(many, text, list(range(0, len(text), 7)))
        assert one.tally == many.tally
        assert one.tally.skipped_bytes == 10_002


def _stream(kind: str, draw: st.DataObject) -> bytes:
    pieces = draw.draw(
        st.lists(
            st.one_of(
                st.binary(max_size=12),
                st.lists(st.sampled_from([0xF0, 0xF1, 0xF3, 0xF4, 0xF7, 0xFF, 0x41]), max_size=12).map(bytes),
                st.integers(1, 40).map(lambda n: line(1234, -6) * n if kind == "ascii" else b"\x52\xa0" * n),
                st.integers(0, 5).map(lambda s: stamp(s) if kind == "ascii" else binary_stamp(1000 * s)),
                st.sampled_from([b"event 3 ris\r\n", b"\xf0\xf5\xff\xff", b"\xf0\xf2hello\xff\xff", b"error x\r\n"]),
            ),
            max_size=12,
        )
    )
    return b"".join(pieces)


@pytest.mark.parametrize("kind", ["ascii", "binary"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_a_parser_and_splits_do_not_matter(kind: str, data: st.DataObject):
    make = Lpm01aAsciiParser if kind == "ascii" else Lpm01aBinaryParser
    stream = _stream(kind, data)
    cuts = data.draw(st.lists(st.integers(0, max(1, len(stream))), max_size=8))
    whole, split = make(Lpm01aScale(20.0, "current", 3.0, 0.05)), make(Lpm01aScale(20.0, "current", 3.0, 0.05))
    a, b = drain(whole, stream), drain(split, stream, cuts)
    assert a.index.tolist() == b.index.tolist()
    assert a.power_w.tolist() == b.power_w.tolist()
    assert (np.diff(a.index) > 0).all()
    assert whole.tally == split.tally
