"""Campaigns: every item measured once, failures told, interruptions harmless, resumable."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepen.campaign import (
    CampaignPlan,
    CampaignSettings,
    GeneratedModelItem,
    ItemPreparer,
    KernelItem,
    ModelItem,
    SerialExecutor,
    Task,
    TaskOutcome,
    run_plan,
)
from deepen.datasets import Dataset
from deepen.datasets.database import open_database
from deepen.errors import (
    GraphError,
    LinkError,
    MeasureError,
    MeterError,
    RunError,
    StorageError,
)


@pytest.fixture
def dataset(tmp_path):
    with Dataset.open(tmp_path / "d", create=True) as opened:
        yield opened


def leftovers(dataset: Dataset) -> list[str]:
    return sorted(path.name for path in dataset.path.iterdir() if path.suffix == ".onnx" or path.name == ".work")


# Measuring


@pytest.mark.parametrize("lookahead", [0, 3])
def test_every_item_is_measured_once_and_described(dataset, fake_session, kernels, lookahead):
    from deepen.kernels import FEATURE_NAMES, FEATURES_VERSION

    plan = CampaignPlan.make(kernels(6))
    session = fake_session()
    report = run_plan(plan, session, dataset, settings=CampaignSettings(lookahead=lookahead, threads=2))
    assert (report.measured, report.skipped_done, report.failed, report.remaining) == (6, 0, (), 0)
    assert not report.interrupted
    assert report.drift_span == pytest.approx(0.03)
    records = dataset.records()
    assert [r.name for r in records] == [item.name for item in plan.items]
    assert dataset.keys() == {item.key for item in plan.items}
    for record, item, (workload, there) in zip(records, plan.items, session.workloads, strict=True):
        assert there
        assert not workload.path.exists()
        assert (record.id, record.kind, record.threads) == (workload.id, "kernel", 2)
        assert (record.family, record.params) == (item.family, item.params)
        assert set(record.features) == set(FEATURE_NAMES)
        assert record.features["macs"] == item.params["k"] * item.params["n"]
        assert record.features_version == FEATURES_VERSION
        assert record.warnings == ("few blocks",)
    assert leftovers(dataset) == []


def test_energies_are_per_copy_and_the_record_says_how_many(dataset, fake_session, kernels):
    run_plan(CampaignPlan.make(kernels(1)), fake_session(), dataset, settings=CampaignSettings(copies=4))
    (record,) = dataset.records()
    assert record.copies == 4
    assert (record.energy_j, record.uncertainty_j, record.gross_energy_j) == (2.0, 0.2, 4.0)
    assert (record.latency_s, record.trials) == (1.0, (1.75, 2.25))
    assert record.rejected[0]["energy_j"] == 20.0
    assert record.idle_power_before_w == 2.0


def test_copies_follow_from_the_kernels_size(dataset, fake_session, kernels):
    from deepen.kernels.building.parallel_copies import choose_copies
    from deepen.kernels.families.kernel_work import compute_kernel_work

    (item,) = kernels(1)
    cost = compute_kernel_work(item.family, item.params)
    run_plan(CampaignPlan.make([item]), fake_session(), dataset)
    assert dataset.records()[0].copies == choose_copies(cost.bytes, cost.macs) > 1


def test_models_are_described_by_their_kernels_and_their_file_is_kept(dataset, fake_session, model_file):
    import onnx

    made = GeneratedModelItem("made", lambda: onnx.load(model_file))
    report = run_plan(CampaignPlan.make([ModelItem(model_file, "alias"), made]), fake_session(), dataset)
    assert report.measured == 2
    assert dataset.model_names() == {"alias", "made"}
    for record in dataset.records("model"):
        assert [kernel["family"] for kernel in record.kernels] == ["fc", "softmax"]
        assert record.kernels[0]["features"]["macs"] == 12.0
        assert record.kernels[0]["multiplicity"] == 1.0
        assert (record.copies, record.energy_j, record.family) == (1, 8.0, "")
    assert model_file.exists()
    assert leftovers(dataset) == []


def test_progress_is_told_now_and_then_while_nothing_happens(dataset, fake_session, kernels, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["deepen.campaign.run"], "TELL_EVERY_S", 0.0)
    prepare = ItemPreparer(tmp_path, CampaignSettings(copies=1))

    class Slow(SerialExecutor):
        quiet = 3

        def collect(self, timeout_s=None):
            assert timeout_s == 0.0
            self.quiet -= 1
            return super().collect(timeout_s) if self.quiet < 0 else None

    seen = []
    executor = Slow(fake_session(), prepare)
    report = run_plan(
        CampaignPlan.make(kernels(1)), fake_session(), dataset, executor=executor, on_progress=seen.append
    )
    assert report.measured == 1
    assert [(state.done, state.last) for state in seen[:-1]] == [(0, "")] * 4
    assert seen[-1].done == 1


def test_progress_counts_up_and_names_what_finished(dataset, fake_session, kernels):
    seen = []
    plan = CampaignPlan.make(kernels(3))
    run_plan(plan, fake_session(), dataset, on_progress=seen.append)
    assert [state.done for state in seen] == [0, 1, 2, 3]
    assert [state.last for state in seen] == ["", *(item.name for item in plan.items)]
    assert {state.total for state in seen} == {3}
    assert seen[0].eta_s != seen[0].eta_s  # not a number: no pace yet
    assert seen[-1].eta_s == 0


# Resuming


def test_what_is_there_is_passed_over(dataset, fake_session, kernels, model_file):
    plan = CampaignPlan.make([*kernels(5), ModelItem(model_file)])
    first = run_plan(CampaignPlan(plan.items[:3]), fake_session(), dataset)
    session = fake_session()
    second = run_plan(plan, session, dataset)
    assert (first.measured, second.measured, second.skipped_done) == (3, 3, 3)
    assert len(session.workloads) == 3
    third = run_plan(plan, fake_session(), dataset)
    assert (third.measured, third.skipped_done) == (0, 6)
    assert len(dataset) == 6


@pytest.mark.parametrize("lookahead", [0, 2])
def test_ctrl_c_ends_cleanly_and_the_next_run_completes(dataset, fake_session, kernels, fail_with, lookahead):
    plan = CampaignPlan.make(kernels(6))
    session = fake_session(fail_with([None, None, KeyboardInterrupt()]))
    report = run_plan(plan, session, dataset, settings=CampaignSettings(lookahead=lookahead))
    assert (report.interrupted, report.measured, report.remaining) == (True, 2, 4)
    assert leftovers(dataset) == []
    assert len(Dataset.open(dataset.path)) == 2
    again = run_plan(plan, fake_session(), dataset)
    assert (again.measured, again.skipped_done, again.interrupted) == (4, 2, False)
    assert len({record.id for record in dataset}) == len(dataset) == 6


@pytest.mark.parametrize("when", ["BEGIN IMMEDIATE", "INSERT", "COMMIT", "after"])
def test_ctrl_c_at_any_moment_of_storing_never_repeats_a_record(tmp_path, fake_session, kernels, monkeypatch, when):
    """The signal arrives inside ``append``: before each of its statements, or when the record is on the disk."""
    plan = CampaignPlan.make(kernels(3))
    for at in range(3):
        folder = tmp_path / str(at)
        left = itertools.count()

        class InterruptingConnection:
            """A connection during whose statements Ctrl-C is pressed."""

            def __init__(self, inner, left=left, at=at):
                self.inner, self.left, self.at = inner, left, at

            def __getattr__(self, name):
                return getattr(self.inner, name)

            def execute(self, sql, *values):
                if sql.startswith(when) and next(self.left) == self.at:
                    raise KeyboardInterrupt
                found = self.inner.execute(sql, *values)
                if when == "after" and sql == "COMMIT" and next(self.left) == self.at:
                    raise KeyboardInterrupt
                return found

            def executemany(self, sql, values):
                if sql.startswith(when) and next(self.left) == self.at:
                    raise KeyboardInterrupt
                return self.inner.executemany(sql, values)

        monkeypatch.setattr(
            "deepen.datasets.store.open_database", lambda *a, **k: InterruptingConnection(open_database(*a, **k))
        )
        with Dataset.open(folder, create=True) as dataset:
            report = run_plan(plan, fake_session(), dataset)
            assert report.interrupted
            again = run_plan(plan, fake_session(), dataset)
            assert again.measured == 3 - report.measured - (when == "after")
            assert dataset.keys() == {item.key for item in plan.items}
        monkeypatch.undo()
        names = [record.name for record in Dataset.open(folder)]
        assert sorted(names) == sorted(item.name for item in plan.items)


def test_a_budget_of_nothing_measures_nothing(dataset, fake_session, kernels):
    report = run_plan(CampaignPlan.make(kernels(3)), fake_session(), dataset, budget_s=0)
    assert (report.measured, report.remaining, report.interrupted) == (0, 3, False)


def test_a_budget_is_checked_before_every_item(dataset, fake_session, kernels, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("deepen.clock.host_clock.time.monotonic", lambda: now[0])

    def take_ten_seconds(number: int) -> None:
        now[0] += 10

    seen = []
    report = run_plan(
        CampaignPlan.make(kernels(9)), fake_session(take_ten_seconds), dataset, budget_s=35, on_progress=seen.append
    )
    assert (report.measured, report.remaining, report.elapsed_s) == (4, 5, 40.0)
    assert [state.eta_s for state in seen[1:]] == [25.0, 15.0, 5.0, 0.0]


def test_stop_ends_before_the_next_item(dataset, fake_session, kernels):
    session = fake_session()
    report = run_plan(CampaignPlan.make(kernels(5)), session, dataset, stop=lambda: len(session.workloads) >= 2)
    assert (report.measured, report.interrupted, report.remaining) == (2, True, 3)


# Failures


@pytest.mark.parametrize("error", [LinkError("gone"), MeterError("silent")])
def test_a_failure_of_the_surroundings_is_tried_again(dataset, fake_session, kernels, fail_with, error):
    session = fake_session(fail_with([error, error]))
    report = run_plan(CampaignPlan.make(kernels(2)), session, dataset)
    assert (report.measured, report.failed) == (2, ())
    assert len(session.workloads) == 4
    assert session.workloads[0][0] == session.workloads[2][0]
    assert all(there for _, there in session.workloads)


def test_after_the_retries_the_item_has_failed_with_its_reason(dataset, fake_session, kernels, fail_with):
    session = fake_session(fail_with([LinkError("gone")] * 3))
    seen = []
    plan = CampaignPlan.make(kernels(3))
    report = run_plan(plan, session, dataset, on_progress=seen.append)
    assert report.failed == ((plan.items[0].name, "gone"),)
    assert report.measured == 2
    assert [state.error for state in seen] == ["", "gone", "", ""]
    assert (seen[-1].failed, seen[-1].done) == (1, 3)
    again = run_plan(plan, fake_session(), dataset)
    assert (again.measured, again.skipped_done) == (1, 2)


@pytest.mark.parametrize("error", [RunError("crashes"), MeasureError("too noisy"), GraphError("odd")])
def test_other_failures_are_noted_at_once(dataset, fake_session, kernels, fail_with, error):
    session = fake_session(fail_with([error]))
    report = run_plan(CampaignPlan.make(kernels(2)), session, dataset)
    assert [reason for _, reason in report.failed] == [str(error)]
    assert len(session.workloads) == 2
    assert leftovers(dataset) == []


def test_surroundings_that_keep_failing_end_the_campaign(dataset, fake_session, kernels, fail_with):
    session = fake_session(fail_with([None, *[LinkError("gone")] * 99]))
    with pytest.raises(LinkError, match="3 items in a row failed; the last: gone"):
        run_plan(CampaignPlan.make(kernels(9)), session, dataset)
    assert len(dataset) == 1
    assert len(session.workloads) == 1 + 3 * 3
    assert leftovers(dataset) == []


@pytest.mark.parametrize("lookahead", [0, 2])
def test_items_that_cannot_be_prepared_fail_alone(dataset, fake_session, kernels, tmp_path, lookahead):
    good = kernels(2)
    unknown = KernelItem("no-such-family", {})
    wrong = KernelItem("fc", {**good[0].params, "k": -1})
    not_canonical = KernelItem("fc", {"dtype": "float32", "m": 1, "k": 9, "n": 5})
    absent = ModelItem(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    items = (unknown, good[0], wrong, not_canonical, absent, ModelItem(broken), good[1])
    report = run_plan(CampaignPlan(items), fake_session(), dataset, settings=CampaignSettings(lookahead=lookahead))
    assert report.measured == 2
    assert [name for name, _ in report.failed] == [i.name for i in (unknown, wrong, not_canonical, absent, items[5])]
    assert all(reason and "\n" not in reason for _, reason in report.failed)
    assert leftovers(dataset) == []


def test_a_kernel_that_does_not_come_back_as_itself_is_not_measured(dataset, fake_session, kernels, monkeypatch):
    import deepen.kernels

    plain, other = kernels(2)
    real = deepen.kernels.build_kernel_model
    monkeypatch.setattr(deepen.kernels, "build_kernel_model", lambda family, params, **options: real(
        other.family, other.params, **options
    ))  # fmt: skip
    session = fake_session()
    report = run_plan(CampaignPlan((plain,)), session, dataset, settings=CampaignSettings(copies=1))
    assert session.workloads == []
    assert report.failed[0][0] == plain.name
    assert "the runtime runs 1 kernels for it (fc); not measured" in report.failed[0][1]


def test_kernels_that_only_form_alone_on_their_input_get_inputs_of_their_own(tmp_path):
    """The runtime quantises a shared input once, and the kernel that quantises its own input is gone."""
    import onnx

    from deepen.kernels.families.catalog import check_params

    params = {"op": "DynamicQuantizeMatMul", "m": 3, "k": 64, "n": 64, "bias": True}
    params |= {"dtype": "float32", "out_dtype": "float32"}
    prepared = ItemPreparer(tmp_path, CampaignSettings(copies=3))(
        KernelItem("qmatmul", check_params("qmatmul", params))
    )
    assert prepared.copies == 3
    assert len(onnx.load(prepared.workload.path).graph.input) == 3
    assert [path.name for path in tmp_path.iterdir()] == [prepared.workload.path.name]


def test_copies_the_runtime_merges_are_not_counted_as_copies(tmp_path, kernels, monkeypatch):
    """Whatever replication is asked for, the number of copies is what the runtime runs."""
    from deepen.kernels.building import parallel_copies as module

    monkeypatch.setattr(module, "replicate_model", lambda model, copies, *, share=True: model)
    prepared = ItemPreparer(tmp_path, CampaignSettings(copies=4))(kernels(1)[0])
    assert prepared.copies == 1


def test_a_model_too_large_to_write_is_refused(tmp_path, monkeypatch):
    from deepen.kernels import build_kernel_model

    monkeypatch.setattr("deepen.campaign.prepare_item.MAX_WEIGHT_BYTES", 100)
    preparer = ItemPreparer(tmp_path, CampaignSettings())
    with pytest.raises(RunError, match="big: its weights would take"):
        preparer(
            GeneratedModelItem(
                "big", lambda: build_kernel_model("fc", {"dtype": "float32", "m": 1, "k": 64, "n": 64, "bias": False})
            )
        )


def test_a_full_disk_ends_the_campaign_and_keeps_what_was_stored(tmp_path, fake_session, kernels):
    folder = tmp_path / "d"
    with pytest.raises(StorageError, match=r"cannot write .* full"), Dataset.open(folder, create=True) as dataset:
        run_plan(CampaignPlan.make(kernels(1)), fake_session(), dataset)
        (pages,) = dataset._connection.execute("PRAGMA page_count").fetchone()
        dataset._connection.execute(f"PRAGMA max_page_count={pages + 1}")
        run_plan(CampaignPlan.make(kernels(40)), fake_session(), dataset)
    stored = len(Dataset.open(folder))
    assert 1 <= stored < 40
    with Dataset.open(folder, create=True) as dataset:
        assert run_plan(CampaignPlan.make(kernels(40)), fake_session(), dataset).measured == 40 - stored


def test_a_full_disk_while_preparing_ends_the_campaign(dataset, fake_session, kernels, monkeypatch):
    def full(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    session = fake_session()
    with pytest.raises(StorageError, match=r"item-000001\.onnx: No space left"):
        run_plan(CampaignPlan.make(kernels(5)), session, dataset)
    assert session.workloads == []
    assert leftovers(dataset) == []


def test_a_dataset_with_older_features_goes_on(dataset, fake_session, kernels):
    """Features are computed when records are read; only predictor files depend on their version."""
    run_plan(CampaignPlan.make(kernels(1)), fake_session(), dataset)
    record = dataset.records()[0]
    with Dataset.open(dataset.path.parent / "old", create=True) as old:
        old.append(dataclasses.replace(record, features_version=record.features_version - 1))
        report = run_plan(CampaignPlan.make(kernels(3)), fake_session(), old)
    assert (report.skipped_done, report.measured) == (1, 2)
    again = Dataset.open(old.path).records()[0]
    assert (again.features, again.features_version) == (record.features, record.features_version)


def test_a_dataset_being_written_is_refused_before_measuring(dataset, fake_session, kernels):
    session = fake_session()
    with pytest.raises(StorageError, match="being written by process"):
        run_plan(CampaignPlan.make(kernels(3)), session, Dataset.open(dataset.path))
    assert session.workloads == []


def test_what_a_killed_run_left_in_the_work_folder_is_removed(dataset, fake_session, kernels):
    (dataset.path / ".work").mkdir()
    (dataset.path / ".work" / "item-000001.onnx").write_bytes(b"x")
    run_plan(CampaignPlan.make(kernels(1)), fake_session(), dataset)
    assert leftovers(dataset) == []


@pytest.mark.slow
def test_killing_the_process_at_random_moments_loses_at_most_one_item_and_repeats_none(tmp_path, kernels):
    """The whole campaign, killed again and again until it is through."""
    code = """
