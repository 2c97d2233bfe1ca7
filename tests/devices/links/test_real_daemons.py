"""Runs ``daemon_cases.py`` in a network namespace of its own, and reports each of its cases here.

Where no namespace can be made, the cases run without one, and those that need adbd skip and say so.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as XML

import pytest

CASES = Path(__file__).with_name("daemon_cases.py")
NAMES = [
    n.name for n in ast.parse(CASES.read_text()).body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")
]

pytestmark = [
    pytest.mark.serial,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the daemons run on Linux only"),
]


def namespace() -> list[str]:
    """A command prefix that enters a new network namespace; empty where that is not permitted.

    With a process namespace beside it, where that is permitted too, nothing outlives the tests whatever ends them.
    """
    alone = ["-p", "-f", "--kill-child", "--mount-proc"]
    for options in (["-n", *alone], ["-r", "-n", *alone], ["-n"], ["-r", "-n"]):
        prefix = ["unshare", *options]
        if (
            shutil.which("unshare")
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            return [*prefix, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Outcome of every case: name of the function -> (parameters, outcome, text)."""
    folder = tmp_path_factory.mktemp("daemons")
    prefix = namespace()
    command = [
        *prefix, sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:cacheprovider", "-o", "addopts=",
        "--import-mode=importlib", "--rootdir", str(repo_root), f"--junitxml={folder / 'report.xml'}",
        f"--basetemp={folder / 'base'}",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=repo_root,
        env={**os.environ, "DEEPEN_NAMESPACE": "1" if prefix else "0"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert (folder / "report.xml").exists(), done.stdout[-4000:] + done.stderr[-4000:]
    found: dict[str, list[tuple[str, str, str]]] = {}
    for case in XML.parse(folder / "report.xml").iter("testcase"):
        outcome, text = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome, text = child.tag, child.get("message", "") + "\n" + (child.text or "")
        name, _, parameters = case.get("name", "").partition("[")
        found.setdefault(name, []).append((parameters.rstrip("]"), outcome, text))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str, results: dict[str, list[tuple[str, str, str]]]) -> None:
    cases = results[name]
    bad = [f"{parameters}: {text}" for parameters, outcome, text in cases if outcome in ("failure", "error")]
    assert not bad, "\n".join(bad)
    skipped = [f"{parameters}: {text.splitlines()[0]}" for parameters, outcome, text in cases if outcome == "skipped"]
    if skipped:
        pytest.skip("; ".join(skipped))
