"""The node test cases of the onnx package: every claimed operator passes them, or says why it refuses."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest
from conformance import PAGE, TOO_INEXACT, Case, cases, in_clear, simulated

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
# Tests that share out the simulations.
PARTS = 8


def counted() -> dict[str, int]:
    """How many cases of each operator the page lists."""
    rows = re.findall(r"^\| (\w+) \| (\d+) \| \d+ \| \d* \|", PAGE.read_text(), re.MULTILINE)
    return {operator: int(count) for operator, count in rows}


def test_the_page_lists_operators_that_are_claimed() -> None:
    assert set(OPERATORS) >= EXPECTED
    assert counted() and set(counted()) <= set(OPERATORS)


@pytest.mark.slow
def test_in_clear() -> None:
    """Nothing fails, most cases of every operator pass, and the page says what it is."""
    results = [in_clear(case) for case in cases()]
    by_outcome = {o: [r for r in results if r.outcome == o] for o in ("passed", "refused", "failed")}
    assert not [f"{r.case}: {r.reason}" for r in by_outcome["failed"]]
    assert all(r.reason and "\n" not in r.reason for r in by_outcome["refused"])
    passed = Counter(r.case.operator for r in by_outcome["passed"])
    operators = Counter(r.case.operator for r in results)
    # sizes and what follows from them are constants, so there is nothing to encrypt; numbers of trips are inputs in all
    # cases, and grids that depend on values are results
    never = {op for op in operators if not passed[op]}
    assert never == {"DynamicQuantizeLinear", "EyeLike", "IsInf", "IsNaN", "Loop", "Shape", "Size"}
    assert len(by_outcome["passed"]) > 1100
    assert len(by_outcome["refused"]) < 0.15 * len(results)
    # made again by benchmarks/conformance.py --simulate when operators or reasons change
    assert counted() == operators
    counts = "{} pass, {} are refused with a reason, {} fail".format(*(len(found) for found in by_outcome.values()))
    assert f"**{counts}**" in PAGE.read_text()


@cache
def not_expanded() -> tuple[Case, ...]:
    """Each operator itself, not what its definition expands to."""
    return tuple(case for case in cases() if not case.expanded)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_fails_in_simulation(part: int) -> None:
    found = [simulated(case) for case in not_expanded()[part::PARTS] if in_clear(case).outcome == "passed"]
    assert not [f"{r.case}: {r.reason}" for r in found if r.outcome == "failed"]
    # a length of zero has no inverse: a column of zeros
    assert {r.case.operator for r in found if r.reason == TOO_INEXACT} <= {"LpNormalization"}
    assert sum(r.outcome == "passed" for r in found) > 400 / PARTS