import importlib.util, sys
from deepen.campaign import CampaignPlan, CampaignSettings, KernelItem, run_plan
from deepen.datasets import Dataset
spec = importlib.util.spec_from_file_location("fakes", sys.argv[2])
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
plan = CampaignPlan.load(__import__("pathlib").Path(sys.argv[3]))
with Dataset.open(sys.argv[1], create=True) as dataset:
    run_plan(plan, fakes.FakeSession(), dataset, settings=CampaignSettings(copies=1),
        on_progress=lambda state: print(state.done, flush=True))
print("through", flush=True)
"""
    rng = random.Random(5)
    folder, plan = tmp_path / "d", CampaignPlan.make(kernels(40))
    plan.save(tmp_path / "plan.json")
    fakes = Path(__file__).with_name("conftest.py")
    through, kills = False, 0
    while not through:
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(fakes), str(tmp_path / "plan.json")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(rng.randrange(2, 12))]
        time.sleep(rng.random() * 0.02)
        child.kill()
        lines += child.stdout.read().splitlines()
        child.stdout.close()
        kills += child.wait() == -signal.SIGKILL
        through = any("through" in line for line in lines)
        told = [int(line) for line in lines if line.strip().isdigit()]
        names = [record.name for record in Dataset.open(folder)]
        assert len(names) == len(set(names))
        assert max(told) <= len(names) <= max(told) + 1
    assert kills > 2
    assert sorted(names) == sorted(item.name for item in plan.items)


# The queue


def test_any_executor_may_take_the_place_of_the_serial_one(dataset, fake_session, kernels):
    """One that finishes out of order, as an engine with many devices does."""

    class LastFirst:
        capacity = 3

        def __init__(self, inner: SerialExecutor) -> None:
            self.inner, self.held = inner, []

        def submit(self, task) -> None:
            self.held.append(task)

        def collect(self, timeout_s=None) -> TaskOutcome:
            self.inner.submit(self.held.pop())
            return self.inner.collect()

        def cancel(self) -> int:
            dropped = len(self.held)
            self.held.clear()
            return dropped

    folder = dataset.path.parent / "work"
    folder.mkdir()
    session = fake_session()
    executor = LastFirst(SerialExecutor(session, ItemPreparer(folder, CampaignSettings())))
    plan = CampaignPlan(tuple(kernels(5)))
    report = run_plan(plan, session, dataset, executor=executor)
    assert report.measured == 5
    assert [r.name for r in dataset] != [item.name for item in plan.items]
    assert dataset.keys() == {item.key for item in plan.items}


def test_cancelling_drops_what_was_not_begun_and_its_files(tmp_path, fake_session, kernels):
    executor = SerialExecutor(fake_session(), ItemPreparer(tmp_path, CampaignSettings()), lookahead=3)
    for item in kernels(4):
        executor.submit(Task(item))
    executor.collect()
    assert executor.cancel() == 3
    executor.close()
    assert list(tmp_path.iterdir()) == []
