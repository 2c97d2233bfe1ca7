"""Regimes, their words, and what uncertainties make of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError, DatasetError
from deepen.scoring.lifecycle import LifecycleCandidates, LifecycleConditions, analyse_lifecycle
from deepen.scoring.lifecycle.quantity import parse_count, parse_energy, parse_fraction, spell_count, spell_count_range
from deepen.scoring.lifecycle.spread import find_potential_best, sample_lines


def three(u: float = 0.0) -> LifecycleCandidates:
    """Cheap to train, cheap to run, and one in between that is never the best; relative uncertainty u."""
    parts = np.array([[1e6, 0, 0], [6e6, 1e6, 0], [5e6, 1e6, 3e6]])
    inference = np.array([4.0, 3.5, 1.0])
    return LifecycleCandidates(
        ("early", "between", "late"), np.full(3, 0.7), parts, inference, np.zeros(3), u * parts, u * inference
    )


def test_regimes_cover_all_usages_and_say_so() -> None:
    found = analyse_lifecycle(three())
    assert [r.candidate for r in found.regimes] == ["early", "late"]
    assert found.regimes[0].end == found.regimes[1].start == pytest.approx(8e6 / 3)
    assert found.regimes[0].words == "early: cheapest below 2.7 million inferences"
    assert found.regimes[1].words == "late: cheapest above 2.7 million inferences"
    assert found.regimes[1].end == math.inf
    assert found.never_best() == ["between"]
    assert math.isnan(found.regimes[0].confidence)
    assert found.compare("late", "early").words == "late overtakes early at 2.7 million inferences"
    assert found.compare("early", "between").inferences == pytest.approx(6e6 / 0.5)


def test_one_that_is_better_at_every_usage() -> None:
    worse = LifecycleCandidates(
        ("good", "bad"), np.full(2, 0.7), np.array([[1.0, 0, 0], [1.0, 0, 0]]), np.array([1.0, 2.0])
    )
    found = analyse_lifecycle(worse)
    assert found.regimes[0].words == "good: cheapest at every usage"
    assert found.compare("bad", "good").words == "good is at least as good as bad at every usage"
    with pytest.raises(ConfigError, match="compared with itself"):
        found.compare("bad", "bad")
    with pytest.raises(ConfigError, match="unknown candidate 'goo'; did you mean good"):
        found.compare("goo", "bad")


def test_equal_candidates_share_a_regime() -> None:
    same = LifecycleCandidates(("x", "y"), np.full(2, 0.7), np.ones((2, 3)), np.ones(2))
    assert analyse_lifecycle(same).regimes[0].words == "x = y: cheapest at every usage"


def test_accuracy_decides_by_its_weight() -> None:
    two = LifecycleCandidates(
        ("exact", "frugal"), np.array([0.9, 0.6]), np.array([[1e6, 0, 0], [1e6, 0, 0]]), np.array([3.0, 1.5])
    )
    assert analyse_lifecycle(two, LifecycleConditions(tau=0)).regimes[-1].words == "frugal: cheapest at every usage"
    assert [r.candidate for r in analyse_lifecycle(two, LifecycleConditions(tau=1)).regimes] == ["exact", "frugal"]
    assert [r.candidate for r in analyse_lifecycle(two, LifecycleConditions(tau=2)).regimes] == ["exact"]
    assert "best" in analyse_lifecycle(two, LifecycleConditions(tau=2)).regimes[0].words
    assert two.filter_by_accuracy(0.7).names == ("exact",)
    with pytest.raises(ConfigError, match=r"no candidate reaches an accuracy of 0\.95"):
        two.filter_by_accuracy(0.95)


def test_pue_counts_once_and_only_where_it_is_not_included() -> None:
    """The same training told with and without its PUE costs the same building."""
    parts = np.array([[1e6, 0, 0], [1.59e6, 0, 0]])
    given = LifecycleCandidates(
        ("machine", "building"), np.full(2, 0.7), parts, np.full(2, 1.0), pue_included=np.array([1.0, 1.59])
    )
    ranked = analyse_lifecycle(given, LifecycleConditions(training_pue=1.59)).at(10.0)
    assert [r.training_j for r in ranked] == pytest.approx([1.59e6, 1.59e6])
    assert [r.inference_j for r in ranked] == [10.0, 10.0]


def test_carbon_is_told_beside_energy_and_decides_only_when_asked() -> None:
    grids = {"training_g_per_kwh": 36.0, "inference_g_per_kwh": 3600.0}
    by_energy = analyse_lifecycle(three(), LifecycleConditions(**grids))
    assert by_energy.regimes[0].end == pytest.approx(8e6 / 3)
    first = by_energy.at(1e6)[0]
    assert first.carbon_g == pytest.approx((1e6 * 36 + 4e6 * 3600) / 3.6e6)
    by_carbon = analyse_lifecycle(three(), LifecycleConditions(**grids, objective="carbon"))
    assert by_carbon.regimes[0].end == pytest.approx(8e6 / 3 / 100)
    assert math.isnan(analyse_lifecycle(three()).at(1e6)[0].carbon_g)


def test_ranking_at_a_usage_is_sorted_by_greenness() -> None:
    ranked = analyse_lifecycle(three()).at(2e7)
    assert [r.candidate for r in ranked] == ["late", "between", "early"]
    assert [r.greenness for r in ranked] == sorted((r.greenness for r in ranked), reverse=True)
    assert ranked[0].energy_j == ranked[0].training_j + ranked[0].inference_j == 9e6 + 2e7
    assert len(analyse_lifecycle(three()).at(2e7, top=1)) == 1
    with pytest.raises(ConfigError, match="not a number from 0 up"):
        analyse_lifecycle(three()).at(-1.0)


def test_orders_of_a_few() -> None:
    orders = analyse_lifecycle(three()).orders()
    assert orders[0][2] == ("early", "between", "late")
    assert orders[-1][2] == ("late", "between", "early")
    with pytest.raises(ConfigError, match="at most 2"):
        analyse_lifecycle(three()).orders(most=2)


# ---- uncertainty -----------------------------------------------------------------------------------------------------


def test_the_interval_of_a_break_even_is_that_of_propagation_where_that_holds() -> None:
    """Small uncertainties: the spread is that of first-order propagation (JCGM 100:2008, 5.1.2)."""
    u = 0.01
    found = analyse_lifecycle(three(u), draws=40_000)
    spread = found.compare("early", "late").spread
    assert spread is not None
    # x = (T2 - T1) / (e1 - e2); parts are drawn apart: u(T) is the root of the sum of their squares
    t, e = 8e6, 3.0
    u_t = u * math.sqrt(1e6**2 + 5e6**2 + 1e6**2 + 3e6**2)
    u_e = u * math.hypot(4.0, 1.0)
    expected = t / e * math.hypot(u_t / t, u_e / e)
    assert (spread.high - spread.low) / (2 * 1.96) == pytest.approx(expected, rel=0.03)
    assert spread.share == 1.0
    assert found.regimes[1].start_spread == spread


def test_a_doubtful_break_even_is_told_as_a_share() -> None:
    parts = np.array([[1e6, 0, 0], [2e6, 0, 0]])
    close = LifecycleCandidates(
        ("a", "b"), np.full(2, 0.7), parts, np.array([1.0, 0.99]), inference_u_j=np.array([0.02, 0.02])
    )
    found = analyse_lifecycle(close)
    spread = found.compare("a", "b").spread
    assert spread is not None
    assert 0.5 < spread.share < 0.75  # P(e_a > e_b), e_a - e_b = 0.01 +- 0.028: 0.64
    assert spread.always == pytest.approx(1 - spread.share)
    assert "of draws)" in found.compare("a", "b").words
    assert found.regimes[0].confidence > 0.95


def test_draws_have_the_given_mean_and_spread_and_stay_in_range() -> None:
    parts = np.array([[2e6, 0, 0]])
    one = LifecycleCandidates(
        ("x",), np.array([0.9]), parts, np.array([5.0]), np.array([0.05]), np.array([[1e6, 0, 0]]), np.array([2.0])
    )
    drawn = sample_lines(one, LifecycleConditions(tau=0), np.array([0]), 200_000, 0)
    assert drawn.a.mean() == pytest.approx(2e6, rel=0.01)
    assert drawn.a.std() == pytest.approx(1e6, rel=0.03)
    assert drawn.b.mean() == pytest.approx(5.0, rel=0.01)
    assert drawn.b.std() == pytest.approx(2.0, rel=0.03)
    assert drawn.a.min() > 0
    merit = drawn.b / sample_lines(one, LifecycleConditions(tau=1), np.array([0]), 200_000, 0).b
    assert merit.mean() == pytest.approx(0.9, abs=0.002)
    assert merit.std() == pytest.approx(0.05, rel=0.03)
    assert merit.max() <= 1


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    one, same, other = (analyse_lifecycle(three(0.1), seed=s).compare("early", "late").spread for s in (1, 1, 2))
    assert one == same != other


def test_candidates_out_of_reach_are_not_drawn_and_never_win() -> None:
    generator = np.random.default_rng(5)
    n = 400
    parts = np.zeros((n, 3))
    parts[:, 0] = generator.lognormal(15, 1, n)
    inference = generator.lognormal(-3, 1, n)
    accuracy = generator.uniform(0.6, 0.9, n)
    many = LifecycleCandidates(
        tuple(f"c{i}" for i in range(n)), accuracy, parts, inference, np.full(n, 0.01), 0.1 * parts, 0.1 * inference
    )
    which = find_potential_best(many, LifecycleConditions())
    assert set(analyse_lifecycle(many).envelope.lines) <= set(which.tolist())
    assert which.size < n / 2
    every = sample_lines(many, LifecycleConditions(), np.arange(n), 2000, 0)
    winners: set[int] = set()
    for x in np.geomspace(1e4, 1e12, 40):
        winners |= set(every.best(float(x)))
    assert winners <= set(which.tolist())


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1.0}, "tau -1"),
        ({"tau": math.inf}, "tau inf"),
        ({"training_pue": 0.9}, "PUE of 0.9 is impossible"),
        ({"inference_pue": math.nan}, "PUE of nan"),
        ({"training_g_per_kwh": -5.0}, "carbon intensity of -5"),
        ({"objective": "carbon"}, "needs carbon intensities"),
        ({"objective": "money"}, "neither energy nor carbon"),
    ],
)
def test_impossible_conditions_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LifecycleConditions(**settings)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [0.0, 0.5]}, "candidate 'a': accuracy 0"),
        ({"accuracy": [0.5, 74.0]}, "candidate 'b': accuracy 74"),
        ({"inference_j": [1.0, -1.0]}, "candidate 'b': inference_j -1"),
        ({"inference_j": [math.nan, 1.0]}, "candidate 'a': inference_j nan"),
        ({"parts_j": [[1, 1, 1], [1, math.inf, 1]]}, "candidate 'b': parts_j"),
        ({"accuracy_u": [0.5, 0.0]}, "uncertainty of the accuracy"),
        ({"pue_included": [0.5, 1.0]}, "PUE 0.5"),
        ({"parts_j": [[0, 0, 0], [1, 1, 1]], "inference_j": [0.0, 1.0]}, "above zero in at least one"),
    ],
)
def test_impossible_candidates_are_refused(change: dict[str, list[float]], message: str) -> None:
    given = {"accuracy": [0.5, 0.5], "parts_j": [[1, 1, 1], [1, 1, 1]], "inference_j": [1.0, 1.0], **change}
    with pytest.raises(DatasetError) as caught:
        LifecycleCandidates(("a", "b"), **{k: np.array(v, dtype=float) for k, v in given.items()})
    assert message in str(caught.value)


def test_names_must_differ() -> None:
    with pytest.raises(DatasetError, match="'a' appears twice"):
        LifecycleCandidates(("a", "a"), np.full(2, 0.5), np.ones((2, 3)), np.ones(2))
    with pytest.raises(DatasetError, match="no candidates"):
        LifecycleCandidates((), np.empty(0), np.empty((0, 3)), np.empty(0))


def test_kinds_of_energy_that_differ_are_told() -> None:
    mixed = LifecycleCandidates(
        ("a", "b"), np.full(2, 0.5), np.ones((2, 3)), np.ones(2), sources=("measured", "modelled")
    )
    found = analyse_lifecycle(mixed)
    assert found.candidates.label == ("modelled", "")
    assert "energies of different kinds are compared: measured, modelled" in found.warnings
    free = LifecycleCandidates(("a", "b"), np.full(2, 0.5), np.zeros((2, 3)), np.ones(2))
    assert any("usage does not matter" in w for w in analyse_lifecycle(free).warnings)


# ---- quantities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "joules"),
    [
        ("12.5 kWh", 45e6),
        ("3.2mJ", 3.2e-3),
        ("3 MJ", 3e6),
        ("1e3 J", 1e3),
        ("7 µJ", 7e-6),
        ("0", 0.0),
        ("2 Wh", 7200.0),
    ],
)
def test_energies_are_read(text: str, joules: float) -> None:
    assert parse_energy(text) == pytest.approx(joules)


@pytest.mark.parametrize("text", ["12", "-1 J", "x", "3 W", "1e400 J", "1 2 J", "", "5 %"])
def test_what_is_no_energy_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_energy(text)


def test_counts_and_shares() -> None:
    assert [parse_count(t) for t in ("250000", "2.5e5", "3.1 million", "40k", "2M")] == [2.5e5, 2.5e5, 3.1e6, 4e4, 2e6]
    for text in ("-1", "many", "3 m", "inf", "nan"):
        with pytest.raises(ConfigError, match="is no number of inferences"):
            parse_count(text)
    assert parse_fraction("74.1 %", "x") == pytest.approx(0.741)
    for text in ("74", "-1 %", "1 kg"):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            parse_fraction(text, "accuracy")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (640.0, "640"),
        (2400.0, "2,400"),
        (12_000.0, "12 thousand"),
        (3.14e6, "3.1 million"),
        (2e9, "2 billion"),
        (999_960.0, "1 million"),
        (0.004, "0.004"),
        (math.inf, "infinitely many"),
        (3e17, "3.00e+17"),
    ],
)
def test_counts_are_said(value: float, text: str) -> None:
    assert spell_count(value) == text


def test_near_counts_are_told_apart() -> None:
    assert spell_count_range(1.1e9, 2.2e9) == ("1.1 billion", "2.2 billion")
    assert spell_count_range(1.101e9, 1.109e9) == ("1.10 billion", "1.11 billion")
    assert spell_count_range(123.4561e6, 123.4569e6) == ("123.456 million", "123.457 million")
    assert spell_count_range(5e6, 5e6)[0] == spell_count_range(5e6, 5e6)[1]


# ---- plot ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("u", "suffix"), [(0.0, "svg"), (0.1, "svg"), (0.1, "png")])
def test_plots_are_drawn(u: float, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra 'report'")
    from deepen.scoring.lifecycle.plot import plot_lifecycle

    file = plot_lifecycle(analyse_lifecycle(three(u)), tmp_path / f"life.{suffix}")
    data = file.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
    else:
        text = data.decode()
        assert all(word in text for word in ("early", "late", "2.7 million", "inferences in a life cycle"))
        assert ("best in % of draws" in text) == (u > 0)
        assert plot_lifecycle(analyse_lifecycle(three(u)), tmp_path / "again.svg").read_bytes() == data


def test_plots_that_cannot_be_are_refused(tmp_path: Path) -> None:
    from deepen.scoring.lifecycle.plot import plot_lifecycle

    with pytest.raises(ConfigError, match="a plot ends in"):
        plot_lifecycle(analyse_lifecycle(three()), tmp_path / "life.gif")
