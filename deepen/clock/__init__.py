"""Clocks: host time, and device and instrument clocks mapped to it (:class:`~deepen.clock.host_clock.ClockMap`).

One file for each way to fit a clock map, always with a stated uncertainty: ``round_trips`` (questions and answers),
``stream_clock`` (arrival times of a sample stream), ``counter_readings`` (a counter with time stamps) and
``matched_events`` (moments known on both clocks).
"""

from __future__ import annotations

from deepen.clock.host_clock import CLOCK_TOLERANCE
from deepen.clock.stream_clock import ArrivalLog, fit_arrivals
from deepen.clock.stream_types import ArrivalFit, SampleLoss, insert_losses

__all__ = ["CLOCK_TOLERANCE", "ArrivalFit", "ArrivalLog", "SampleLoss", "fit_arrivals", "insert_losses"]
