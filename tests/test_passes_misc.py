"""Schemes and switches, pipelines as text, the validators' refusals, and the choice of parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import glyphc
from glyphc.approx.cost import CostModel
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.instructions import Powers
from glyphc.ir.ops import (
    Apply,
    ArgMax,
    Bootstrap,
    Const,
    Dense,
    Input,
    Linear,
    Output,
    Reshape,
    Softmax,
    Switch,
    Unpack,
)
from glyphc.ir.parameters import MAX_DEGREES, Parameters
from glyphc.ir.series import OUTPUT_BITS, Series, evaluate_series
from glyphc.ir.types import Encoding, FixedPoint, Level, Scheme
from glyphc.ir.verify import verify
from glyphc.passes.base import Context, Pass
from glyphc.passes.pipeline import DEFAULT, PASSES, parse_pipeline, run_pipeline
from glyphc.passes.quantize import Quantize
from glyphc.passes.select_parameters import SelectParameters
from glyphc.passes.validate import ValidateNoise, ValidateRange, ValidateSecurity

F64 = npt.NDArray[np.float64]


class Network:
    """A source graph, written down step by step."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph(Level.SOURCE, 1)
        self.rng = np.random.default_rng(7)
        self.x = self.graph.add(Input("x", shape), location="x")

    def dense(self, x: Node, width: int, name: str) -> Node:
        if len(x.type.shape) != 1:
            x = self.graph.add(Reshape((x.type.size,)), (x,))
        w = Const(self.graph.add_constant("w", self.rng.normal(size=(width, x.type.size)) / np.sqrt(x.type.size)))
        b = Const(self.graph.add_constant("b", self.rng.normal(size=width) / 4))
        return self.graph.add(Dense((w,), b), (x,), location=name)

    def apply(self, x: Node, name: str) -> Node:
        return self.graph.add(Apply((Function(name),)), (x,), location=name)

    def output(self, x: Node, name: str = "y") -> None:
        self.graph.add(Output(name), (x,), location=name)


def mlp(function: str = "tanh") -> Graph:
    n = Network(2, 3)
    x = n.apply(n.dense(n.x, 8, "fc1"), function)
    n.output(n.dense(x, 4, "fc2"))
    return n.graph


SAMPLES = np.random.default_rng(8).normal(size=(100, 2, 3))


def run(graph: Graph, passes: str, batch: int = 2) -> tuple[Graph, Context]:
    context = Context({"x": SAMPLES})
    rewriter = Rewriter(graph, batch=batch)
    for node in graph:
        rewriter.keep(node)
    return run_pipeline(rewriter.new, parse_pipeline(passes), context), context


def upto(name: str) -> str:
    """The default pipeline up to and with this pass, at a small ring."""
    names = DEFAULT.split(",")
    text = ",".join(names[: names.index(name) + 1])
    text = text.replace("assign-layout", "assign-layout{ring=1024}").replace("merge", "merge{ring=1024}")
    return text.replace("select-parameters", "select-parameters{security=insecure}")


# -- schemes --


def test_every_value_gets_a_scheme_with_its_encoding() -> None:
    n = Network(2, 3)
    x = n.dense(n.apply(n.dense(n.x, 8, "fc1"), "relu"), 4, "fc2")
    x = n.graph.add(Reshape((2, 2)), (x,))
    x = n.graph.add(ArgMax(False), (n.graph.add(Softmax(), (x,)),))
    n.output(x)
    graph, _ = run(n.graph, upto("assign-scheme"))
    wanted = {
        Input: Scheme.BGV,
        Linear: Scheme.BGV,
        Apply: Scheme.TFHE,
        Softmax: Scheme.CLIENT,
        ArgMax: Scheme.CLIENT,
        Output: Scheme.CLIENT,
    }
    encodings = {Scheme.BGV: Encoding.LSB, Scheme.TFHE: Encoding.MSB, Scheme.CLIENT: None}
    for node in graph:
        assert node.type.scheme is not None
        if not isinstance(node.op, Reshape):
            assert node.type.scheme is wanted[type(node.op)]
        assert node.type.encoding is encodings[node.type.scheme]


