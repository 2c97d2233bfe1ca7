"""Byte-accurate emulators of instruments, as seen by a driver at a port, with known true energy.

An :class:`~deepen.testing.instruments.base.Emulator` (``lvpm``, ``ppk2``, ``powersensor3``, ...) is connected to a
:class:`~deepen.testing.instruments.signal.PowerSignal` and driven by a port: ``virtual.VirtualPort`` in virtual time,
``pty.serve`` as a process behind a pseudo-terminal. ``faults`` has faults to inject. Everything measured from one is
labelled ``simulated``.

::

    clock = VirtualClock()
    emulator = Ppk2(Blocks(0.05, 0.5, [(1001.0, 1002.0)]))
    port = VirtualPort(emulator, clock, jitter_s=5e-3, faults=[LoseBytes(0.5)])
    meter = ...  # any driver's instrument, on that port
    emulator.energy_j(1000.0, 1003.0)  # true energy, joules
"""
