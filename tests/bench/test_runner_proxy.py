from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepen.bench.player import LEAD_S, BlockPlayer
from deepen.bench.power_model import DevicePowerModel
from deepen.bench.runner_proxy import BenchUnavailable, RunnerProxy, remove_parent_option

RUN = {"id": 3, "start_ns": 10**9, "end_ns": 10**9 + 40_000_000, "cpu_ns": 20_000_000,
       "start_boot_ns": 10**9 + 7, "end_boot_ns": 10**9 + 40_000_007}  # fmt: skip


class ProxyBench:
    """Answers a proxy."""

    def __init__(self, offset_s: float = 0.0, ppm: float = 0.0) -> None:
        ours, theirs = socket.socketpair()
        self.asked: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.proxy = RunnerProxy(theirs, offset_s, ppm)
        self._socket, self._theirs = ours, theirs
        self._lines = ours.makefile("rw")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for line in self._lines:
            self.asked.append(json.loads(line))
            self._lines.write(json.dumps(self.answers.pop(0)) + "\n")
            self._lines.flush()

    def close(self) -> None:
        for one in (self._theirs, self._socket):
            one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def bench() -> Iterator[ProxyBench]:
    made = ProxyBench(offset_s=5.0, ppm=100.0)
    made.answers = [{"key": "k"}]
    made.proxy.answer({"op": "load", "path": "/m.onnx", "threads": 1}, {"handle": 4, "id": 2})
    yield made
    made.close()


def test_a_block_is_told_when_it_was_played(bench: ProxyBench) -> None:
    bench.answers = [{"start_s": 100.0, "end_s": 100.05}]
    reply = bench.proxy.answer({"op": "run", "handle": 4, "n": 8}, dict(RUN))
    # The host took the core away for half of the time: the bench's device has its own.
    assert bench.asked[-1] == {"op": "play", "key": "k", "runs": 8, "ran_s": 0.02}
    assert reply["start_ns"] == 105_010_000_000  # 100 ppm of 100 s, and 5 s
    assert reply["end_ns"] == 105_060_005_000
    assert reply["start_boot_ns"] - reply["start_ns"] == 7
    assert reply["cpu_ns"] == 50_000_000  # as much of the block as before
    assert reply["id"] == 3


def test_threads_share_the_time(bench: ProxyBench) -> None:
    bench.answers = [{"key": "two"}, {"start_s": 1.0, "end_s": 2.0}]
    bench.proxy.answer({"op": "load", "path": "/m.onnx", "threads": 2}, {"handle": 5})
    bench.proxy.answer({"op": "run", "handle": 5, "n": 1}, {**RUN, "cpu_ns": 60_000_000})
    assert bench.asked[-1]["ran_s"] == 0.03


def test_reading_the_clock_plays_nothing(bench: ProxyBench) -> None:
    reply = bench.proxy.answer({"op": "run", "handle": 4, "n": 0}, dict(RUN))
    assert [a["op"] for a in bench.asked] == ["load"]
    assert reply["start_ns"] == 10**9 + 10**5 + 5 * 10**9


def test_errors_of_the_runner_pass_and_those_of_the_bench_become_one(bench: ProxyBench) -> None:
    failed = {"id": 9, "error": "no", "kind": "model"}
    assert bench.proxy.answer({"op": "load", "path": "/x"}, dict(failed)) == failed
    bench.answers = [{"error": "cannot be split"}, {"error": "meter gone"}]
    reply = bench.proxy.answer({"op": "load", "path": "/x"}, {"id": 9, "handle": 1})
    assert reply == {"id": 9, "error": "cannot be split", "kind": "model"}
    reply = bench.proxy.answer({"op": "run", "handle": 4, "n": 1}, dict(RUN))
    assert (reply["error"], reply["kind"]) == ("meter gone", "protocol")


def test_a_bench_that_is_gone_is_an_error() -> None:
    made = ProxyBench()
    made.close()
    with pytest.raises(BenchUnavailable, match="gone"):
        made.proxy.ask({"op": "play"})


def test_the_parent_is_left_out() -> None:
    assert remove_parent_option(["p", "--parent", "7", "-x"]) == ["p", "-x"]
    assert remove_parent_option(["p"]) == ["p"]


# ---- the other side ------------------------------------------------------------------------------------------------


@pytest.fixture
def player(tmp_path: Path) -> Iterator[BlockPlayer]:
    plans: list[tuple[float, list[float], list[float]]] = []

    def plan(lead_s: float, durations: Any, levels: Any) -> float:
        plans.append((lead_s, list(durations), list(levels)))
        return 1.0  # long past: nothing to wait for

    made = BlockPlayer(tmp_path / "s", DevicePowerModel(), plan)
    made.plans = plans  # type: ignore[attr-defined]
    yield made
    made.close()
    assert not (tmp_path / "s").exists()


def question(player: BlockPlayer, *asked: dict[str, Any]) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(player.path))
        lines = connection.makefile("rw")
        answers = []
        for one in asked:
            lines.write(json.dumps(one) + "\n")
            lines.flush()
            answers.append(json.loads(lines.readline()))
        lines.close()
    return answers


def test_the_player_knows_the_kernels_and_keeps_the_truth(player: BlockPlayer, squeezenet: Path) -> None:
    load = {"op": "load", "path": str(squeezenet), "shapes": {}, "runtime": "onnxruntime"}
    (loaded,) = question(player, load)
    key = loaded["key"]
    assert key == BlockPlayer.key(squeezenet, {}) != BlockPlayer.key(squeezenet, {"x": (1,)})
    (played,) = question(player, {"op": "play", "key": key, "runs": 3, "ran_s": 0.1})
    (block,) = player.blocks
    assert (played["start_s"], played["end_s"]) == (block.start_s, block.end_s) == (1.0, pytest.approx(1.1))
    one_j = player.model.run_j + sum(c.energy_j for c in player.costs[key])
    assert block.net_j == pytest.approx(3 * one_j)
    assert block.gross_j == pytest.approx(block.net_j + 0.1 * block.static_w)
    lead_s, durations, levels = player.plans[0]  # type: ignore[attr-defined]
    assert lead_s == LEAD_S
    assert len(levels) == len(durations) + 1


def test_the_player_refuses_what_it_does_not_know(player: BlockPlayer, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    answers = question(
        player,
        {"op": "load", "path": str(junk), "shapes": {}, "runtime": "onnxruntime"},
        {"op": "load", "path": str(tmp_path / "none.onnx"), "shapes": {}, "runtime": "onnxruntime"},
        {"op": "play", "key": "nobody", "runs": 1, "ran_s": 1.0},
        {"op": "dance"},
    )
    assert all(a["error"].startswith("the virtual bench cannot play it") for a in answers)
    assert player.blocks == []
