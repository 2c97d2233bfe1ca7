"""Models as counts of distinct kernels: the one form in which models and kernels alone are predicted and learned.

Models share kernels: the networks of a search space consist of a few dozen, a model repeats its blocks. So each
distinct kernel is kept, and predicted, once, and a model is a list of entries that say which kernel runs and how often.
Kernels are the same if their family and all their features are. A kernel measured alone is a model of one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DeepenError, EnvironmentFailure, PredictorError
from deepen.graph.read_options import ReadOptions, ShapesOrOptions
from deepen.graph.types import UnknownPart
from deepen.kernels.features import FEATURE_NAMES, build_feature_matrix, compute_features
from deepen.kernels.layer_labels import KernelLabel, label_kernel
from deepen.kernels.types import Kernel, ModelSplit

if TYPE_CHECKING:
    from deepen.records import EnergyRecord

__all__ = ["KernelCounts"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_FILES_PER_WORKER = 8
"""A process of its own costs about a second to start; fewer files do not pay for it."""
_CHUNK = 4
_ROW = Struct(f"{len(FEATURE_NAMES)}d")


@dataclass(frozen=True, slots=True, eq=False)
class KernelCounts:
    """n models made of k distinct kernels, in e entries.

    Attributes:
        names: Names of the models, n of them.
        families: Family of each distinct kernel, k of them.
        feature_names: Names of the features.
        features: Features of the distinct kernels in natural units, float64, shape (k, len(feature_names)).
        params: Their parameters; empty where they are not known.
        model: Number of the model of each entry, ascending, shape (e,).
        kernel: Number of the distinct kernel of each entry, shape (e,); a model's entries are in execution order.
        times: Executions of each entry per inference, not negative, shape (e,).
        labels: Label of the kernel of each entry inside its model; empty where kernels are only counted.
        warnings: Notes on each model for its reader; empty, or n of them.
        unknowns: Where it is unknown how much work each model does; empty, or n of them.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    feature_names: tuple[str, ...]
    features: Floats
    params: tuple[Mapping[str, Any], ...]
    model: Integers
    kernel: Integers
    times: Floats
    labels: tuple[KernelLabel, ...] = ()
    warnings: tuple[tuple[str, ...], ...] = ()
    unknowns: tuple[tuple[UnknownPart, ...], ...] = ()

    # --- ways to make them ------------------------------------------------------------------------------------------

    @classmethod
    def from_splits(
        cls, splits: Iterable[ModelSplit], names: Sequence[str], warnings: Sequence[str] = ()
    ) -> KernelCounts:
        """Count the kernels of models that are already split.

        Args:
            splits: The models.
            names: Their names.
            warnings: Put before the splits' own.
        """
        counter = _KernelCounter()
        describe = _KernelDescriber().describe
        for name, split in zip(names, splits, strict=True):
            entries = [(label_kernel(k), k.multiplicity, describe(k)) for k in split.kernels]
            counter.add_model(name, entries, (*warnings, *split.warnings), split.unknowns)
        return counter.finish()

    @classmethod
    def from_files(
        cls,
        models: Iterable[str | Path | ModelSplit],
        shapes: ShapesOrOptions = None,
        runtime: str = "onnxruntime",
        workers: int = 1,
        failures: dict[str, DeepenError] | None = None,
    ) -> KernelCounts:
        """Read and split model files, and count their kernels.

        Args:
            models: The files; models already split may stand among them (named ``model_0``, ``model_1``, ...).
            shapes: Shapes of symbolic inputs, by input name, or everything a user can say of a model; for every file. A
                model with matrix products of unknown shape fails unless ``allow_unknown`` is said.
            runtime: Runtime to split files for.
            workers: Processes that read files. Only as many are started as have work to do; 1 starts none.
            failures: Takes the errors of files that fail, by file, and these are left out; without it the first ends
                everything.

        Raises:
            DeepenError: The first failure, if ``failures`` is not given.
            ConfigError: If ``workers`` is below 1 or the runtime is unknown.
            EnvironmentFailure: If the processes cannot be started or one of them is ended from outside.
        """
        listed = list(models)
        allow_unknown = ReadOptions.from_shapes(shapes).allow_unknown
        read = _read_files([str(m) for m in listed if not isinstance(m, ModelSplit)], shapes, runtime, workers)
        found: list[KernelCounts] = []
        for number, model in enumerate(listed):
            one = cls.from_splits([model], [f"model_{number}"]) if isinstance(model, ModelSplit) else next(read)
            if isinstance(one, KernelCounts) and not allow_unknown:
                one = _check_products(one)
            if isinstance(one, KernelCounts):
                found.append(one)
            elif failures is None:
                raise one
            else:
                failures[str(model)] = one
        return found[0] if len(found) == 1 else cls.join(found)

    @classmethod
    def from_records(cls, records: Iterable[EnergyRecord]) -> KernelCounts:
        """Count the kernels of measured models; the record of a kernel is a model that runs it once.

        Raises:
            PredictorError: If features are not those of this version.
        """
        counter = _KernelCounter()
        for record in records:
            if record.kind == "kernel":
                counter.add_model(record.name, [(None, 1.0, (record.family, record.features, record.params))])
                continue
            entries = [
                (None, float(k.get("multiplicity", 1.0)), (str(k["family"]), k["features"], k.get("params") or {}))
                for k in record.kernels
            ]
            counter.add_model(record.name, entries)
        return counter.finish()

    @classmethod
    def from_kernels(
        cls, kernels: Sequence[Kernel], counts: NDArray[Any] | None = None, names: Sequence[str] | None = None
    ) -> KernelCounts:
        """Take kernels that were counted elsewhere, as a search space counts them; they keep their order.

        Args:
            kernels: The distinct kernels (k of them).
            counts: Executions per inference, shape (n, k); default: each kernel alone, once.
            names: Names of the models.

        Raises:
            PredictorError: If shapes do not fit or a count is negative or not finite.
        """
        features = build_feature_matrix([compute_features(k) for k in kernels])
        table = np.eye(len(kernels)) if counts is None else counts
        return cls.from_matrix([k.family for k in kernels], features, table, [k.params for k in kernels], names)

    @classmethod
    def from_matrix(
        cls,
        families: Sequence[str],
        features: Floats,
        counts: NDArray[Any],
        params: Sequence[Mapping[str, Any]] | None = None,
        names: Sequence[str] | None = None,
    ) -> KernelCounts:
        """Take a matrix of counts; kernels keep their order.

        Args:
            families: Family of each distinct kernel (k of them).
            features: Their features in the order of ``deepen.kernels.features``, float64, shape (k, features).
            counts: Executions per inference, shape (n, k).
            params: Parameters of the kernels.
            names: Names of the models; default: ``model_0``, ``model_1``, ...

        Raises:
            PredictorError: If shapes do not fit or a count is negative or not finite.
        """
        table = np.asarray(counts)
        if table.ndim != 2 or table.shape[1] != len(families) or features.shape != (len(families), len(FEATURE_NAMES)):
            raise PredictorError(
                f"counts of shape {table.shape} and features of shape {features.shape} do not fit {len(families)} "
                "kernels; give one column of counts and one row of features for each kernel"
            )
        if table.size and not (np.isfinite(table).all() and float(table.min()) >= 0):
            raise PredictorError("counts of kernels must be finite and not negative; leave out what does not run")
        model, kernel = np.nonzero(table)
        return cls(
            names=tuple(f"model_{i}" for i in range(len(table))) if names is None else tuple(names),
            families=tuple(families),
            feature_names=FEATURE_NAMES,
            features=np.asarray(features, dtype=np.float64),
            params=({},) * len(families) if params is None else tuple(params),
            model=model,
            kernel=kernel,
            times=table[model, kernel].astype(np.float64),
        )

    @classmethod
    def join(cls, parts: Sequence[KernelCounts]) -> KernelCounts:
        """Put models behind each other; a kernel that several parts have is one afterwards."""
        counter = _KernelCounter()
        for part in parts:
            counter.add_counts(part)
        return counter.finish()

    # --- ways to use them -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of models."""
        return len(self.names)

    def sums(self, values: Floats) -> Floats:
        """Sum a value per execution of each kernel, shape (k,), over each model.

        Returns:
            float64, shape (n,).
        """
        return self.sum_entries(values[self.kernel])

    def sum_entries(self, values: Floats) -> Floats:
        """Sum a value per execution of each entry, shape (e,), over each model.

        Returns:
            float64, shape (n,).
        """
        return np.bincount(self.model, weights=self.times * values, minlength=len(self)).astype(np.float64)

    def column(self, name: str) -> Floats:
        """Get a feature of the distinct kernels, shape (k,)."""
        return np.asarray(self.features[:, self.feature_names.index(name)])

    def take(self, models: NDArray[np.int64] | NDArray[np.bool_]) -> KernelCounts:
        """Take some of the models, by number or mask; the distinct kernels stay all there.

        Args:
            models: Numbers, in the order wanted, or a mask of shape (n,).
        """
        numbers = np.arange(len(self))[models]
        first = np.searchsorted(self.model, numbers)
        count = np.searchsorted(self.model, numbers, side="right") - first
        entries = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        return KernelCounts(
            tuple(self.names[i] for i in numbers.tolist()),
            self.families,
            self.feature_names,
            self.features,
            self.params,
            np.repeat(np.arange(numbers.size), count),
            self.kernel[entries],
            self.times[entries],
            tuple(self.labels[i] for i in entries.tolist()) if self.labels else (),
            tuple(self.warnings[i] for i in numbers.tolist()) if self.warnings else (),
            tuple(self.unknowns[i] for i in numbers.tolist()) if self.unknowns else (),
        )

    def take_each_kernel(self) -> KernelCounts:
        """Make each distinct kernel a model of its own that runs it once."""
        k = np.arange(len(self.families))
        return KernelCounts(
            self.families, self.families, self.feature_names, self.features, self.params, k, k, np.ones(k.size)
        )

    def add_repeats(self) -> tuple[Integers, Integers, Floats]:
        """Add up the entries of one model that name the same kernel.

        Returns:
            Model, kernel and executions of each pair that occurs, each of shape (pairs,).
        """
        k = max(len(self.families), 1)
        pair = self.model * k + self.kernel
        if (np.diff(pair) > 0).all():
            return self.model, self.kernel, self.times
        kept, place = np.unique(pair, return_inverse=True)
        times = np.bincount(place.reshape(-1), weights=self.times, minlength=kept.size)
        return kept // k, kept % k, times.astype(np.float64)

    def to_matrix(self) -> Floats:
        """Executions of each distinct kernel in each model, shape (n, k)."""
        n, k = len(self), len(self.families)
        flat = np.bincount(self.model * k + self.kernel, weights=self.times, minlength=n * k)
        return flat.astype(np.float64).reshape(n, k)


