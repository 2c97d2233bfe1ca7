"""Plan of a quickstart: the kernels and calibration networks to measure, in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from deepen.campaign import Item
    from deepen.kernels.building.random_networks import ComposedNetwork
    from deepen.kernels.sampling.sampler import SampledKernel
    from deepen.quickstart.results import QuickstartOptions
    from deepen.quickstart.targets import TargetModel

__all__ = ["LEAST_S_PER_KERNEL", "plan_items"]

KERNELS_PER_NETWORK = 28
"""Kernels measured between two calibration networks."""

KERNELS_PER_SMALL_NETWORK = 56
"""Kernels measured between two small networks, which show what a run and a node cost and what a cache keeps."""

LEAST_S_PER_KERNEL = 0.08
"""Least time to measure a kernel; it bounds the number of kernels in a plan."""

LEAST_ROWS = 12
"""Kernels of each family of the models that are measured early, so that every family gets a regressor."""

FURTHER_ROWS = 6
"""Kernels of each further family that are measured early: with what families share, they make a regressor."""

MORE_ROWS = {
    "attention": 8, "elementwise": 16, "gelu": 8, "layernorm": 10, "matmul": 12, "qconv": 12, "qmatmul": 12,
    "recurrent": 12, "reduce": 8,
}  # fmt: skip
"""Further families that take a large share of the energy of some real models (transformers, speech, integers), or have
many operators, get more."""

MAX_FURTHER_MACS = 300_000_000
"""Largest kernel of those: what is measured for every model must not take the time of the nine."""

MAX_MACS = 3_000_000_000
"""Largest kernel sampled; one run of it takes tens of milliseconds on one core."""

FURTHER_WEIGHT = 0.15
"""Weight in the sample of families that none of the models has, relative to those they have."""


def plan_items(
    options: QuickstartOptions, targets: Iterable[TargetModel], unseen: Collection[str], count: int
) -> list[Item]:
    """Plan the kernels and networks to measure.

    1. Sample kernels of all families, with less weight for families that no model has.
    2. Interleave them, one to two, with the first kernels of each family the models have, then with some of every other
       family, so that every family gets its records.
    3. Add a calibration network after every :data:`KERNELS_PER_NETWORK` kernels, and a small one after every
       :data:`KERNELS_PER_SMALL_NETWORK`, from a quarter of that on.
    """
    from deepen.campaign import GeneratedModelItem, KernelItem
    from deepen.kernels.building.random_networks import compose_network, get_network_name
    from deepen.kernels.building.small_networks import compose_small_network, get_small_network_name
    from deepen.kernels.sampling.sampler import sample_kernels

    # 1
    wanted = {kernel.family for target in targets for kernel in target.split.kernels}
    sampled = sample_kernels(
        None, count, options.seed, exclude=unseen, max_macs=MAX_MACS, weights=_weight_families(wanted)
    )
    # 2
    further = {name: MORE_ROWS.get(name, FURTHER_ROWS) for name in _weight_families(()) if name not in wanted}
    needed = [
        *_sample_in_turns(dict.fromkeys(wanted, LEAST_ROWS), MAX_MACS, options, unseen),
        *_sample_in_turns(further, MAX_FURTHER_MACS, options, unseen),
    ]
    keys = {kernel.key for kernel in needed}
    rest = [kernel for kernel in sampled if kernel.key not in keys]
    early = rest[: len(needed) // 2]
    turns = zip_longest(needed[::2], needed[1::2], early)
    mixed = [kernel for turn in turns for kernel in turn if kernel is not None]
    # 3
    seed = options.seed
    items: list[Item] = []
    for index, kernel in enumerate([*mixed, *rest[len(early) :]]):
        items.append(KernelItem(kernel.family, kernel.params))
        if index % KERNELS_PER_NETWORK == KERNELS_PER_NETWORK - 1:
            number = index // KERNELS_PER_NETWORK
            items.append(
                GeneratedModelItem(get_network_name(number), _make_later(compose_network, number, seed, unseen))
            )
        if index % KERNELS_PER_SMALL_NETWORK == KERNELS_PER_SMALL_NETWORK // 4:
            number = index // KERNELS_PER_SMALL_NETWORK
            make = _make_later(compose_small_network, number, seed, unseen)
            items.append(GeneratedModelItem(get_small_network_name(number), make))
    return items


def _make_later(
    compose: Callable[[int, int, Collection[str]], ComposedNetwork], number: int, seed: int, unseen: Collection[str]
) -> Callable[[], onnx.ModelProto]:
    """Compose a network when its turn comes: each may hold hundreds of megabytes of weights."""
    return lambda: compose(number, seed, unseen).model


def _weight_families(wanted: Collection[str]) -> dict[str, float]:
    from deepen.kernels import load_families

    return {
        name: float(family.sampling.get("weight", 0.0)) * (1.0 if name in wanted else FURTHER_WEIGHT)
        for name, family in load_families().items()
        if family.sampling
    }


def _sample_in_turns(
    rows: Mapping[str, int], max_macs: int, options: QuickstartOptions, unseen: Collection[str]
) -> list[SampledKernel]:
    """Sample the first kernels of families, so many of each, one of each in turn."""
    from deepen.kernels import load_families
    from deepen.kernels.sampling.sampler import sample_kernels

    families = load_families()
    known = sorted(name for name in rows if name in families and families[name].sampling.get("weight", 0.0))
    each = [sample_kernels([name], rows[name], options.seed, exclude=unseen, max_macs=max_macs) for name in known]
    return [kernel for turn in zip_longest(*each) for kernel in turn if kernel is not None]
