"""The base installation is enough for the base commands; every other command names the extra it needs."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepen.errors import ConfigError
from deepen.extras import EXTRAS, make_missing_package_error, require_packages

BLOCK = """
import sys

sys.modules.update(dict.fromkeys({blocked!r}))  # None there is a module that is not installed
from deepen.cli import main
main()
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a predictor, records, rows of devices, a trace, and a sample of a search space."""
    import numpy as np
    import onnx

    from deepen.datasets import Dataset
    from deepen.kernels.building.single_kernel_model import build_kernel_model
    from deepen.testing.synthetic import simulate_kernel_records, train_synthetic_predictor

    folder = tmp_path_factory.mktemp("base")
    train_synthetic_predictor(folder / "p.deepen", ["fc"], count=16, seed=1)
    params = {"dtype": "float32", "m": 1, "k": 64, "n": 10, "bias": True, "activation": "none", "op": "Gemm"}
    onnx.save(build_kernel_model("fc", params), folder / "m.onnx")
    with Dataset.open(folder / "d", create=True) as dataset:
        for record in simulate_kernel_records(["fc"], 12, seed=2):
            dataset.append(record)
    rows = [f"{d},w{i},2.0,{1 + i + k}" for k, d in enumerate("ab") for i in range(9)]
    (folder / "rows.csv").write_text("device,workload,power_w,energy_j\n" + "\n".join(rows) + "\n")
    (folder / "c.csv").write_text("name,accuracy,inference,model\na,0.7,1 mJ,\nb,0.8,,m.onnx\n")
    t_s = np.arange(200) / 100
    (folder / "t.csv").write_text("t_s,power_w\n" + "".join(f"{t},1.0\n" for t in t_s.tolist()))
    cell = "|{0}~0|+|{0}~0|{0}~1|+|{0}~0|{0}~1|{0}~2|"
    (folder / "s.csv").write_text(
        "arch,energy_j\n" + cell.format("none") + ",1\n" + cell.format("skip_connect") + ",2\n"
    )
    return folder


def run_blocked(work: Path, *command: str, blocked: tuple[str, ...] = tuple(EXTRAS)) -> tuple[int, str, str]:
    """Run a command line in a Python that finds none of the extras' packages."""
    program = [sys.executable, "-W", "error::UserWarning", "-c", BLOCK.format(blocked=blocked), *command]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "DEEPEN_HOME": str(work / "home")}
    done = subprocess.run(program, cwd=work, env=env, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "predict m.onnx -p p.deepen --json",
        "kernel split m.onnx --json",
        "kernel list --json",
        "kernel sample --family fc --count 3 --seed 1 --json",
        "predictor card p.deepen --json",
        "device list --json",
        "meter list --json",
        "score pcs rows.csv --tdp tdp.csv --json",
        "score iecs rows.csv --json",
        "lifecycle c.csv --predictor p.deepen --json",
    ],
)
def test_base_commands_need_no_extra(work: Path, command: str) -> None:
    (work / "tdp.csv").write_text("device,tdp_w\na,5\nb,6\n")
    code, out, error = run_blocked(work, *command.split())
    assert code == 0, error
    assert json.loads(out)


@pytest.mark.serial
def test_profiling_needs_no_extra(work: Path) -> None:
    code, out, error = run_blocked(work, "profile", "m.onnx", "--meter", "cpu-model", "--json")
    assert code == 0, error
    assert json.loads(out)["energy_j"] > 0


@pytest.mark.parametrize(
    "command",
    [
        "predictor train d --out q",
        "predictor evaluate p.deepen d",
        "predictor calibrate p.deepen d --out q",
        "dataset summary d",
        "dataset check d",
        "dataset export d d.parquet",
        "dataset import csv rows.csv --out e",
        "trace show t.csv",
        "trace energy t.csv",
        "score relative rows.csv",
        "table import s.csv t --space nasbench201",
        "table build t --space nasbench201 --predictor p.deepen --archs s.csv",
        "table query t",
        "quickstart --minutes 0.3 --out q",
        "doctor",
    ],
)
def test_what_an_extra_brings_is_named_in_one_line(work: Path, command: str) -> None:
    """A command works without the extras, fails for a reason of its own, or names the extra; it never breaks."""
    code, _, error = run_blocked(work, *command.split())
    assert "Traceback" not in error
    errors = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(errors) == (code != 0), error
    if "package" in error:
        assert code == 1 and any(f"pip install 'deepen[{extra}]'" in errors[0] for extra in EXTRAS.values())
        assert len(errors[0]) < 400


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("predictor train d --out q", "train"),
        ("quickstart --minutes 0.3 --out q", "train"),
        ("score relative rows.csv", "train"),
        ("dataset export d d.parquet", "data"),
        ("table import s.csv t --space nasbench201", "data"),
        ("table query t", "data"),
        ("trace energy t.csv", "data"),
    ],
)
def test_commands_beyond_the_base_name_their_extra(work: Path, command: str, extra: str) -> None:
    kept = {"pandas", "pyarrow"} if extra == "train" else set()  # the first thing that is missing is named
    code, _, error = run_blocked(work, *command.split(), blocked=tuple(set(EXTRAS) - kept))
    assert code == 1 and f"pip install 'deepen[{extra}]'" in error, error


def test_every_extra_named_exists_and_holds_no_package_of_the_base(repo_root: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(repo_root / "setup.cfg", encoding="utf-8")
    extras = parser["options.extras_require"]
    base = {line.partition(">")[0] for line in parser["options"]["install_requires"].split()}
    assert base == {"click", "flatbuffers", "numpy", "onnx", "onnxruntime", "protobuf"}
    assert set(EXTRAS.values()) <= set(extras)
    users = set(extras) - {"all", "dev"}
    assert set(extras["all"].split("[")[1].rstrip("]\n").split(",")) == users
    assert "deepen[all]" in extras["dev"].split()
    for extra in users:
        assert base.isdisjoint(line.partition(">")[0] for line in extras[extra].split())


def test_missing_packages_are_told_with_their_cure() -> None:
    require_packages("this test", "json")
    with pytest.raises(KeyError):
        make_missing_package_error("x", "not_a_package_of_ours")
    message = str(make_missing_package_error("a plot", "matplotlib"))
    assert message == "a plot needs the package matplotlib, which is not installed; pip install 'deepen[report]'"


def test_a_package_that_is_not_there_is_noticed_without_importing_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"deepen\[train\]"):
        require_packages("training", "scipy")
