"""Predictors for a new device from few measurements."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from deepen import predictors
from deepen.errors import PredictorError
from deepen.kernels.features import build_feature_matrix
from deepen.predictors.inference.calibration_factors import CalibrationFactors
from deepen.predictors.inference.zero_operands import ZERO_OPERAND_FACTOR
from deepen.predictors.kernel_counts import KernelCounts


@pytest.fixture
def calibrated(device_of):
    device = device_of(seed=1)
    records, _ = device.models(40)
    return device, records, predictors.calibrate_predictor(None, records)


def test_whole_models_alone_are_enough(calibrated):
    device, _, predictor = calibrated
    errors = device.errors(predictor)
    assert np.abs(errors).mean() < 0.02
    assert abs(np.median(errors)) < 0.015


def test_kernels_nobody_measured_alone_come_out_right_where_models_tell_them_apart(calibrated):
    device, _, predictor = calibrated
    families = [k.family for k in device.kernels]
    found = predictor.energies(families, build_feature_matrix(device.described)).energy_j
    truth = device.kernel_j()
    wide = [i for i, k in enumerate(device.kernels) if k.family == "conv-bn-relu" and k.params["kernel"] == [3, 3]]
    assert abs(np.log(found[wide].sum() / truth[wide].sum())) < 0.1


def test_times_help_where_power_is_noisy(device_of):
    errors = {True: [], False: []}
    for times in (True, False):
        for seed in range(3, 7):
            device = device_of(seed=seed, noise=0.08)
            records, _ = device.models(25, times=times)
            predictor = predictors.calibrate_predictor(None, records)
            assert predictor.card["calibrated_from"]["way"] == ("time" if times else "direct")
            off = device.errors(predictor)
            errors[times].append(np.abs(off - np.median(off)).mean())
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False])


def test_an_odd_measurement_does_not_decide(device_of):
    device = device_of(seed=4)
    records, _ = device.models(30)
    records[0] = dataclasses.replace(records[0], energy_j=records[0].energy_j * 20)
    assert np.abs(device.errors(predictors.calibrate_predictor(None, records))).mean() < 0.03


def test_a_calibrated_predictor_is_no_base(calibrated):
    _, records, predictor = calibrated
    with pytest.raises(PredictorError, match="calibrated already"):
        predictors.calibrate_predictor(predictor, records)


def test_a_trained_base_is_carried_over(trained, dataset_of):
    world, _, base = trained
    scaled = [
        dataclasses.replace(r, energy_j=2.5 * r.energy_j, latency_s=2.5 * r.latency_s, device="other")
        for r in [world.model(f"new-{i}", 30, 30e-6) for i in range(12)]
    ]
    predictor = predictors.calibrate_predictor(base, dataset_of(scaled[:6]))
    off = []
    for record in scaled[6:]:
        (energy,) = predictor.predict_counts(KernelCounts.from_records([record])).energy_j
        off.append(abs(energy / record.energy_j - 1))
    assert np.mean(off) < 0.12
    assert predictor.card["device"] == "other"
    assert predictor.card["calibrated_from"]["base"] == base.id
    assert predictor.card["calibrated_from"]["factor"] == pytest.approx(2.5, rel=0.25)


def test_kernels_alone_calibrate_too(device_of):
    device = device_of(seed=7)
    predictor = predictors.calibrate_predictor(None, device.alone())
    families = [k.family for k in device.kernels]
    found = predictor.energies(families, build_feature_matrix(device.described))
    assert np.abs(np.log(found.energy_j / device.kernel_j())).max() < 0.1
    assert found.regressor.all()


def test_power_that_sinks_with_length_is_found_and_held_far_outside(device_of):
    device = device_of(seed=8, noise=0.005, bend=-0.05)
    records, _ = device.models(60)
    bend = predictors.calibrate_predictor(None, records).calibration.bend
    assert -0.09 < bend.exponent < -0.01
    energies = np.array([1e3, 1e6])
    assert bend.factor(energies)[0] == bend.factor(energies)[1]


def test_the_file_gives_the_same_predictions(calibrated, tmp_path):
    device, _, predictor = calibrated
    again = predictors.load_predictor(predictor.save(tmp_path / "board.deepen"))
    counts = KernelCounts.from_kernels(device.kernels, device.draw(20))
    a, b = (p.predict_counts(counts) for p in (predictor, again))
    assert np.allclose(a.energy_j, b.energy_j, rtol=1e-9)
    assert np.allclose(a.high_j, b.high_j, rtol=1e-6)


def test_models_one_by_one_are_what_counts_give(calibrated):
    device, records, predictor = calibrated
    record = records[0]
    (one,) = predictor.predict_many(KernelCounts.from_records([record]))
    counts = np.array([[k["multiplicity"] for k in record.kernels]])
    many = predictor.predict_counts(KernelCounts.from_kernels(device.kernels, counts))
    assert one.energy_j == pytest.approx(many.energy_j[0], rel=1e-9)
    assert sum(k.energy_j for k in one.kernels) + one.overhead_j == pytest.approx(one.energy_j, rel=1e-9)
    assert one.coverage == 1.0


def test_equal_measurements_give_an_equal_predictor(device_of):
    records, _ = device_of(seed=9).models(12)
    a, b = (predictors.calibrate_predictor(None, records) for _ in range(2))
    assert json.dumps(a.calibration.to_json()) == json.dumps(b.calibration.to_json())
    assert a.id == b.id


def test_intervals_cover_new_models(device_of):
    inside = []
    for seed in range(6):
        device = device_of(seed=20 + seed)
        records, _ = device.models(40)
        predictor = predictors.calibrate_predictor(None, records)
        new, counts = device.models(150)
        found = predictor.predict_counts(KernelCounts.from_kernels(device.kernels, counts))
        measured = np.array([r.energy_j for r in new])
        inside.append(np.mean((measured >= found.low_j) & (measured <= found.high_j)))
    assert 0.8 < np.mean(inside) < 0.98


def test_kernels_that_multiply_by_zeros_cost_less(calibrated):
    device, _, predictor = calibrated
    other = {**device.described[1], "zero_operand": 1.0}
    found = predictor.energies(["conv-bn-relu"] * 2, build_feature_matrix([device.described[1], other])).energy_j
    assert found[1] / found[0] == pytest.approx(ZERO_OPERAND_FACTOR)


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_measurements_are_refused(device_of, count):
    with pytest.raises(PredictorError, match="measure"):
        predictors.calibrate_predictor(None, device_of().models(count)[0] if count else [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.pop("terms"),
        lambda t: t["terms"][0].update(weight=[1.0]),
        lambda t: t["terms"][0]["belief"].update(length=0.0),
        lambda t: t["terms"][0].update(shift=float("inf")),
        lambda t: t["bend"].update(exponent="x"),
        lambda t: t.update(position=None),
    ],
)
def test_a_damaged_layer_is_refused(calibrated, damage):
    table = json.loads(json.dumps(calibrated[2].calibration.to_json()))
    assert CalibrationFactors.from_json(table).to_json() == calibrated[2].calibration.to_json()
    damage(table)
    with pytest.raises(PredictorError, match="calibrate again"):
        CalibrationFactors.from_json(table)
