"""Fleets: several devices with their meters side by side, and everything that can go wrong with one of them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from deepen.campaign import (
    CampaignPlan,
    CampaignSettings,
    ConditionGrid,
    DeviceNotice,
    DeviceWithMeter,
    Fleet,
    ItemPreparer,
    RetryPolicy,
    Task,
    parse_device_meter_pairs,
    run_tasks,
)
from deepen.campaign.parallel_executor import MAX_FAILURES
from deepen.campaign.tasks import select_missing_tasks
from deepen.datasets import Dataset
from deepen.errors import ConfigError, LinkError, MeterError, RunError, StorageError

BENCH = Path(__file__).with_name("bench.py")
_spec = importlib.util.spec_from_file_location("campaign_bench", BENCH)
assert _spec is not None
assert _spec.loader is not None
bench = importlib.util.module_from_spec(_spec)
sys.modules["campaign_bench"] = bench
_spec.loader.exec_module(bench)


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Locks of this test alone."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "locks"))


@pytest.fixture
def dataset(tmp_path):
    with Dataset.open(tmp_path / "d", create=True) as opened:
        yield opened


@pytest.fixture
def campaign(tmp_path, dataset):
    """Run a plan on rigs; returns the report and everything progress told."""

    def run(plan, *rigs, matrix=None, patience=None, prepare=None, **options):
        matrix = matrix or ConditionGrid()
        folder = tmp_path / "work"
        preparers = {}
        for rig in rigs:
            (folder / rig.name).mkdir(parents=True, exist_ok=True)
            preparers[rig.name] = prepare or ItemPreparer(folder / rig.name, CampaignSettings(copies=1))
        told = []
        stations = [rig.station(known=options.pop("known", None)) for rig in rigs]
        with Fleet(stations, preparers, patience=patience) as fleet:
            fleet.start()
            tasks = matrix.tasks(plan, fleet.profiles)
            report = run_tasks(tasks, fleet, dataset, on_progress=told.append, drift=lambda: fleet.drift, **options)
        return report, told

    return run


def names(dataset) -> list[str]:
    return sorted(record.name for record in dataset)


# Sharing


def test_devices_of_one_profile_share_the_items_and_each_is_measured_once(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(12))
    a, b = bench.CampaignRig("a"), bench.CampaignRig("b")
    report, told = campaign(plan, a, b)
    assert (report.measured, report.failed, report.remaining, report.stopped) == (12, (), 0, ())
    assert names(dataset) == sorted(item.name for item in plan.items)
    assert bench.wrong(dataset) == []
    assert {state.device for state in told[1:]} == {"a", "b"}
    assert a.blocks > 0 < b.blocks
    assert set(report.by_device) == {"a", "b"}
    assert sum(report.by_device.values()) == 12
    assert told[-1].by_device == report.by_device


def test_devices_of_different_profiles_measure_everything_each(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(4))
    report, told = campaign(plan, bench.CampaignRig("a"), bench.CampaignRig("b", profile="board"))
    assert report.measured == 8
    assert Counter(record.device for record in dataset) == {"phone": 4, "board": 4}
    assert told[-1].eta_s == 0
    again, _ = campaign(plan, bench.CampaignRig("a"), bench.CampaignRig("b", profile="board"))
    assert (again.measured, again.skipped_done) == (0, 8)


def test_every_item_is_measured_under_every_condition_as_often_as_asked(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(3))
    matrix = ConditionGrid(("onnxruntime", "crunner"), (1, 2), repeats=2)
    report, _ = campaign(plan, bench.CampaignRig("a"), matrix=matrix)
    assert report.failed == ()
    assert report.measured == 24
    counts = Counter((r.name, r.runtime, r.threads) for r in dataset)
    assert set(counts.values()) == {2}
    assert len(counts) == 12
    more, _ = campaign(
        plan, bench.CampaignRig("a"), matrix=ConditionGrid(("onnxruntime", "crunner"), (1, 2), repeats=3)
    )
    assert (more.measured, more.skipped_done) == (12, 24)


def test_a_repetition_begins_when_the_one_before_is_through(kernels):
    tasks = ConditionGrid(("onnxruntime", "crunner"), (1, 4), repeats=2).tasks(
        CampaignPlan(tuple(kernels(60))), ["a"], seed=1
    )
    assert [task.repeat for task in tasks] == [0] * 240 + [1] * 240
    changes = sum(x.runtime != y.runtime for x, y in itertools.pairwise(tasks))
    assert changes <= 16  # per block of items, not per item


@pytest.mark.parametrize("bad", [{"repeats": 0}, {"threads": ()}, {"threads": (0,)}, {"threads": (1, 1)}])
def test_a_matrix_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ConfigError):
        ConditionGrid(**bad)


def test_records_of_other_conditions_do_not_count(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(2))
    campaign(plan, bench.CampaignRig("a"))
    assert select_missing_tasks(ConditionGrid().tasks(plan, ["phone"]), dataset) == []
    assert len(select_missing_tasks(ConditionGrid().tasks(plan, ["board"]), dataset)) == 2
    assert len(select_missing_tasks(ConditionGrid(threads=(2,)).tasks(plan, ["phone"]), dataset)) == 2
    assert len(select_missing_tasks(ConditionGrid(repeats=2).tasks(plan, ["phone"]), dataset)) == 2
    assert select_missing_tasks([Task(item) for item in plan.items], dataset) == []


# Loss


@pytest.mark.parametrize("what", ["device", "meter"])
def test_what_is_gone_is_waited_for_and_nothing_is_lost_or_wrong(campaign, dataset, kernels, what):
    plan = CampaignPlan.make(kernels(10))
    rig = bench.CampaignRig("a")
    rig.lose = {60: (what, 100.0), 150: (what, 5.0)}
    report, told = campaign(plan, rig)
    assert rig.lose == {}
    assert (report.measured, report.failed, report.remaining) == (10, (), 0)
    assert names(dataset) == sorted(item.name for item in plan.items)
    assert bench.wrong(dataset) == []
    notices = [state.notice for state in told if state.notice]
    assert sum("is gone" in text for text in notices) >= 2
    assert "back" in notices
    assert rig.opened == 3


def test_a_device_gone_for_good_is_stopped_and_its_like_takes_its_items(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(10))
    a, b = bench.CampaignRig("a"), bench.CampaignRig("b")
    b.lose = {30: ("device", 1e9)}
    report, _ = campaign(plan, a, b)
    assert (report.measured, report.remaining) == (10, 0)
    assert bench.wrong(dataset) == []
    assert [name for name, _ in report.stopped] in ([], ["b"])  # it may still be waited for when all is done


def test_items_no_device_is_left_for_remain_and_the_others_go_on(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(6))
    a, b = bench.CampaignRig("a"), bench.CampaignRig("b", profile="board")
    b.lose = {40: ("device", 1e9)}
    report, told = campaign(plan, a, b, patience=RetryPolicy(gone_s=600))
    ((name, reason),) = report.stopped
    assert name == "b"
    assert "gone for" in reason
    assert "b is gone" in reason
    assert Counter(record.device for record in dataset)["phone"] == 6
    assert report.remaining == 12 - len(dataset) > 0
    assert [s.device for s in told if s.notice.startswith("stopped: ")] == ["b"]
    again, _ = campaign(plan, bench.CampaignRig("a"), bench.CampaignRig("b", profile="board"))
    assert again.remaining == 0
    assert Counter(record.device for record in dataset) == {"phone": 6, "board": 6}


def test_an_item_that_kills_its_device_each_time_fails_alone(campaign, dataset, kernels):
    plan = CampaignPlan.make(kernels(5))
    deadly = plan.items[2]
    rig = bench.CampaignRig("a")
    real = ItemPreparer
    tried = []

    def prepare(item, runtime="", threads=0):
        if item is deadly:
            tried.append(item)
            raise LinkError("the phone restarted")
        folder = dataset.path.parent / "p"
        folder.mkdir(exist_ok=True)
        return real(folder, CampaignSettings(copies=1))(item, runtime, threads)

    report, _ = campaign(plan, rig, prepare=prepare)
    assert report.failed == ((deadly.name, "the phone restarted"),)
    assert (report.measured, len(tried)) == (4, 3)


def test_a_station_on_which_everything_fails_is_at_fault_not_the_items(campaign, dataset, kernels):
    def prepare(item, runtime="", threads=0):
        raise MeterError("no samples")

    report, _ = campaign(CampaignPlan.make(kernels(20)), bench.CampaignRig("a"), prepare=prepare)
    assert report.failed == ()
    assert report.remaining == 20
    ((_, reason),) = report.stopped
    assert reason == "6 measurements in a row failed; the last: no samples"


def test_a_cable_that_is_loose_again_and_again_does_not_stop_a_station(campaign, dataset, kernels):
    rig = bench.CampaignRig("a")
    losses = 2 * MAX_FAILURES
    rig.lose = {60 * (n + 1): ("device", 1.0) for n in range(losses)}
    report, _ = campaign(CampaignPlan.make(kernels(150)), rig)
    assert rig.lose == {}
    assert (report.measured, report.failed, report.stopped) == (150, (), ())
    assert rig.opened == losses + 1
    assert bench.wrong(dataset) == []


def test_failures_for_good_are_noted_at_once(campaign, dataset, kernels):
    def prepare(item, runtime="", threads=0):
        raise RunError("crashes")

    rig = bench.CampaignRig("a")
    report, _ = campaign(CampaignPlan.make(kernels(3)), rig, prepare=prepare)
    assert [reason for _, reason in report.failed] == ["crashes"] * 3
    assert rig.opened == 1


def test_a_full_disk_ends_the_campaign(campaign, dataset, kernels):
    def prepare(item, runtime="", threads=0):
        raise StorageError("no space left")

    with pytest.raises(StorageError, match="no space left"):
        campaign(CampaignPlan.make(kernels(3)), bench.CampaignRig("a"), bench.CampaignRig("b"), prepare=prepare)


def test_a_defect_is_not_swallowed(campaign, dataset, kernels):
    def prepare(item, runtime="", threads=0):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        campaign(CampaignPlan.make(kernels(3)), bench.CampaignRig("a"), prepare=prepare)


# Who is there


@pytest.mark.parametrize(
    ("field", "error"), [("serial", "device 'other' answers"), ("meter_serial", "meter 'other' ans")]
)
def test_another_device_or_meter_in_the_same_place_is_not_measured_with(campaign, dataset, kernels, field, error):
    rig = bench.CampaignRig("a")
    rig.lose = {40: ("device", 10.0)}
    rig.on_open = lambda: rig.opened and setattr(rig, field, "other")
    report, _ = campaign(CampaignPlan.make(kernels(6)), rig)
    ((_, reason),) = report.stopped
    assert error in reason
    assert report.remaining > 0
    assert bench.wrong(dataset) == []


def test_a_device_that_another_campaign_holds_is_refused(campaign, kernels):
    rig, twin = bench.CampaignRig("a"), bench.CampaignRig("b")
    twin.serial = rig.serial
    held = rig.station()
    held.session()
    with pytest.raises(LinkError, match="device b is in use by this process"):
        twin.station().session()
    held.close()
    twin.station().session()


def test_a_device_never_seen_must_be_there_at_the_start_and_all_are_closed_otherwise(campaign, dataset, kernels):
    a, b = bench.CampaignRig("a"), bench.CampaignRig("b")
    b.vanish("device", 1e9)
    with pytest.raises(LinkError, match="b is gone"):
        campaign(CampaignPlan.make(kernels(2)), a, b)
    assert len(dataset) == 0
    assert not [t for t in threading.enumerate() if t.name in ("deepen-a", "deepen-b")]


def test_a_device_known_from_an_earlier_run_may_come_later(campaign, dataset, kernels):
    rig = bench.CampaignRig("a")
    station = rig.station()
    station.session()
    station.close()
    rig.vanish("device", 50.0)
    report, _ = campaign(CampaignPlan.make(kernels(3)), rig, known=station.facts)
    assert (report.measured, report.stopped) == (3, ())


@pytest.mark.parametrize(
    ("texts", "pairs"),
    [
        (["local"], (DeviceWithMeter("local"),)),
        (
            ["adb:A,lvpm:1?voltage_v=4.2", "adb:B,lvpm:2"],
            (DeviceWithMeter("adb:A", "lvpm:1?voltage_v=4.2"), DeviceWithMeter("adb:B", "lvpm:2")),
        ),
        (["ssh:me@host:22, line:/dev/x?a=1,2"], (DeviceWithMeter("ssh:me@host:22", "line:/dev/x?a=1,2"),)),
    ],
)
def test_pairs_are_a_device_and_its_meter(texts, pairs):
    assert parse_device_meter_pairs(texts) == pairs


@pytest.mark.parametrize(
    "texts",
    [
        [",lvpm"],
        ["adb:A,"],
        ["adb:A,m:1", "adb:A,m:2"],
        ["adb:A,m:1?x=1", "adb:B,m:1"],
        ["adb:A?key=x,m:1", "adb:A,m:2"],
    ],
)
def test_a_pair_that_makes_no_sense_is_refused(texts):
    with pytest.raises(ConfigError):
        parse_device_meter_pairs(texts)


def test_progress_names_a_device_without_its_options():
    (pair,) = parse_device_meter_pairs(["ssh:me@board?key=/home/me/.ssh/id&work=/tmp/x,lvpm:1"])
    assert pair.name == "ssh:me@board"
    assert pair.device == "ssh:me@board?key=/home/me/.ssh/id&work=/tmp/x"


# Heat and drift


def test_a_hot_device_rests_and_nothing_measured_hot_counts(campaign, dataset, kernels):
    rig = bench.CampaignRig("a", max_temperature_c=80.0)
    rig.temperature_c = 90.0
    begin_s = rig.bench.clock.now()
    station_sleep = rig.bench.clock.sleep

    def cool(duration_s):
        station_sleep(duration_s)
        if duration_s >= 120:
            rig.temperature_c = 50.0

    rig.bench.clock.sleep = cool
    report, told = campaign(CampaignPlan.make(kernels(4)), rig)
    assert (report.measured, report.stopped) == (4, ())
    assert rig.bench.clock.now() - begin_s > 180
    assert [s.notice for s in told if s.notice] == [
        f"too hot: 90 °C, the profile allows 80 °C; it rests for {s} s" for s in (60, 120)
    ]
    assert {record.temperature_c for record in dataset} == {50.0}


def test_a_device_that_stays_hot_is_stopped_while_the_others_go_on(campaign, dataset, kernels):
    hot, cool = bench.CampaignRig("hot", max_temperature_c=80.0), bench.CampaignRig("cool")
    hot.temperature_c = 95.0
    report, _ = campaign(CampaignPlan.make(kernels(40)), hot, cool)
    assert (report.measured, report.remaining) == (40, 0)
    assert all(record.temperature_c == 40.0 for record in dataset)
    assert report.stopped in ((), (("hot", "too hot: 95 °C, the profile allows 80 °C, also after 3 rests"),))


def test_an_item_begins_when_the_device_is_as_cool_as_its_profile_wants(campaign, dataset, kernels):
    rig = bench.CampaignRig("a", cool_to_c={"cpu": 45.0})
    rig.temperature_c = 70.0
    clock_sleep = rig.bench.clock.sleep

    def cool(duration_s):
        clock_sleep(duration_s)
        rig.temperature_c -= 0.1 * duration_s * (duration_s >= 5)  # while it waits or rests

    rig.bench.clock.sleep = cool
    report, told = campaign(CampaignPlan.make(kernels(3)), rig)
    assert (report.measured, report.stopped) == (3, ())
    assert max(record.temperature_c for record in dataset) <= 45.0
    assert "too warm to begin: cpu is 64.0 °C, 45 °C wanted after 60 s; improve its cooling; it rests for 60 s" in [
        state.notice for state in told
    ]


def test_a_device_that_tells_no_temperature_is_measured_all_the_same(campaign, dataset, kernels):
    rig = bench.CampaignRig("a", cool_to_c={"cpu": 45.0})
    rig.temperature_c = float("nan")
    report, _ = campaign(CampaignPlan.make(kernels(3)), rig)
    assert (report.measured, report.stopped) == (3, ())


def test_what_a_device_measured_while_it_throttled_does_not_count(campaign, dataset, kernels):
    rig = bench.CampaignRig("a", link="adb")
    rig.throttled = ("thermal status 2 (moderate)",)
    clock_sleep = rig.bench.clock.sleep

    def cool(duration_s):
        clock_sleep(duration_s)
        if duration_s >= 120:
            rig.throttled = ("under-voltage",)  # which resting does not help against: it is in the record alone

    rig.bench.clock.sleep = cool
    report, told = campaign(CampaignPlan.make(kernels(3)), rig)
    assert (report.measured, report.stopped) == (3, ())
    assert [s.notice for s in told if s.notice] == [
        f"it throttled: thermal status 2 (moderate); it rests for {s} s" for s in (60, 120)
    ]
    assert {record.throttled for record in dataset} == {("under-voltage",)}
    assert all(any("throttled: under-voltage" in w for w in record.warnings) for record in dataset)


def test_this_machine_throttling_is_in_its_records_and_stops_nothing(campaign, dataset, kernels):
    rig = bench.CampaignRig("a", link="local")
    rig.throttled = ("cpu-freq at state 1",)
    report, told = campaign(CampaignPlan.make(kernels(3)), rig)
    assert (report.measured, [s.notice for s in told if s.notice]) == (3, [])
    assert {record.throttled for record in dataset} == {("cpu-freq at state 1",)}


def test_news_of_a_device_are_told_once(campaign, dataset, kernels):
    rig = bench.CampaignRig("a")
    rig.news = ("not set: governor (schedutil, wanted performance)",)
    rig.lose = {40: ("device", 3.0)}
    report, told = campaign(CampaignPlan.make(kernels(4)), rig)
    assert report.measured == 4
    assert rig.opened > 1
    assert [s.notice for s in told].count(rig.news[0]) == 1


def test_a_device_that_drifts_is_stopped_and_says_so(campaign, dataset, kernels):
    rig = bench.CampaignRig("a")
    plan = CampaignPlan.make(kernels(300))

    def slower(number):
        if len(dataset) >= 5:
            rig.speed = 1.5
        return False

    report, told = campaign(plan, rig, stop=lambda: slower(0), patience=RetryPolicy(rest_s=30))
    ((name, reason),) = report.stopped
    assert name == "a"
    assert "it drifts: the reference workload takes +50 %" in reason
    assert sum("it rests for" in state.notice for state in told) == 3
    assert report.drift_span == pytest.approx(0.5, rel=0.05)
    assert report.remaining > 0


def test_drift_is_told_against_the_first_session_also_after_a_loss(campaign, dataset, kernels):
    rig = bench.CampaignRig("a")
    station = rig.station()
    station.session()
    station.close()
    rig.speed = 1.5
    session = station.session()
    assert session.drift[-1][1] == pytest.approx(0.5, rel=0.05)


# Ending


def test_stop_finishes_what_runs_and_keeps_it(campaign, dataset, kernels):
    report, _ = campaign(
        CampaignPlan.make(kernels(30)), bench.CampaignRig("a"), bench.CampaignRig("b"), stop=lambda: len(dataset) >= 3
    )
    assert report.interrupted
    assert 3 <= report.measured == len(dataset) <= 5
    assert report.remaining == 30 - report.measured


def test_a_budget_of_nothing_measures_nothing(campaign, dataset, kernels):
    report, _ = campaign(CampaignPlan.make(kernels(3)), bench.CampaignRig("a"), budget_s=0)
    assert report.measured <= 1
    assert report.remaining == 3 - report.measured
    assert not report.interrupted


def test_ctrl_c_stores_what_is_under_way(campaign, dataset, kernels, monkeypatch):
    measuring, cancelled = threading.Event(), threading.Event()
    cancel = Fleet.cancel

    class WaitingRig(bench.CampaignRig):
        """After two records it stays in its measurement until the campaign is cancelled."""

        def check(self):
            super().check()
            if len(dataset) >= 2:
                measuring.set()
                assert cancelled.wait(60)

    def cancelling(self):
        dropped = cancel(self)
        cancelled.set()
        return dropped

    def stop():
        if measuring.is_set():
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(Fleet, "cancel", cancelling)
    report, told = campaign(CampaignPlan.make(kernels(20)), WaitingRig("a"), WaitingRig("b"), stop=stop)
    assert report.interrupted
    assert any(t.device in ("a", "b") and t.notice.startswith("finishes what it is measuring") for t in told)
    assert report.measured == len(dataset)
    assert len(dataset) >= 3 and report.remaining == 20 - len(dataset)


def test_ctrl_c_between_an_outcome_and_its_being_counted_does_not_hang(tmp_path, dataset, kernels):
    class InterruptingQueue:
        def __init__(self, results) -> None:
            self.results, self.count = results, 0

        def __getattr__(self, name):
            return getattr(self.results, name)

        def get(self, timeout=None):
            found = self.results.get(timeout=timeout)
            self.count += 1
            if self.count == 3:
                raise KeyboardInterrupt
            return found

    rig = bench.CampaignRig("a")
    (tmp_path / "p").mkdir()
    plan = CampaignPlan.make(kernels(6))
    with Fleet([rig.station()], {"a": ItemPreparer(tmp_path / "p", CampaignSettings(copies=1))}) as fleet:
        fleet._results = InterruptingQueue(fleet._results)
        fleet.start()
        report = run_tasks(ConditionGrid().tasks(plan, fleet.profiles), fleet, dataset)
    assert report.interrupted
    assert (report.measured, len(dataset)) == (2, 2)


def test_tasks_for_a_device_that_is_not_there_are_given_back(tmp_path):
    rig = bench.CampaignRig("a")
    with Fleet([rig.station()], {}) as fleet:
        fleet.start()
        fleet.submit(Task(None, "board"))  # type: ignore[arg-type]  # never looked at
        assert fleet.collect() == DeviceNotice("board", "no device is left for it", returned=1)
        assert fleet.collect() is None


# All of it at once

CHILD = """
import importlib.util, json, sys
from pathlib import Path
from deepen.campaign import Fleet, ConditionGrid, CampaignPlan, ItemPreparer, CampaignSettings, run_tasks
from deepen.campaign.run import open_work_folder
from deepen.datasets import Dataset

