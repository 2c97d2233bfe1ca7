"""Records carry what others decide by as fields, through copies, processes and files."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.meters.stream.capture import describe_stream_counts
from deepen.meters.stream.types import StreamCounts
from deepen.records import MeasurementWarning, PowerTrace, TraceWarning, WarningCode
from deepen.traces import read_trace, write_trace


@pytest.fixture
def trace() -> PowerTrace:
    warnings = tuple(TraceWarning(code, f"a line on {code}") for code in get_args(WarningCode))
    return PowerTrace(np.arange(4.0), np.ones(4), 1.0, "m", "c", "measured", warnings=warnings)


@pytest.mark.parametrize("code", get_args(WarningCode))
def test_a_warning_is_its_text_and_keeps_its_code(code: WarningCode) -> None:
    warning = TraceWarning(code, "3 samples: gone")
    assert (warning, warning.code, json.dumps(warning)) == ("3 samples: gone", code, '"3 samples: gone"')
    for other in (copy.deepcopy(warning), pickle.loads(pickle.dumps(warning))):
        assert (type(other), other, other.code) == (TraceWarning, warning, code)
    of_record = MeasurementWarning.of(warning)
    assert str(of_record) == f"{code}: 3 samples: gone"
    assert of_record.document() == {"code": code, "text": "3 samples: gone"}


def test_a_warning_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of loss"):
        TraceWarning("lost", "3 samples")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["t.trace", "t.parquet", "t.csv", "t.json"])
def test_codes_survive_every_format_of_ours(trace: PowerTrace, tmp_path: Path, name: str) -> None:
    found = read_trace(write_trace(trace, tmp_path / name))
    assert [(w.code, w) for w in found.warnings] == [(w.code, w) for w in trace.warnings]


def test_a_text_alone_and_an_unknown_code_are_read_as_a_remark(trace: PowerTrace, tmp_path: Path) -> None:
    path = write_trace(replace(trace, warnings=trace.warnings[:2]), tmp_path / "t.trace")
    manifest = next(path.glob("*.json"))
    document = json.loads(manifest.read_bytes())
    document["warnings"] = ["5 samples lost", {"code": "of the future", "text": "new"}]
    manifest.write_text(json.dumps(document))
    assert [(w.code, w) for w in read_trace(path).warnings] == [("trace", "5 samples lost"), ("trace", "new")]


def test_counts_of_a_stream_and_notes_on_it_have_codes() -> None:
    counts = StreamCounts(clipped=3, range_switches=2, corrupt=1)
    counts.note("it is warm", "temperature")
    counts.note("it says: hello")
    assert {w.code for w in describe_stream_counts(counts)} == {"clipping", "range-switching", "temperature", "trace"}
