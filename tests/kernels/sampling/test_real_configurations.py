from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deepen import catalog
from deepen.errors import ConfigError
from deepen.kernels.families.catalog import load_families
from deepen.kernels.families.kernel_work import compute_kernel_work
from deepen.kernels.sampling.real_configurations import (
    canonicalise_params,
    list_families_with_configurations,
    load_real_configurations,
)
from deepen.kernels.types import hash_params


def provenance() -> dict:
    return tomllib.loads(catalog.find_path("kernels", "priors", "PROVENANCE.toml").read_text(encoding="utf-8"))


def test_every_family_has_priors():
    assert list_families_with_configurations() == sorted(load_families())


@pytest.mark.parametrize("family", sorted(load_families()))
def test_rows_are_canonical_distinct_and_have_a_source(family):
    rows = load_real_configurations(family)
    assert rows
    assert all(canonicalise_params(family, row.params) == row.params for row in rows)
    assert len({hash_params(family, row.params) for row in rows}) == len(rows)
    assert all(row.count >= 1 and 1 <= len(row.sources) <= 3 for row in rows)
    assert all(compute_kernel_work(family, row.params).bytes > 0 for row in rows)


def test_provenance_tells_scripts_versions_sources_and_counts():
    told = provenance()
    assert (Path(__file__).parents[3] / told["script"]).is_file()
    assert {"onnx", "onnxruntime", "torch", "timm"} <= set(told["versions"])
    assert {name: entry["kept"] for name, entry in told["families"].items()} == {
        name: len(load_real_configurations(name)) for name in list_families_with_configurations()
    }
    assert all(entry["kept"] <= entry["distinct"] <= entry["kernels"] for entry in told["families"].values())


def test_rows_name_only_sources_that_provenance_lists():
    told = provenance()["sources"]
    known = {name.partition(":")[2] for name in told["exported"]} | {
        name.partition(": ")[2] for name in told["by_hand"]
    }
    assert {
        source
        for name in list_families_with_configurations()
        for row in load_real_configurations(name)
        for source in row.sources
    } <= known


def test_no_network_of_the_onnx_wheel_is_a_source():
    names = " ".join(provenance()["sources"]["exported"]).lower()
    assert not any(word in names for word in ("bvlc", "zfnet", "vgg19", "inception_v1", "inception_v2", "light_"))


def test_priors_stay_small():
    assert sum(path.stat().st_size for path in catalog.find_path("kernels", "priors").iterdir()) < 1_500_000


def test_large_fully_connected_layers_and_first_layers_are_there():
    layers = {(row.params["k"], row.params["n"]) for row in load_real_configurations("fc") if row.params["m"] == 1}
    assert (25088, 4096) in layers
    assert max(k * n for k, n in layers) >= 25088 * 4096
    windows = [(row.params["c_in"], row.params["kernel"][0]) for row in load_real_configurations("conv-bn-relu")]
    assert {(3, 3), (3, 7), (3, 11)} <= set(windows)


@pytest.mark.parametrize("line", ["not json", "{}", '{"params": {"nonsense": 1}, "sources": [], "count": 1}'])
def test_a_broken_row_is_named_with_file_and_line(tmp_path, monkeypatch, line):
    target = tmp_path / "kernels"
    for folder in ("families", "priors"):
        (target / folder).mkdir(parents=True)
    for file in catalog.find_path("kernels", "families").glob("*.toml"):
        (target / "families" / file.name).write_bytes(file.read_bytes())
    good = catalog.find_path("kernels", "priors", "lrn.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (target / "priors" / "lrn.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    load_real_configurations.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"lrn\.jsonl:2: not a prior .* run tools/collect_priors again"):
            load_real_configurations("lrn")
    finally:
        load_real_configurations.cache_clear()