def test_decisions_keep_the_losers_with_their_reasons() -> None:
    graph, _ = run(mlp(), upto("assign-scheme"))
    decided = [n for n in graph if isinstance(n.op, Linear | Apply)]
    assert len(decided) == 3
    for node in decided:
        (decision,) = [d for d in node.decisions if d.made_by == "assign-scheme"]
        names = [c.name for c in decision.candidates]
        assert len(names) == len(set(names)) >= 3
        assert decision.chosen in names
        assert all(len(c.reason) > 10 for c in decision.candidates)
        winner = next(c for c in decision.candidates if c.name == decision.chosen)
        assert winner.seconds is not None
        assert winner.seconds > 0
        assert all(c.seconds is None or c.seconds >= winner.seconds for c in decision.candidates)


def test_decisions_reach_the_final_graph() -> None:
    program = glyphc.compile(mlp(), SAMPLES, insecure_ring=1024)
    (bootstrap,) = [n for n, _ in program.graph.of(Bootstrap)]
    assert [d.made_by for d in bootstrap.decisions] == [
        "assign-scheme",
        "assign-layout",
        "assign-budget",
        "select-parameters",
    ]
    assert [d.made_by for d in program.graph.inputs[0].decisions] == ["quantize"]


def test_predicted_seconds_grow_with_the_batch() -> None:
    def seconds(batch: int) -> float:
        graph, _ = run(mlp(), upto("assign-scheme"), batch)
        (node,) = [n for n, _ in graph.of(Apply)]
        return next(c.seconds for d in node.decisions for c in d.candidates if c.name == d.chosen) or 0.0

    assert seconds(1) < seconds(1000) < seconds(100_000)


# -- switches --


def test_switches_stand_where_schemes_change() -> None:
    graph, _ = run(mlp(), upto("insert-switches"))
    kinds = [type(n.op) for n in graph]
    assert kinds == [Input, Reshape, Linear, Switch, Apply, Switch, Linear, Output]
    there, back = (op for _, op in graph.of(Switch))
    assert (there.source, there.target, there.encoding) == (Scheme.BGV, Scheme.TFHE, Encoding.MSB)
    assert (back.source, back.target, back.encoding) == (Scheme.TFHE, Scheme.BGV, Encoding.LSB)
    for node, _ in graph.of(Switch):
        assert node.type.fixed == graph.operands(node)[0].type.fixed
        assert node.location == graph.operands(node)[0].location


def test_one_switch_serves_several_users() -> None:
    n = Network(6)
    hidden = n.dense(n.x, 5, "fc")
    first, second = n.apply(hidden, "relu"), n.apply(hidden, "tanh")
    n.output(first, "y1")
    n.output(n.dense(first, 2, "head"), "y2")
    n.output(n.graph.add(Softmax(), (first,)), "y3")
    n.output(second, "y4")
    n.output(hidden, "y5")
    context = Context({"x": SAMPLES.reshape(100, 6)})
    graph = run_pipeline(n.graph, parse_pipeline(upto("insert-switches")), context)
    assert [type(node.op) for node in graph].count(Switch) == 3
    (to_torus,) = [node for node, op in graph.of(Switch) if op.target is Scheme.TFHE]
    assert {type(u.op) for u in graph.users(to_torus)} == {Apply}
    assert len(graph.users(to_torus)) == 2
    (relu,) = [node for node, op in graph.of(Apply) if op.functions == (Function("relu"),)]
    (back,) = graph.users(relu)
    assert sorted(u.op.mnemonic for u in graph.users(back)) == ["linear", "output", "softmax"]


def test_switches_need_schemes() -> None:
    with pytest.raises(ParameterError, match="assign-scheme"):
        run(mlp(), "fold,calibrate,quantize,insert-switches")


