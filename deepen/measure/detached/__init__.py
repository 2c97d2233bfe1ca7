"""Measure a device whose link is cut: start a run there, cut, record power, reconnect, collect.

A cable feeds a phone while it is measured, and its radio wakes it: the most exact measurement is one during which
nobody speaks with the device. :func:`profile_detached` does all of it; :func:`collect_detached` fetches what a host
that died meanwhile has left.
"""

from __future__ import annotations

from deepen.measure.detached.cable import DeviceCable, MeterCable, QuietCable, UserCable
from deepen.measure.detached.run import collect_detached, profile_detached

__all__ = ["DeviceCable", "MeterCable", "QuietCable", "UserCable", "collect_detached", "profile_detached"]
