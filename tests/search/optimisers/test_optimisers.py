"""Optimisers: the same protocol, the same answers for the same seed, and better than chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError, DatasetError
from deepen.search import BenchmarkTable, Objective, compute_exact_front, read_objectives, search_table
from deepen.search.compare import compare_optimisers
from deepen.search.optimisers import OPTIMISERS, EvaluationResult, SearchDomain, make_optimiser
from deepen.search.optimisers.msehvi import compute_expected_improvement
from deepen.search.optimisers.semoa import Semoa, compute_rank_probabilities
from deepen.search.pareto import compute_hypervolume
from deepen.search.run import ExactFront
from deepen.spaces import open_space

NEEDS = {"nsga2": "pymoo", "tpe": "optuna"}
QUICK = {"ms-ehvi": 40, "tpe": 60}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def goals(made: BenchmarkTable) -> tuple[Objective, ...]:
    return read_objectives(made, ["energy_j", "accuracy"])


@pytest.fixture(scope="module")
def truth(made: BenchmarkTable, goals: tuple[Objective, ...]) -> ExactFront:
    return compute_exact_front(made, goals)


def needed(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_same_seed_gives_the_same_search_and_no_network_twice(
    name: str, made: BenchmarkTable, goals: tuple[Objective, ...], truth: ExactFront
) -> None:
    needed(name)
    runs = [search_table(made, goals, name, QUICK.get(name, 80), seed=s, truth=truth) for s in (1, 1, 2)]
    assert runs[0].archs == runs[1].archs
    assert runs[0].archs != runs[2].archs
    assert len(runs[0].archs) == runs[0].spent.queries == QUICK.get(name, 80)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_search_goes_on_where_it_was_ended(
    name: str, made: BenchmarkTable, goals: tuple[Objective, ...], truth: ExactFront, tmp_path: Path
) -> None:
    needed(name)
    log, queries = tmp_path / "log.jsonl", QUICK.get(name, 80)
    whole = search_table(made, goals, name, queries, seed=5, truth=truth)
    search_table(made, goals, name, queries // 2 + 3, seed=5, truth=truth, log=log)
    log.write_bytes(log.read_bytes()[:-9])  # ended within a line
    went_on = search_table(made, goals, name, queries, seed=5, truth=truth, log=log, resume=True)
    assert went_on.archs == whole.archs
    assert went_on.resumed == queries // 2 + 2
    assert len(log.read_text().splitlines()) == queries + 1


@pytest.mark.parametrize("name", ["random", "semoa", "sh-emoa", "nsga2"])
def test_a_whole_table_is_found_and_then_the_search_ends(name: str, made: BenchmarkTable) -> None:
    needed(name)
    small = made.take(np.arange(40))
    goals = read_objectives(small, ["energy_j", "accuracy"])
    result = search_table(small, goals, name, 500, seed=0)
    assert len(result.archs) == 40
    assert result.quality.recall == 1.0
    assert result.quality.regret == pytest.approx(0.0, abs=1e-12)


def test_semoa_beats_random_search(made: BenchmarkTable, goals: tuple[Objective, ...]) -> None:
    series, (versus,) = compare_optimisers(made, goals, ["semoa", "random"], 100, 24)
    assert series[0].hypervolume > series[1].hypervolume
    assert versus.better >= 16
    assert versus.p_value < 0.01


@pytest.mark.slow
def test_semoa_beats_random_search_on_the_pi5(pi5: BenchmarkTable) -> None:
    series, (versus,) = compare_optimisers(
        pi5, read_objectives(pi5, ["energy_j", "accuracy"]), ["semoa", "random"], 500, 30
    )
    assert series[0].hypervolume > series[1].hypervolume
    assert series[0].recall > series[1].recall
    assert versus.seeds == 30
    assert versus.p_value < 1e-4


def test_budgets_are_spent_from_small_to_large(ecnas: BenchmarkTable) -> None:
    """With successive halving, most networks are trained for few epochs only."""
    keep = ecnas.filter(checkpoint=[1.0, 4.0])
    keep.keys["budget"] = keep.keys.pop("checkpoint")
    table = BenchmarkTable(keep.manifest, keep.keys, keep.data)
    goals = read_objectives(table, ["energy_j", "validation_accuracy"])
    result = search_table(table, goals, "sh-emoa", 60, seed=0)
    assert 0 < len(result.archs) < result.spent.distinct
    assert result.spent.epochs < 4 * result.spent.queries


def test_linear_ranks() -> None:
    ranks = compute_rank_probabilities(5, 2.0)
    assert ranks.sum() == pytest.approx(1.0)
    assert ranks == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert compute_rank_probabilities(4, 1.0) == pytest.approx([0.25] * 4)
    assert compute_rank_probabilities(1).tolist() == [1.0]


def test_semoa_always_takes_the_extremes_as_parents() -> None:
    space = open_space("nasbench201")
    engine = Semoa(SearchDomain(space), seed=0)
    members = space.members()
    assert members is not None
    line = [EvaluationResult(members[i], (float(i), float(20 - i))) for i in range(21)]
    engine.ask()
    engine.tell([*line, EvaluationResult(members[100], (30.0, 30.0))])
    for _ in range(20):
        parents = engine._parents()
        assert parents[:2] == [members[0], members[20]]
        assert members[100] not in parents
        assert len(parents) == 10


def test_semoa_ranks_by_contribution() -> None:
    space = open_space("nasbench201")
    engine = Semoa(SearchDomain(space), seed=0)
    members = space.members()
    assert members is not None
    # Between the extremes, one point far from all others and a cluster that shares what it adds.
    points = [(0.0, 10.0), (10.0, 0.0), (2.0, 2.0), *((8.0 + 0.01 * k, 1.0 - 0.01 * k) for k in range(17))]
    engine.tell([EvaluationResult(members[i], p) for i, p in enumerate(points)])
    drawn = [p for _ in range(200) for p in engine._parents()[2:]]
    shares = {m: drawn.count(m) / len(drawn) for m in members[:20]}
    assert max(shares.values()) == pytest.approx(2 / 20, abs=0.02)
    assert shares[members[2]] > 3 * float(np.median([shares[m] for m in members[3:20]])) / 2


@pytest.mark.parametrize("m", [1, 2, 3])
def test_expected_improvement_is_that_of_many_draws(m: int) -> None:
    if m > 2:
        pytest.importorskip("moocore")
    rng = np.random.default_rng(m)
    points, reference = 0.4 + 0.5 * rng.random((4, m)), np.ones(m)
    mean, deviation = rng.random((3, m)), 0.2 * rng.random((3, m))
    deviation[0, 0] = 0.0  # an objective that is known
    found = compute_expected_improvement(points, reference, mean, deviation)
    base = compute_hypervolume(points, reference)
    for k in range(3):
        draws = mean[k] + deviation[k] * rng.standard_normal((4000, m))
        gains = [compute_hypervolume(np.vstack([points, d]), reference) - base for d in draws]
        assert found[k] == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / 4000**0.5 + 1e-6)
    assert found.max() > 1e-3


def test_known_objectives_are_taken_as_they_are(made: BenchmarkTable, goals: tuple[Objective, ...]) -> None:
    result = search_table(made, goals, "ms-ehvi", 40, seed=0, known=["energy_j"])
    assert len(result.archs) == 40
    with pytest.raises(ConfigError, match="no use of known"):
        search_table(made, goals, "semoa", 40, known=["energy_j"])
    with pytest.raises(ConfigError, match="no objective"):
        search_table(made, goals, "ms-ehvi", 40, known=["latency_s"])


@pytest.mark.parametrize("name", ["random", "semoa", "sh-emoa"])
def test_a_space_is_searched_without_a_table(name: str) -> None:
    space = open_space("nasbench101?vertices=5")
    engine = make_optimiser(name, SearchDomain(space), seed=1, population=4)
    for _ in range(6):
        asked = engine.ask()
        assert asked
        engine.tell([EvaluationResult(a.arch, (float(len(a.arch)), float(a.arch.count("max")))) for a in asked])


def test_networks_without_a_space_are_searched_too(made: BenchmarkTable) -> None:
    import dataclasses

    bare = BenchmarkTable(dataclasses.replace(made.manifest, space=""), made.keys, made.data)
    result = search_table(bare, read_objectives(bare, ["energy_j", "accuracy"]), "semoa", 50)
    assert len(result.archs) == 50


def test_three_objectives(made: BenchmarkTable) -> None:
    pytest.importorskip("moocore")
    goals = read_objectives(made, ["energy_j", "accuracy", "carbon_g"], 300.0)
    result = search_table(made, goals, "semoa", 60)
    assert result.points.shape == (60, 3)
    assert result.points[:, 2] == pytest.approx(result.points[:, 0] * 300 / 3.6e6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["energy"], "energy_j"),
        (["carbon_g"], "--grid"),
        (["energy_j", "energy_j:max"], "twice"),
        (["energy_j:down"], "min"),
        ([], "at least one"),
    ],
)
def test_bad_objectives_are_refused(names: list[str], message: str, made: BenchmarkTable) -> None:
    with pytest.raises(ConfigError, match=message):
        read_objectives(made, names)


def test_bad_searches_are_refused(made: BenchmarkTable, goals: tuple[Objective, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="semoa"):
        search_table(made, goals, "semao")
    with pytest.raises(ConfigError, match="at least once"):
        search_table(made, goals, queries=0)
    with pytest.raises(ConfigError, match="at least 1"):
        search_table(made, goals, population=0)
    log = tmp_path / "log.jsonl"
    search_table(made, goals, queries=20, log=log)
    with pytest.raises(ConfigError, match="--resume"):
        search_table(made, goals, queries=20, log=log)
    with pytest.raises(DatasetError, match="its seed differs"):
        search_table(made, goals, queries=20, seed=1, log=log, resume=True)
    lines = log.read_text().splitlines()
    changed = json.loads(lines[5]) | {"arch": "another"}
    log.write_text("\n".join([*lines[:5], json.dumps(changed), *lines[6:]]) + "\n")
    with pytest.raises(DatasetError, match="evaluation 4"):
        search_table(made, goals, queries=20, log=log, resume=True)
    log.write_text("no json\n")
    with pytest.raises(DatasetError, match="not the log"):
        search_table(made, goals, queries=20, log=log, resume=True)