def test_without_nonlinearity_nothing_is_switched() -> None:
    n = Network(6)
    n.output(n.dense(n.x, 3, "fc"))
    program = glyphc.compile(n.graph, SAMPLES.reshape(100, 6), 4, insecure_ring=1024)
    assert not any(program.graph.of(Switch))
    assert (program.client.parameters.slots, program.client.parameters.degree) == (0, 0)


# -- pipelines as text --


def as_text(passes: list[Pass]) -> str:
    return ",".join(map(str, passes))


def changed(default: Any) -> Any:
    """Another valid value of an option."""
    match default:
        case "HEStd_128_classic":
            return "insecure"
        case 65536:
            return 2048
        case "":
            return "relu1:14;gate:9"
        case bool():
            return not default
        case float():
            return default + 0.5
        case _:
            return default - 1


def test_the_default_pipeline_and_its_text() -> None:
    passes = parse_pipeline(DEFAULT)
    assert as_text(passes) == DEFAULT
    assert [type(p) for p in passes] == list(PASSES.values())
    assert parse_pipeline("") == []


@pytest.mark.parametrize("kind", PASSES.values(), ids=list(PASSES))
def test_every_option_survives_its_text(kind: type[Pass]) -> None:
    options = {f.name: changed(f.default) for f in fields(kind)}  # type: ignore[arg-type]
    given = kind(**options)
    (read,) = parse_pipeline(str(given))
    assert read == given
    for name, value in options.items():
        (one,) = parse_pipeline(f" {kind.name} {{ {name} = {value} }} ,")
        assert one == kind(**{name: value})
        assert type(getattr(one, name)) is type(value)
        assert str(one) == f"{kind.name}{{{name}={value}}}"


def test_white_space_is_free() -> None:
    text = " fold ,\n\tcalibrate{ bins = 32 } , quantize { input_bits=12 , margin = 1.5 }, "
    assert as_text(parse_pipeline(text)) == "fold,calibrate{bins=32},quantize{input_bits=12,margin=1.5}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fold,optimise", ["unknown pass 'optimise'", "known:", "validate-noise"]),
        ("Fold", ["Fold"]),
        ("fold calibrate", ["'fold calibrate'"]),
        ("fold;calibrate", ["fold;calibrate"]),
        ("fold,,calibrate", ["',calibrate'"]),
        (",fold", ["',fold'"]),
        ("quantize{input_bits=12", ["quantize{input_bits=12"]),
        ("quantize}", ["quantize}"]),
        ("quantize{bits=12}", ["'quantize'", "'bits=12'", "input_bits", "margin"]),
        ("quantize{input_bits}", ["'quantize'", "'input_bits'"]),
        ("fold{x=1}", ["'fold'", "'x=1'", "none"]),
        ("quantize{input_bits=many}", ["'many'", "int"]),
        ("quantize{input_bits=12.5}", ["'12.5'", "int"]),
        ("quantize{input_bits=}", ["''", "int"]),
        ("quantize{margin=wide}", ["'wide'", "float"]),
        ("quantize{name=x}", ["'name=x'"]),
    ],
)
def test_unreadable_pipelines(text: str, parts: list[str]) -> None:
    with pytest.raises(GlyphcError) as caught:
        parse_pipeline(text)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("quantize", ["calibrate"]),
        ("fold,quantize", ["calibrate"]),
        ("fold,calibrate,quantize,fold", ["'fold'", "'source'", "'quantized'"]),
        ("fold,calibrate,assign-scheme", ["'assign-scheme'", "'quantized'", "'source'"]),
        ("fold,calibrate,quantize,assign-layout", ["'assign-layout'", "'assigned'", "'quantized'"]),
        (f"{DEFAULT},quantize", ["'quantize'", "'laidout'"]),
        ("fold,calibrate,quantize", ["end before parameters are selected"]),
        ("", ["end before parameters are selected"]),
        ("validate-noise", ["'validate-noise'", "'laidout'", "'source'"]),
        (upto("assign-layout") + ",validate-noise", ["select-parameters"]),
        (upto("assign-layout") + ",validate-security", ["select-parameters"]),
        (upto("assign-layout"), ["end before parameters are selected"]),
    ],
)
def test_passes_in_the_wrong_order(text: str, parts: list[str]) -> None:
    with pytest.raises(GlyphcError) as caught:
        glyphc.compile(mlp(), SAMPLES, passes=text)
    for part in parts:
        assert part in str(caught.value)


