"""Surrogates: models that predict a figure of all networks of a space from some measured ones.

1. Collect the figures of the measured networks.
2. Describe every network by its genome (one-hot) and its kernel counts.
3. Hold out a part; choose a model on the rest, the training part, by five-fold cross-validation.
4. Report rank correlations and errors of the model on the held-out part.
5. Fit the chosen model to all measured networks and predict.
6. Give each prediction an interval: the 90 % quantile of the out-of-fold residuals, so split-conformal (Vovk, Gammerman
   and Shafer, Algorithmic Learning in a Random World, 2005; Barber et al., "Predictive inference with the jackknife+",
   2021).

Models:

``additive``  the figure is a sum over kernels: non-negative least squares on kernel counts, relative errors weighted
              (1/y), with a small ridge; for energies and times; the only one that extrapolates in size
``gp``        Gaussian process on one-hot genomes; for figures that are not sums, such as accuracies
``trees``     gradient boosting on genomes and kernel counts, for a hundred networks or more
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError
from deepen.extras import require_packages
from deepen.robust_statistics import compute_spearman
from deepen.search.table.build import assemble_table, format_utc_now
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import TableColumn, TableManifest
from deepen.spaces import SearchSpace

__all__ = ["SurrogateReport", "build_surrogate"]

Floats = NDArray[np.float64]

FOLDS = 5
LEAST = 15
"""Fewest measured networks: with fewer, five folds and a held-out part are meaningless."""

NOMINAL = 0.9
_GP_ROWS = 1500
_TREE_ROWS = 100
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class SurrogateReport:
    """Accuracy of a surrogate on networks held out from its training.

    Attributes:
        target: Name of the predicted column.
        model: The model chosen.
        measured: Networks measured.
        held_out: Of them, held out.
        kendall: Kendall's tau-b on the held-out part.
        spearman: Spearman's rank correlation there.
        mape: Mean absolute relative error there, a share; NaN for figures that may be zero.
        r2: Coefficient of determination there.
        inside: Share of the held-out figures inside their interval; nominal is 0.9.
        tried: Cross-validated error of each model on the training part, relative for energies and times.
    """

    target: str
    model: str
    measured: int
    held_out: int
    kendall: float
    spearman: float
    mape: float
    r2: float
    inside: float
    tried: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"tried": dict(self.tried)}


FitFunction = Callable[[Floats, Floats, Floats], Callable[[Floats, Floats], Floats]]
"""Genomes one-hot, kernel counts, figures -> a function from the first two to figures."""


def _fit_additive(codes: Floats, counts: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
    from scipy.optimize import nnls

    weight = 1.0 / np.maximum(np.abs(y), 1e-12 * float(np.abs(y).max(initial=1e-300)))
    scale = np.maximum(counts.max(axis=0), 1.0)
    design = np.column_stack([counts / scale, np.ones(len(y))])
    size = float(np.median(np.abs(y))) or 1.0
    # Rows for the ridge pull each coefficient towards zero a little, so that equal columns share what they explain.
    ridge = _RIDGE * np.eye(design.shape[1])
    left = np.vstack([design * weight[:, None] * size, ridge * math.sqrt(len(y))])
    found, _ = nnls(left, np.concatenate([y * weight, np.zeros(design.shape[1])]), maxiter=50 * design.shape[1])
    coefficients = found * size
    return lambda c, k: np.asarray(np.column_stack([k / scale, np.ones(len(k))]) @ coefficients)


def _fit_gaussian_process(codes: Floats, counts: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    # Hyperparameters are fitted on some of the rows: the time that takes grows with the cube of the rows.
    part = np.random.default_rng(0).permutation(len(y))[:150]
    kernel = ConstantKernel(1.0) * RBF(3.0, (0.3, 100.0)) + WhiteKernel(1e-2, (1e-6, 1.0))
    with warnings.catch_warnings():  # a hyperparameter at its bound does no harm
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(codes[part], y[part])
    model = GaussianProcessRegressor(first.kernel_, optimizer=None, normalize_y=True).fit(codes, y)
    return lambda c, k: np.asarray(model.predict(c))


def _fit_boosted_trees(codes: Floats, counts: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
    import lightgbm as lgb

    model = lgb.train(
        {"objective": "regression", "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 5, "verbose": -1,
         "seed": 0, "deterministic": True, "num_threads": 1},
        lgb.Dataset(np.hstack([codes, counts]), y),
        num_boost_round=300,
    )  # fmt: skip
    return lambda c, k: np.asarray(model.predict(np.hstack([c, k])))


def build_surrogate(
    space: SearchSpace,
    measured: BenchmarkTable,
    target: str = "energy_j",
    archs: Sequence[str] | None = None,
    *,
    held_out: float = 0.2,
    seed: int = 0,
    runtime: str = "onnxruntime",
) -> tuple[BenchmarkTable, SurrogateReport]:
    """Predict a figure of all networks of a space from the measured ones, in the steps of the module's docstring.

    Args:
        space: The space.
        measured: Table with the figure for some of its networks.
        target: Column of the figure.
        archs: Networks to predict; default: all of the space.
        held_out: Share of the measured networks that is held out for the report.
        seed: Seed of the division into parts and folds.
        runtime: Runtime whose kernels are counted.

    Returns:
        Table with the predicted figure, its interval, and ``measured_...`` (NaN where not measured), and the report.

    Raises:
        ConfigError: If the space cannot be listed, the share is not between 0 and 1 or there is no such column.
        DatasetError: If too few networks were measured, or their figures are all equal.
    """
    from deepen.kernels.splitting.runtime_names import resolve_splitter

    require_packages("a surrogate", "lightgbm", "scipy", "sklearn")
    if not 0.0 < held_out < 1.0:
        raise ConfigError(f"the held-out part is a share between 0 and 1, not {held_out:g}")
    chosen = space.members() if archs is None else [space.canonical(a) for a in archs]
    if chosen is None:
        raise ConfigError(f"the space {space.name} is too large to list; name the architectures (--archs FILE)")
    # 1
    column = measured.column(target)
    figures = measured.per_network(target)
    good = np.flatnonzero(np.isfinite(figures))
    names = [space.canonical(a) for a in measured.archs_of(measured.hashes)]
    samples, y = [names[i] for i in good.tolist()], figures[good]
    if len(y) < LEAST:
        raise DatasetError(f"{len(y)} networks with {target} are too few for a surrogate; measure at least {LEAST}")
    if float(np.ptp(y)) == 0:
        raise DatasetError(f"{target} is the same for all {len(y)} networks; there is nothing to learn")
    # 2
    every = list(dict.fromkeys([*chosen, *samples]))
    place = {arch: i for i, arch in enumerate(every)}
    _, raw = space.kernel_counts(every, resolve_splitter(runtime))
    genomes = np.array([space.encode(a) for a in every])
    codes = np.hstack([(genomes[:, k, None] == np.arange(n)) for k, n in enumerate(space.levels)]).astype(np.float64)
    counts = np.asarray(raw, dtype=np.float64)
    rows = np.array([place[a] for a in samples])
    # 3
    relative = column.unit in ("J", "s", "g", "W") and bool((y > 0).all())
    order = np.random.default_rng(seed).permutation(len(y))
    cut = max(round(held_out * len(y)), 3)
    test, train = order[:cut], order[cut:]
    name, fit, tried = _choose_model(codes[rows[train]], counts[rows[train]], y[train], relative, seed)
    # 4
    report = _make_report(target, name, fit, codes[rows], counts[rows], y, train, test, relative, seed, tried)
    # 5
    model = fit(codes[rows], counts[rows], y)
    wanted = [place[a] for a in chosen]
    values = model(codes[wanted], counts[wanted])
    if relative:
        values = np.maximum(values, float(y.min()) * 1e-3)
    # 6
    half = _compute_half_width(fit, codes[rows], counts[rows], y, relative, seed)
    low, high = (values * np.exp(-half), values * np.exp(half)) if relative else (values - half, values + half)
    have = dict(zip(samples, y.tolist(), strict=True))
    known = column.label if column.source else measured.manifest.label
    told: dict[str, Any] = {"source": "predicted", "learnt_from": known.learnt_from or known.source}
    stem, _, unit = target.rpartition("_") if column.unit else (target, "", "")
    suffix = f"_{unit}" if unit else ""
    columns = (
        TableColumn(target, column.unit, column.better, note=f"surrogate ({name})", **told),
        TableColumn(f"{stem}_low{suffix}", column.unit, note="lower end of the nominal 90 % interval", **told),
        TableColumn(f"{stem}_high{suffix}", column.unit, note="upper end of the nominal 90 % interval", **told),
        dataclasses.replace(column, name=f"measured_{target}", better="", note="missing where it was not measured"),
    )
    data = {
        columns[0].name: values, columns[1].name: low, columns[2].name: high,
        columns[3].name: np.array([have.get(a, np.nan) for a in chosen]),
    }  # fmt: skip
    manifest = TableManifest(
        space=space.name, columns=columns, **told,
        title=f"{space.name}, {target} from {len(y)} networks", created=format_utc_now(),
        origin=f"surrogate of {measured.manifest.title}", report=report.to_json(),
        notes=(f"{target} is a surrogate's prediction, also where a network was measured",),
    )  # fmt: skip
    return assemble_table(manifest, space, chosen, data, index=np.arange(len(chosen))), report


def _choose_model(
    codes: Floats, counts: Floats, y: Floats, relative: bool, seed: int
) -> tuple[str, FitFunction, dict[str, float]]:
    """Choose the model with the least cross-validated error; returns its name, its fit and the error of each."""
    models: dict[str, FitFunction] = {"additive": _fit_additive} if relative else {}
    if len(y) <= _GP_ROWS:
        models["gp"] = _fit_gaussian_process
    if len(y) >= _TREE_ROWS or not models:
        models["trees"] = _fit_boosted_trees
    if relative:
        models = {name: _fit_on_log_scale(name, fit) for name, fit in models.items()}
    tried = {
        name: float(np.mean(np.abs(_compute_residuals(fit, codes, counts, y, relative, seed))))
        for name, fit in models.items()
    }
    best = min(tried, key=lambda n: tried[n])
    return best, models[best], tried


def _fit_on_log_scale(name: str, fit: FitFunction) -> FitFunction:
    """Let a model learn the logarithm of the figure; the additive model stays as it is."""
    if name == "additive":
        return fit

    def fit_logarithm(codes: Floats, counts: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
        model = fit(codes, counts, np.log(y))
        return lambda c, k: np.asarray(np.exp(np.minimum(model(c, k), 700.0)))

    return fit_logarithm


def _compute_residuals(fit: FitFunction, codes: Floats, counts: Floats, y: Floats, relative: bool, seed: int) -> Floats:
    """Compute out-of-fold residuals, of logarithms if errors are relative; shape of ``y``."""
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    found = np.empty(len(y))
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        found[outside] = fit(codes[inside], counts[inside], y[inside])(codes[outside], counts[outside])
    return _compute_errors(found, y, relative)


def _compute_errors(found: Floats, y: Floats, relative: bool) -> Floats:
    if not relative:
        return np.asarray(found - y)
    return np.asarray(np.log(np.maximum(found, 1e-3 * float(y.min())) / y))


def _compute_half_width(fit: FitFunction, codes: Floats, counts: Floats, y: Floats, relative: bool, seed: int) -> float:
    errors = np.sort(np.abs(_compute_residuals(fit, codes, counts, y, relative, seed)))
    return float(errors[min(math.ceil(NOMINAL * (len(errors) + 1)), len(errors)) - 1])


def _make_report(
    target: str, name: str, fit: FitFunction, codes: Floats, counts: Floats, y: Floats, train: NDArray[np.int64],
    test: NDArray[np.int64], relative: bool, seed: int, tried: Mapping[str, float],
) -> SurrogateReport:  # fmt: skip
    from scipy.stats import kendalltau

    found = fit(codes[train], counts[train], y[train])(codes[test], counts[test])
    half = _compute_half_width(fit, codes[train], counts[train], y[train], relative, seed)
    true = y[test]
    varied = float(np.ptp(true)) > 0 and float(np.ptp(found)) > 0
    return SurrogateReport(
        target=target,
        model=name,
        measured=len(y),
        held_out=len(test),
        kendall=float(kendalltau(found, true).statistic) if varied else math.nan,
        spearman=compute_spearman(found, true),
        mape=float(np.mean(np.abs(found / true - 1))) if relative else math.nan,
        r2=float(1 - ((found - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()) if varied else math.nan,
        inside=float(np.mean(np.abs(_compute_errors(found, true, relative)) <= half)),
        tried=dict(tried),
    )
