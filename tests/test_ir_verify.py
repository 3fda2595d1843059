"""The verifier passes valid graphs of every level and names the node that a small corruption breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples, graphs

from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.layout import Layout
from glyphc.ir.ops import (
    CLIENT_OPS,
    OPS,
    Add,
    Affine,
    Apply,
    ArgMax,
    Bootstrap,
    Concat,
    Const,
    Dense,
    Div,
    Fold,
    Gather,
    Hardmax,
    Input,
    IntegerPolynomial,
    Interleave,
    Linear,
    MatMul,
    Max,
    Min,
    Mul,
    Op,
    Output,
    Pixels,
    Polynomial,
    ReduceMax,
    ReduceSum,
    Reshape,
    Scale,
    Scatter,
    Shorten,
    Softmax,
    Steps,
    Sub,
    SumTo,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)
from glyphc.ir.series import Series
from glyphc.ir.types import Encoding, FixedPoint, Level, Scheme, TensorType
from glyphc.ir.verify import verify

Shape = tuple[int, ...]

BGV, TORUS, CLIENT = Scheme.BGV, Scheme.TORUS, Scheme.CLIENT
UNIT = FixedPoint((1.0,), (0.0,), -100, 100)
WIDE = FixedPoint((2.0,), (0.0,), -100, 100)
RING, BATCH = 64, 2
LAYOUT = Layout(RING, BATCH, 4, 1, 8, 32, 8, True)
SERIES = Series((0.0, 0.5), (0.0, -0.5), 0.5, 0.01, 0.001)


class Chain:
    """A graph of one level in which each op of that level stands once; nodes by a short name."""

    def __init__(self, level: Level) -> None:
        self.graph = Graph(level, BATCH)
        self.ids: dict[str, int] = {}
        getattr(self, level.value)()

    def add(self, name: str, op: Op, scheme: Scheme = BGV, parts: int = 1, size: int = 4) -> None:
        level, last = self.graph.level, self.graph.node(len(self.graph) - 1) if len(self.graph) else None
        operands = () if last is None else (last,) * (2 if op.arity is None else op.arity or 0)
        shape = op.result_shape(tuple(o.type.shape for o in operands), self.graph.constants)
        type = TensorType(shape)
        if level >= Level.QUANTIZED and scheme is not CLIENT:
            type = replace(type, fixed=UNIT)
        if level >= Level.ASSIGNED:
            encoding = {BGV: Encoding.LSB, TORUS: Encoding.MSB}.get(scheme)
            type = replace(type, scheme=scheme, encoding=encoding)
        if level >= Level.LAIDOUT and scheme is not CLIENT:
            type = replace(type, layout=replace(LAYOUT, parts=parts, features=size))
        self.ids[name] = self.graph.add(op, operands, type, name).id

    def weights(self, name: str, out: int, dtype: type) -> tuple[tuple[Const], Const]:
        w = self.graph.add_constant(f"{name}.w", np.ones((out, 4), dtype=dtype))
        return (Const(w),), Const(self.graph.add_constant(f"{name}.b", np.zeros(out, dtype=dtype)))

    def tail(self) -> None:
        self.add("softmax", Softmax(), CLIENT)
        self.add("flat", Reshape((3,)), CLIENT)
        self.add("argmax", ArgMax(keepdims=True), CLIENT)
        self.add("out", Output("y"), CLIENT)

    def source(self) -> None:
        self.add("in", Input("x", (4,)))
        self.add("fc1", Dense(*self.weights("fc1", 4, np.float64)))
        self.graph.add_constant("factor", np.ones(4))
        self.add("norm", Scale(Const("factor"), Const("factor")))
        for kind in (Add, Sub, Mul, Div, Max, Min, Hardmax, Concat):
            self.add(kind.mnemonic, kind())
        self.graph.add_constant("indices", np.arange(16).reshape(4, 2, 2) % 8)
        self.add("gather", Gather(Const("indices")))
        data, indices, indptr, bias = (
            Const(self.graph.add_constant("affine", np.array(v)))
            for v in ([1.0, 2.0, 3.0], [0, 5, 5], [0, 1, 1, 1, 3, 3, 3, 3, 3], [0.5] * 8)
        )
        self.add("affine", Affine((4, 2), data, indices, indptr, bias))
        self.add("wide", Gather(Const("indices")))
        self.add("sum", ReduceSum())
        self.add("matmul", MatMul(transpose_b=True))
        self.add("sum_to", SumTo((4, 1)))
        self.add("top", ReduceMax())
        self.graph.add_constant("places", np.arange(4))
        self.add("scatter", Scatter(Const("places"), (4,)))
        self.add("steps", Steps(Const("places"), Const("factor")))
        self.add("act", Apply((Function("relu"),)))
        self.add("fc2", Dense(*self.weights("fc2", 3, np.float64)))
        self.add("square", Reshape((1, 3)))
        self.tail()

    def quantized(self) -> None:
        self.add("in", Input("x", (4,)))
        self.add("fc1", Linear(*self.weights("fc1", 4, np.int64)))
        if self.graph.level is Level.QUANTIZED:
            self.add("act", Apply((Function("relu"),)))
        else:
            self.refresh()
        self.add("fc2", Linear(*self.weights("fc2", 3, np.int64)), size=3)
        self.add("square", Reshape((1, 3)), size=3)
        self.tail()

    def refresh(self) -> None:
        self.add("down", Switch(BGV, TORUS, Encoding.MSB), TORUS)
        if self.graph.level is Level.ASSIGNED:
            self.add("act", Apply((Function("relu"),)), TORUS)
        else:
            self.add("act", Bootstrap((Function("relu"),), 2, 8, SERIES), TORUS)
        self.add("up", Switch(TORUS, BGV, Encoding.LSB), BGV)
        if self.graph.level is Level.LAIDOUT:
            self.add("split", Unpack(2), parts=2)

    assigned = laidout = quantized

    def node(self, name: str) -> Node:
        return self.graph.node(self.ids[name])

    def corrupt(self, name: str, change: Callable[[Node], Node]) -> None:
        """Put a changed node in, behind the back of ``Graph.add``, which would refuse some changes."""
        put(self.graph, change(self.node(name)))


def put(graph: Graph, node: Node) -> None:
    graph._nodes[node.id] = node


def typed(**facts: Any) -> Callable[[Node], Node]:
    return lambda n: replace(n, type=replace(n.type, **facts))


def attributed(**attributes: Any) -> Callable[[Node], Node]:
    return lambda n: replace(n, op=replace(n.op, **attributes))


def laid(**fields: Any) -> Callable[[Node], Node]:
    return lambda n: replace(n, type=replace(n.type, layout=replace(n.type.layout, **fields)))


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_each_op_of_a_level_passes(level: Level) -> None:
    chain = Chain(level)
    verify(chain.graph)
    allowed = {op for op in OPS.values() if level in op.levels}
    used = {type(n.op) for n in chain.graph}
    # a bootstrap does at the last level what apply did before; the others are of graphs in slots, gates and images
    assert used == allowed - ({Apply} if level is Level.LAIDOUT else set()) - {
        Polynomial,
        IntegerPolynomial,
        TableLookup,
        Pixels,
        Interleave,
        Fold,
        Shorten,
        WordTable,
        *CLIENT_OPS,
    }


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_random_graphs_pass(level: Level) -> None:
    @examples(40)
    @given(graphs(level))
    def check(graph: Graph) -> None:
        verify(graph)

    check()


SHAPE_RULES: list[tuple[Shape, Op, str]] = [
    ((6,), Reshape((2, 2)), r"cannot reshape \[6\] into \[2, 2\]"),
    ((), Softmax(), "softmax needs at least one axis"),
    ((), ArgMax(keepdims=True), "argmax needs at least one axis"),
    ((3,), Dense((Const("3x2"),), Const("3")), r"weight of shape \[3, 2\] cannot be applied to .* \[3\]"),
    ((4, 2), Dense((Const("3x2"),), Const("3")), r"needs a flat tensor of one sample, not shape \[4, 2\]"),
    ((), Dense((Const("3x2"),), Const("3")), "cannot be applied to a tensor of shape"),
    ((2,), Dense((Const("3x2"),), Const("1")), r"weight \[3, 2\] and bias \[1\] are not"),
    ((3,), Dense((Const("3"),), Const("3")), r"weight \[3\] and bias \[3\] are not"),
    ((2,), Scale(Const("3x2"), Const("1")), r"constant '3x2' of shape \[3, 2\] does not broadcast to \[2\]"),
    ((2,), Scale(Const("1"), Const("3")), r"constant '3' of shape \[3\] does not broadcast to \[2\]"),
    ((1,), Scale(Const("1"), Const("3")), r"constant '3' of shape \[3\] does not broadcast to \[1\]"),
    ((3, 1), Scale(Const("3x2"), Const("1")), r"does not broadcast to \[3, 1\]"),
    ((), Scale(Const("1"), Const("1")), r"constant '1' of shape \[1\] does not broadcast to \[\]"),
]


@pytest.mark.parametrize(("shape", "op", "words"), SHAPE_RULES)
def test_shapes_that_do_not_fit(shape: Shape, op: Op, words: str) -> None:
    """Refused where the graph is built, under the op's name, and found where that was evaded."""
    graph = Graph(Level.SOURCE, 1)
    for constant in ((3, 2), (3,), (1,)):
        graph.add_constant("x".join(map(str, constant)), np.zeros(constant))
    x = graph.add(Input("x", shape))
    with pytest.raises(IRError, match=f"^{op.mnemonic} @here: .*{words}"):
        graph.add(op, (x,), None, "here")
    relu = graph.add(Apply((Function("relu"),)), (x,), None, "here")
    graph.add(Output("y"), (relu,))
    put(graph, replace(relu, op=op))
    with pytest.raises(IRError, match=rf"^%1 \({op.mnemonic} @here\): "):
        verify(graph)


