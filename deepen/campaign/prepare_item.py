"""From a plan's item to a workload with everything its record will say: build, split, feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from deepen.campaign.plan import GeneratedModelItem, Item, KernelItem
from deepen.errors import ConfigError, RunError
from deepen.kernels.families.random_weights import WeightPool
from deepen.kernels.splitting.runtime_names import resolve_splitter
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord, StoppingRule, Workload
from deepen.storage.atomic import make_storage_error

if TYPE_CHECKING:
    import onnx

    from deepen.graph import Graph
    from deepen.kernels.types import Kernel
    from deepen.measure.input_values import GivenInput

__all__ = ["CampaignSettings", "ItemPreparer", "PrepareFunction", "PreparedItem", "complete_record"]

MAX_WEIGHT_BYTES = 1 << 30
"""Most weights of a model that a campaign writes."""


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """Settings of a campaign's measurements.

    Attributes:
        runtime: Runtime the kernels are split for and run on.
        threads: Intra-operator threads.
        warmup_s: Seconds of uncounted runs first.
        kernel_rule: Stopping rule of a kernel.
        model_rule: Stopping rule of a model.
        copies: Copies of a kernel per run; ``None`` for as many as fit the private caches together
            (:mod:`deepen.kernels.building.parallel_copies`).
        lookahead: Items prepared by a thread while another is measured. 0 prepares each in its turn, which costs
            5-20 ms per kernel and never disturbs a measurement; above 0 is for devices other than this machine.
        retries: Times an item is tried again after a failure of the surroundings.
        inputs: Values of inputs, by name, for every item that has an input of that name.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    warmup_s: float = 0.05
    kernel_rule: StoppingRule = field(default_factory=StoppingRule)
    model_rule: StoppingRule = field(default_factory=lambda: StoppingRule(0.5, 5.0, 5, 0.01))
    copies: int | None = None
    lookahead: int = 0
    retries: int = 2
    inputs: Mapping[str, GivenInput] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """An item ready to be measured.

    Attributes:
        item: The item.
        workload: The model and its stopping rule.
        fill: Fields of the record that are known before measuring.
        copies: Copies of the kernel in the workload.
        owned: Whether the workload's file was written for it and is to be deleted.
    """

    item: Item
    workload: Workload
    fill: Mapping[str, Any]
    copies: int = 1
    owned: bool = True

    def discard(self) -> None:
        """Delete the file written for it."""
        if self.owned:
            self.workload.path.unlink(missing_ok=True)


class _RuntimeAndThreads(NamedTuple):
    """Runtime and threads an item is prepared for."""

    runtime: str
    threads: int