def moved(name: str, behind: str = "") -> str:
    """The default pipeline with one pass behind another one, or without it."""
    names = [n for n in DEFAULT.split(",") if n != name]
    at = names.index(behind) + 1 if behind else 0
    return ",".join([*names[:at], *([name] if behind else []), *names[at:]])


@pytest.mark.parametrize("text", [moved("expand"), moved("fold"), moved("fold", "calibrate"), moved("expand", "fold")])
def test_without_the_canonical_form(text: str) -> None:
    """Whatever a pipeline leaves out, the answer is a program that is right or an error that says what is wrong."""
    assert text != DEFAULT
    n = Network(2, 3)
    x = n.dense(n.apply(n.dense(n.dense(n.x, 8, "fc1"), 5, "fc2"), "tanh"), 4, "fc3")
    n.output(x)
    try:
        program = glyphc.compile(n.graph, SAMPLES, passes=text, insecure_ring=1024)
    except GlyphcError:
        return
    wanted = glyphc.compile(n.graph, SAMPLES, insecure_ring=1024).run(SAMPLES[:5], mode="clear")
    assert np.abs(program.run(SAMPLES[:5], mode="clear") - wanted).max() < 0.01


OPTIONS = [(kind.name, f.name, f.default) for kind in PASSES.values() for f in fields(kind)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["-1", "0", "1", "3", "1000", "1000000000", "0.5", "-0.0", "nan", "inf", "-inf", "1e400"]
)
@pytest.mark.parametrize(("name", "option", "default"), OPTIONS, ids=[f"{n}.{o}" for n, o, _ in OPTIONS])
def test_no_option_value_ends_in_a_traceback(name: str, option: str, default: Any, value: str) -> None:
    """An unusable value is an error of the user: GlyphcError; everything else would be shown as a bug."""
    text = upto("validate-security")
    chosen = f"{name}{{security=insecure,{option}={value}}}" if "select" in name else f"{name}{{{option}={value}}}"
    items = [chosen if item.startswith(name) else item for item in text.split(",")]
    try:
        program = glyphc.compile(mlp(), SAMPLES, passes=",".join(items))
    except GlyphcError as e:
        assert len(str(e)) > 20  # noqa: PT017
        return
    error = program.run(SAMPLES[:5], mode="clear")
    assert np.all(np.isfinite(error))


def test_each_pass_is_followed_by_the_verifier() -> None:
    class Break(Pass):
        name, requires, ensures = "break", Level.SOURCE, Level.SOURCE

        def run(self, graph: Graph, context: Context) -> Graph:
            return Graph(Level.SOURCE, 1)

    with pytest.raises(IRError, match="after pass 'break'"):
        run_pipeline(mlp(), [Break()], Context())


def test_stages_are_observed_in_order() -> None:
    seen: list[tuple[str, Level]] = []
    context = Context({"x": SAMPLES})
    run_pipeline(
        mlp(), parse_pipeline(upto("validate-security")), context, lambda name, g: seen.append((name, g.level))
    )
    assert [name for name, _ in seen] == list(PASSES)
    assert [level for _, level in seen] == [kind.ensures for kind in PASSES.values()]


# -- validators --


def rebuilt(graph: Graph, change: Callable[[Node], Node], parameters: Parameters | None = None) -> Graph:
    """A copy of the graph with nodes replaced; ids and operands stay."""
    rewriter = Rewriter(graph)
    rewriter.new.parameters = parameters or graph.parameters
    for node in graph:
        rewriter.copy_constants(node)
        new = change(node)
        added = rewriter.new.add(new.op, rewriter.operands(node), new.type, new.location, new.decisions)
        rewriter.replace(node, added)
    return rewriter.new


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


