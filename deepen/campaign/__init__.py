"""Campaigns: a plan of kernels and models, measured into a dataset, whatever interrupts it.

``plan`` says what and in which order, ``prepare`` makes a workload of an item, ``executor`` is who runs it, ``run``
stores the records, ``build`` is the whole of ``deepen dataset build``.
"""

from __future__ import annotations

from deepen.campaign.build import build_dataset
from deepen.campaign.executor import Executor, Measurer, Outcome, SerialExecutor
from deepen.campaign.plan import Item, KernelItem, MadeItem, ModelItem, Plan
from deepen.campaign.prepare import Preparer, Settings
from deepen.campaign.run import CampaignProgress, CampaignReport, run

__all__ = [
    "CampaignProgress",
    "CampaignReport",
    "Executor",
    "Item",
    "KernelItem",
    "MadeItem",
    "Measurer",
    "ModelItem",
    "Outcome",
    "Plan",
    "Preparer",
    "SerialExecutor",
    "Settings",
    "build_dataset",
    "run",
]
