"""Checks that a dataset behaves like energy: findings, worst first, each naming the records it concerns.

Nothing is repaired or left out here. ``error`` means the values cannot be what they claim to be, ``warning`` that a
reader should look, ``info`` that something is so.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepen.datasets.statistics import compute_log_log_residuals, correlate_with_neighbours
from deepen.datasets.train_test_split import make_configuration_key
from deepen.records import EnergyRecord
from deepen.robust_statistics import compute_spearman, compute_spearman_interval, estimate_mad_scale
from deepen.units import format_si

__all__ = ["CHECKS", "QualityFinding", "Severity", "check_dataset"]

Severity = Literal["error", "warning", "info"]

MIN_GROUP = 8
"""Records of a family below which its statistics say nothing."""

MIN_NEIGHBOURS = 30
"""Records of a family below which the nearest in work are too far away to compare with."""

MIN_SPAN = 4.0
"""Largest work over smallest below which energy need not follow it."""

NOISE_RHO, WEAK_RHO = 0.6, 0.85
"""Upper confidence bounds of the rank correlation: below the first it is an error, below the second a warning.

Every family of the DeepEn2023 phone CPU and GPU kernels has a correlation of at least 0.89; two published sets of
500 convolutions known to be noise have 0.34 and 0.37.
"""

SLIP = 1000.0
"""Factor of the usual unit slips (ms for s, mJ for J)."""

MAX_CV = 0.25
"""Standard deviation over mean of the blocks of one record above which it does not repeat."""

MAX_MEDIAN_CV = 0.10
POWER_BOUNDS_W = (1e-4, 2000.0)
"""Range of net power (W) of any phone, board or single server while it computes."""

POWER_RATIO = 30.0
"""Times the median power (or one over it) beyond which a record's energy and latency contradict each other."""


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """Result of a check: its severity, and the records it concerns.

    Attributes:
        severity: How bad.
        check: Which check found it; one of :data:`CHECKS`.
        family: Kernel family it is about; ``models`` for models, empty for the whole set.
        ids: Records it is about; empty where it is about all of them.
        message: One line.
    """

    severity: Severity
    check: str
    family: str
    ids: tuple[str, ...]
    message: str


def check_dataset(records: Iterable[EnergyRecord]) -> list[QualityFinding]:
    """Check records against each other and against physics.

    Args:
        records: A :class:`~deepen.datasets.Dataset` or any records.

    Returns:
        Findings, errors first; none for an empty set.
    """
    everything = list(records)
    groups: dict[str, list[EnergyRecord]] = defaultdict(list)
    for record in everything:
        groups[record.family if record.kind == "kernel" else "models"].append(record)
    findings: list[QualityFinding] = []
    for name, (_, per_set) in CHECKS.items():
        for family, members in [("", everything)] if per_set else sorted(groups.items()):
            findings += (QualityFinding(s, name, family, ids, text) for s, ids, text in CHECKS[name][0](members))
    order = get_args(Severity)
    return sorted(findings, key=lambda f: order.index(f.severity))


_Raw = Iterator[tuple[Severity, tuple[str, ...], str]]


def _sum_work(record: EnergyRecord) -> tuple[float, float, float]:
    """Multiply-accumulates, other operations and bytes moved of a record."""
    parts = [(1.0, record.features)] if record.kind == "kernel" else [
        (float(kernel.get("multiplicity", 1.0)), kernel.get("features", {})) for kernel in record.kernels
    ]  # fmt: skip
    total = [0.0, 0.0, 0.0]
    for times, features in parts:
        for place, names in enumerate((("macs",), ("ops",), ("bytes_read", "bytes_written"))):
            total[place] += times * sum(float(features.get(name, 0.0)) for name in names)
    return total[0], total[1], total[2]


