"""Hooks of pytest: a test that skips for want of something ``tools/test`` installs fails where that is asked for.

Asked for by ``CI=true`` or ``DEEPEN_TEST_REQUIRE=1``: a skip that hides a missing part is then a failure. Skips for
what a machine is (no namespaces, one core, another system) or for data of others stay skips. ``$DEEPEN_TEST_SKIPS``
names a file to which every skip is appended, for the list at the end of ``tools/test``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "is_missing_part",
    "is_required",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
]

_MISSING = re.compile(r"could not import|not installed|tools/\w|no C compiler|no libonnxruntime|needs the extra")
"""Words of reasons to skip that name something ``tools/test`` installs or builds."""

_EXPORTED = re.compile(r"export_zoo")


def is_required(environ: Mapping[str, str]) -> bool:
    """Tell if nothing may be missing."""
    return environ.get("CI", "").lower() in ("true", "1") or environ.get("DEEPEN_TEST_REQUIRE") == "1"


def is_missing_part(reason: str, environ: Mapping[str, str]) -> bool:
    """Tell if a reason to skip is the want of something ``tools/test`` installs.

    Args:
        reason: The reason.
        environ: The environment; with ``DEEPEN_TEST_TORCH=0``, nobody wants the exported models.
    """
    if "namespace" in reason or (_EXPORTED.search(reason) and environ.get("DEEPEN_TEST_TORCH") == "0"):
        return False
    return _MISSING.search(reason) is not None


def get_skip_reason(report: Any) -> str:
    """The reason of a skipped report; empty where it is none, or an expected failure."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return ""
    return str(report.longrepr[2]).removeprefix("Skipped: ")


def _fail_for_missing_part(report: Any) -> Any:
    """Make a skip for want of a part a failure, where parts are required."""
    reason = get_skip_reason(report)
    if reason and is_required(os.environ) and is_missing_part(reason, os.environ):
        report.outcome = "failed"
        report.longrepr = f"would be skipped, but nothing may be missing here (CI or DEEPEN_TEST_REQUIRE): {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Judge the skip of a test."""
    return _fail_for_missing_part((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Judge the skip of a module."""
    return _fail_for_missing_part((yield))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Append the skips to ``$DEEPEN_TEST_SKIPS``: how many, and why."""
    if target := os.environ.get("DEEPEN_TEST_SKIPS"):
        counts = Counter(filter(None, map(get_skip_reason, terminalreporter.stats.get("skipped", []))))
        with Path(target).open("a", encoding="utf-8") as file:
            file.writelines(f"{count:4d}  {reason}\n" for reason, count in sorted(counts.items()))
