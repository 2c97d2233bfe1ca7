"""Kernels are bound by the kind of work with most joules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepen.kernels.features import FEATURE_NAMES
from deepen.predictors.inference.columns import WORK_TERMS
from deepen.predictors.inference.dominant_terms import find_dominant_terms


def test_the_largest_sum_of_terms_decides(trained):
    _, _, predictor = trained
    work = np.zeros((len(predictor.parameters.families) + 1, len(WORK_TERMS) + 1))
    work[:, WORK_TERMS.index("macs")], work[:, WORK_TERMS.index("bytes_in")] = 1e-12, 1e-11
    work[:, WORK_TERMS.index("bytes_written")], work[:, -1] = 1e-11, 1e-6
    parameters = replace(predictor.parameters, work=work)
    raw = np.zeros((4, len(FEATURE_NAMES)))
    for row, (macs, read, written) in enumerate([(1e9, 1e6, 1e6), (1e9, 6e7, 6e7), (10, 10, 10), (0, 0, 0)]):
        for name, value in (("macs", macs), ("bytes_in", read), ("bytes_written", written)):
            raw[row, FEATURE_NAMES.index(name)] = value
    families = ["relu", "no such family", "fc", "other"]
    assert find_dominant_terms(parameters, families, raw) == ["compute", "memory", "call", "call"]
