"""The connection between host and device in a detached run: ways to cut it and to get it back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from deepen.clock.host_clock import Deadline
from deepen.errors import LinkError

if TYPE_CHECKING:
    from deepen.devices.links.remote import RemoteLink
    from deepen.devices.protocols import ProcessChannel

__all__ = ["DeviceCable", "MeterCable", "QuietCable", "UserCable", "choose_cable", "wait_until_reachable"]

METERS_WITH_USB = ("lvpm", "hvpm")
"""Instruments a phone's USB cable runs through: set to ``auto`` they cut it while they sample."""

_USER_S = 600.0
_POLL_S = 1.0


class DeviceCable(Protocol):
    """A way to leave a device alone."""

    def cut(self, link: RemoteLink, held: ProcessChannel) -> None:
        """Leave it alone; called when power is being recorded. The hold goes with its connection.

        Raises:
            LinkError: If that does not come about.
        """

    def mend(self) -> None:
        """Let it be reached again."""


class QuietCable:
    """Closes the connection and nothing else: over a network, or where charging is switched off by a setting."""

    def cut(self, link: RemoteLink, held: ProcessChannel) -> None:
        """Let go: the hold ends with its connection."""
        link.disconnect()

    def mend(self) -> None:
        """Nothing to do: the next call connects."""


class MeterCable(QuietCable):
    """A cable through a Monsoon, which cuts it while it samples (``usb=auto``), so when this is asked to."""


class UserCable:
    """A cable somebody pulls."""

    def __init__(self, tell: Callable[[str], None], patience_s: float = _USER_S) -> None:
        """Say whom to ask and how long to wait."""
        self._tell = tell
        self._patience_s = patience_s

    def cut(self, link: RemoteLink, held: ProcessChannel) -> None:
        """Ask, and wait until the link is gone.

        Raises:
            LinkError: If nobody pulls the cable.
        """
        self._tell(f"unplug the USB cable of {link.name} now; the measurement begins by itself")
        deadline = Deadline(self._patience_s)
        while not deadline.expired:
            try:
                held.receive(min(_POLL_S, deadline.remaining_s))
            except LinkError:
                link.disconnect()
                return
        raise LinkError(
            f"{link.name}: nobody unplugged it within {self._patience_s:.0f} s", cure="start again when you can"
        )

    def mend(self) -> None:
        """Ask for it back."""
        self._tell("done: plug the USB cable in again; the results are collected by themselves")


def choose_cable(link: RemoteLink, meter: str, charging_off: bool, tell: Callable[[str], None]) -> DeviceCable:
    """Choose the way to leave a device alone.

    Args:
        link: The link.
        meter: Name of the meter's driver.
        charging_off: Whether a setting keeps the cable from feeding the device.
        tell: Called with the request to unplug the cable.
    """
    over_usb = link.name.startswith("adb") and not re.search(r":\d+$", link.name)
    if not over_usb:
        return QuietCable()
    if meter in METERS_WITH_USB:
        return MeterCable()
    return QuietCable() if charging_off else UserCable(tell)


def wait_until_reachable(link: RemoteLink, patience_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until a device answers again.

    Raises:
        LinkError: If it does not.
    """
    deadline = Deadline(patience_s)
    while not link.alive():
        if deadline.expired:
            raise LinkError(
                f"{link.name} has not come back within {patience_s:.0f} s", cure="plug it in, and see that it is on"
            )
        sleep(min(_POLL_S, deadline.remaining_s))
