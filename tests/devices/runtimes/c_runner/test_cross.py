"""The cross-compiled runner: it is what it should be, and runs a real model under qemu (for its function alone)."""

from __future__ import annotations

import importlib.util
import shutil
import struct
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from deepen.devices.runtimes.c_runner.build import build_runner, get_cache_folder

EM_X86_64, EM_AARCH64 = 62, 183  # elf.h


@pytest.fixture(scope="session")
def cross() -> Any:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no cross-compiler; run tools/build-runner aarch64 (pip install ziglang)")
    return build_runner


@pytest.mark.slow
@pytest.mark.parametrize(("target", "machine"), [("aarch64", EM_AARCH64), ("x86_64", EM_X86_64)])
def test_the_program_is_for_its_machine_and_old_libraries(target: str, machine: int, cross: Any) -> None:
    program = cross(target).read_bytes()
    assert program[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", program, 18) == (machine,)
    versions = {v.split(b"\0")[0] for v in program.split(b"GLIBC_")[1:]}
    assert versions
    assert all(tuple(map(int, v.split(b"."))) <= (2, 17) for v in versions)
    assert b"libonnxruntime.so.1\0" in program  # looked for at run time, not linked


@pytest.mark.slow
def test_the_cross_build_for_this_machine_runs(
    cross: Any, native: Path, start: Any, ort_library: Path, models: Path
) -> None:
    if struct.unpack_from("<H", native.read_bytes(), 18) != (EM_X86_64,):
        pytest.skip("this machine is no x86_64")
    worker = start(cross("x86_64"), "--library", ort_library)
    assert worker.ask(op="load", id=1, path=str(models / "add.onnx"))["handle"] == 1
    assert worker.bye()[0] == 0


@pytest.fixture(scope="session")
def qemu() -> list[str]:
    """A command to run aarch64 programs with, and the library there; made by ``tools/build-runner qemu``."""
    folder = get_cache_folder() / f"qemu-aarch64-{onnxruntime.__version__}"
    program = shutil.which("qemu-aarch64-static")
    if program is None or not (folder / "done").exists():
        pytest.skip("nothing to run aarch64 programs with; run tools/build-runner qemu (as root: Debian packages)")
    return [program, "-L", str(folder)]


@pytest.mark.serial  # two emulated threads that spin: beside other tests it takes minutes
@pytest.mark.slow
def test_a_real_model_runs_on_aarch64(cross: Any, qemu: list[str], start: Any, native: Path, ort_library: Path) -> None:
    """SqueezeNet, in both threads, with the answers of the native build."""
    import onnx

    model = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"
    request = {"op": "load", "path": str(model), "threads": 2, "seed": 1}
    worker = start(*qemu, cross("aarch64"), "--library", f"{qemu[2]}/libonnxruntime.so")
    assert worker.ask(op="hello", id=0)["machine"] == "aarch64"
    have = worker.ask(id=1, **request)
    wanted = start(native, "--library", ort_library).ask(id=1, **request)
    assert have.pop("first_run_s") > 0
    wanted.pop("first_run_s")
    assert have == wanted
    ran = worker.ask(op="run", id=2, handle=1, n=1)
    assert ran["start_boot_ns"] < ran["end_boot_ns"]
    assert ran["cpu_ns"] > 0
    assert worker.bye()[0] == 0