spec = importlib.util.spec_from_file_location("campaign_bench", sys.argv[1])
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
out, faults = Path(sys.argv[2]), json.loads(sys.argv[3])
rigs = [bench.CampaignRig("a", seed=1), bench.CampaignRig("b", seed=2)]
for rig in rigs:
    rig.lose = {int(block): tuple(what) for block, what in faults.get(rig.name, {}).items()}
plan = CampaignPlan.load(out.parent / "plan.json")
with Dataset.open(out, create=True) as dataset, open_work_folder(out) as folder:
    for rig in rigs:
        (folder / rig.name).mkdir()
    prepare = {rig.name: ItemPreparer(folder / rig.name, CampaignSettings(copies=1)) for rig in rigs}
    with Fleet([rig.station() for rig in rigs], prepare) as fleet:
        fleet.start()
        run_tasks(ConditionGrid().tasks(plan, fleet.profiles), fleet, dataset,
                  on_progress=lambda s: print(json.dumps([s.done, s.notice]), flush=True))
print("through", flush=True)
"""


@pytest.mark.slow
def test_two_devices_host_killed_five_times_devices_and_meters_gone_twice(tmp_path, kernels):
    """200 kernels; every record is there exactly once in the end, and says the truth."""
    rng = random.Random(11)
    plan, folder = CampaignPlan.make(kernels(200)), tmp_path / "d"
    plan.save(tmp_path / "plan.json")
    faults = [
        {"a": {rng.randrange(60, 120): ("device", 40.0)}},
        {"b": {rng.randrange(60, 120): ("meter", 9.0)}},
        {"b": {rng.randrange(60, 120): ("device", 3.0)}},
        {"a": {rng.randrange(60, 120): ("meter", 75.0)}},
        {},
        {},
    ]
    kills, losses = 0, Counter()
    for attempt, lose in enumerate(faults):
        command = [sys.executable, "-c", CHILD, str(BENCH), str(folder), json.dumps(lose)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told, target = [], rng.randrange(20, 34)
        for line in child.stdout:
            if line.startswith("through"):
                break
            told.append(json.loads(line))
            waiting = lose and not any("is gone" in notice for _, notice in told)
            if attempt < 5 and not waiting and told[-1][0] - told[0][0] >= target:
                threading.Event().wait(rng.random() * 0.03)
                child.kill()
                break
        told += [json.loads(line) for line in child.stdout if line.startswith("[")]
        child.stdout.close()
        kills += child.wait() == -signal.SIGKILL
        for what in ("a is gone", "b is gone", "meter of"):
            losses["meter" if "meter" in what else "device"] += any(
                notice.startswith("fc") and what in notice and ("meter" in what) == ("meter" in notice)
                for _, notice in told
            )
        stored = [record.name for record in Dataset.open(folder)]
        assert len(stored) == len(set(stored))
        done = max(done for done, _ in told)
        assert done <= len(stored) <= done + 1
    assert kills == 5
    assert losses == {"device": 2, "meter": 2}
    with Dataset.open(folder) as dataset:
        assert names(dataset) == sorted(item.name for item in plan.items)
        assert bench.wrong(dataset) == []
        assert all(record.source == "simulated" for record in dataset)
