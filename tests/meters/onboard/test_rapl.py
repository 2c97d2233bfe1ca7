from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters import Meter, MeterContext, MeterSpec, open_meter
from deepen.meters.onboard import rapl
from deepen.meters.onboard.rapl import DRIVER, RaplMeter, find_packages
from deepen.meters.sensor_files import CommandFiles, LocalFiles

Write = Callable[[dict[str, str]], Path]
BASE = "sys/class/powercap"


def zone(name: str, title: str, energy: int, limit: int = 262_143_328_850) -> dict[str, str]:
    return {
        f"{BASE}/{name}/name": title + "\n",
        f"{BASE}/{name}/energy_uj": f"{energy}\n",
        f"{BASE}/{name}/max_energy_range_uj": f"{limit}\n",
    }


TREE = {
    **zone("intel-rapl:0", "package-0", 1_000_000),
    **zone("intel-rapl:0:0", "core", 400_000),
    **zone("intel-rapl:0:1", "dram", 300_000),
    **zone("intel-rapl:1", "package-1", 5_000_000),
    **zone("intel-rapl:2", "psys", 9_000_000),
    **zone("intel-rapl-mmio:0", "package-0", 1_000_000),
}


def energy(root: Path, name: str, value: int) -> None:
    (root / BASE / name / "energy_uj").write_text(f"{value}\n")


def total_j(meter: Meter) -> float:
    trace = meter.stop()
    steps = trace.t_s[1:] - trace.t_s[:-1]
    return float((steps * (trace.power_w[1:] + trace.power_w[:-1]) / 2).sum())


def test_only_packages_count_never_what_lies_inside_or_around_them(sysfs: Write) -> None:
    root = sysfs(TREE)
    assert find_packages(LocalFiles(root)) == [f"/{BASE}/intel-rapl:0", f"/{BASE}/intel-rapl:1"]
    meter = open_meter("rapl", root=root)
    meter.start()
    energy(root, "intel-rapl:0", 1_500_000)
    energy(root, "intel-rapl:0:0", 9_000_000)
    energy(root, "intel-rapl:1", 5_250_000)
    energy(root, "intel-rapl:2", 99_000_000)
    assert total_j(meter) == pytest.approx(0.75, rel=1e-6)
    assert meter.source == "measured"
    meter.close()


def test_a_wrap_of_one_counter_is_followed(sysfs: Write) -> None:
    root = sysfs(zone("intel-rapl:0", "package-0", 999_000, limit=1_000_000))
    meter = RaplMeter(LocalFiles(root), find_packages(LocalFiles(root)))
    meter.start()
    energy(root, "intel-rapl:0", 500)
    meter.mark()
    energy(root, "intel-rapl:0", 300)  # and once more, nearly all the way round
    assert total_j(meter) == pytest.approx((1_500 + 999_800) / 1e6, rel=1e-6)


def test_a_second_trace_does_not_count_the_time_between(sysfs: Write) -> None:
    root = sysfs(TREE)
    meter = RaplMeter(LocalFiles(root), find_packages(LocalFiles(root)))
    meter.start()
    meter.stop()
    energy(root, "intel-rapl:0", 900_000_000)
    meter.start()
    energy(root, "intel-rapl:0", 900_250_000)
    assert total_j(meter) == pytest.approx(0.25, rel=1e-6)


def test_not_there(sysfs: Write, tmp_path: Path) -> None:
    found = DRIVER.probe(MeterContext(root=tmp_path))
    assert not found.available
    assert "no powercap" in found.cause
    assert found.cure
    with pytest.raises(MeterError, match=r"no powercap.*; .*modprobe"):
        open_meter("rapl", root=tmp_path)
    root = sysfs(zone("intel-rapl:0", "psys", 1))
    assert "no package domain" in DRIVER.probe(MeterContext(root=root)).cause


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_as_a_user(sysfs: Write) -> None:
    root = sysfs(TREE)
    (root / BASE / "intel-rapl:0/energy_uj").chmod(0)
    with pytest.raises(MeterError, match=r"no permission.*chmod a\+r"):
        open_meter("rapl", root=root)


def test_no_permission_names_the_cure(sysfs: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sysfs(TREE)
    original = Path.read_text

    def refuse(self: Path, *args: object, **kwargs: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    found = DRIVER.probe(MeterContext(root=root))
    assert not found.available
    assert "no permission" in found.cause
    assert "chmod a+r" in found.cure
    with pytest.raises(MeterError, match=r"chmod a\+r"):
        open_meter("rapl", root=root)


def test_a_counter_that_vanishes_is_an_error_not_a_zero(sysfs: Write) -> None:
    root = sysfs(TREE)
    meter = RaplMeter(LocalFiles(root), find_packages(LocalFiles(root)))
    meter.start()
    (root / BASE / "intel-rapl:1/energy_uj").unlink()
    with pytest.raises(MeterError, match="cannot read"):
        meter.mark()
    meter.close()


def test_options_are_refused(sysfs: Write) -> None:
    with pytest.raises(ConfigError, match="no option 'rate'"):
        DRIVER.open(MeterSpec.parse("rapl?rate=5"), MeterContext(root=sysfs(TREE)))


def test_a_reset_is_an_error_not_a_wrap_worth_kilojoules(sysfs: Write) -> None:
    root = sysfs(zone("intel-rapl:0", "package-0", 100_000_000_000))
    meter = open_meter("rapl", root=root)
    meter.start()
    energy(root, "intel-rapl:0", 5_000)  # as after a suspend: a wrap would be 162 kJ within a blink
    with pytest.raises(MeterError, match=r"is no wrap.*reset.*measure again"):
        meter.mark()
    energy(root, "intel-rapl:0", 1_005_000)
    meter.close()
    meter.start()  # what happened in between does not matter
    energy(root, "intel-rapl:0", 3_005_000)
    assert total_j(meter) == pytest.approx(2.0, rel=1e-6)


def test_a_real_wrap_of_a_busy_processor_passes(sysfs: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(rapl, "monotonic_s", lambda: now[0])
    root = sysfs(zone("intel-rapl:0", "package-0", 262_143_328_850 - 1_000_000_000))
    meter = RaplMeter(LocalFiles(root), find_packages(LocalFiles(root)))
    meter.start()
    now[0] += 20.0
    energy(root, "intel-rapl:0", 9_000_000_000)  # 10 kJ in 20 s
    assert total_j(meter) == pytest.approx(10_000, rel=1e-6)


def test_it_reads_a_server_across_a_link(sysfs: Write, across: Callable[..., CommandFiles]) -> None:
    root = sysfs(TREE)
    meter = open_meter("rapl", link=across())
    meter.start()
    energy(root, "intel-rapl:0", 3_000_000)
    energy(root, "intel-rapl:1", 5_500_000)
    assert total_j(meter) == pytest.approx(2.5, rel=1e-6)
    assert DRIVER.probe(MeterContext(link=across(merge=True))).available