S, Q, A, L = Level
Change = Callable[[Node], Node]

# what is wrong, at which levels, the node that is changed, how, the node to be named, words in the message
CORRUPTIONS: list[tuple[str, list[Level], str, Change, str, str]] = [
    # graph structure
    ("shape", [S, Q, A, L], "fc1", typed(shape=(5,)), "fc1", r"typed \[5\], but its op gives \[4\]"),
    ("rank", [S, Q, A, L], "argmax", typed(shape=()), "argmax", r"typed \[\], but its op gives \[1\]"),
    ("input's shape", [S, Q, A, L], "in", typed(shape=(3,)), "in", r"typed \[3\]"),
    ("empty axis", [S, Q, A, L], "flat", attributed(shape=(0,)), "flat", r"cannot reshape \[1, 3\] into"),
    (
        "negative axes",
        [S, Q, A, L],
        "square",
        lambda n: typed(shape=(-1, -3))(attributed(shape=(-1, -3))(n)),
        "square",
        "negative axis",
    ),
    ("operand missing", [S, Q, A, L], "fc2", lambda n: replace(n, operands=()), "fc2", r"takes 1 .*, has 0"),
    ("operand too many", [S, Q, A, L], "in", lambda n: replace(n, operands=(1,)), "in", r"takes 0 .*, has 1"),
    ("operands doubled", [S], "norm", lambda n: replace(n, operands=(1, 1)), "norm", r"takes 1 .*, has 2"),
    ("other weight", [S, Q, A, L], "fc1", attributed(weights=(Const("fc1.b"),)), "fc1", r"\(out, in\) and \(out"),
    ("other bias", [S, Q, A, L], "fc1", attributed(bias=Const("fc2.b")), "fc1", r"\(out, in\) and \(out,\)"),
    ("other factor", [S], "norm", attributed(factor=Const("fc2.b")), "norm", r"\[3\] does not broadcast"),
    (
        "operand of another size",
        [S, Q, A, L],
        "flat",
        lambda n: replace(n, operands=(0,)),
        "flat",
        r"cannot reshape \[4\] into \[3\]",
    ),
    ("own result", [S, Q, A, L], "fc2", lambda n: replace(n, operands=(n.id,)), "fc2", "not come before"),
    ("later result", [S, Q, A, L], "act", lambda n: replace(n, operands=(n.id + 1,)), "act", "not come befo"),
    ("no such result", [S, Q, A, L], "act", lambda n: replace(n, operands=(99,)), "act", "not come before"),
    ("weight too many", [S, Q, A, L], "fc1", attributed(weights=(Const("fc1.w"),) * 2), "fc1", r"takes 2 .*, has 1"),
    (
        "no weight",
        [S, Q, A, L],
        "fc1",
        lambda n: attributed(weights=())(replace(n, operands=())),
        "fc1",
        "at least one weight",
    ),
    ("one operand of two", [S], "mul", lambda n: replace(n, operands=n.operands[:1]), "mul", r"takes 2 .*, has 1"),
    ("shapes that part", [S], "add", lambda n: replace(n, operands=(0, n.id + 8)), "add", "not come before"),
    ("nothing to join", [S], "concat", lambda n: replace(n, operands=()), "concat", "has 0"),
    ("other indices", [S], "gather", attributed(indices=Const("fc1.b")), "gather", "needs integer indices"),
    ("indices elsewhere", [S], "gather", lambda n: replace(n, operands=(0,)), "gather", "reach beyond the 4"),
    # ops at the wrong level
    ("float weights", [Q, A, L], "fc1", lambda n: replace(n, op=Dense(*weights_of(n))), "fc1", "not allowed"),
    (
        "integer weights",
        [S],
        "fc1",
        lambda n: replace(n, op=Linear(*weights_of(n))),
        "fc1",
        "not allowed at level",
    ),
    (
        "early switch",
        [S, Q],
        "act",
        lambda n: replace(n, op=Switch(BGV, BGV, Encoding.LSB)),
        "act",
        "not allow",
    ),
    ("early unpack", [S, Q, A], "act", lambda n: replace(n, op=Unpack(2)), "act", "not allowed at level"),
    # fixed point
    ("no format", [Q, A, L], "fc1", typed(fixed=None), "fc1", "no fixed-point format"),
    ("no input format", [Q, A, L], "in", typed(fixed=None), "in", "no fixed-point format"),
    (
        "scales for another shape",
        [Q, A, L],
        "in",
        typed(fixed=FixedPoint((1.0, 2.0, 3.0), (0.0, 0.0, 0.0), -1, 1)),
        "in",
        "3 scales for 4 elements",
    ),
    ("format changed on the way", [Q, A, L], "square", typed(fixed=WIDE), "square", "keeps the integers"),
    ("format changed by a switch", [A, L], "down", typed(fixed=WIDE), "down", "keeps the integers"),
    ("format changed by unpacking", [L], "split", typed(fixed=WIDE), "split", "keeps the integers"),
    # schemes
    ("no scheme", [A, L], "fc1", typed(scheme=None), "fc1", "no scheme"),
    (
        "missing switch",
        [A, L],
        "fc1",
        typed(scheme=TORUS, encoding=Encoding.MSB),
        "fc1",
        "a switch is missing",
    ),
    ("bgv, but msb", [A, L], "fc2", typed(encoding=Encoding.MSB), "fc2", "least significant"),
    ("no encoding", [A, L], "fc2", typed(encoding=None), "fc2", "least significant"),
    ("torus, but lsb", [A, L], "act", typed(encoding=Encoding.LSB), "act", "most significant"),
    ("switch from elsewhere", [A, L], "down", attributed(source=Scheme.CKKS), "down", "types say otherwise"),
    ("switch to elsewhere", [A, L], "down", attributed(target=Scheme.CKKS), "down", "types say otherwise"),
    ("switch to lsb", [A, L], "down", attributed(encoding=Encoding.LSB), "down", "types say otherwise"),
    ("softmax on ciphertexts", [A, L], "softmax", typed(scheme=BGV), "softmax", "is computed by the client"),
    ("argmax on ciphertexts", [A, L], "argmax", typed(scheme=TORUS), "argmax", "is computed by the client"),
    ("encrypted output", [A, L], "out", typed(scheme=BGV), "out", "is computed by the client"),
    ("client runs a layer", [A, L], "fc2", typed(scheme=CLIENT), "fc2", "assigned to the client"),
    ("client runs the input", [A, L], "in", typed(scheme=CLIENT), "in", "assigned to the client"),
    (
        "server reshapes clear values",
        [A, L],
        "flat",
        typed(scheme=BGV, encoding=Encoding.LSB),
        "flat",
        "switch",
    ),
    # layouts
    ("no layout", [L], "fc1", typed(layout=None), "fc1", "no layout"),
    ("layout of another size", [L], "fc1", laid(features=3), "fc1", "4 features and batch 2"),
    ("layout of a smaller batch", [L], "fc2", laid(batch=1), "fc2", "3 features and batch 2"),
    ("too few slots", [L], "act", attributed(slots=2), "act", "2 slots do not read all positions"),
    ("too many slots", [L], "act", attributed(slots=64), "act", "64 slots do not"),
    ("no slots", [L], "act", attributed(slots=0), "act", "0 slots do not"),
    ("slots that divide nothing", [L], "act", attributed(slots=12), "act", "12 slots do not"),
    ("grid off the slots", [L], "act", laid(grid=2), "act", "grid of 2"),
    (
        "constant series",
        [L],
        "act",
        attributed(series=Series((1.0,), (0.0,), 0.5, 0.0, 0.0)),
        "act",
        "empty series",
    ),
    ("unpacking into more", [L], "split", attributed(parts=4), "split", "unpacks 4 parts"),
    ("unpacking into fewer", [L], "split", laid(parts=1), "split", "unpacks 2 parts"),
    ("odd parts", [L], "split", lambda n: laid(parts=3)(attributed(parts=3)(n)), "split", "not all powers of two"),
    ("too many", [L], "split", lambda n: laid(parts=16)(attributed(parts=16)(n)), "split", "coefficients are more"),
    ("unpacking twice", [L], "up", laid(parts=2), "split", "unpacks 2 parts"),
]


