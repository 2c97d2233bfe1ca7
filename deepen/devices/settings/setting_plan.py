"""What it takes to set something on a device: places and texts, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass

from deepen.devices.settings.access import SettingLocation
from deepen.devices.state.identity import Identity
from deepen.devices.state.shell_files import Shell

__all__ = ["PlanningContext", "SettingPlan", "SettingStep"]


@dataclass(frozen=True, slots=True)
class PlanningContext:
    """What a knob may ask while it plans.

    Attributes:
        shell: The device.
        identity: Who it is.
        network: Whether the link itself runs over the device's network.
    """

    shell: Shell
    identity: Identity
    network: bool = False


@dataclass(frozen=True, slots=True)
class SettingStep:
    """One place to set; ``text`` is ``None`` where another step may move it, so that it must be put back with it."""

    place: SettingLocation
    text: str | None


@dataclass(frozen=True, slots=True)
class SettingPlan:
    """Steps in their order, or why there are none and what helps."""

    steps: tuple[SettingStep, ...] = ()
    cause: str = ""
    cure: str = "ask for something the device has, or leave it out"
