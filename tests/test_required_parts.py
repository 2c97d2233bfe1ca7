"""A skip that hides a missing part is a failure where parts are required, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.required_parts import is_missing_part, is_required

ROOT = Path(__file__).resolve().parents[1]

MODULE = """
import pytest
from pathlib import Path

def test_of_a_part():
    pytest.importorskip("no_such_package_anywhere")

def test_of_a_machine():
    pytest.skip("needs two cores")

@pytest.mark.xfail(reason="not installed", strict=True)
def test_known():
    raise AssertionError

def test_good():
    pass
"""


@pytest.mark.parametrize(
    ("reason", "missing"),
    [
        ("could not import 'moocore': No module named 'moocore'", True),
        ("pyusb is not installed (pip install 'deepen[hvpm]')", True),
        ("adbd is not built; run tools/build-adbd (tools/test does)", True),
        ("no exported models at x; run tools/export_zoo (needs torch, timm, torchvision)", True),
        ("adbd may only run in a network namespace of its own, and none can be made here", False),
        ("no shared data at /x; set DEEPEN_SHARED to its folder", False),
        ("needs two cores", False),
        ("root may read everything", False),
    ],
)
def test_reasons_are_told_apart(reason: str, missing: bool) -> None:
    assert is_missing_part(reason, {}) == missing


def test_who_declines_torch_needs_no_exported_models() -> None:
    reason = "no exported models at x; run tools/export_zoo (needs torch)"
    assert not is_missing_part(reason, {"DEEPEN_TEST_TORCH": "0"})


@pytest.mark.parametrize(
    ("environ", "required"),
    [({}, False), ({"CI": "true"}, True), ({"DEEPEN_TEST_REQUIRE": "1"}, True), ({"CI": "false"}, False)],
)
def test_parts_are_required_in_ci_or_when_asked_for(environ: dict[str, str], required: bool) -> None:
    assert is_required(environ) == required


@pytest.mark.parametrize("require", ["0", "1"])
@pytest.mark.parametrize("whole", [False, True], ids=["a test", "a module"])
def test_a_skip_becomes_a_failure(tmp_path: Path, require: str, whole: bool) -> None:
    start = "import pytest\npytest.importorskip('no_such_package_anywhere')\n" if whole else ""
    (tmp_path / "test_it.py").write_text(start + MODULE)
    left_out = {"CI", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"}
    environ = {k: v for k, v in os.environ.items() if k not in left_out and not k.startswith("PYTEST_XDIST")}
    environ |= {"DEEPEN_TEST_REQUIRE": require, "DEEPEN_TEST_SKIPS": str(tmp_path / "skips"), "PYTHONPATH": str(ROOT)}
    options = ["-p", "tests.support.required_parts", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "test_it.py"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == (require == "1" or whole), done.stdout  # a module skipped whole: nothing was run
    assert ("nothing may be missing here" in done.stdout) == (require == "1")
    skips = (tmp_path / "skips").read_text()
    assert ("no_such_package_anywhere" in skips) == (require == "0")
    assert whole or "   1  needs two cores" in skips
    assert "not installed" not in skips
