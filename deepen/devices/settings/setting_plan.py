"""Types of setting plans: the steps that apply a setting to a device, or the reason there are none."""

from __future__ import annotations

from dataclasses import dataclass

from deepen.devices.settings.access import SettingLocation
from deepen.devices.state.identity import Identity
from deepen.devices.state.shell_files import Shell

__all__ = ["PlanningContext", "SettingPlan", "SettingStep"]


@dataclass(frozen=True, slots=True)
class PlanningContext:
    """Facts about the device that are available to a plan.

    Attributes:
        shell: Shell of the device.
        identity: Identity of the device.
        network: True if the link itself runs over the device's network.
    """

    shell: Shell
    identity: Identity
    network: bool = False


@dataclass(frozen=True, slots=True)
class SettingStep:
    """One place to set; ``text`` is ``None`` if another step may move it, so that it is restored with that step."""

    place: SettingLocation
    text: str | None


@dataclass(frozen=True, slots=True)
class SettingPlan:
    """The steps in order, or the reason there are none and its cure."""

    steps: tuple[SettingStep, ...] = ()
    cause: str = ""
    cure: str = "ask for something the device has, or leave it out"
