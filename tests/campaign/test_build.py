"""``deepen dataset build``: arguments to a plan, a session and a report; what does not fit is refused."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from deepen.campaign import build_dataset, parse_device_meter_pairs
from deepen.cli import cli
from deepen.datasets import Dataset
from deepen.errors import ConfigError, DatasetError, GraphError, LinkError, StorageError


@pytest.fixture
def bench(monkeypatch, fake_session, kernels):
    """A sampler of small kernels and a session that measures nothing; remembers how they were called."""
    import deepen.measure
    from deepen.kernels.sampling import sampler

    calls = SimpleNamespace(sample=[], session=[], sessions=[], before=lambda number: None, meter_id="fake", suits={})

    def sample(families, count, seed, exclude, max_macs):
        calls.sample.append((families, count, seed, set(exclude), max_macs))
        items = kernels(min(count, 50))
        return [sampler.SampledKernel(i.family, i.params, i.key, 1, 1, "test") for i in items if i.key not in exclude]

    @contextmanager
    def open_session(device, meter, *, claim, tell, **options):
        calls.session.append((device, meter, options))
        session = fake_session(calls.before)
        session.runtime = calls.suits.get(device, "onnxruntime") if options["runtime"] == "auto" else options["runtime"]
        session.device = SimpleNamespace(profile=SimpleNamespace(id="bench"))
        session.meter = SimpleNamespace(id=calls.meter_id, source="simulated")
        calls.sessions.append(session)
        yield session

    monkeypatch.setattr(sampler, "sample_kernels", sample)
    monkeypatch.setattr(deepen.measure, "open_session", open_session)
    return calls


def invoke(*arguments: object):
    return CliRunner().invoke(cli, ["dataset", "build", *map(str, arguments)], prog_name="deepen")


def test_a_dataset_in_a_file_of_its_own_keeps_the_plan_beside_it(tmp_path, bench):
    for name in ("one", "other"):
        out = tmp_path / f"{name}.db"
        for skipped in (0, 3):
            report = build_dataset(out, families=["fc"], count=3, seed=7, device="local", meter="m")
            assert (report.measured, report.skipped_done) == (3 - skipped, skipped)
        assert len(Dataset.open(out)) == 3
        assert (tmp_path / f"{name}.files" / "plan.json").exists()
    visible = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert visible == ["one.db", "one.files", "other.db", "other.files"]


def test_a_build_makes_dataset_and_plan_and_resumes(tmp_path, bench):
    out = tmp_path / "d"
    report = build_dataset(out, families=["fc"], count=4, seed=7, threads=2, device="local", meter="m")
    assert (report.measured, report.failed) == (4, ())
    assert bench.sample == [(["fc"], 4, 7, set(), None)]
    assert bench.session == [("local", "m", {"runtime": "auto", "threads": 2, "seed": 7, "cool_s": 0.0})]
    assert {record.threads for record in Dataset.open(out)} == {2}
    again = build_dataset(out, families=["fc"], count=4, seed=7, threads=2)
    assert (again.measured, again.skipped_done) == (0, 4)
    assert len(bench.sample) == 1
    more = build_dataset(out, families=["fc"], count=6, seed=7, threads=2)
    assert (more.measured, more.skipped_done) == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "count"), [({}, 400), ({"minutes": 2.0}, 1200), ({"minutes": 2.0, "count": 9}, 9), ({"count": 5}, 5)]
)
def test_the_size_of_the_plan_follows_from_number_and_time(tmp_path, bench, monkeypatch, arguments, count):
    budgets = []
    monkeypatch.setattr("deepen.campaign.build.run_tasks", lambda *a, budget_s, **k: budgets.append(budget_s))
    build_dataset(tmp_path / "d", **arguments)
    assert bench.sample[0][1] == count
    assert budgets == [120.0 if "minutes" in arguments else None]


def test_configurations_of_excluded_models_are_left_out(tmp_path, bench, model_file):
    from deepen.campaign.build import read_kernel_keys

    build_dataset(tmp_path / "d", count=3, exclude=[model_file])
    assert bench.sample[0][3] == read_kernel_keys([model_file])
    assert len(read_kernel_keys([model_file])) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least 1, not 0"),
        ({"minutes": 0.0}, "positive number of minutes, not 0"),
        ({"minutes": float("nan")}, "positive number of minutes"),
    ],
)
def test_wrong_sizes_are_refused_before_anything_is_made(tmp_path, bench, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(tmp_path / "d", **arguments)
    assert not (tmp_path / "d").exists()


def test_a_broken_model_to_exclude_is_refused_before_anything_is_made(tmp_path, bench):
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(GraphError, match=r"bad\.onnx"):
        build_dataset(tmp_path / "d", exclude=[tmp_path / "bad.onnx"])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 2}, "thread count 1, not 2"),
        ({"meter_id": "other"}, "power source fake, not other"),
    ],
)
def test_a_dataset_measured_otherwise_is_not_mixed_with(tmp_path, bench, change, message):
    build_dataset(tmp_path / "d", count=2)
    bench.meter_id = change.get("meter_id", "fake")
    with pytest.raises(DatasetError, match=message):
        build_dataset(tmp_path / "d", count=3, threads=change.get("threads", 1))
    assert len(Dataset.open(tmp_path / "d")) == 2


# The command


def test_the_command_prints_progress_on_stderr_and_one_document_on_stdout(tmp_path, bench):
    result = invoke("--out", tmp_path / "d", "--count", 3, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["measured"], document["failed"], document["interrupted"]) == (3, [], False)
    assert document["card"]["records"] == 3
    assert document["card"]["source"] == "simulated"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("[0/3]")
    assert lines[-1].startswith("[3/3]")
    assert "left" in lines[-1]


def test_progress_tells_the_budget_and_who_did_what(tmp_path, bench):
    pairs = ["--on", "a,lvpm:1", "--on", "b,lvpm:2"]
    result = invoke("--out", tmp_path / "d", "--count", 6, "--minutes", 5, *pairs)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[0] == "[0/6] 0:00 elapsed, ? left (budget 4:59)"
    assert lines[-1].startswith("[6/6] 0:0")
    assert " done):  fc m=1" in lines[-1]
    told = result.stdout.splitlines()[-1]
    counts = [int(part.split()[0]) for part in told.split(", ")]
    assert sum(counts) == 6
    assert [part.split()[-1] for part in told.split(", ")] in (["a", "b"], ["a"], ["b"])


def test_families_may_be_given_with_commas_and_again(tmp_path, bench):
    result = invoke("--out", tmp_path / "d", "-f", "relu,fc", "-f", "add", "--count", 2)
    assert result.exit_code == 0, result.output
    assert bench.sample[0][0] == ["add", "fc", "relu"]
    assert "2 kernels measured" in result.stdout


def test_a_dataset_being_written_is_refused_before_the_machine_is_disturbed(tmp_path, bench):
    with Dataset.open(tmp_path / "d", create=True):
        result = invoke("--out", tmp_path / "d", "--count", 2)
    assert result.exit_code == 3
    assert "is being written by process" in result.stderr
    assert bench.session == []


def test_ctrl_c_exits_130_with_a_report(tmp_path, bench, fail_with):
    bench.before = fail_with([None, KeyboardInterrupt()])
    result = invoke("--out", tmp_path / "d", "--count", 3, "--json")
    assert result.exit_code == 130
    document = json.loads(result.stdout)
    assert (document["measured"], document["interrupted"], document["remaining"]) == (1, True, 2)
    bench.before = lambda number: None
    assert "2 kernels measured" in invoke("--out", tmp_path / "d", "--count", 3).stdout


def test_nothing_measured_is_exit_1(tmp_path, bench, fail_with):
    from deepen.errors import RunError

    bench.before = fail_with([RunError("crashes")] * 9)
    result = invoke("--out", tmp_path / "d", "--count", 2, "--json")
    assert result.exit_code == 1
    assert [entry["reason"] for entry in json.loads(result.stdout)["failed"]] == ["crashes", "crashes"]


def test_unknown_family_names_the_nearest(tmp_path):
    result = invoke("--out", tmp_path / "d", "--family", "conv-bn-rlu")
    assert result.exit_code == 1
    assert "did you mean conv-bn-relu" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("option", "name"), [("--device", "locl"), ("--meter", "no-such-meter")])
def test_unknown_device_or_meter_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, kernels, option, name):
    from deepen.kernels.sampling import sampler

    planned = [sampler.SampledKernel(i.family, i.params, i.key, 1, 1, "test") for i in kernels(2)]
    monkeypatch.setattr(sampler, "sample_kernels", lambda *arguments: planned)
    result = invoke("--out", tmp_path / "d", option, name)
    assert result.exit_code == 1
    assert f"'{name}'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "d").exists()


def test_a_folder_that_cannot_be_made_is_exit_3(bench):
    result = invoke("--out", "/proc/deepen-out", "--count", 1)
    assert result.exit_code == StorageError.exit_code == 3
    assert result.stderr.startswith("error: cannot make the folder /proc/deepen-out")


def test_a_file_in_the_way_is_exit_1(tmp_path, bench):
    (tmp_path / "d").write_text("mine")
    result = invoke("--out", tmp_path / "d")
    assert result.exit_code == 1
    assert "not a deepen dataset; choose another path" in result.stderr


@pytest.mark.parametrize("arguments", [["--out", "d", "--threads", "0"], ["--out", "d", "--count", "many"], []])
def test_wrong_usage_is_exit_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert invoke(*arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


# Several devices


def test_pairs_threads_runtimes_and_repeats_reach_the_stations(tmp_path, bench):
    result = invoke(
        "--out", tmp_path / "d", "--count", 2, "--on", "adb:A,lvpm:1?voltage_v=4", "--on", "adb:B,lvpm:2?voltage_v=4",
        "--threads", 1, "--threads", 4, "--runtime", "crunner", "--runtime", "onnxruntime", "--repeats", 2, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(call[:2] for call in bench.session[:2]) == [
        ("adb:A", "lvpm:1?voltage_v=4"),
        ("adb:B", "lvpm:2?voltage_v=4"),
    ]
    assert {call[2]["runtime"] for call in bench.session[:2]} == {"crunner"}
    document = json.loads(result.stdout)
    assert (document["measured"], document["remaining"], document["stopped"]) == (16, 0, [])
    records = list(Dataset.open(tmp_path / "d"))
    assert len({(r.name, r.runtime, r.threads) for r in records}) == 8
    assert " adb:A (" in result.stderr or " adb:B (" in result.stderr
    stations = json.loads((tmp_path / "d" / "stations.json").read_text())["stations"]
    assert {facts["profile"] for facts in stations.values()} == {"bench"}
    assert sorted(stations) == ["adb:A", "adb:B"]


@pytest.mark.parametrize("option", [["--device", "adb:C"], ["--meter", "rapl"]])
def test_pairs_and_single_options_exclude_each_other(tmp_path, bench, option):
    result = invoke("--out", tmp_path / "d", "--on", "adb:A,lvpm:1", *option)
    assert result.exit_code == 2
    assert "either by --on or by" in result.stderr


def test_the_runtime_is_what_suits_the_device_or_what_the_dataset_was_begun_with(tmp_path, bench):
    bench.suits["phone"] = "crunner"
    out = tmp_path / "d"
    assert build_dataset(out, families=["fc"], count=2, device="phone").measured == 2
    assert {record.runtime for record in Dataset.open(out)} == {"crunner"}
    bench.suits["phone"] = "onnxruntime"
    assert build_dataset(out, families=["fc"], count=3, device="phone").measured == 1
    assert {record.runtime for record in Dataset.open(out)} == {"crunner"}
    bench.suits["other"] = "crunner"
    with pytest.raises(ConfigError, match=r"name the runtime .* \(phone: onnxruntime, other: crunner\)"):
        build_dataset(tmp_path / "e", count=2, pairs=parse_device_meter_pairs(["phone,lvpm:1", "other,lvpm:2"]))
    bench.suits["phone"] = "trtexec"
    with pytest.raises(ConfigError, match="which 'trtexec' does not run like that"):
        build_dataset(tmp_path / "f", count=2, device="phone")


def test_accelerator_and_settings_reach_the_sessions(tmp_path, bench):
    arguments = ["--out", tmp_path / "d", "--count", 2, "--runtime", "perf_test", "--delegate", "nnapi"]
    result = invoke(*arguments, "--no-prepare", "--set", "governor=performance", "--sync", "none")
    assert result.exit_code == 0, result.stderr
    (_, _, options) = bench.session[0]
    assert options["sync"] == "none"
    assert (options["runtime"], options["prepare"]) == ("perf_test-nnapi", False)
    assert options["settings"] == {"governor": "performance"}
    assert {record.runtime for record in Dataset.open(tmp_path / "d")} == {"perf_test-nnapi"}
    result = invoke("--out", tmp_path / "e", "--runtime", "onnxruntime", "--delegate", "gpu")
    assert "has no delegate 'gpu': it has none; 'gpu' comes with benchmark_model" in result.stderr
    result = invoke("--out", tmp_path / "e", "--set", "governer=performance")
    assert (result.exit_code, "did you mean governor" in result.stderr) == (1, True)
    result = invoke("--out", tmp_path / "e", "--runtime", "auto", "--runtime", "crunner")
    assert "'auto' goes alone" in result.stderr


def test_a_runtime_that_does_not_run_kernels_is_refused(tmp_path, bench):
    result = invoke("--out", tmp_path / "d", "--runtime", "litert")
    assert result.exit_code == 1
    assert "which 'litert' does not run like that; use onnxruntime, crunner or perf_test" in result.stderr
    assert not (tmp_path / "d").exists()


def test_budget_is_another_name_for_minutes(tmp_path, bench):
    result = invoke("--out", tmp_path / "d", "--budget", 0)
    assert result.exit_code == 1
    assert "positive number of minutes, not 0" in result.stderr


def test_a_device_given_up_is_exit_3_and_is_written_down(tmp_path, bench, fail_with, monkeypatch):
    monkeypatch.setattr("deepen.campaign.parallel_executor.Fleet._wait", lambda self, station, duration_s: None)
    bench.before = fail_with([LinkError("gone")] * 999)
    result = invoke("--out", tmp_path / "d", "--count", 9, "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["remaining"] > 0
    assert document["stopped"][0]["device"] == "local"
    lines = [json.loads(line) for line in (tmp_path / "d" / "campaign.jsonl").read_text().splitlines()]
    assert lines[-1]["device"] == "local"
    assert lines[-1]["text"].startswith("stopped: 6 measurements in a row failed")


def test_meters_that_cannot_stand_beside_each_other_are_refused(tmp_path):
    from deepen.campaign import ConditionGrid, StationIdentity
    from deepen.campaign.build import check_conditions

    phone = StationIdentity("phone", "lvpm", "measured")
    check_conditions(None, [phone, StationIdentity("board", "ppk2", "measured")], ConditionGrid())
    with pytest.raises(ConfigError, match="do not mix"):
        check_conditions(None, [phone, StationIdentity("board", "ppk2", "simulated")], ConditionGrid())
    with pytest.raises(ConfigError, match=r"different meters \(lvpm, ppk2\)"):
        check_conditions(None, [phone, StationIdentity("phone", "ppk2", "measured")], ConditionGrid())


def test_a_damaged_file_of_stations_is_one_clear_line(tmp_path, bench):
    build_dataset(tmp_path / "d", count=1)
    (tmp_path / "d" / "stations.json").write_text('{"stations": {"local": {}}}')
    with pytest.raises(DatasetError, match=r"stations\.json: damaged"):
        build_dataset(tmp_path / "d", count=1)
