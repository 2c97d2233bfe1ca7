"""Campaigns: a plan of kernels and models, measured into a dataset, whatever interrupts it.

``plan`` says what and in which order, ``tasks`` under which conditions, ``prepare`` makes a workload of an item,
``executor`` is who runs it: one session, or a ``fleet`` of ``station``s (a device and its meter each). ``run`` stores
the records, ``build`` is the whole of ``deepen dataset build``.
"""

from __future__ import annotations

from deepen.campaign.build import build_dataset
from deepen.campaign.executor import Executor, Measurer, Notice, Outcome, SerialExecutor
from deepen.campaign.parallel_executor import Fleet, Patience
from deepen.campaign.plan import Item, KernelItem, MadeItem, ModelItem, Plan
from deepen.campaign.prepare_item import Preparer, Settings
from deepen.campaign.run import CampaignProgress, CampaignReport, run, run_tasks
from deepen.campaign.station import Facts, Pair, Station, parse_pairs
from deepen.campaign.tasks import Matrix, Task

__all__ = [
    "CampaignProgress",
    "CampaignReport",
    "Executor",
    "Facts",
    "Fleet",
    "Item",
    "KernelItem",
    "MadeItem",
    "Matrix",
    "Measurer",
    "ModelItem",
    "Notice",
    "Outcome",
    "Pair",
    "Patience",
    "Plan",
    "Preparer",
    "SerialExecutor",
    "Settings",
    "Station",
    "Task",
    "build_dataset",
    "parse_pairs",
    "run",
    "run_tasks",
]