def weights_of(node: Node) -> tuple[tuple[Const, ...], Const]:
    *weights, bias = (Const(name) for name in node.op.constant_names())
    return tuple(weights), bias


@pytest.mark.parametrize(
    ("level", "name", "change", "named", "words"),
    [
        pytest.param(level, *rest, id=f"{level.value}: {what}")
        for what, levels, *rest in CORRUPTIONS
        for level in levels
    ],
)
def test_corruption_is_found(level: Level, name: str, change: Change, named: str, words: str) -> None:
    chain = Chain(level)
    chain.corrupt(name, change)
    with pytest.raises(IRError, match=words) as caught:
        verify(chain.graph)
    assert f"%{chain.ids[named]} (" in str(caught.value)
    assert f"@{named})" in str(caught.value)


@pytest.mark.parametrize("level", [Q, A, L], ids=lambda level: level.value)
def test_float_constants_are_found(level: Level) -> None:
    for name in ("w", "b"):
        chain = Chain(level)
        chain.graph._constants[f"fc2.{name}"] = chain.graph.constant(f"fc2.{name}").astype(np.float64)
        with pytest.raises(IRError, match=rf"@fc2\): constant 'fc2.{name}' is float64, not int64"):
            verify(chain.graph)


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_use_of_an_output_is_found(level: Level) -> None:
    chain = Chain(level)
    out = chain.node("out")
    chain.graph.add(Output("z"), (out,), out.type)
    with pytest.raises(IRError, match=r"@out\) is an output and cannot be used further"):
        verify(chain.graph)


