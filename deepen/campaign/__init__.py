"""Campaigns: a plan of kernels and models, measured into a dataset, whatever interrupts it.

``plan`` says what and in which order, ``tasks`` under which conditions, ``prepare`` makes a workload of an item,
``executor`` is who runs it: one session, or a ``fleet`` of ``station``s (a device and its meter each). ``run_plan``
stores the records, ``build`` is the whole of ``deepen dataset build``.
"""

from __future__ import annotations

from deepen.campaign.build import build_dataset
from deepen.campaign.executor import DeviceNotice, Measurer, SerialExecutor, TaskExecutor, TaskOutcome
from deepen.campaign.parallel_executor import Fleet, RetryPolicy
from deepen.campaign.plan import CampaignPlan, GeneratedModelItem, Item, KernelItem, ModelItem
from deepen.campaign.prepare_item import CampaignSettings, ItemPreparer
from deepen.campaign.run import CampaignProgress, CampaignReport, run_plan, run_tasks
from deepen.campaign.station import DeviceWithMeter, Station, StationIdentity, parse_device_meter_pairs
from deepen.campaign.tasks import ConditionGrid, Task

__all__ = [
    "CampaignPlan",
    "CampaignProgress",
    "CampaignReport",
    "CampaignSettings",
    "ConditionGrid",
    "DeviceNotice",
    "DeviceWithMeter",
    "Fleet",
    "GeneratedModelItem",
    "Item",
    "ItemPreparer",
    "KernelItem",
    "Measurer",
    "ModelItem",
    "RetryPolicy",
    "SerialExecutor",
    "Station",
    "StationIdentity",
    "Task",
    "TaskExecutor",
    "TaskOutcome",
    "build_dataset",
    "parse_device_meter_pairs",
    "run_plan",
    "run_tasks",
]
