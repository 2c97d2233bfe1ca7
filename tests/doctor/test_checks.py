"""Checks of this machine: a missing package is a failure only if measuring needs it."""

from __future__ import annotations

from importlib import metadata

import pytest

from deepen.doctor.checks import check_machine


@pytest.mark.parametrize(
    ("name", "status", "cure"),
    [
        ("onnxruntime", "fail", "pip install onnxruntime"),
        ("scikit-learn", "note", "pip install 'deepen[train]'"),
        ("pyarrow", "note", "pip install 'deepen[data]'"),
    ],
)
def test_a_missing_package_of_an_extra_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, name: str, status: str, cure: str
) -> None:
    version = metadata.version

    def find_version(distribution: str) -> str:
        if distribution == name:
            raise metadata.PackageNotFoundError(name)
        return version(distribution)

    monkeypatch.setattr(metadata, "version", find_version)
    checks = {check.name: check for check in check_machine()}
    found = checks[f"package {name}"]
    assert (found.status, found.cure) == (status, cure)
    assert all(check.status == "ok" for key, check in checks.items() if key.startswith("package ") and check != found)
