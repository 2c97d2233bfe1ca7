"""A bench without hardware: real daemons, the real runner, and meters that exist in bytes only.

``deepen bench up`` starts it for other commands, ``deepen bench run`` measures one model on it and compares with the
truth. How it hangs together::

    deepen profile --> link --> real sshd or adbd --> proxy --> real runner
         |                                              |  stamps of each block
         |                                            Player --> power of the block, planned ahead
         |                                                              |
         +--> meter driver --> pseudo-terminal <-- emulated LVPM or PPK2

*Playback.* What a block of runs draws can only be told once it has ended, but a meter must show it while it lasts. So
the proxy holds the runner's answer back: the bench plans the block's power a few milliseconds ahead of the emulator's
clock, lets it play, and answers then, with the runner's stamps moved to the moment at which the block was played. The
truth is exact, whatever the machine does meanwhile: the emulator alone decides when the plan begins. It costs the
time of the run once more.

Everything measured here is labelled ``simulated``; ``power_model`` says what the device draws.
"""

from __future__ import annotations

from deepen.bench.bench import BenchDevice, VirtualBench, measure_with_truth
from deepen.bench.power_model import DevicePowerModel

__all__ = ["BenchDevice", "DevicePowerModel", "VirtualBench", "measure_with_truth"]
