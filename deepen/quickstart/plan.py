"""Which kernels and calibration networks a quickstart measures, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepen.campaign import Item
    from deepen.kernels.sample import SampledKernel
    from deepen.quickstart.results import Options
    from deepen.quickstart.targets import Target

__all__ = ["LEAST_S_PER_KERNEL", "make_plan"]

KERNELS_PER_NETWORK = 28
"""Kernels measured between two calibration networks."""

LEAST_S_PER_KERNEL = 0.08
"""No kernel is measured faster than this: bounds how many a plan needs."""

LEAST_ROWS = 12
"""Kernels of each family the models have that are measured early, so that each gets a regressor."""

MAX_MACS = 3_000_000_000
"""Largest kernel sampled; one run of it takes tens of milliseconds on one core."""

FURTHER_WEIGHT = 0.15
"""Weight in the sample of families that none of the models has, against those they have."""


def make_plan(options: Options, targets: Iterable[Target], unseen: Collection[str], count: int) -> list[Item]:
    """Kernels of the families the models need, most from where energy goes, with a network after every few."""
    from deepen.campaign import KernelItem, MadeItem
    from deepen.kernels.compose import network, network_name
    from deepen.kernels.sample import sample

    wanted = {kernel.family for target in targets for kernel in target.split.kernels}
    sampled = sample(None, count, options.seed, exclude=unseen, max_macs=MAX_MACS, weights=sampling_weights(wanted))
    first, later = families_first(sampled, wanted)
    items: list[Item] = []
    for index, kernel in enumerate([*first, *later]):
        items.append(KernelItem(kernel.family, kernel.params))
        if index % KERNELS_PER_NETWORK == KERNELS_PER_NETWORK - 1:
            number = index // KERNELS_PER_NETWORK

            def make(number: int = number) -> Any:
                return network(number, options.seed, unseen).model

            items.append(MadeItem(network_name(number), make))
    return items


def sampling_weights(wanted: Collection[str]) -> dict[str, float]:
    from deepen.kernels import load_families

    return {
        name: float(family.sampling.get("weight", 0.0)) * (1.0 if name in wanted else FURTHER_WEIGHT)
        for name, family in load_families().items()
        if family.sampling
    }


def families_first(
    sampled: Sequence[SampledKernel], wanted: Collection[str]
) -> tuple[list[SampledKernel], list[SampledKernel]]:
    """Divide a sample so that its first part has enough of every family in use, and as many others in between."""
    taken: Counter[str] = Counter()
    needed: list[SampledKernel] = []
    rest: list[SampledKernel] = []
    for kernel in sampled:
        early = kernel.family in wanted and taken[kernel.family] < LEAST_ROWS
        taken[kernel.family] += early
        (needed if early else rest).append(kernel)
    mixed = [kernel for pair in zip(needed, rest, strict=False) for kernel in pair]
    return [*mixed, *needed[len(rest) :]], rest[len(needed) :]
