"""Records of energy that differ only where a test says so."""

from __future__ import annotations

from typing import Any

from deepen.records import EnergyRecord


def make_energy_record(index: int = 0, **changes: Any) -> EnergyRecord:
    """Make a record; ``index`` makes kernels differ, keywords replace fields."""
    macs = 1000.0 * (index + 1)
    fields: dict[str, Any] = {
        "id": f"{index:016x}",
        "kind": "kernel",
        "name": f"conv-bn-relu {index}",
        "energy_j": 1e-9 * macs,
        "uncertainty_j": 1e-11 * macs,
        "gross_energy_j": 1.5e-9 * macs,
        "latency_s": 1e-9 * macs,
        "idle_power_before_w": 0.5,
        "idle_power_after_w": 0.5,
        "threads": 1,
        "runtime": "onnxruntime",
        "runtime_build": "1.31.1 extended cpu",
        "device": "bench",
        "meter": "emulator",
        "source": "simulated",
        "runs": 100,
        "trials": (0.99e-9 * macs, 1e-9 * macs, 1.01e-9 * macs),
        "recorded_at": "2026-01-02T03:04:05Z",
        "family": "conv-bn-relu",
        "params": {"c_in": index + 1, "kernel": [3, 3], "activation": "none"},
        "features": {"macs": macs, "bytes_read": 4.0 * macs},
        "features_version": 1,
    }
    if changes.get("kind") == "model":
        fields |= {"family": "", "params": {}, "features": {}, "name": f"model {index}"}
    return EnergyRecord(**(fields | changes))
