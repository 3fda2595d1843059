"""The node test cases of the onnx package: every claimed operator passes them, or says why it refuses."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest
from conformance import PAGE, TOO_INEXACT, Case, Result, cases, in_clear, simulated

from glyphc.frontends.onnx_rules import OPERATORS

# What Concrete ML runs, but for Unfold (exporters write it out) and Brevitas' Quant (tests/test_onnx_quantization.py).
EXPECTED = {
    *("Abs", "Acos", "Acosh", "Add", "Asin", "Asinh", "Atan", "Atanh", "AveragePool", "BatchNormalization"),
    *("Cast", "Celu", "Clip", "Concat", "Conv", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Expand"),
    *("Flatten", "Floor", "Gather", "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish"),
    *("Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg"),
    *("Not", "Or", "PRelu", "Pad", "Pow", "ReduceSum", "Relu", "Reshape", "Round", "Selu", "Shape", "Sigmoid"),
    *("Sign", "Sin", "Sinh", "Slice", "Softplus", "Squeeze", "Sub", "Tan", "Tanh", "ThresholdedRelu"),
    *("Transpose", "Unsqueeze", "Where"),
}


@cache
def all_cases() -> tuple[Case, ...]:
    return tuple(cases())


@cache
def results() -> tuple[Result, ...]:
    return tuple(map(in_clear, all_cases()))


def test_nothing_fails_in_clear() -> None:
    failed = [f"{r.case}: {r.reason}" for r in results() if r.outcome == "failed"]
    assert not failed
    refused = [r for r in results() if r.outcome == "refused"]
    assert all(r.reason and "\n" not in r.reason for r in refused)


def test_most_cases_of_every_operator_pass() -> None:
    passed = Counter(r.case.operator for r in results() if r.outcome == "passed")
    refused = Counter(r.case.operator for r in results() if r.outcome == "refused")
    assert set(OPERATORS) >= EXPECTED
    # sizes and what follows from them are constants, so there is nothing to encrypt; numbers of trips are inputs in all
    # cases, and grids that depend on values are results
    never = {op for op in {c.operator for c in all_cases()} if not passed[op]}
    assert never == {"DynamicQuantizeLinear", "EyeLike", "IsInf", "IsNaN", "Loop", "Shape", "Size"}
    assert sum(passed.values()) > 1100
    assert sum(refused.values()) < 0.15 * len(all_cases())


def test_the_page_is_of_these_results() -> None:
    """Made again by benchmarks/conformance.py --simulate when operators or reasons change."""
    text = PAGE.read_text()
    listed = dict(re.findall(r"^\| (\w+) \| (\d+) \| \d+ \| \d* \|", text, re.MULTILINE))
    assert {op: int(count) for op, count in listed.items()} == Counter(c.operator for c in all_cases())
    passed, refused, failed = (sum(r.outcome == o for r in results()) for o in ("passed", "refused", "failed"))
    assert f"**{passed} pass, {refused} are refused with a reason, {failed} fail**" in text


@pytest.mark.slow
def test_nothing_fails_in_simulation() -> None:
    """Each operator itself, not what its definition expands to."""
    passed = [r.case for r in results() if r.outcome == "passed" and not r.case.expanded]
    found = [simulated(c) for c in passed]
    assert not [f"{r.case}: {r.reason}" for r in found if r.outcome == "failed"]
    # a length of zero has no inverse: LpNormalization of a column of zeros
    assert sum(r.reason == TOO_INEXACT for r in found) <= 1
    assert sum(r.outcome == "passed" for r in found) > 500