@pytest.mark.parametrize("factor", [1.5, 4.0, -4.0])
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
        ring=65536, plaintext_bits=25, bgv_bits=50, slots=32768, degree=27, level_budget=(5, 5), large_digits=4
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


# -- parameters --


def selected(**options: Any) -> tuple[Parameters, Graph]:
    graph, context = run(mlp("relu"), upto("validate-layout"))
    graph = SelectParameters(security="insecure", **options).run(graph, context)
    verify(graph)
    assert graph.parameters is not None
    return graph.parameters, graph


def only_bootstrap(graph: Graph) -> tuple[Node, Bootstrap]:
    ((node, op),) = [(n, o) for n, o in graph.of(Bootstrap)]
    return node, op


@pytest.mark.parametrize("budget", ["max_error", "rms_error"])
def test_tighter_budgets_take_higher_degrees(budget: str) -> None:
    other = {"max_error": "rms_error", "rms_error": "max_error"}[budget]
    degrees = []
    for bits in (3.0, 7.0, 8.0, 9.0, 10.0, 12.0):
        parameters, graph = selected(**{budget: bits, other: 1.0})
        _, op = only_bootstrap(graph)
        assert op.series.degree == parameters.degree
        error = op.series.max_error if budget == "max_error" else op.series.rms_error
        if not only_bootstrap(graph)[0].decisions[-1].warning:
            assert error <= 2**-bits * 1.01
        degrees.append(parameters.degree)
    assert degrees == sorted(degrees)
    assert degrees[0] == min(MAX_DEGREES.values())
    assert len(set(degrees)) >= 3


def test_the_degree_is_the_smallest_within_the_budget() -> None:
    parameters, graph = selected(max_error=7.5, rms_error=10.0)
    node, _ = only_bootstrap(graph)
    decision = node.decisions[-1]
    tried = [c for c in decision.candidates if c.name.startswith("degree")]
    assert [c.name for c in tried] == [f"degree {d}" for d in MAX_DEGREES.values() if d <= parameters.degree]
    assert all("over the budget" in c.reason for c in tried[:-1])
    assert "over the budget" not in tried[-1].reason
    assert decision.chosen == f"degree {parameters.degree}"
    assert not decision.warning


def test_a_budget_that_cannot_be_met_takes_the_best_and_says_so() -> None:
    parameters, graph = selected(max_error=15.0, rms_error=20.0)
    assert parameters.degree == max(MAX_DEGREES.values())
    node, _ = only_bootstrap(graph)
    assert "misses the error budget" in node.decisions[-1].warning


def test_every_value_has_its_own_degree() -> None:
    """The lowest that its functions can do with; the highest of all decides the depth of the context."""
    n = Network(2, 3)
    hidden = n.dense(n.apply(n.dense(n.x, 8, "fc1"), "sigmoid"), 8, "fc2")
    for name in ("relu", "tanh"):
        n.output(n.dense(n.apply(hidden, name), 2, f"after {name}"), f"y {name}")
    program = glyphc.compile(n.graph, SAMPLES, insecure_ring=1024)
    degrees = {op.functions[0].name: op.series.degree for _, op in program.graph.of(Bootstrap)}
    # tanh reads the same value as relu, so it shares its powers
    assert degrees == {"sigmoid": 13, "relu": 27, "tanh": 27}
    assert program.client.parameters.degree == 27
    for node, op in program.graph.of(Bootstrap):
        assert node.decisions[-1].chosen == f"degree {op.series.degree}"
    assert [i.degree for i in program.schedule.instructions if isinstance(i, Powers)] == [13, 27]
    simulated, encrypted = (program.run(SAMPLES[:1], mode=mode) for mode in ("simulate", "encrypted"))
    for name, wanted in simulated.items():
        np.testing.assert_allclose(encrypted[name], wanted, atol=1e-3)