@pytest.mark.parametrize("level", [A, L], ids=lambda level: level.value)
def test_decryption_in_another_scheme_is_found(level: Level) -> None:
    for op in (Output("z"), Softmax(), ArgMax(keepdims=True)):
        chain = Chain(level)
        act = chain.node("act")
        shape = op.result_shape((act.type.shape,), {})
        chain.graph.add(op, (act,), TensorType(shape, scheme=CLIENT), "peek")
        with pytest.raises(IRError, match=r"@peek\): the client decrypts bgv values, what is in slots, and bits"):
            verify(chain.graph)


@pytest.mark.parametrize("level", [Q, A, L], ids=lambda level: level.value)
@pytest.mark.parametrize("behind", ["softmax", "flat", "argmax"])
def test_encrypted_layer_behind_the_client_is_found(level: Level, behind: str) -> None:
    """What the key holder computes never comes back to the server."""
    chain = Chain(level)
    x = chain.node(behind)
    type = replace(chain.node("fc1").type, shape=x.type.shape)
    chain.graph.add(Apply(()), (x,), type, "late")
    with pytest.raises(IRError, match=r"@late\) is encrypted, but computed from what the client makes"):
        verify(chain.graph)


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_mistakes_of_the_whole_graph(level: Level) -> None:
    chain = Chain(level)
    chain.graph.batch = 0
    with pytest.raises(IRError, match="batch must be at least 1, not 0"):
        verify(chain.graph)

    empty = Graph(level, 1)
    with pytest.raises(IRError, match="no output"):
        verify(empty)

    for what, label, op in (("outputs", "argmax", Output("y")), ("inputs", None, Input("x", (4,)))):
        chain = Chain(level)
        operands = (chain.node(label),) if label else ()
        chain.graph.add(op, operands, chain.node("out" if label else "in").type)
        with pytest.raises(IRError, match=f"two {what} have the same name: .'{op.name}', '{op.name}'."):
            verify(chain.graph)


