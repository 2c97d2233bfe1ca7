"""benchmark_model in every generation seen; the layout is the tool's, the figures are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.devices.runtimes.parsers import Delegation, OpTable, parse_benchmark_model, parse_op_profile

NEW = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [/data/local/tmp/m.tflite]
INFO: Use gpu: [1]
INFO: Loaded model /data/local/tmp/m.tflite
INFO: Created TensorFlow Lite delegate for GPU.
INFO: GPU delegate created.
VERBOSE: Replacing 49 out of 49 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 1 partitions for subgraph 0.
INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.
INFO: The input model file size (MB): 16.5
INFO: Initialized session in 566.25ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=2 first=32814 curr=30993 min=30993 max=32814 avg=31903.5 std=910 p5=30993 median=32814 p95=32814

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=30721 curr=30978 min=30593 max=33303 avg=30935 std=441 p5=30637 median=30796 p95=31571

INFO: Inference timings in us: Init: 566250, First inference: 32814, Warmup (avg): 31903.5, Inference (avg): 30935
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=4.5 overall=46
"""

MIDDLE = """\
STARTING!
Loaded model m.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
"""

OLD = """\
STARTING!
Min num runs: [50]
Loaded model m.tflite
resolved reporter
Initialized session in 21.039ms
Running benchmark for at least 1 iterations and at least 0.5 seconds
count=6 first=91810 curr=85097 min=84834 max=91810 avg=86184.3 std=2519

Running benchmark for at least 50 iterations and at least 1 seconds
count=50 first=118810 curr=114219 min=88216 max=129193 avg=115062 std=7678

Average inference timings in us: Warmup: 86184.3, Init: 21039, no stats: 115062
"""

OLDEST = """\
Initialized session in 4.452ms
Running benchmark for 1 iterations
count=1 curr=146161

Running benchmark for 50 iterations
count=50 first=137789 curr=137254 min=137079 max=143416 avg=137722 std=896

Average inference timings in us: Warmup: 146161, Init: 4452, Inference: 137722
"""


@pytest.mark.parametrize(
    ("text", "init_s", "warm_runs", "warm_s", "mean_s", "min_s"),
    [
        (NEW, 0.56625, 2, 0.0319035, 0.030935, 0.030593),
        (MIDDLE, 0.017187, 1, 3.512391, 2.95034, 2.727568),
        (OLD, 0.021039, 6, 0.0861843, 0.115062, 0.088216),
        (OLDEST, 0.004452, 1, 0.146161, 0.137722, 0.137079),
    ],
    ids=["new", "middle", "old", "oldest"],
)
def test_every_generation(text: str, init_s: float, warm_runs: int, warm_s: float, mean_s: float, min_s: float) -> None:
    found = parse_benchmark_model(text)
    assert found.warmup is not None
    assert found.regular is not None
    assert found.init_s == pytest.approx(init_s)
    assert (found.warmup.count, found.regular.count) == (warm_runs, 50)
    assert found.warmup.mean_s == pytest.approx(warm_s)
    assert found.regular.mean_s == pytest.approx(mean_s)
    assert found.regular.min_s == pytest.approx(min_s)
    assert found.regular.total_s == pytest.approx(50 * mean_s)
    assert found.problems == ()
    assert found.errors == ()


def test_what_only_newer_builds_say() -> None:
    found = parse_benchmark_model(NEW)
    assert found.regular is not None
    assert found.regular.percentiles_s == pytest.approx({5.0: 0.030637, 50.0: 0.030796, 95.0: 0.031571})
    assert found.regular.median_s == pytest.approx(0.030796)
    assert found.model_bytes == pytest.approx(16.5e6)
    assert found.memory_bytes == 46 * 2**20
    older = parse_benchmark_model(OLD)
    assert older.regular is not None
    assert (older.regular.percentiles_s, older.model_bytes, older.memory_bytes) == ({}, None, None)


@pytest.mark.parametrize(
    "prefix", ["I tflite  : ", "11-22 14:03:01.123  4711  4712 I tflite  : ", "I/tflite  ( 4711): ", "\x1b[0mINFO: "]
)
def test_lines_of_an_app_in_logcat(prefix: str) -> None:
    text = "\r\n".join(prefix + line if line else "" for line in MIDDLE.splitlines())
    found, plain = parse_benchmark_model(text), parse_benchmark_model(MIDDLE)
    assert (found.regular, found.warmup, found.init_s) == (plain.regular, plain.warmup, plain.init_s)


def test_a_tool_that_ended_early_has_no_result() -> None:
    warmed = NEW[: NEW.index("INFO: Running benchmark for at least 50")]
    begun = NEW[: NEW.index("INFO: count=50")]
    for text in (warmed, begun):
        found = parse_benchmark_model(text)
        assert found.regular is None
        assert found.warmup is not None  # never mistaken for the result


def test_without_a_warm_up_the_only_phase_is_the_result() -> None:
    lines = NEW.splitlines(keepends=True)
    first = next(k for k, line in enumerate(lines) if "Running benchmark" in line)
    found = parse_benchmark_model("".join(lines[:first] + lines[first + 3 :]))
    assert found.warmup is None
    assert found.regular is not None
    assert found.regular.count == 50


