"""Doctor: checks of this machine and of each device, with the cure for every missing part."""

from __future__ import annotations

from deepen.doctor.checks import check_machine
from deepen.doctor.device_checks import DoctorCheck, check_devices

__all__ = ["DoctorCheck", "check_devices", "check_machine"]
