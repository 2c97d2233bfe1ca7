"""When did a sample happen, if all the host knows is when its bytes came in.

Bytes arrive late, never early: the moment a read returns is the moment the last sample in it was taken, plus a
transport delay that varies by milliseconds (USB frames, buffers, scheduling) but has a floor. Over the instrument's own
time (position / rate), the arrival times therefore lie above a line, and the line under them is the clock map (lower
convex hull; the edge above the mean minimises the summed delay: S. Moon, P. Skelly, D. Towsley, "Estimation and removal
of clock skew from network delay measurements", INFOCOM 1999).

Samples lost without a trace in the counters make everything after them arrive later for ever, whereas a stalled
transport catches up: a step of the floor is a loss, and its height over the sample period the number of samples.
"""

from __future__ import annotations

from deepen.clock.delay_floor import CLOCK_TOLERANCE
from deepen.clock.stream_clock import ArrivalLog, fit_arrivals
from deepen.clock.stream_types import ArrivalFit, SampleLoss, insert_losses

__all__ = ["CLOCK_TOLERANCE", "ArrivalFit", "ArrivalLog", "SampleLoss", "fit_arrivals", "insert_losses"]