@pytest.mark.parametrize(
    "line",
    ["count=50 first=1", "count=0 avg=5", "count=50 avg=nan", "count=50 avg=", "count=x avg=5", "count=50 avg=-3"],
)
def test_statistics_that_cannot_be_read_are_a_problem_not_a_number(line: str) -> None:
    text = MIDDLE.replace(next(x for x in MIDDLE.splitlines() if x.startswith("count=50")), line)
    found = parse_benchmark_model(text)
    assert found.regular is None
    if line != "count=x avg=5":
        assert "cannot be read" in found.problems[0]


def test_a_summary_that_contradicts_the_statistics_is_a_problem() -> None:
    found = parse_benchmark_model(MIDDLE.replace("(avg): 2.95034e+06", "(avg): 2.95134e+06"))
    assert "the summary 2.95134 s" in found.problems[0]


# ---- accelerators ---------------------------------------------------------------------------------------------------

REPLACED = "VERBOSE: Replacing {} out of {} node(s) with delegate ({}) node, yielding 3 partitions for subgraph 0.\n"
PARTLY = (
    "INFO: Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 2 "
    "delegate kernels.\n"
)
REFUSED = "INFO: Though {} delegate is explicitly applied, the model graph will not be executed by the delegate.\n"


@pytest.mark.parametrize(
    ("text", "asked", "state", "taken", "nodes"),
    [
        (NEW, "gpu", "full", 49, 49),
        (REPLACED.format(54, 559, "TfLiteGpuDelegateV2") + PARTLY
         + REPLACED.format(456, 506, "TfLiteXNNPackDelegate"), "gpu", "partial", 54, 559),
        (REPLACED.format(54, 559, "TfLiteGpuDelegateV2"), "gpu", "partial", 54, 559),
        (REPLACED.format(9, 9, "TfLiteNnapiDelegate"), "nnapi", "full", 9, 9),
        (REPLACED.format(9, 9, "TfLiteXNNPackDelegate"), "gpu", "unknown", None, None),
        (REPLACED.format(9, 9, "VendorNpuDelegate"), "external", "full", 9, 9),
        (REFUSED.format("NNAPI") + REPLACED.format(510, 559, "TfLiteXNNPackDelegate"), "nnapi", "none", None, None),
        (NEW + REFUSED.format("NNAPI"), "gpu", "full", 49, 49),  # two asked for; each has its own verdict
        (NEW + REFUSED.format("NNAPI"), "nnapi", "none", None, None),
        ("INFO: NNAPI accelerators available: [nnapi-reference]\n"
         + NEW.replace("GPU", "NNAPI").replace("GpuDelegateV2", "NnapiDelegate"), "nnapi", "none", None, None),
        ("INFO: NNAPI accelerators available: [google-edgetpu,nnapi-reference]\n"
         + REPLACED.format(9, 9, "TfLiteNnapiDelegate"), "nnapi", "full", 9, 9),
        ("ERROR: Failed to apply GPU delegate.\n", "gpu", "none", None, None),
        ("Could not create Tensorflow Lite delegate for GPU.\n", "gpu", "none", None, None),
        ("WARN: GPU acceleration is unsupported on this platform.\n", "gpu", "none", None, None),
        ("ERROR: Disallowed CPU fallback detected.\n", "gpu", "none", None, None),
        (OLD, "gpu", "unknown", None, None),
        ("INFO: GPU delegate created.\n", "gpu", "unknown", None, None),  # created is not applied
    ],
)  # fmt: skip
def test_a_fallback_is_seen(text: str, asked: str, state: str, taken: int | None, nodes: int | None) -> None:
    found = parse_benchmark_model(text).delegation(asked)
    assert (found.asked, found.state, found.taken, found.nodes) == (asked, state, taken, nodes)
    assert bool(found.evidence) == (state != "unknown")


def test_a_delegation_reads_well() -> None:
    assert str(Delegation("gpu", "partial", 54, 559)) == "gpu=partial 54/559 nodes"
    assert str(Delegation("gpu", "unknown")) == "gpu=unknown"


# ---- operator profiles ----------------------------------------------------------------------------------------------

TEXT_NEW = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t    4.269\t    4.000\t 80.000%\t 80.000%\t    12.500\t        1\t[conv/Relu6;bias]:0
\tFully Connected (NC, F32) GEMM\t    0.5\t    1.000\t 20.000%\t100.000%\t     0.000\t        2\t[a b, c]:1

============================== Top by Computation Time ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t    4.269\t    4.000\t 80.000%\t 80.000%\t    12.500\t        1\t[conv/Relu6;bias]:0

Number of nodes executed: 2
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t                 CONV_2D\t       15\t     4.000\t    80.000%\t    80.000%\t    12.500\t       15
\t                   SOFT 2\t        1\t     1.000\t      -nan%\t   100.000%\t     0.000\t        1

