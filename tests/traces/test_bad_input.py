"""Nothing a file holds brings down a reader: it is read, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepen import traces
from deepen.errors import ConfigError, DeepenError, MeasureError
from deepen.traces import FORMATS

STARTS = [
    b"",
    b"PAR1",
    b'{"format": "deepen-trace", "version": 1',
    b'[{"power": {"samples": [',
    b"\xf1\x00\x00\x7aD",
    b"jlsfmt\r\n \n \x1a  ",
    b't_s,power_w,meter,source,facts\n0,1,m,measured,"{""format"": ""deepen-trace""',
    b"t_s,power_w\n0,1\n",
    b"Time(ms),Main(mA),Main Voltage(V),\n1,2,3,\n",
    b"Timestamp(ms),Current(uA),D0-D7\n0,1,00000000\n",
    b"#time (s),current (A),voltage (V)\n0,1,2\n",
    b"Time,12-23-2020 10:21:51.496,Watts,23.43\n",
]
TAIL = st.one_of(st.binary(max_size=200), st.text('0123456789.,-+einfx\n\r" ;\t', max_size=200).map(str.encode))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(STARTS), tail=TAIL, name=st.sampled_from(["", *FORMATS]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, start: bytes, tail: bytes, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(start + tail)
    options = {"voltage_v": "3"} if name == "ppk2-csv" else {}
    try:
        file = traces.open_trace(path, format=name, **options)
        read = traces.read_trace(path, format=name, **options)
        file.windows()
    except DeepenError as error:
        assert str(error)
        assert "\n" not in str(error).strip()
        assert error.exit_code == 1
        return
    assert read.t_s.size == file.info.samples
    assert np.isfinite(read.t_s).all()
    assert np.isfinite(read.power_w).all()


def test_files_that_are_not_there_or_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trace at"):
        traces.read_trace(tmp_path / "none.csv")
    (tmp_path / "empty").touch()
    with pytest.raises(MeasureError, match="is empty"):
        traces.read_trace(tmp_path / "empty")
    with pytest.raises(MeasureError, match=r"no trace of a known format; known: trace, parquet"):
        traces.read_trace(tmp_path)
    with pytest.raises(ConfigError, match="unknown trace format 'cvs'; did you mean csv"):
        traces.read_trace(tmp_path / "empty", format="cvs")


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("t_s,power_w\n0,1\n1,2\n")
    assert traces.open_trace(tmp_path / "a.bin").info.format == "csv"


def test_a_parquet_file_of_another_program_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"t_s": [0.0], "power_w": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(MeasureError, match="without the facts of a trace"):
        traces.read_trace(tmp_path / "a.parquet")
