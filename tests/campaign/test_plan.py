"""Plans: a seeded order that any budget may cut, kept in a file that is continued."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from deepen.campaign import CampaignPlan, GeneratedModelItem, KernelItem, ModelItem
from deepen.campaign.build import plan_kernels
from deepen.campaign.plan import BLOCK
from deepen.errors import ConfigError, DatasetError


def items(count: int) -> list[KernelItem]:
    return [KernelItem("fc" if i % 2 else "relu", {"k": i, "shape": [1, i]}) for i in range(count)]


def test_order_is_random_but_follows_from_the_seed():
    made = [CampaignPlan.make(items(200), seed).items for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert made[0] != tuple(items(200))
    assert set(map(str, made[0])) == set(map(str, items(200)))


def test_any_prefix_keeps_the_mixture_of_the_source():
    source = [KernelItem("a" if i % 4 else "b", {"i": i}) for i in range(10 * BLOCK)]
    plan = CampaignPlan.make(source, 3)
    for blocks in range(1, 10):
        families = Counter(item.family for item in plan.items[: blocks * BLOCK])
        assert families == {"a": blocks * BLOCK * 3 // 4, "b": blocks * BLOCK // 4}


def test_repeated_items_are_planned_once():
    plan = CampaignPlan.make([*items(5), *items(5), ModelItem(Path("m.onnx")), ModelItem(Path("m.onnx"))])
    assert len(plan.items) == 6


def test_a_plan_comes_back_from_its_file(tmp_path):
    plan = CampaignPlan.make(
        [*items(60), ModelItem(Path("a.onnx"), "alias", {"x": (1, 3)})], 5, {"count": 60, "families": None}
    )
    plan.save(tmp_path / "plan.json")
    assert CampaignPlan.load(tmp_path / "plan.json") == plan


def test_names_leave_out_what_is_usual():
    from deepen.kernels.families.catalog import check_params

    item = KernelItem("fc", check_params("fc", {"dtype": "float32", "m": 1, "k": 8, "n": 4, "activation": "relu"}))
    assert item.name == "fc m=1 k=8 n=4 activation=relu"
    assert ModelItem(Path("folder/net.onnx")).name == "net"


def test_what_is_made_on_the_fly_cannot_be_stored(tmp_path):
    plan = CampaignPlan.make([GeneratedModelItem("net", lambda: None)])  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="'net' is made on the fly"):
        plan.save(tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"format": "other"}', "damaged .not a plan"),
        ('{"format": "deepen-plan", "schema": 9}', "schema 9 is newer than 1; upgrade"),
        ('{"format": "deepen-plan", "schema": 1, "spec": {}, "created": "", "items": [{"family": "fc"}]}', "damaged"),
    ],
)
def test_a_bad_plan_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        CampaignPlan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)


def test_no_plan_file_is_one_clear_line(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        CampaignPlan.load(tmp_path / "plan.json")


# Plans of sampled kernels


@pytest.fixture
def sampled(monkeypatch):
    """Replaces the sampler by one that counts its calls."""
    from deepen.kernels.sampling import sampler as module

    calls: list[tuple[object, ...]] = []

    def sample(families, count, seed, exclude, max_macs):
        calls.append((families, count, seed, max_macs))
        return [
            module.SampledKernel("fc", {"k": i + seed}, f"{i}", 1, 1, "test")
            for i in range(count)
            if f"{i}" not in exclude
        ]

    monkeypatch.setattr(module, "sample_kernels", sample)
    return calls


def test_the_same_arguments_continue_the_stored_plan(tmp_path, sampled):
    first = plan_kernels(tmp_path / "plan.json", ["fc"], 20, 1, (), None)
    first.save(tmp_path / "plan.json")
    again = plan_kernels(tmp_path / "plan.json", ["fc"], 20, 1, (), None)
    assert first == again
    assert len(sampled) == 1


@pytest.mark.parametrize(
    "change", [{"families": None}, {"count": 21}, {"seed": 2}, {"exclude": ("3",)}, {"max_macs": 10}]
)
def test_other_arguments_plan_anew(tmp_path, sampled, change):
    usual = {"families": ["fc"], "count": 20, "seed": 1, "exclude": (), "max_macs": None}
    stored = plan_kernels(tmp_path / "plan.json", **usual)
    stored.save(tmp_path / "plan.json")
    plan = plan_kernels(tmp_path / "plan.json", **(usual | change))
    assert len(sampled) == 2
    assert plan.spec != stored.spec == json.loads((tmp_path / "plan.json").read_text())["spec"]


def test_nothing_to_measure_is_an_error(tmp_path, sampled):
    with pytest.raises(ConfigError, match="no kernel to measure"):
        plan_kernels(tmp_path / "plan.json", None, 2, 0, ("0", "1"), None)
