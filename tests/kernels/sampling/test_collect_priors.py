from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from deepen.kernels.sampling.real_configurations import canonicalise_params


@pytest.fixture(scope="module")
def collector(repo_root) -> ModuleType:
    loader = SourceFileLoader("collect_priors", str(repo_root / "tools" / "collect_priors"))
    spec = importlib.util.spec_from_loader("collect_priors", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    write, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = write
    return module


@pytest.fixture(scope="module")
def zoo(collector) -> ModuleType:
    return collector._load("prior_zoo")


def test_sources_are_distinct_and_none_is_a_network_predictions_are_tested_on(zoo):
    names = zoo.sources()
    assert len(set(names)) == len(names) > 150
    assert not any(word in name for name in names for word in ("bvlc", "zfnet", "vgg19", "inception_v1"))


def test_rows_written_by_hand_fit_their_families(zoo):
    assert all(canonicalise_params(family, params) is not None for family, _, params in zoo.BY_HAND)


def rows(count: int) -> list[dict]:
    return [
        {"params": {"op": "Relu", "shape": [1, 8 * i, 2 * i, 2 * i]}, "sources": ["x"], "count": i}
        for i in range(1, count)
    ]


def test_a_cap_keeps_the_most_frequent_and_the_most_different(collector):
    found = rows(200)
    kept = collector.choose(found, 20)
    assert len(kept) == 20
    assert found[-10:] == kept[-10:]  # the ten most frequent
    assert found[0] in kept  # the farthest from them
    assert collector.choose(found, 20) == kept
    assert collector.choose(found, 500) is found


def test_merging_counts_kernels_and_reports_what_it_left_out(collector, tmp_path):
    good = '{"family": "relu", "params": {"op": "Relu", "shape": [1, 8, 4, 4]}}'
    bad = '{"family": "relu", "params": {"op": "Relu", "shape": [0]}}'
    other = '{"family": "other", "params": {}}'
    (tmp_path / "timm-a-8.json").write_text(f"[{good}, {good}, {bad}, {other}]")
    (tmp_path / "timm-b-8.json").write_text(f"[{good}]")
    merged, left_out, used = collector.gather(tmp_path, ["timm:a@8", "timm:b@8", "timm:never@8"])
    (row,) = merged["relu"]
    assert (row["count"], row["sources"]) == (3, ["a@8", "b@8"])
    assert left_out == {"invalid": 1, "other": 1}
    assert used == ["timm:a@8", "timm:b@8"]


def test_the_list_needs_neither_torch_nor_timm(repo_root, tmp_path):
    script = repo_root / "tools" / "collect_priors"
    listed = subprocess.run(
        [sys.executable, "-B", str(script), str(tmp_path), "--list"], capture_output=True, text=True, check=True
    )
    assert "plain:cnn_f@224" in listed.stdout.splitlines()