Timings (microseconds): count=50 first=79449 curr=81350 min=77385 max=88213 avg=79732 std=1929
Memory (bytes): count=0
2 nodes observed
"""


def flatten(text: str) -> str:
    """The same with blanks for tabs, as copies in documents have it."""
    return text.replace("\t", "  ")


def test_a_profile_as_text() -> None:
    tables = parse_op_profile(TEXT_NEW)
    assert [(t.title, t.covers_inference, len(t.rows)) for t in tables] == [
        ("Run Order", False, 1), ("Run Order", True, 2), ("Top by Computation Time", True, 1),
        ("Summary by node type", True, 2),
    ]  # fmt: skip
    conv, dense = tables[1].rows
    assert (conv.node_type, conv.name) == ("CONV_2D", "[conv/Relu6;bias]:0")
    assert (conv.first_s, conv.mean_s) == (pytest.approx(4.269e-3), pytest.approx(4e-3))
    assert (conv.share, conv.memory_bytes) == (pytest.approx(0.8), pytest.approx(12500.0))
    assert (conv.times_called, conv.start_s, conv.count) == (1, None, None)
    assert (dense.node_type, dense.name) == ("Fully Connected (NC, F32) GEMM", "[a b, c]:1")
    assert dense.times_called == 2
    summary = tables[3].rows
    assert [(r.node_type, r.count, r.times_called, r.name) for r in summary] == [
        ("CONV_2D", 15, 15, ""), ("SOFT 2", 1, 1, "")
    ]  # fmt: skip
    assert summary[1].share is None  # -nan%
    assert all(t.problems == () for t in tables)


def test_blanks_for_tabs_make_no_difference() -> None:
    text = TEXT_NEW.replace("SOFT 2", "SOFT2")  # with blanks alone nobody can tell where such a type ends
    assert parse_op_profile(flatten(text)) == parse_op_profile(text)


OLD_TEXT = """\
============================== Run Order ==============================
                     [node type]          [start]         [first]        [avg ms]            [%]          [cdf%]  \
[mem KB]      [times called]  [Name]
                         CONV_2D            0.000           5.567           7.237         6.297%          6.297%     \
0.000              1       [MobilenetV2/Conv/Relu6]
"""

CSV_NEW = """\
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
TfLiteGpuDelegateV2, 4.269, 4, 80%, 80%, 0, 1, [out, one]:3
Convolution (NHWC, F32) IGEMM, 0.5, 1, 20%, 100%, 0, 1, Delegate/Convolution (NHWC, F32) IGEMM:1
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
TfLiteGpuDelegateV2, 1, 4, 80%, 80%, 0, 1
"""
CSV_OLD = """\
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0.25, 4.269, 4, 80%, 80%, 0, 1, [a, b]
"""


def rows(tables: tuple[OpTable, ...]) -> list[tuple[str, str]]:
    return [(r.node_type, r.name) for t in tables for r in t.rows]


def test_older_text_and_both_kinds_of_csv() -> None:
    old = parse_op_profile(OLD_TEXT)[0].rows[0]
    assert (old.start_s, old.first_s, old.mean_s) == (0.0, pytest.approx(5.567e-3), pytest.approx(7.237e-3))
    assert old.name == "MobilenetV2/Conv/Relu6"
    new = parse_op_profile(CSV_NEW)
    assert rows(new) == [
        ("TfLiteGpuDelegateV2", "[out, one]:3"),
        ("Convolution (NHWC, F32) IGEMM", "Delegate/Convolution (NHWC, F32) IGEMM:1"),
        ("TfLiteGpuDelegateV2", ""),
    ]
    assert new[1].rows[0].count == 1
    was = parse_op_profile(CSV_OLD)[0].rows[0]
    assert (was.name, was.start_s, was.share) == ("a, b", pytest.approx(0.25e-3), pytest.approx(0.8))


def test_the_profile_tells_of_a_fallback_where_the_log_does_not() -> None:
    found = parse_benchmark_model(OLD + CSV_NEW)
    assert found.delegation("gpu") == Delegation(
        "gpu", "partial", evidence="1 of 2 profiled nodes are TfLiteGpuDelegate"
    )
    assert found.delegation("nnapi").state == "none"
    assert parse_benchmark_model(OLD + CSV_OLD).delegation("gpu").state == "none"
    assert found.delegation("external").state == "unknown"  # nobody knows what its kernels are called


def test_a_torn_row_is_kept_as_a_problem() -> None:
    table = parse_op_profile(CSV_OLD + "DEPTHWISE_CONV_2D, 0.5, 4.2\n")[0]
    assert len(table.rows) == 1
    assert table.problems == ("DEPTHWISE_CONV_2D, 0.5, 4.2",)


@given(st.text(alphabet=st.sampled_from("=[]\t ,.%\n0a:ncutavgINFO1-e"), max_size=400), st.integers(0, 2000))
def test_nothing_makes_the_parsers_raise(junk: str, at: int) -> None:
    text = NEW + TEXT_NEW + CSV_NEW
    found = parse_benchmark_model(text[:at] + junk + text[at:])
    found.delegation("gpu")
    assert found.regular is None or (found.regular.count or 0) >= 1