_Described = tuple[str, Mapping[str, float], Mapping[str, Any]]
"""Family, features and parameters of a kernel."""


@dataclass(slots=True)
class _KernelDescriber:
    """Computes the features of equal kernels once: a large model repeats a few hundred kernels thousands of times."""

    known: dict[tuple[Any, ...], _Described] = field(default_factory=dict)

    def describe(self, kernel: Kernel) -> _Described:
        """Family, features and parameters of a kernel."""
        work = (kernel.macs, kernel.ops, kernel.bytes_read, kernel.bytes_written, kernel.zero_operand)
        tensors = (kernel.inputs, kernel.weights, kernel.outputs) if kernel.family == "other" else ()
        key = (kernel.family, repr(kernel.params), work, tensors)
        if key not in self.known:
            self.known[key] = (kernel.family, compute_features(kernel), kernel.params)
        return self.known[key]


@dataclass(slots=True)
class _KernelCounter:
    """Models counted so far. Equal kernels are found here and nowhere else: by family and all features."""

    number: dict[tuple[str, bytes], int] = field(default_factory=dict)
    params: list[Mapping[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    kernel: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    labels: list[KernelLabel | None] = field(default_factory=list)
    warnings: list[tuple[str, ...]] = field(default_factory=list)
    unknowns: list[tuple[UnknownPart, ...]] = field(default_factory=list)

    def add_model(
        self,
        name: str,
        entries: Sequence[tuple[KernelLabel | None, float, _Described]],
        warnings: tuple[str, ...] = (),
        unknowns: tuple[UnknownPart, ...] = (),
    ) -> None:
        """Add a model: label, executions and kernel of each entry."""
        for label, times, (family, features, params) in entries:
            self.kernel.append(self._find_number(family, _pack_features(features), params))
            self.times.append(times)
            self.labels.append(label)
        self.names.append(name)
        self.sizes.append(len(entries))
        self.warnings.append(warnings)
        self.unknowns.append(unknowns)

    def add_counts(self, part: KernelCounts) -> None:
        """Add models whose kernels are already distinct among themselves."""
        rows = [row.tobytes() for row in part.features]
        numbers = [self._find_number(*kernel) for kernel in zip(part.families, rows, part.params, strict=True)]
        self.kernel.extend(np.array(numbers, dtype=np.int64)[part.kernel].tolist())
        self.times.extend(part.times.tolist())
        self.labels.extend(part.labels or [None] * part.kernel.size)
        self.names.extend(part.names)
        self.sizes.extend(np.bincount(part.model, minlength=len(part)).tolist())
        self.warnings.extend(part.warnings or [()] * len(part))
        self.unknowns.extend(part.unknowns or [()] * len(part))

    def _find_number(self, family: str, features: bytes, params: Mapping[str, Any]) -> int:
        number = self.number.setdefault((family, features), len(self.params))
        if number == len(self.params):
            self.params.append(params)
        return number

    def finish(self) -> KernelCounts:
        """The models counted."""
        rows = np.frombuffer(b"".join(features for _, features in self.number), dtype=np.float64)
        return KernelCounts(
            tuple(self.names),
            tuple(family for family, _ in self.number),
            FEATURE_NAMES,
            rows.reshape(len(self.number), len(FEATURE_NAMES)),
            tuple(self.params),
            np.repeat(np.arange(len(self.names)), np.array(self.sizes, dtype=np.int64)),
            np.array(self.kernel, dtype=np.int64),
            np.array(self.times, dtype=np.float64),
            () if None in self.labels else tuple(label for label in self.labels if label is not None),
            tuple(self.warnings) if any(self.warnings) else (),
            tuple(self.unknowns) if any(self.unknowns) else (),
        )


def _pack_features(features: Mapping[str, float]) -> bytes:
    """Pack features as a row of float64 in the one order."""
    if tuple(features) == FEATURE_NAMES:
        return _ROW.pack(*features.values())
    return build_feature_matrix([features]).tobytes()


# --- model files ---------------------------------------------------------------------------------------------------


def _read_files(
    paths: Sequence[str], shapes: ShapesOrOptions, runtime: str, workers: int
) -> Iterator[KernelCounts | DeepenError]:
    """Read files in order, one after another or in several processes; a failure becomes its error."""
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    workers = min(workers, len(paths) // MIN_FILES_PER_WORKER)
    read: Callable[[str], KernelCounts | DeepenError] = partial(_try_read_file, shapes=shapes, runtime=runtime)
    if workers <= 1:
        yield from map(read, paths)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Fresh interpreters: a copy of this one would share its threads' locks (a runtime may hold some).
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_configure_worker) as pool:
            try:
                yield from pool.map(read, paths, chunksize=_CHUNK)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except (BrokenProcessPool, OSError) as error:
        raise EnvironmentFailure(
            f"a process that reads models ended ({error}); free memory, or read them with one worker"
        ) from error


def _configure_worker() -> None:
    """Settle a fresh process: graphs are many small objects without cycles, little for the collector to find."""
    import gc
    import signal

    gc.set_threshold(200_000, 20, 20)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one


def _check_products(one: KernelCounts) -> KernelCounts | DeepenError:
    """Return the model, or the error that it has matrix products of unknown shape."""
    from deepen.kernels.splitting.unknown_shapes import refuse_unknown_products

    try:
        for unknowns in one.unknowns:
            refuse_unknown_products(unknowns)
    except DeepenError as error:
        return error.with_subject(one.names[0])
    return one


def _try_read_file(path: str, shapes: ShapesOrOptions, runtime: str) -> KernelCounts | DeepenError:
    from deepen.graph import load_graph
    from deepen.kernels.splitting.runtime_names import resolve_splitter
    from deepen.kernels.splitting.split import split_graph

    try:
        loaded = load_graph(path, shapes)
        split = split_graph(loaded, runtime=resolve_splitter(runtime))
        return KernelCounts.from_splits([split], [path], loaded.warnings)
    except DeepenError as error:
        return error if error.subject else error.with_subject(path)