def _make_arrays(records: Sequence[EnergyRecord]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energies (n,) and work (n, 3)."""
    return np.array([r.energy_j for r in records]), np.array([_sum_work(r) for r in records]).reshape(-1, 3)


def _list_ids(records: Iterable[EnergyRecord]) -> tuple[str, ...]:
    return tuple(r.id for r in records)


def _check_rank_correlation(records: Sequence[EnergyRecord]) -> _Raw:
    records = [r for r in records if not math.isnan(r.energy_j)]
    if len(records) < MIN_GROUP:
        return
    energy, work = _make_arrays(records)
    usable = [column for column in work.T if column.max() > MIN_SPAN * max(1.0, column.min())]
    if not usable:
        return
    rhos = [compute_spearman(energy, column) for column in usable]
    rho = max((value for value in rhos if not math.isnan(value)), default=0.0)
    low, high = compute_spearman_interval(rho, len(records))
    if high < WEAK_RHO:
        noise = high < NOISE_RHO
        yield (
            "error" if noise else "warning",
            (),
            f"rank correlation of energy with work is {rho:.2f} (90 % interval {low:.2f} to {high:.2f}, "
            f"{len(records)} records): " + ("this does not behave like energy" if noise else "weaker than usual"),
        )


def _check_neighbours(records: Sequence[EnergyRecord]) -> _Raw:
    """Check that energy varies smoothly with work: kernels of nearly the same work must cost nearly the same."""
    sound = [r for r in records if r.energy_j > 0]
    if len(sound) < MIN_NEIGHBOURS:
        return
    energy, work = _make_arrays(sound)
    if not any(column.max() > MIN_SPAN * max(1.0, column.min()) for column in work.T):
        return
    if energy.max() < MIN_SPAN * energy.min():
        return
    rho = correlate_with_neighbours(np.log(energy), np.log1p(work))
    low, high = compute_spearman_interval(rho, len(sound))
    if high < WEAK_RHO:
        noise = high < NOISE_RHO
        yield (
            "error" if noise else "warning",
            (),
            f"rank correlation of energy with that of the records nearest in work is {rho:.2f} (90 % interval "
            f"{low:.2f} to {high:.2f}, {len(sound)} records): "
            + ("kernels alike cost nothing alike" if noise else "kernels alike differ more than usual"),
        )


def _check_unit_slips(records: Sequence[EnergyRecord]) -> _Raw:
    """Records far from a power law in the family's work."""
    sound = [r for r in records if r.energy_j > 0 and r.latency_s > 0 and any(_sum_work(r))]
    if len(sound) < MIN_GROUP:
        return
    for what in ("energy", "latency"):
        values = np.array([r.energy_j if what == "energy" else r.latency_s for r in sound])
        residuals = compute_log_log_residuals(values, _make_arrays(sound)[1])
        scale = estimate_mad_scale(residuals)
        far = np.abs(residuals) > max(6 * scale, math.log(10))
        slip = far & (np.abs(np.abs(residuals) - math.log(SLIP)) < max(3 * scale, math.log(3)))
        for record, factor in zip(np.array(sound, dtype=object)[slip], np.exp(residuals[slip]), strict=True):
            yield (
                "error",
                (record.id,),
                f"{what} of '{record.name}' is {factor:.3g} times what its family's work gives: a unit slip?",
            )
        rest = [r for r, is_far, is_slip in zip(sound, far, slip, strict=True) if is_far and not is_slip]
        if rest:
            yield (
                "warning",
                _list_ids(rest),
                f"{what} of {len(rest)} of {len(sound)} records is far from its family's trend",
            )


def _check_power(records: Sequence[EnergyRecord]) -> _Raw:
    sound = [r for r in records if r.energy_j > 0 and r.latency_s > 0]
    power = np.array([r.energy_j / r.latency_s for r in sound])
    middle = float(np.median(power)) if sound else math.nan
    for record, value in zip(sound, power, strict=True):
        if not POWER_BOUNDS_W[0] <= value <= POWER_BOUNDS_W[1]:
            yield (
                "error",
                (record.id,),
                f"net power of '{record.name}' is {format_si(value, 'W')}: energy or latency is wrong",
            )
        elif len(sound) >= MIN_GROUP and not middle / POWER_RATIO <= value <= middle * POWER_RATIO:
            factor = value / middle
            slip = min(abs(math.log(factor * SLIP)), abs(math.log(factor / SLIP))) < math.log(5)
            yield (
                "error" if slip else "warning",
                (record.id,),
                f"net power of '{record.name}' is {format_si(value, 'W')}, {factor:.3g} times the median "
                f"{format_si(middle, 'W')}: " + ("a unit slip?" if slip else "energy and latency do not fit"),
            )


def _check_impossible_values(records: Sequence[EnergyRecord]) -> _Raw:
    zero = [r for r in records if r.energy_j <= 0]
    if zero:
        yield "error", _list_ids(zero), f"{len(zero)} of {len(records)} records have an energy of zero or less"
    still = [r for r in records if r.latency_s <= 0]
    if still:
        yield "error", _list_ids(still), f"{len(still)} of {len(records)} records have a latency of zero or less"
    above = [r for r in records if r.energy_j > r.gross_energy_j * (1 + 1e-9) and r.gross_energy_j > 0]
    if above:
        yield "error", _list_ids(above), f"{len(above)} of {len(records)} records have more net than gross energy"


def _check_quantisation(records: Sequence[EnergyRecord]) -> _Raw:
    """Energies on a coarse grid: a step is the largest power of ten of which all energies are multiples."""
    positive = [r for r in records if r.energy_j > 0]
    energy = np.array([r.energy_j for r in positive])
    if energy.size < MIN_GROUP:
        return
    for exponent in range(math.floor(math.log10(energy.min())), -20, -1):
        step = 10.0**exponent
        steps = energy / step
        if np.median(steps) > 1e5:  # any number with a few digits is a multiple of so small a step
            return
        if np.all(np.abs(steps - np.round(steps)) < 1e-9 * np.maximum(1.0, steps)):
            coarse = [r for r, n in zip(positive, steps, strict=True) if n < 19.5]
            if coarse:
                yield (
                    "warning",
                    _list_ids(coarse),
                    f"energies are multiples of {format_si(step, 'J')}; {len(coarse)} of {len(positive)} records have "
                    "fewer than 20 steps, so their relative error is above 2.5 %",
                )
            return


def _check_duplicates(records: Sequence[EnergyRecord]) -> _Raw:
    groups: dict[tuple[object, ...], list[EnergyRecord]] = defaultdict(list)
    for r in records:
        groups[make_configuration_key(r), r.threads, r.runtime_build, r.device, r.meter, r.source].append(r)
    repeats = [members for members in groups.values() if len(members) > 1]
    copies = [m for m in repeats if len({(r.energy_j, r.latency_s) for r in m}) < len(m)]
    if copies:
        yield (
            "warning",
            _list_ids(r for m in copies for r in m),
            f"{len(copies)} configurations hold copies of one measurement",
        )
    honest = [m for m in repeats if m not in copies]
    apart = [m for m in honest if max(r.energy_j for r in m) > 1.25 * max(min(r.energy_j for r in m), 1e-300)]
    if apart:
        yield (
            "warning",
            _list_ids(r for m in apart for r in m),
            f"{len(apart)} configurations differ by more than 25 % between repeats",
        )
    if len(honest) > len(apart):
        yield (
            "info",
            (),
            f"{len(honest) - len(apart)} configurations were measured more than once and agree within 25 %",
        )


def _check_repeatability(records: Sequence[EnergyRecord]) -> _Raw:
    cvs: list[tuple[EnergyRecord, float]] = []
    for record in records:
        trials = np.array([t for t in record.trials if math.isfinite(t)])
        if trials.size >= 3 and trials.mean() > 0:
            cvs.append((record, float(trials.std(ddof=1) / trials.mean())))
    if not cvs:
        if not records:
            return
        yield "info", (), f"repeatability of {len(records)} records is unknown: fewer than 3 blocks each"
        return
    middle = float(np.median([cv for _, cv in cvs]))
    if middle > MAX_MEDIAN_CV:
        yield "warning", (), f"blocks of one record vary by {middle:.0%} (median); the machine was not quiet"
    wild = [record for record, cv in cvs if cv > MAX_CV]
    if wild:
        yield (
            "warning",
            _list_ids(wild),
            f"{len(wild)} of {len(cvs)} records vary by more than {MAX_CV:.0%} between blocks",
        )
    thin = [r for r in records if len(r.rejected) > len(r.trials)]
    if thin:
        yield "warning", _list_ids(thin), f"{len(thin)} of {len(records)} records rejected more blocks than they kept"


def _check_mixed_conditions(records: Sequence[EnergyRecord]) -> _Raw:
    fields: tuple[tuple[str, Callable[[EnergyRecord], object]], ...] = (
        ("labels", lambda r: r.source),
        ("devices", lambda r: r.device),
        ("power sources", lambda r: r.meter),
        ("runtime builds", lambda r: r.runtime_build),
        ("thread counts", lambda r: r.threads),
        ("feature versions", lambda r: r.features_version or None),
    )
    for what, read in fields:
        counts = Counter(value for r in records if (value := read(r)) is not None)
        if len(counts) > 1:
            shares = ", ".join(f"{value} ({count})" for value, count in counts.most_common())
            yield "warning", (), f"several {what} in one set: {shares}"


CHECKS: dict[str, tuple[Callable[[Sequence[EnergyRecord]], _Raw], bool]] = {
    "impossible": (_check_impossible_values, False),
    "rank-correlation": (_check_rank_correlation, False),
    "neighbours": (_check_neighbours, False),
    "unit-slip": (_check_unit_slips, False),
    "power": (_check_power, True),
    "quantised": (_check_quantisation, False),
    "duplicates": (_check_duplicates, True),
    "repeatability": (_check_repeatability, True),
    "mixed": (_check_mixed_conditions, True),
}
"""Name -> (check, whether it looks at the whole set rather than family by family)."""