@pytest.mark.parametrize("function", ["relu", "tanh", "sigmoid", "abs", "softplus", "exp"])
@pytest.mark.parametrize("divided", [True, False])
def test_a_series_computes_the_divided_function(function: str, divided: bool) -> None:
    """Integers in, through the phases, integers out: what a bootstrap does, from the definition of the formats."""
    n = Network(2, 3)
    x = n.apply(n.dense(n.x, 8, "fc1"), function)
    n.output(n.apply(n.dense(x, 6, "fc2"), "tanh") if divided else x)
    passes = DEFAULT.replace("assign-budget,", "")
    program = glyphc.compile(n.graph, SAMPLES, 2, passes=passes, insecure_ring=1024)
    graph, t = program.graph, program.client.parameters.plaintext_modulus
    node, op = next((n, o) for n, o in graph.of(Bootstrap))
    assert op.divisor == (8 if divided else 1)
    source, target = graph.operands(node)[0].type.fixed, node.type.fixed
    assert source is not None
    assert target is not None
    integers = np.linspace(source.lo, source.hi, 1001)
    wanted = Function(function)(integers * source.scale[0] + source.offset[0])
    phase = evaluate_series(op.series, integers / t) / 2**OUTPUT_BITS
    got = phase * t * op.divisor * target.scale[0] + target.offset[0]
    assert np.abs(got - wanted).max() <= 2**-7 * np.ptp(wanted)
    # a message that big still fits below half of the modulus after the unpacking
    assert np.abs(phase * op.divisor).max() < 0.5


def test_the_plaintext_modulus_is_the_least_that_holds_all_sums() -> None:
    for options in ("", "{weight_precision=8}", "{activation_bits=8,weight_precision=6}"):
        graph, _ = run(mlp(), upto("select-parameters").replace("quantize", f"quantize{options}"))
        assert graph.parameters is not None
        largest = max(n.type.fixed.magnitude for n, _ in graph.of(Linear) if n.type.fixed)
        t = graph.parameters.plaintext_modulus
        assert t / 4 < largest < t / 2


def test_sums_of_too_many_bits_name_the_layer() -> None:
    graph, context = run(mlp(), upto("validate-layout"))

    def wide(node: Node) -> Node:
        if node.location != "fc2" or node.type.fixed is None:
            return node
        return replace(node, type=replace(node.type, fixed=replace(node.type.fixed, lo=-(2**33), hi=2**33)))

    with pytest.raises(ParameterError, match="@fc2"):
        SelectParameters().run(rebuilt(graph, wide), context)


def test_levels_of_the_transforms_fit_the_slots() -> None:
    for batch in (1, 4, 64):
        program = glyphc.compile(mlp(), SAMPLES, batch, insecure_ring=2048)
        parameters = program.client.parameters
        assert all(1 <= levels <= np.log2(parameters.slots) for levels in parameters.level_budget)


@pytest.mark.parametrize("batch", [1, 100, 2048])
def test_programs_are_secure_by_default(batch: int) -> None:
    program = glyphc.compile(mlp(), SAMPLES, batch)
    parameters = program.client.parameters
    assert program.secure
    assert parameters.ring == 65536
    assert parameters.modulus_bits <= 1553


def test_more_precision_needs_a_larger_accumulator() -> None:
    widths = []
    for precision in (6, 10, 13):
        graph, context = run(mlp(), "fold,calibrate")
        quantized = Quantize(weight_precision=precision).run(graph, context)
        widths.append(max(n.type.fixed.bits for n, _ in quantized.of(Linear) if n.type.fixed))
    for low, high in pairwise(widths):
        assert low <= high
    assert widths[0] < widths[-1]


def test_the_cost_model_ranks_what_it_compares() -> None:
    cost = CostModel()
    assert cost.bootstrap_seconds(64, 27) < cost.bootstrap_seconds(8192, 27) < cost.bootstrap_seconds(32768, 27)
    assert cost.bootstrap_seconds(64, 13) < cost.bootstrap_seconds(64, 59) < cost.bootstrap_seconds(64, 247)
    assert cost.bootstrap_seconds(64, 27, 2048) < cost.bootstrap_seconds(64, 27, 65536)
