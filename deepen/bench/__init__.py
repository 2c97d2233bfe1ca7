"""A virtual bench: real daemons and the real runner, with emulated meters instead of hardware.

``deepen bench up`` starts it for other commands; ``deepen bench run`` measures one model on it and compares with the
truth. Its parts::

    deepen profile --> link --> real sshd or adbd --> proxy --> real runner
         |                                              |  stamps of each block
         |                                            Player --> power of the block, planned ahead
         |                                                              |
         +--> meter driver --> pseudo-terminal <-- emulated LVPM or PPK2

*Playback.* The power of a block of runs is known only once it has ended, but a meter must show it while it lasts. So
the proxy holds the runner's answer back: the bench plans the block's power a few milliseconds ahead of the emulator's
clock, lets it play, and answers then, with the runner's stamps moved to the moment at which the block was played. The
truth is exact, whatever the machine does meanwhile: the emulator alone decides when the plan begins. It costs the
time of the run once more.

Everything measured here is labelled ``simulated``; ``power_model`` defines the power of the device.
"""

from __future__ import annotations

from deepen.bench.bench import BenchDevice, VirtualBench, measure_with_truth
from deepen.bench.power_model import DevicePowerModel

__all__ = ["BenchDevice", "DevicePowerModel", "VirtualBench", "measure_with_truth"]
