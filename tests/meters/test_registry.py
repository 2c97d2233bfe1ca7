from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from deepen.devices import CpuPower
from deepen.errors import ConfigError, MeterError
from deepen.meters import Meter, MeterContext, MeterSpec, list_meters, open_meter, registry
from deepen.meters.sensor_files import CommandFiles, CommandOutput
from deepen.meters.types import Driver, MachinePower
from deepen.testing.power import PowerTimeline, SimulatedMeter

POWER = CpuPower("test", 4.0, 20.0, 8, "a figure for tests")
Write = Callable[[dict[str, str]], Path]

RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "5",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000",
}
BATTERY = {
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Discharging",
    "sys/class/power_supply/BAT0/power_now": "5000000",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [({}, "cpu-model"), (BATTERY, "battery"), (RAPL, "rapl"), ({**RAPL, **BATTERY}, "rapl")],
)
def test_the_best_source_is_chosen(files: dict[str, str], expected: str, sysfs: Write, tmp_path: Path) -> None:
    sysfs(files)
    meter = open_meter(power=POWER, pid=lambda: None, root=tmp_path)
    assert meter.id == expected
    meter.close()


def test_no_source_at_all_says_why_for_each(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=r"rapl: no powercap.*battery: no battery.*cpu-model: the device profile"):
        open_meter(root=tmp_path)


def test_a_device_without_sensors_wants_an_instrument(tmp_path: Path) -> None:
    nothing = CommandFiles(lambda argv, timeout_s: CommandOutput(1, "", ""))
    with pytest.raises(MeterError, match=r"device measures no power by itself \(rapl: .*connected to: --meter NAME"):
        open_meter(link=nothing)


def test_every_source_is_listed_with_cause_and_order(tmp_path: Path) -> None:
    found = list_meters(MeterContext(power=POWER, root=tmp_path))
    names = [m.name for m in found]
    assert names == list(registry.DRIVERS)
    assert names[0] == "rapl"
    assert names[-1] == "cpu-model"  # what is measured comes before what is modelled
    for entry in found:
        assert entry.available or entry.cause
        assert "\n" not in entry.cause + entry.cure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rapl", MeterSpec("rapl")),
        ("lvpm:/dev/ttyACM0?voltage_v=4.2", MeterSpec("lvpm", "/dev/ttyACM0", {"voltage_v": "4.2"})),
        ("scpi:10.0.0.5:5025?ch=2&range=auto", MeterSpec("scpi", "10.0.0.5:5025", {"ch": "2", "range": "auto"})),
    ],
)  # fmt: skip
def test_specifications(text: str, expected: MeterSpec) -> None:
    assert MeterSpec.parse(text) == expected


@pytest.mark.parametrize("text", ["", ":port", "?a=b", "rapl?novalue"])
def test_malformed_specifications(text: str) -> None:
    with pytest.raises(ConfigError):
        MeterSpec.parse(text)


def test_unknown_names_and_options() -> None:
    with pytest.raises(ConfigError, match="did you mean rapl"):
        open_meter("rapll", power=POWER)
    with pytest.raises(ConfigError, match="no option 'cores'"):
        open_meter("cpu-model?cores=4", power=POWER)


def test_meter_profiles(sysfs: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sysfs({**BATTERY, "devices/meters/laptop.toml": 'meter = "battery:BAT0"\n', "devices/meters/odd.toml": ""})
    monkeypatch.setenv("DEEPEN_CATALOG", str(root))
    assert open_meter("laptop", root=root).id == "battery"
    with pytest.raises(ConfigError, match="no field 'meter'"):
        open_meter("odd", root=root)
    with pytest.raises(ConfigError, match="did you mean laptop"):
        open_meter("laptob", root=root)


def test_meters_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "acme_meter.py").write_text(
        "from deepen.meters import Availability, Driver\n"
        "from deepen.testing.power import SimulatedMeter, PowerTimeline\n"
        "DRIVER = Driver('acme', 'Acme', lambda c: Availability('acme', True, '', 'simulated'),\n"
        "                lambda s, c: SimulatedMeter(PowerTimeline(float(s.options['idle_w'])), name='acme'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = EntryPoints([EntryPoint("acme", "acme_meter:DRIVER", "deepen.meters"),
                          EntryPoint("rapl", "evil:DRIVER", "deepen.meters")])  # fmt: skip
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))
    assert list(registry.DRIVERS) == [*registry.DRIVERS.ours, "acme"]
    assert registry.DRIVERS["rapl"] == "deepen.meters.onboard.rapl:DRIVER"  # ours cannot be replaced unseen
    meter = open_meter("acme?idle_w=3")
    assert meter.id == "acme"
    assert list_meters()[-1].available


@pytest.mark.parametrize("name", registry.DRIVERS)
def test_drivers_are_complete(name: str) -> None:
    found = registry.load_driver(name)
    assert isinstance(found, Driver)
    assert found.name == name
    assert found.title


@pytest.mark.parametrize("name", ["rapl", "battery", "cpu-model", "simulated"])
def test_every_meter_keeps_the_contract(name: str, sysfs: Write) -> None:
    """start, mark, stop, twice; strictly ascending times; label and identity on the trace."""
    root = sysfs({**RAPL, **BATTERY, "proc/stat": "cpu  1 2 3 4 5 6 7 8\n"})
    if name == "simulated":
        meter: Meter = SimulatedMeter(PowerTimeline(2.0))
    else:
        meter = open_meter(name, power=POWER, pid=lambda: None, root=root)
    assert isinstance(meter, Meter)
    for _ in range(2):
        meter.start()
        for _ in range(5):
            meter.mark()
        trace = meter.stop()
        assert trace.t_s.size >= 2
        assert trace.source == meter.source
        assert trace.meter_id == meter.id
        assert trace.calibration_id == meter.calibration_id != ""
        assert trace.power_w.min() >= 0
    meter.close()
    meter.close()


def test_the_meter_protocol_has_at_most_six_verbs() -> None:
    verbs = [n for n, v in vars(Meter).items() if callable(v) and not n.startswith("_")]
    assert sorted(verbs) == ["close", "mark", "observe", "start", "stop"]
    assert isinstance(POWER, MachinePower)
