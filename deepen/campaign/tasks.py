"""From a plan to tasks: its items on every kind of device, by every runtime, with every thread count, so many times."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepen.campaign.plan import BLOCK, CampaignPlan, Item, KernelItem
from deepen.errors import ConfigError
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord

__all__ = ["ConditionGrid", "Task", "select_missing_tasks"]

_Identity = tuple[bool, str, str, str, int]


@dataclass(frozen=True, slots=True)
class Task:
    """An item to measure once, and under which conditions.

    Attributes:
        item: The item.
        device: Profile of the device; empty for whatever device the executor has.
        runtime: Inference engine; empty for the campaign's settings.
        threads: Intra-operator threads; 0 for the campaign's settings.
        repeat: Number of the repetition, from 0.
    """

    item: Item
    device: str = ""
    runtime: str = ""
    threads: int = 0
    repeat: int = 0

    @property
    def name(self) -> str:
        """Name of its item."""
        return self.item.name


@dataclass(frozen=True, slots=True)
class ConditionGrid:
    """Conditions every item is measured under.

    Attributes:
        runtimes: Inference engines.
        threads: Thread counts.
        repeats: Records of each item under each condition.
    """

    runtimes: tuple[str, ...] = ("onnxruntime",)
    threads: tuple[int, ...] = (1,)
    repeats: int = 1

    def __post_init__(self) -> None:
        if not (self.runtimes and self.threads) or self.repeats < 1 or min(self.threads) < 1:
            raise ConfigError("a campaign needs a runtime, thread counts of at least 1, and at least one repeat")
        for values in (self.runtimes, self.threads):
            if len(set(values)) < len(values):
                raise ConfigError(f"name each runtime and each thread count once, not {', '.join(map(str, values))}")

    def tasks(self, plan: CampaignPlan, devices: Sequence[str], seed: int = 0) -> list[Task]:
        """Put a plan's items under every condition, in the order in which they are measured.

        A repetition begins when the one before is through, so that a cut campaign has measured everything equally
        often and repetitions lie far apart in time. Within one, a block of items goes through its conditions in seeded
        random order: changing the runtime costs a session of its own, so it happens per block and not per item.

        Args:
            plan: Items in their order.
            devices: Profiles of the devices there are.
            seed: Seed of the order of the conditions.
        """
        rng = random.Random(seed)
        conditions = [(runtime, count) for runtime in self.runtimes for count in self.threads]
        found: list[Task] = []
        for repeat in range(self.repeats):
            for start in range(0, len(plan.items), BLOCK):
                rng.shuffle(conditions)
                for runtime, count in conditions:
                    for item in plan.items[start : start + BLOCK]:
                        found += [Task(item, device, runtime, count, repeat) for device in devices]
        return found


def _identify_record(record: EnergyRecord) -> tuple[bool, str]:
    """Tell a kernel's record from a model's, with its key as :attr:`Item.key` has it."""
    kernel = record.kind == "kernel"
    return kernel, hash_params(record.family, record.params) if kernel else record.name


def select_missing_tasks(tasks: Iterable[Task], records: Iterable[EnergyRecord]) -> list[Task]:
    """Select the tasks without a record: of n tasks alike and m records of them, the last n - m are left.

    A task that leaves device, runtime or threads open is met by a record with any.
    """
    there: Counter[_Identity] = Counter()
    for record in records:
        known = _identify_record(record)
        there[*known, "", "", 0] += 1
        there[*known, record.device, record.runtime, record.threads] += 1
    left = []
    for task in tasks:
        identity = (isinstance(task.item, KernelItem), task.item.key, task.device, task.runtime, task.threads)
        if there[identity] > 0:
            there[identity] -= 1
        else:
            left.append(task)
    return left
