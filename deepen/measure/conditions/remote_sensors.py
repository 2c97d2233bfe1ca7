"""Sensors of a device across its link: how a meter gets at files and commands that are not on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from errno import ETIMEDOUT

from deepen.devices.links.local import LocalLink
from deepen.devices.protocols import Device, Link
from deepen.errors import LinkError
from deepen.meters.sensor_files import CommandFiles, CommandOutput, SensorFiles

__all__ = ["access_device_files", "access_link_files"]

_GRACE_S = 5.0
"""Time a command over a link takes besides its own, seconds: it has to start, and its end has to be reported."""


def access_link_files(link: Link) -> CommandFiles:
    """Files and commands of what is at the other end of a link.

    They raise ``LinkError`` when the device is gone, and ``TimeoutError`` where only the command did not end in time.
    """

    def run(argv: Sequence[str], timeout_s: float) -> CommandOutput:
        try:
            # Messages are compared with the wording of the C locale.
            done = link.run(argv, env={"LC_ALL": "C"}, timeout_s=timeout_s + _GRACE_S)
        except LinkError as error:
            if not link.alive():
                raise
            raise TimeoutError(ETIMEDOUT, f"gave no answer within {timeout_s + _GRACE_S:g} s", argv[0]) from error
        return CommandOutput(
            done.status, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    return CommandFiles(run)


def access_device_files(device: Device) -> SensorFiles | None:
    """Files and commands of a device, for ``open_meter`` and ``MeterContext``; ``None`` where it is this machine."""
    return None if isinstance(device.link, LocalLink) else access_link_files(device.link)
