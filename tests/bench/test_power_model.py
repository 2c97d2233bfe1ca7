from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepen import graph
from deepen.bench.power_model import (
    FACTORS,
    DevicePowerModel,
    KernelCost,
    OperatingPoint,
    ThermalSimulator,
    compute_kernel_costs,
)
from deepen.kernels.splitting.split import split_graph
from deepen.testing.instruments.schedule import PowerSchedule

PLAIN = DevicePowerModel(leak_per_k=0.0, run_j=0.0)
COSTS = (KernelCost("a", "fc", 1e-3, 1.0), KernelCost("b", "relu", 3e-3, 1.0))


def test_the_law_of_kernels(squeezenet: Path) -> None:
    model = DevicePowerModel()
    kernels = split_graph(graph.load_graph(squeezenet)).kernels
    for kernel, cost in zip(kernels, compute_kernel_costs(model, kernels), strict=True):
        moved = kernel.bytes_read + kernel.bytes_written
        work = 4e-11 * kernel.macs + 2e-11 * kernel.ops + 2e-10 * moved
        assert cost.energy_j == pytest.approx(2e-6 + FACTORS.get(kernel.family, 1.0) * work, rel=1e-12)
        assert (cost.name, cost.family) == (kernel.name, kernel.family)
    assert len({c.family for c in compute_kernel_costs(model, kernels)}) > 2


def test_every_family_with_a_factor_exists() -> None:
    from deepen.kernels import load_families

    assert FACTORS.keys() <= set(load_families())


def test_a_block_draws_exactly_its_energy() -> None:
    thermal = ThermalSimulator(DevicePowerModel())
    for runs in (1, 7, 5000):  # the last one is played with its mean power
        block = thermal.block(COSTS, runs, runs * 5e-3)
        assert block.net_j == pytest.approx(runs * (2e-5 + 4e-3), rel=1e-12)
        signal = PowerSchedule()
        signal.plan(1e6, block.durations_s.tolist(), block.levels_w.tolist())
        gross_j = block.net_j + block.static_w * block.duration_s
        assert signal.energy_j(1e6, 1e6 + block.duration_s) == pytest.approx(gross_j, rel=1e-6)


def test_kernels_show_in_the_waveform_but_none_by_far() -> None:
    block = ThermalSimulator(PLAIN).block(COSTS, 1, 10e-3)
    levels = block.levels_w[:3] - block.static_w
    spans = block.durations_s[:3]
    assert (levels * spans)[1:] == pytest.approx([1e-3, 3e-3])
    assert levels[1] != pytest.approx(levels[2])
    assert max(levels) <= 0.4 / 0.7 * (1 + 1e-9)


def test_a_lower_operating_point_is_slower_and_cheaper() -> None:
    fast, slow = ThermalSimulator(PLAIN), ThermalSimulator(PLAIN, frequency_hz=1.3e9)
    high, low = fast.block(COSTS, 2, 20e-3), slow.block(COSTS, 2, 20e-3)
    assert (high.point.frequency_hz, low.point.frequency_hz) == (2.4e9, 1.2e9)
    assert low.duration_s == pytest.approx(2 * high.duration_s)
    assert low.net_j == pytest.approx(0.75**2 * high.net_j)


def test_no_block_draws_more_than_the_supply_gives() -> None:
    block = ThermalSimulator(PLAIN).block(COSTS, 3, 1e-6)
    assert block.net_j / block.duration_s == pytest.approx(PLAIN.most_w)


def test_temperature_follows_power() -> None:
    model = DevicePowerModel()
    thermal = ThermalSimulator(model)
    rest_c = thermal.temperature_c
    assert rest_c == pytest.approx(model.ambient_c + model.kelvin_per_w * model.static_at(rest_c))
    thermal.rest(1000)
    assert thermal.temperature_c == pytest.approx(rest_c)
    block = thermal.block(COSTS, 10_000, 40.0)  # 40 J in 40 s
    power_w = block.static_w + block.net_j / block.duration_s
    end_c = model.ambient_c + model.kelvin_per_w * power_w
    assert thermal.temperature_c == pytest.approx(end_c + (rest_c - end_c) * math.exp(-1), rel=1e-3)
    warm_c = thermal.temperature_c
    thermal.rest(model.tau_s)
    assert rest_c < thermal.temperature_c < warm_c
    assert thermal.block(COSTS, 1, 1e-3).static_w > block.static_w


def test_the_cooling_planned_is_the_exponential() -> None:
    model = DevicePowerModel(leak_per_k=0.01)
    thermal = ThermalSimulator(model)
    block = thermal.block(COSTS, 10_000, 40.0)
    hot = thermal.temperature_c
    times = np.cumsum(block.durations_s[1:])
    levels = block.levels_w[1:]
    step = (levels[0] - levels[-1]) / (levels.size - 1)
    rest_c = model.rest_c()
    for at, before, after in zip(times, levels, levels[1:], strict=False):
        exact = model.static_at(rest_c + (hot - rest_c) * math.exp(-at / model.tau_s))
        assert after - step < exact < before + step
    assert (np.diff(levels) < 0).all()


def test_it_throttles_and_recovers() -> None:
    model = replace(PLAIN, throttle_c=40.0, tau_s=1.0, kelvin_per_w=20.0)
    thermal = ThermalSimulator(model)
    points = [thermal.block(COSTS, 1000, 4.0).point for _ in range(3)]
    assert points[0] == model.points[-1]
    assert points[1] == model.points[-2]
    thermal.rest(100.0)
    assert thermal.temperature_c < model.throttle_c - 2
    cool = replace(model, points=(OperatingPoint(1e9, 0.5), OperatingPoint(2e9, 1.0)), throttle_c=60.0)
    recovering = ThermalSimulator(cool)
    recovering.temperature_c = 80.0
    assert recovering.block(COSTS, 1, 1e-3).point == cool.points[0]
    recovering.temperature_c = 57.0
    assert recovering.block(COSTS, 1, 1e-3).point == cool.points[0]  # not yet
    recovering.temperature_c = 50.0
    assert recovering.block(COSTS, 1, 1e-3).point == cool.points[1]
