"""Quality: sound data pass, every planted defect is found and named, and published noise is flagged."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from deepen.datasets.quality import CHECKS, check_dataset
from deepen.datasets.statistics import compute_log_log_residuals


@pytest.fixture
def sound(make_record):
    """Thirty records of each of two families that follow their work, with 3 % of noise."""
    rng = np.random.default_rng(5)
    records = []
    for family, scale in (("conv-bn-relu", 1e-10), ("relu", 3e-10)):
        for index, size in enumerate(np.geomspace(1e4, 1e8, 30)):
            energy = scale * size * float(rng.normal(1, 0.03)) + 1e-7
            records.append(
                make_record(
                    index,
                    id=f"{family}-{index}",
                    family=family,
                    energy_j=energy,
                    gross_energy_j=1.4 * energy,
                    latency_s=energy / float(rng.normal(5, 0.2)),
                    trials=tuple(float(energy * t) for t in rng.normal(1, 0.02, 8)),
                    params={"size": int(size)},
                    features={"macs": float(size) if family[0] == "c" else 0.0, "ops": float(size),
                              "bytes_read": float(size) / 10, "bytes_written": float(size) / 20},
                )
            )  # fmt: skip
    return records


def change(records, index, **changes):
    import dataclasses

    return [dataclasses.replace(r, **changes) if i == index else r for i, r in enumerate(records)]


def found(records, name):
    return [finding for finding in check_dataset(records) if finding.check == name]


def test_sound_data_have_no_findings(sound):
    assert check_dataset(sound) == []


def test_an_empty_set_has_no_findings():
    assert check_dataset([]) == []


def test_every_check_is_reachable_by_some_defect(sound, make_record):
    """Guards the tests below: each names its check, together they name them all."""
    names = {
        "impossible",
        "rank-correlation",
        "neighbours",
        "unit-slip",
        "power",
        "quantised",
        "duplicates",
        "repeatability",
        "mixed",
    }
    assert set(CHECKS) == names


def test_kernels_alike_must_cost_alike(sound, make_record):
    """Energies dealt out at random among kernels are told; a bend that no rank correlation follows is not."""
    rng = np.random.default_rng(3)
    sizes = np.geomspace(1e4, 1e8, 60)
    hump = np.exp(-((np.log10(sizes) - 6) ** 2)) * 1e-3  # cheap where small, dear in the middle, cheap where large

    def made(energies):
        return [
            make_record(i, id=f"k{i}", energy_j=float(e), gross_energy_j=2 * float(e), params={"size": i},
                        features={"macs": float(size), "ops": 0.0, "bytes_read": float(size), "bytes_written": 0.0})
            for i, (size, e) in enumerate(zip(sizes, energies, strict=True))
        ]  # fmt: skip

    assert [f.severity for f in found(made(rng.permutation(hump)), "neighbours")] == ["error"]
    assert found(made(hump), "neighbours") == []


@pytest.mark.parametrize("seed", range(5))
def test_energy_that_does_not_follow_work_is_an_error(sound, seed):
    import dataclasses

    order = np.random.default_rng(seed).permutation(30)
    convs = [dataclasses.replace(r, energy_j=sound[i].energy_j) for r, i in zip(sound[:30], order, strict=True)]
    (finding,) = found(convs + sound[30:], "rank-correlation")
    assert finding.family == "conv-bn-relu"
    assert finding.severity in ("error", "warning")
    assert "rank correlation" in finding.message


def test_a_family_whose_work_hardly_varies_is_not_judged_by_it(sound):
    import dataclasses

    rng = np.random.default_rng(1)
    flat = [
        dataclasses.replace(r, features={"macs": 1e6 * float(rng.uniform(1, 2))}, energy_j=float(rng.uniform(1, 2)))
        for r in sound[:30]
    ]
    assert found(flat, "rank-correlation") == []


def test_a_handful_of_records_is_not_judged(sound):
    import dataclasses

    backwards = [
        dataclasses.replace(r, energy_j=other.energy_j) for r, other in zip(sound[:8], sound[7::-1], strict=True)
    ]
    assert found(backwards[:7], "rank-correlation") == []
    assert found(backwards, "rank-correlation") != []


@pytest.mark.parametrize("factor", [1000.0, 0.001])
@pytest.mark.parametrize("field", ["energy_j", "latency_s"])
def test_a_unit_slip_is_found_and_named(sound, field, factor):
    slipped = change(sound, 17, **{field: getattr(sound[17], field) * factor})
    slips = found(slipped, "unit-slip")
    assert [finding.ids for finding in slips] == [(sound[17].id,)]
    assert (slips[0].severity, slips[0].family) == ("error", "conv-bn-relu")
    (power,) = found(slipped, "power")
    assert power.ids == (sound[17].id,)
    assert power.severity == "error"


def test_many_slips_do_not_pass_for_the_trend(sound):
    import dataclasses

    slipped = [
        dataclasses.replace(r, latency_s=r.latency_s / 1000) if i % 4 == 0 and i < 30 else r
        for i, r in enumerate(sound)
    ]
    ids = {i for finding in found(slipped, "unit-slip") for i in finding.ids}
    assert ids == {r.id for i, r in enumerate(sound[:30]) if i % 4 == 0}


def test_an_outlier_that_is_no_slip_is_a_warning(sound):
    (finding,) = found(change(sound, 20, energy_j=sound[20].energy_j * 15), "unit-slip")
    assert (finding.severity, finding.ids) == ("warning", (sound[20].id,))


@pytest.mark.parametrize("energy", [0.0, -1e-6])
def test_energy_of_zero_or_less_is_an_error(sound, energy):
    (finding,) = found(change(sound, 3, energy_j=energy), "impossible")
    assert finding.severity == "error"
    assert finding.ids == (sound[3].id,)


def test_latency_of_zero_and_net_above_gross_are_errors(sound):
    assert found(change(sound, 3, latency_s=0.0), "impossible")[0].ids == (sound[3].id,)
    assert found(change(sound, 3, gross_energy_j=0.5 * sound[3].energy_j), "impossible")[0].ids == (sound[3].id,)


def test_power_no_device_draws_is_an_error(sound):
    (finding,) = found(change(sound, 3, latency_s=sound[3].energy_j / 1e5)[:5], "power")
    assert finding.severity == "error"
    assert "100 kW" in finding.message


def test_quantised_energies_are_found_with_their_step(sound):
    import dataclasses

    coarse = [dataclasses.replace(r, energy_j=max(1, round(r.energy_j / 1e-6)) * 1e-6) for r in sound[:30]]
    floor = [r for r in coarse if r.energy_j < 19.5e-6]
    (finding,) = found(coarse, "quantised")
    assert "1.00 µJ" in finding.message
    assert set(finding.ids) == {r.id for r in floor}


def test_copies_and_repeats_are_told_apart(sound):
    import dataclasses

    copied = [*sound, sound[4]]
    (finding,) = found(copied, "duplicates")
    assert (finding.severity, set(finding.ids)) == ("warning", {sound[4].id})
    again = dataclasses.replace(sound[4], energy_j=1.1 * sound[4].energy_j)
    (finding,) = found([*sound, again], "duplicates")
    assert finding.severity == "info"
    apart = dataclasses.replace(sound[4], energy_j=1.5 * sound[4].energy_j)
    (finding,) = found([*sound, apart], "duplicates")
    assert (finding.severity, "more than 25 %" in finding.message) == ("warning", True)
    other_threads = dataclasses.replace(sound[4], threads=2)
    assert found([*sound, other_threads], "duplicates") == []


def test_blocks_that_do_not_repeat_are_found(sound):
    import dataclasses

    shaky = change(sound, 9, trials=(0.5, 1.0, 1.5, 1.0))
    (finding,) = found(shaky, "repeatability")
    assert finding.ids == (sound[9].id,)
    rng = np.random.default_rng(0)
    noisy = [dataclasses.replace(r, trials=tuple(float(t) for t in rng.normal(1, 0.2, 8))) for r in sound]
    assert any("not quiet" in finding.message for finding in found(noisy, "repeatability"))
    single = [dataclasses.replace(r, trials=(r.energy_j,)) for r in sound]
    assert found(single, "repeatability")[0].severity == "info"


def test_rejecting_more_than_kept_is_found(sound):
    shaky = change(sound, 9, rejected=tuple({"reason": "drift", "energy_j": 1.0} for _ in range(9)))
    assert found(shaky, "repeatability")[0].ids == (sound[9].id,)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("source", "measured", "labels"),
        ("device", "other", "devices"),
        ("meter", "other", "power sources"),
        ("runtime_build", "other", "runtime builds"),
        ("threads", 2, "thread counts"),
        ("features_version", 9, "feature versions"),
    ],
)
def test_mixtures_are_named_with_their_counts(sound, field, value, word):
    (finding,) = found(change(sound, 0, **{field: value}), "mixed")
    assert f"several {word}" in finding.message
    assert "(59)" in finding.message
    assert "(1)" in finding.message


def test_models_are_checked_by_the_sum_of_their_kernels(sound, make_record):
    rng = np.random.default_rng(2)
    sizes = np.geomspace(1e6, 1e9, 20)
    models = [
        make_record(
            i,
            kind="model",
            energy_j=float(rng.permutation(sizes)[0]) * 1e-10,
            kernels=({"family": "fc", "params": {}, "features": {"macs": float(size)}, "multiplicity": 2.0},),
        )
        for i, size in enumerate(sizes)
    ]
    assert found(models, "rank-correlation")[0].family == "models"


def test_findings_come_worst_first(sound):
    defects = change(change([*sound, sound[4]], 3, energy_j=-1.0), 0, source="measured")
    severities = [finding.severity for finding in check_dataset(defects)]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert {"error", "warning"} <= set(severities)


# Statistics


def test_residuals_ignore_wrong_values():
    work = np.geomspace(1e3, 1e9, 60)[:, None]
    values = 1e-9 * work[:, 0] ** 0.9
    wrong = values.copy()
    wrong[::4] *= 1000
    residuals = compute_log_log_residuals(wrong, work)
    assert np.allclose(residuals[::4], math.log(1000), atol=0.05)
    assert np.abs(np.delete(residuals, np.s_[::4])).max() < 0.05


# Other people's data


def conv_work(size: int, kernel: int, stride: int, c_in: int, c_out: int) -> dict[str, float]:
    out = math.ceil(size / stride)
    weights = kernel * kernel * c_in * c_out
    return {
        "macs": float(out * out * weights),
        "ops": float(out * out * c_out),
        "bytes_read": 4.0 * (size * size * c_in + weights),
        "bytes_written": 4.0 * out * out * c_out,
    }


@pytest.mark.parametrize("phone", ["pixel7", "pixel8pro"])
def test_published_noise_is_flagged(shared_dir, make_record, phone):
    with (shared_dir / "data" / "noise_control" / f"conv_{phone}.csv").open() as file:
        rows = list(csv.DictReader(file))
    records = [
        make_record(
            i,
            id=row["id"],
            energy_j=float(row["energy_mJ"]) / 1e3,
            gross_energy_j=float(row["energy_mJ"]) / 1e3,
            latency_s=1.0,
            features=conv_work(*(int(row[c]) for c in ("HW", "KERNEL_SIZE", "STRIDES", "CIN", "COUT"))),
            params={c: int(row[c]) for c in ("HW", "KERNEL_SIZE", "STRIDES", "CIN", "COUT")},
        )
        for i, row in enumerate(rows)
    ]
    errors = [finding for finding in check_dataset(records) if finding.severity == "error"]
    assert [finding.check for finding in errors if finding.check == "rank-correlation"] == ["rank-correlation"]


def phone_table(shared_dir, kind: str) -> dict[str, float]:
    base = shared_dir / "data" / "deepen2023" / "kernels_p40pro_cpu"
    rows = json.loads((base / f"Kernel_{kind}" / f"conv-bn-relu_{kind}.json").read_text())["conv-bn-relu"]
    return {name: float(row[kind]) for name, row in rows.items()}


def test_published_measurements_are_not_flagged_as_noise(shared_dir, make_record):
    base = shared_dir / "data" / "deepen2023" / "kernels_p40pro_cpu"
    energy, configs = phone_table(shared_dir, "energy"), {}
    for file in base.glob("kernel_config/**/conv-bn-relu_test.json"):
        configs |= {k: v["config"] for k, v in json.loads(file.read_text())["conv-bn-relu"].items()}
    names = [n for n in energy if n in configs]
    assert len(names) > 200
    records = [
        make_record(
            i,
            energy_j=energy[n] / 1e3,
            gross_energy_j=energy[n] / 1e3,
            latency_s=1.0,
            features=conv_work(*(configs[n][c] for c in ("HW", "KERNEL_SIZE", "STRIDES", "CIN", "COUT"))),
            params=configs[n],
        )
        for i, n in enumerate(names)
    ]
    assert found(records, "rank-correlation") == []


def test_published_unit_slips_are_found_all_and_alone(shared_dir, make_record):
    energy, latency, power = (phone_table(shared_dir, kind) for kind in ("energy", "latency", "power"))
    names = [n for n in energy if latency[n] > 0]
    slipped = {n for n in names if not 0.01 < energy[n] / (power[n] * latency[n] / 1e3) < 100}
    assert len(slipped) > 30
    records = [
        make_record(i, id=n, energy_j=energy[n] / 1e3, gross_energy_j=energy[n] / 1e3, latency_s=latency[n] / 1e3)
        for i, n in enumerate(names)
    ]
    flagged = {i for f in found(records, "power") if f.severity == "error" for i in f.ids}
    assert flagged == slipped
