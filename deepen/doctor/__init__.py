"""Doctor: what works on this machine and on each device, what is missing, and the cure."""

from __future__ import annotations

from deepen.doctor.checks import check_machine
from deepen.doctor.device_checks import DoctorCheck, check_devices

__all__ = ["DoctorCheck", "check_devices", "check_machine"]
