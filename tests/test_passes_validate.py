"""The validators' refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pass_networks import SAMPLES, Network, mlp, rebuilt, run, upto

import glyphc
from glyphc.errors import ParameterError
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Bootstrap,
    Reshape,
    Unpack,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series
from glyphc.ir.types import FixedPoint
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.validate import ValidateNoise, ValidateRange, ValidateSecurity


@pytest.fixture(scope="module")
def final() -> Graph:
    return run(mlp(), upto("validate-security"))[0]


@pytest.fixture(scope="module")
def quantized() -> Graph:
    return run(mlp(), upto("validate-range"))[0]


def with_parameters(graph: Graph, **changes: Any) -> Graph:
    assert graph.parameters is not None
    return rebuilt(graph, lambda node: node, replace(graph.parameters, **changes))


def with_series(graph: Graph, change: Callable[[Series], Series]) -> Graph:
    def changed(node: Node) -> Node:
        if not isinstance(node.op, Bootstrap):
            return node
        return replace(node, op=replace(node.op, series=change(node.op.series)))

    return rebuilt(graph, changed)


def test_validators_let_good_graphs_pass(final: Graph, quantized: Graph) -> None:
    context = Context({"x": SAMPLES})
    same = rebuilt(final, lambda node: node)
    verify(same)
    assert same == final
    for validator in (ValidateNoise(), ValidateSecurity()):
        assert validator.run(same, context) is same
    assert ValidateRange().run(quantized, context) is quantized


@pytest.mark.parametrize("location", ["x", "fc1", "tanh", "fc2"])
def test_ranges_that_are_too_narrow(location: str, quantized: Graph) -> None:
    def narrow(node: Node) -> Node:
        if node.location != location or node.type.fixed is None or isinstance(node.op, Reshape):
            return node
        fixed: FixedPoint = node.type.fixed
        return replace(node, type=replace(node.type, fixed=replace(fixed, lo=fixed.lo // 8, hi=fixed.hi // 8)))

    with pytest.raises(ParameterError, match=f"@{location}"):
        ValidateRange().run(rebuilt(quantized, narrow), Context({"x": SAMPLES}))


@pytest.mark.parametrize("factor", [2.5, 4.0, -4.0])
def test_samples_that_leave_the_range(factor: float, quantized: Graph) -> None:
    with pytest.raises(ParameterError, match="allowed"):
        ValidateRange().run(quantized, Context({"x": SAMPLES * factor}))


def test_a_modulus_that_is_too_small_for_the_noise(final: Graph) -> None:
    assert final.parameters is not None
    enough = final.parameters.bgv_bits
    ValidateNoise().run(with_parameters(final, bgv_bits=enough + 3), Context())
    with pytest.raises(ParameterError, match="noise"):
        ValidateNoise().run(with_parameters(final, bgv_bits=enough - 25), Context())


def test_wider_limits_let_more_noise_pass(final: Graph) -> None:
    """The fewest bits that pass, by what is asked for."""
    assert final.parameters is not None

    def fewest(validator: ValidateNoise) -> int:
        for bits in range(60, 10, -1):
            try:
                validator.run(with_parameters(final, bgv_bits=bits), Context())
            except ParameterError:
                return bits + 1
        return 10

    needed = [fewest(ValidateNoise(precision=p)) for p in (4.0, 8.0, 12.0)]
    assert needed[0] < needed[1] <= needed[2] <= final.parameters.bgv_bits
    assert fewest(ValidateNoise(deviations=60.0)) > fewest(ValidateNoise(deviations=6.0))


@pytest.mark.parametrize("bits", [-1, -2])
def test_values_that_leave_the_series_range(bits: int, final: Graph) -> None:
    assert final.parameters is not None
    with pytest.raises(ParameterError, match="phase"):
        ValidateNoise().run(with_parameters(final, plaintext_bits=final.parameters.plaintext_bits + bits), Context())
    with pytest.raises(ParameterError, match="phase"):
        ValidateNoise().run(with_series(final, lambda s: replace(s, half_range=s.half_range * 0.9)), Context())


def test_a_series_that_overflows_its_slots(final: Graph) -> None:
    def louder(series: Series) -> Series:
        return replace(series, real=tuple(20 * c for c in series.real), imag=tuple(20 * c for c in series.imag))

    with pytest.raises(ParameterError, match="overflow"):
        ValidateNoise().run(with_series(final, louder), Context())


@pytest.mark.parametrize("factor", [1 / 4, 1 / 2, 2])
def test_a_divisor_that_no_unpacking_undoes(factor: float) -> None:
    n = Network(2, 3)
    x = n.apply(n.dense(n.apply(n.dense(n.x, 8, "fc1"), "tanh"), 8, "fc2"), "tanh")
    n.output(x)
    graph, _ = run(n.graph, upto("validate-security"))
    (unpack,) = [op for _, op in graph.of(Unpack)]
    assert [op.divisor for _, op in graph.of(Bootstrap)] == [unpack.parts, 1]
    divisor = int(unpack.parts * factor)

    def changed(node: Node) -> Node:
        wrong = isinstance(node.op, Bootstrap) and node.op.divisor == unpack.parts
        return replace(node, op=replace(node.op, divisor=divisor)) if wrong else node  # type: ignore[call-arg]

    with pytest.raises(ParameterError, match="divides"):
        ValidateNoise().run(rebuilt(graph, changed), Context())


@pytest.mark.parametrize(
    "changes",
    [
        {"bgv_bits": 2000},
        {"degree": 247, "large_digits": 1},
        {"level_budget": (9, 9)},
        {"scaling_bits": 59},
        {"ring": 32768},
        {"ring": 1024},
        {"ring": 1000},
    ],
)
def test_parameters_that_are_not_secure(changes: dict[str, Any], final: Graph) -> None:
    assert final.parameters is not None
    secure = Parameters(
        ring=65536, plaintext_bits=25, bgv_bits=50, slots=32768, degree=27, level_budget=(5, 5), large_digits=5
    )
    ValidateSecurity().run(rebuilt(final, lambda n: n, secure), Context())
    bad = replace(secure, **changes)
    with pytest.raises(ParameterError):
        ValidateSecurity().run(rebuilt(final, lambda n: n, bad), Context())
    # asked for by name
    ValidateSecurity().run(rebuilt(final, lambda n: n, replace(bad, security="insecure")), Context())


def test_no_pipeline_avoids_the_check_of_security() -> None:
    names = "fold,calibrate,quantize,assign-scheme,insert-switches,assign-layout{ring=4096},select-parameters"
    with pytest.raises(ParameterError, match="4096"):
        glyphc.compile(mlp(), SAMPLES, passes=names)


def test_validators_need_parameters() -> None:
    graph, context = run(mlp(), upto("assign-layout"))
    for validator in (ValidateNoise(), ValidateSecurity()):
        with pytest.raises(ParameterError, match="select-parameters"):
            validator.run(graph, context)