FACTS = {"fixed": Level.QUANTIZED, "scheme": Level.ASSIGNED, "layout": Level.LAIDOUT}


@examples(60)
@given(graphs(max_steps=4), st.data())
def test_every_fact_of_every_encrypted_node_is_asked_for(graph: Graph, data: st.DataObject) -> None:
    known = [(n, fact) for n in graph for fact in FACTS if getattr(n.type, fact) is not None]
    assume(known)
    node, fact = data.draw(st.sampled_from(known))
    put(graph, replace(node, type=replace(node.type, **{fact: None})))
    with pytest.raises(IRError) as caught:
        verify(graph)
    # the scheme may be missed first where it is read, at a switch behind the node; never before the node
    assert str(node) in str(caught.value)


@examples(60)
@given(graphs(max_steps=4), st.data())
def test_every_shape_is_checked(graph: Graph, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(list(graph)))
    put(graph, replace(node, type=replace(node.type, shape=(*node.type.shape, 2))))
    with pytest.raises(IRError) as caught:
        verify(graph)
    assert str(node) in str(caught.value)


@examples(60)
@given(graphs(max_steps=4), st.sampled_from(list(Level)))
def test_an_op_passes_at_its_own_levels_only(graph: Graph, other: Level) -> None:
    """A graph whose level is changed breaks some rule, unless all its ops and facts belong to both levels."""
    before = graph.level
    graph.level = other
    wrong = any(other not in n.op.levels for n in graph)
    lacking = [fact for fact, since in FACTS.items() if other >= since and not before >= since]
    if wrong or lacking:
        with pytest.raises(IRError):
            verify(graph)
    else:
        verify(graph)
