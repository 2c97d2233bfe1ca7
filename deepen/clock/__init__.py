"""Clocks: host time, device clocks mapped to it, and the clock of a sample stream fitted to its arrival times.

All the host knows of a sample is when its bytes came in. Bytes arrive late, never early: a read returns at the moment
its last sample was taken, plus a transport delay that varies by milliseconds (USB frames, buffers, scheduling) but has
a floor. Over the instrument's own time (position / rate), the arrival times therefore lie above a line, and the line
under them is the clock map (lower convex hull; the edge above the mean minimises the summed delay: S. Moon, P. Skelly,
D. Towsley, "Estimation and removal of clock skew from network delay measurements", INFOCOM 1999).

Samples that the counters did not see lost make everything after them arrive later for good, whereas a stalled
transport catches up. A lasting step of the floor is therefore a loss; its height divided by the sample period is the
number of samples lost.
"""

from __future__ import annotations

from deepen.clock.delay_floor import CLOCK_TOLERANCE
from deepen.clock.stream_clock import ArrivalLog, fit_arrivals
from deepen.clock.stream_types import ArrivalFit, SampleLoss, insert_losses

__all__ = ["CLOCK_TOLERANCE", "ArrivalFit", "ArrivalLog", "SampleLoss", "fit_arrivals", "insert_losses"]