class ItemPreparer:
    """Prepares items one after the other.

    Args:
        folder: Where model files are written; must exist.
        settings: Settings of the campaign.
    """

    def __init__(self, folder: Path, settings: CampaignSettings) -> None:
        self.folder = folder
        self.settings = settings
        self._weights = WeightPool(folder)
        self._count = 0

    def __call__(self, item: Item, runtime: str = "", threads: int = 0) -> PreparedItem:
        """Prepare an item.

        Args:
            item: The item.
            runtime: Runtime it is to run on; empty for that of the settings.
            threads: Intra-operator threads; 0 for those of the settings.

        Raises:
            RunError: If a kernel does not come back from the splitter as itself.
            GraphError, ConfigError: If a model or a configuration cannot be taken.
            StorageError: If the disk refuses.
        """
        how = _RuntimeAndThreads(runtime or self.settings.runtime, threads or self.settings.threads)
        if isinstance(item, KernelItem):
            return self._kernel(item, how)
        if isinstance(item, GeneratedModelItem):
            path = self._write(item.make(), item.name)
            return self._model(item, path, {}, how, owned=True)
        return self._model(item, item.path, item.shapes, how, owned=False)

    def _kernel(self, item: KernelItem, how: _RuntimeAndThreads) -> PreparedItem:
        from deepen.kernels import FEATURES_VERSION, build_kernel_model
        from deepen.kernels.building.parallel_copies import choose_copies, replicate_model
        from deepen.kernels.families.catalog import check_params
        from deepen.kernels.families.kernel_work import compute_kernel_work

        params = check_params(item.family, item.params)
        if hash_params(item.family, params) != item.key:
            raise ConfigError(f"{item.name}: parameters are not in canonical form; complete them with check_params")
        copies = self.settings.copies
        if copies is None:
            cost = compute_kernel_work(item.family, params)
            copies = choose_copies(cost.bytes, cost.macs)
        model = build_kernel_model(item.family, params, weights=False)
        # Where the runtime fuses or merges copies into something else, they get inputs of their own, or stay alone.
        for n, share in dict.fromkeys([(copies, True), (copies, False), (1, True)]):
            path = self._write(replicate_model(model, n, share=share), item.name)
            try:
                graph, kernels = self._split(path, {}, how)
                if len(kernels) == n and {kernel.key for kernel in kernels} == {item.key}:
                    fill = {**_make_kernel_fields(kernels[0]), "name": item.name, "features_version": FEATURES_VERSION}
                    return PreparedItem(item, self._workload(path, "kernel", {}, how, graph), fill, n)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            path.unlink()
        found = ", ".join(sorted({k.family if k.key != item.key else "itself" for k in kernels})) or "nothing"
        raise RunError(f"{item.name}: the runtime runs {len(kernels)} kernels for it ({found}); not measured")

    def _model(
        self, item: Item, path: Path, shapes: Mapping[str, tuple[int, ...]], how: _RuntimeAndThreads, *, owned: bool
    ) -> PreparedItem:
        from deepen.kernels import FEATURES_VERSION

        try:
            graph, split = self._split(path, shapes, how)
            kernels = tuple({**_make_kernel_fields(k), "multiplicity": k.multiplicity} for k in split)
            fill = {"name": item.name, "kernels": kernels, "features_version": FEATURES_VERSION}
            return PreparedItem(item, self._workload(path, "model", shapes, how, graph), fill, owned=owned)
        except BaseException:
            if owned:
                path.unlink(missing_ok=True)
            raise

    def _split(
        self, path: Path, shapes: Mapping[str, tuple[int, ...]], how: _RuntimeAndThreads
    ) -> tuple[Graph, tuple[Kernel, ...]]:
        from deepen.graph import load_graph
        from deepen.kernels.splitting.split import split_graph

        graph = load_graph(path, shapes)
        return graph, split_graph(graph, resolve_splitter(how.runtime)).kernels

    def _workload(
        self,
        path: Path,
        kind: Literal["kernel", "model"],
        shapes: Mapping[str, tuple[int, ...]],
        how: _RuntimeAndThreads,
        graph: Graph,
    ) -> Workload:
        from deepen.graph import ReadOptions
        from deepen.measure import make_workload
        from deepen.measure.input_values import choose_graph_inputs

        own = self.settings.inputs
        given = {}
        for info in graph.inputs:
            plain = info.name if info.name in own else info.name.rpartition("__")[0]  # of a copy
            if plain in own:
                given[info.name] = own[plain]
        filled, warnings = choose_graph_inputs(graph, ReadOptions(), given)
        return make_workload(
            path,
            kind=kind,
            runtime=how.runtime,
            threads=how.threads,
            shapes=shapes,
            warmup_s=self.settings.warmup_s,
            rule=self.settings.kernel_rule if kind == "kernel" else self.settings.model_rule,
            inputs=filled,
            input_warnings=warnings,
        )

    def _write(self, model: onnx.ModelProto, name: str) -> Path:
        size = self._weights.size(model)
        if size > MAX_WEIGHT_BYTES:
            raise RunError(f"{name}: its weights would take {size / 2**30:.1f} GiB; at most 1 is written")
        self._count += 1
        path = self.folder / f"item-{self._count:06d}.onnx"
        try:
            self._weights.externalise_weights(model)
            path.write_bytes(model.SerializeToString())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise make_storage_error("write", path, error) from error
        return path


def _make_kernel_fields(kernel: Kernel) -> dict[str, Any]:
    from deepen.kernels import compute_features

    return {"family": kernel.family, "params": dict(kernel.params), "features": compute_features(kernel)}


def complete_record(record: EnergyRecord, prepared: PreparedItem) -> EnergyRecord:
    """Complete a record: what was measured, per copy."""
    n = prepared.copies
    return replace(
        record,
        id=prepared.workload.id,
        kind=prepared.workload.kind,
        copies=n,
        energy_j=record.energy_j / n,
        uncertainty_j=record.uncertainty_j / n,
        gross_energy_j=record.gross_energy_j / n,
        latency_s=record.latency_s / n,
        trials=tuple(value / n for value in record.trials),
        budget={term: value / n for term, value in record.budget.items()},
        rejected=tuple(_divide_by_copies(entry, n) for entry in record.rejected),
        **prepared.fill,
    )


def _divide_by_copies(entry: Mapping[str, Any], copies: int) -> dict[str, Any]:
    return {k: v / copies if k == "energy_j" and isinstance(v, float) else v for k, v in entry.items()}


class PrepareFunction(Protocol):
    """Prepares an item for an executor; raises a ``DeepenError`` where it cannot."""

    def __call__(self, item: Item, runtime: str = "", threads: int = 0) -> PreparedItem:
        """Prepare an item for a runtime and a thread count; empty and 0 for those of the campaign's settings."""
        ...
