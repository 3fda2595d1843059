"""The text form is complete, stable, and says what is wrong with a text that it cannot read."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import INT64, examples, finite_floats, graphs, integers, names

from glyphc.ir.errors import IRError, IRSyntaxError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Candidate, Decision, Graph, Node
from glyphc.ir.ops import Apply, Const, Dense, Input, Output
from glyphc.ir.parameters import Parameters
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import Calibration, FixedPoint, Level, TensorType

quick = examples(50)


def identical(a: Graph, b: Graph) -> bool:
    """Stricter than ==, which takes 0.0 for -0.0 and 1 for 1.0."""
    frozen = [(k, v.dtype.str, v.shape, v.tobytes()) for k, v in a.constants.items()]
    thawed = [(k, v.dtype.str, v.shape, v.tobytes()) for k, v in b.constants.items()]
    return frozen == thawed and repr((a.level, a.batch, a.parameters, list(a))) == repr(
        (b.level, b.batch, b.parameters, list(b))
    )


def round_trip(graph: Graph) -> Graph:
    text = to_text(graph)
    again = parse(text)
    assert again == graph
    assert identical(again, graph)
    assert to_text(again) == text
    return again


# -- completeness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_every_level_survives(level: Level) -> None:
    @quick
    @given(graphs(level))
    def check(graph: Graph) -> None:
        round_trip(graph)

    check()


def with_input(type: TensorType, **more: Any) -> Graph:
    graph = Graph(Level.SOURCE, 1)
    graph.add(Input("x", type.shape), (), type, **more)
    return graph


@examples(200)
@given(finite_floats() | st.just(float("inf")), integers())
def test_every_number_survives_to_the_bit(number: float, integer: int) -> None:
    candidate = Candidate("c", number, "")
    fixed = FixedPoint((1.0,), (number,), min(integer, 0), max(integer, 0))
    graph = with_input(TensorType((1,), fixed=fixed), decisions=(Decision("d", "c", (candidate,)),))
    (node,) = round_trip(graph)
    assert node.type.fixed is not None
    assert struct.pack("<d", node.type.fixed.offset[0]) == struct.pack("<d", number)
    assert struct.pack("<d", node.decisions[0].candidates[0].seconds) == struct.pack("<d", number)
    assert (node.type.fixed.lo, node.type.fixed.hi) == (min(integer, 0), max(integer, 0))
    assert type(node.type.fixed.lo) is int


def test_numbers_are_written_in_full() -> None:
    numbers = (5e-324, 0.1, 1e22, 1.7976931348623157e308, -0.0)
    text = to_text(with_input(TensorType((5,), fixed=FixedPoint((1.0,) * 5, numbers, -(2**200), 0))))
    assert "offset=[5e-324, 0.1, 1e+22, 1.7976931348623157e+308, -0.0]" in text
    assert "lo=-1606938044258990275541962092341162602522202993782792835301376" in text


def test_numpy_scalars_become_plain_numbers() -> None:
    """Passes compute ranges with numpy, whose scalars are floats that print as ``np.float64(…)``."""
    lo, hi = np.array([-0.5, 1.25])
    text = to_text(with_input(TensorType((1,), Calibration(lo, hi))))
    assert "Calibration(lo=-0.5, hi=1.25)" in text
    (node,) = parse(text)
    assert type(node.type.calibration.lo) is float


def test_nan_is_refused() -> None:
    with pytest.raises(IRError, match="NaN"):
        to_text(with_input(TensorType((1,)), decisions=(Decision("d", "c", (Candidate("c", np.nan, ""),)),)))


@quick
@given(names(), names(), names())
def test_names_and_locations_of_all_kinds(name: str, location: str, other: str) -> None:
    graph = Graph(Level.SOURCE, 1)
    weight = Const(graph.add_constant(name, np.ones((1, 1))))
    bias = Const(graph.add_constant(other, np.zeros(1)))
    x = graph.add(Input(name, (1,)), (), None, location)
    y = graph.add(Dense((weight,), bias), (x,), None, other, (Decision(name, other, ()),))
    graph.add(Output(other), (y,), None, location)
    text = to_text(graph)
    # header, nodes, decision and constants have a line each: line ends in names must not become the text's
    assert len(text.splitlines()) == 1 + 3 + 1 + 2
    assert [n.location for n in round_trip(graph)] == [location, other, location]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, -(2**63)], [2**63 - 1, 0]]),
        np.arange(12.0).reshape(3, 4).T,  # not contiguous
        np.arange(12.0)[::-2],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([0.5, -2.0], dtype=">f8"),  # as some file formats store them
        np.array([1, 256], dtype=">i4"),
        np.array([True, False]),
        np.arange(3, dtype=np.int8),
        np.array([1.5, 3e38], dtype=np.float32),
        np.zeros((0, 3)),
        np.array(2.5),
        np.array([np.inf, -np.inf, -0.0, 5e-324]),
    ],
    ids=lambda a: f"{a.dtype.str}-{list(a.shape)}",
)
def test_constants_of_all_kinds(array: npt.NDArray[Any]) -> None:
    graph = Graph(Level.SOURCE, 1)
    graph.add_constant("c", array)
    again = round_trip(graph).constant("c")
    assert again.shape == array.shape
    np.testing.assert_array_equal(again, array)
    assert not again.flags.writeable


def test_equality_sees_every_difference() -> None:
    """Otherwise the round trips above would prove nothing."""

    def make(
        batch: int = 1,
        level: Level = Level.SOURCE,
        weight: float = 1.0,
        location: str = "a",
        constant: str = "w",
        alpha: float = 0.5,
        decided: tuple[Decision, ...] = (),
        parameters: Parameters | None = None,
        dtype: type = np.float64,
        unused: bool = False,
    ) -> Graph:
        graph = Graph(level, batch, parameters)
        w = Const(graph.add_constant(constant, np.array([[weight]], dtype=dtype)))
        b = Const(graph.add_constant("b", np.zeros(1)))
        x = graph.add(Dense((w,), b), (graph.add(Input("x", (1,))),), None, location, decided)
        graph.add(Output("y"), (graph.add(Apply((Function("leaky_relu", (alpha,)),)), (x,)),))
        if unused:
            graph.add_constant("unused", np.zeros(1))
        return graph

    assert make() == make()
    assert make() != make(unused=True)
    others = [
        make(batch=2),
        make(level=Level.QUANTIZED),
        make(weight=1.0000000000000002),
        make(location="b"),
        make(constant="v"),
        make(alpha=0.25),
        make(decided=(Decision("d", "c", ()),)),
        make(parameters=Parameters(64, 20, 60)),
        make(dtype=np.int64),
        make(unused=True),
    ]
    texts = {to_text(g) for g in [make(), *others]}
    assert all(g != make() for g in others)
    assert len(texts) == 1 + len(others)


# -- reading by hand-written rules ---------------------------------------------------------------------------


def const(name: str, values: list[float], shape: list[int]) -> str:
    data = base64.b64encode(zlib.compress(struct.pack(f"<{len(values)}d", *values))).decode()
    return f'const "{name}" float64 {shape} "{data}"'


GOOD = f"""\
glyph-ir 1 level source batch 2
%0 = input (name="x", shape=[3]) : TensorType(shape=[3], calibration=Calibration(lo=-1.0, hi=1.0)) @"in"
%1 = dense %0 (weights=[$"w"], bias=$"b") : TensorType(shape=[2])
    decided Decision(made_by="pass", chosen="a", candidates=[Candidate(name="a", seconds=none, reason="")])
%2 = apply %1 (functions=[Function(name="relu")]) : TensorType(shape=[2])
%3 = argmax %2 (keepdims=false) : TensorType(shape=[])
%4 = output %3 (name="y") : TensorType(shape=[])
{const("w", [1, 2, 3, 4, 5, 6], [2, 3])}
{const("b", [0.5, -0.5], [2])}
"""


def test_text_written_by_hand() -> None:
    graph = parse(GOOD)
    assert (graph.level, graph.batch, len(graph)) == (Level.SOURCE, 2, 5)
    np.testing.assert_array_equal(graph.constant("w"), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(graph.constant("b"), [0.5, -0.5])
    assert graph.node(0) == Node(0, Input("x", (3,)), (), TensorType((3,), calibration=Calibration(-1.0, 1.0)), "in")
    assert graph.node(1).op == Dense((Const("w"),), Const("b"))
    assert graph.node(1).operands == (0,)
    assert graph.node(1).decisions == (Decision("pass", "a", (Candidate("a", None, ""),)),)
    assert graph.node(2).op == Apply((Function("relu"),))
    assert graph.node(3).type == TensorType(())
    assert graph.node(4).location == ""


def test_spaces_comments_and_order_of_constants_do_not_matter() -> None:
    header, *lines = GOOD.splitlines()
    nodes, constants = lines[:-2], lines[-2:]
    shuffled = "\n\n".join(["# a comment", header, *constants, *nodes]).replace("(", " (\n  # (\n  ")
    assert parse(shuffled) == parse(GOOD)
    assert parse(GOOD.replace("\n", "\r\n")) == parse(GOOD)


# -- mistakes ------------------------------------------------------------------------------------------------

# what is replaced by what in GOOD; the line and column to be named; more words that must be in the message
MISTAKES: dict[str, tuple[str, str, int, int, list[str]]] = {
    "bad header": ("glyph-ir 1", "glyph-it 1", 1, 1, ["glyph-it"]),
    "no header": ("glyph-ir 1 level source batch 2\n", "", 1, 1, ["%0 = input"]),
    "wrong version": ("glyph-ir 1", "glyph-ir 7", 1, 1, ["version 7", "reads version 1", "glyph-ir 7 level"]),
    "unknown level": ("level source", "level sauce", 1, 1, ["'sauce'", "quantized", "batch 2"]),
    "batch is no number": ("batch 2", "batch many", 1, 31, ["batch many"]),
    "unknown op": ("= apply", "= aply", 5, 1, ["'aply'", "argmax", "%2 = aply"]),
    "unknown field": ("bias=", "biases=", 3, 1, ["%1", "unknown field(s) biases", "Dense(bias, weights)"]),
    "missing field": (', bias=$"b"', "", 3, 1, ["%1", "'bias'"]),
    "field given twice": ("shape=[3],", "shape=[3], shape=[3],", 2, 36, ["'shape' is given twice"]),
    "attribute given twice": (
        "(keepdims=false",
        "(keepdims=true, keepdims=false",
        6,
        1,
        ["'keepdims'", "twice"],
    ),
    "number for a bool": ("keepdims=false", "keepdims=1", 6, 1, ["%3", "keepdims", "1 is not", "bool"]),
    "bool for a number": ("lo=-1.0", "lo=true", 2, 1, ["%0", "lo", "True is not", "float"]),
    "string for a constant": ('weights=[$"w"]', 'weights=["w"]', 3, 1, ["%1", "weights", "'w' is not", "Const"]),
    "fraction for an integer": ("(shape=[3]", "(shape=[3.5]", 2, 1, ["%0", "shape", "3.5 is not", "int"]),
    "one number for a list": ("(shape=[3]", "(shape=3", 2, 1, ["%0", "shape", "3 is not"]),
    "none for a record": ("[Function(name", "[none, Function(name", 5, 1, ["%2", "functions", "None is not"]),
    "wrong record": ("[Function(", "[Decision(", 5, 1, ["%2", "expected Function", "Decision"]),
    "unknown function": ('"relu"', '"rleu"', 5, 1, ["%2", "'rleu'", "leaky_relu"]),
    "empty range": ("hi=1.0", "hi=-2.0", 2, 1, ["%0", "empty range [-1.0, -2.0]"]),
    "forward reference": ("= dense %0", "= dense %2", 3, 1, ["%1 uses a node that is not defined before it"]),
    "own result": ("= dense %0", "= dense %1", 3, 1, ["%1 uses a node that is not defined before it"]),
    "missing constant": ('$"w"', '$"v"', 3, 1, ["dense", "unknown constant(s) v"]),
    "duplicate number": ("%3 = argmax", "%2 = argmax", 6, 1, ["%2 is out of order", "%3 comes next"]),
    "skipped number": ("%4 = output", "%5 = output", 7, 1, ["%5 is out of order", "%4 comes next"]),
    "too few operands": ("= dense %0", "= dense", 3, 1, ["dense takes 1 operand(s), not 0"]),
    "too many operands": ("= argmax %2", "= argmax %2 %1", 6, 1, ["argmax takes 1 operand(s), not 2"]),
    "declared shape": ("shape=[])\n%4", "shape=[1])\n%4", 6, 1, ["argmax", "declared shape [1]", "gives []"]),
    "more operands than weights": ("= dense %0", "= dense %0 %0", 3, 1, ["dense takes 1 operand(s), not 2"]),
    "more weights than operands": ('[$"w"]', '[$"w", $"w"]', 3, 1, ["dense takes 2 operand(s), not 1"]),
    "no weight": ('[$"w"]', "[]", 3, 1, ["dense takes 0 operand(s), not 1"]),
    "concat of nothing": (
        '= dense %0 (weights=[$"w"], bias=$"b")',
        "= concat ()",
        3,
        1,
        ["takes any number of operand(s), not 0"],
    ),
    "stray bracket": ("= dense %0", "= dense %0 (", 3, 17, ['(weights=[$"w"']),
    "weight's shape": ("float64 [2, 3]", "float64 [3, 2]", 3, 1, ["dense", "weight [3, 2]", "bias [2]"]),
    "constant's size": ("float64 [2, 3]", "float64 [2, 4]", 8, 1, ['constant "w"', "unreadable", "64 bytes"]),
    "corrupt base64": ('[2] "', '[2] "!', 9, 1, ['constant "b"', "unreadable", "base64"]),
    "corrupt data": ('[2] "e', '[2] "A', 9, 1, ['constant "b"', "unreadable", "header"]),
    "unknown dtype": ('"b" float64', '"b" float65', 9, 1, ['constant "b"', "unreadable", "float65"]),
    "constant given twice": ('const "b"', 'const "w"', 9, 1, ['constant "w" is given twice']),
    "bad escape": ('"relu"', '"\\q"', 5, 41, [r'unreadable string "\q"']),
    "bad escape in a location": ('@"in"', r'@"\in"', 2, 1, [r'unreadable string "\in"']),
    "bad escape in a name": ('const "b"', r'const "\b\c"', 9, 1, [r'unreadable string "\b\c"']),
    "line end in a string": ('name="x"', 'name="x\n"', 2, 18, ['unreadable string "x\n"']),
    "missing bracket": ("[2, 3]", "[2, 3", 8, 25, ["[2, 3"]),
    "missing type": (": TensorType(shape=[2])\n    decided", "decided", 3, 43, ["decided"]),
    "stray text": ("%3 = argmax", "whatever\n%3 = argmax", 6, 1, ["whatever"]),
}


def mistaken(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, f"{old!r} stands {GOOD.count(old)} times in the text"
    return GOOD.replace(old, new)


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_located_and_named(case: str) -> None:
    old, new, line, column, words = MISTAKES[case]
    with pytest.raises(IRError) as caught:
        parse(mistaken(old, new))
    message = str(caught.value)
    assert message.startswith(f"line {line}, column {column}: "), message
    for word in words:
        assert word in message


def test_the_guilty_line_is_shown() -> None:
    with pytest.raises(IRSyntaxError) as caught:
        parse(mistaken("= apply", "= aply"))
    assert str(caught.value).splitlines() == [
        "line 5, column 1: %2: unknown op 'aply'; known: dense, scale, add, sub, mul, div, max, min, concat, gather, "
        "steps, affine, reduce_sum, reduce_max, hardmax, matmul, sum_to, scatter, input, output, reshape, apply, "
        "softmax, argmax, linear, switch, unpack, bootstrap, polynomial, integer-polynomial, client-refresh, "
        "client-bits, table-lookup, shorten, word-table, pixels, interleave, fold",
        '%2 = aply %1 (functions=[Function(name="relu")]) : TensorType(shape=[2])',
    ]


def test_a_caret_stands_under_unexpected_text() -> None:
    with pytest.raises(IRSyntaxError) as caught:
        parse(mistaken("%3 = argmax", "%3 - argmax"))
    _, shown, caret = str(caught.value).rstrip("\n").splitlines()
    assert shown.startswith("%3 - argmax")
    assert caret == "   ^"


@pytest.mark.parametrize(
    "cut", ["glyph-ir 1 level sou", '%1 = dense %0 (weights=[$"w"], bi', '%1 = dense %0 (weights=[$"']
)
def test_truncated_text(cut: str) -> None:
    text = GOOD[: GOOD.index(cut) + len(cut)]
    with pytest.raises(IRSyntaxError, match=rf"^line {len(text.splitlines())}, column \d+: ") as caught:
        parse(text)
    assert cut[-8:] in str(caught.value) or "batch" not in text


def test_every_truncation_is_refused_or_ends_with_a_whole_item() -> None:
    header = GOOD.index("\n")
    whole = {i for i in range(header, len(GOOD) + 1) if GOOD[:i].rstrip().endswith((")", '"', "batch 2"))}
    readable = {i for i in range(len(GOOD) + 1) if not refused(GOOD[:i])}
    assert {header, len(GOOD) - 1, len(GOOD)} <= readable <= whole


def refused(text: str) -> str:
    """The message that refuses ``text``, with its place; empty if the text can be read."""
    try:
        parse(text)
    except IRError as e:
        message = str(e)
    else:
        message = ""
    assert not message or re.match(r"line \d+, column \d+: ", message)
    return message


def test_absurd_numbers_and_nesting() -> None:
    """Python itself refuses some of these with errors of its own."""
    digits = "1" * 5000
    for old, new in [
        ("glyph-ir 1", f"glyph-ir {digits}"),
        ("batch 2", f"batch {digits}"),
        ("%4 = output", f"%{digits} = output"),
        ("= dense %0", f"= dense %{digits}"),
        ("[2, 3]", f"[2, {digits}]"),
        ("(shape=[3]", f"(shape=[{digits}]"),
        ("lo=-1.0", f"lo=-{'1' * 400}"),
        ("lo=-1.0", f"lo=-{digits}"),
        ("(shape=[3]", f"(shape={'[' * 5000}{']' * 5000}"),
        ("batch 2", "batch \u0662"),
    ]:
        with pytest.raises(IRSyntaxError, match=r"^line \d+, column \d+: "):
            parse(mistaken(old, new))


# -- garbage -------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(
            "glyph-ir 1 level source batch 1\n",
            "%",
            "%0",
            "%1",
            " = ",
            "=",
            "input",
            "dense",
            "output",
            "const",
        ),
        *(
            "(",
            ")",
            "[",
            "]",
            ",",
            ":",
            "@",
            "$",
            '"',
            '"a"',
            '"\\',
            "decided",
            "none",
            "true",
            "inf",
            "-inf",
            "-",
        ),
        *(
            "TensorType(shape=[1])",
            "shape",
            "name",
            "1",
            "-1",
            "0.5",
            "1e999",
            "1e-999",
            "int64",
            "str",
            "object",
        ),
        *("Decision", "parameters", "Parameters(ring=1)", " ", "\n", "#", "\\", "\x00", "\ud800", "\u0661"),
    ]
)


def reads_or_refuses(text: str) -> None:
    """Nothing but a located IRError may come out; whatever can be read has a text form again."""
    if not refused(text):
        graph = parse(text)
        assert parse(to_text(graph)) == graph


@examples(200)
@given(st.text() | st.lists(WORDS, max_size=12).map("".join))
def test_garbage_is_refused(text: str) -> None:
    reads_or_refuses(text)
    reads_or_refuses("glyph-ir 1 level source batch 1\n" + text)


@examples(300)
@given(st.data())
def test_damaged_text_is_refused(data: st.DataObject) -> None:
    """A valid text with up to three spans replaced by other words."""
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 0, 1, 2, 5, 30]))
        new = data.draw(WORDS | st.text(max_size=3))
        text = text[:at] + new + text[at + length :]
    reads_or_refuses(text)


@examples(30)
@given(graphs(max_steps=3), st.data())
def test_damaged_text_of_any_level_is_refused(graph: Graph, data: st.DataObject) -> None:
    text = to_text(graph)
    at = data.draw(st.integers(0, len(text)))
    reads_or_refuses(text[:at] + data.draw(WORDS) + text[at + data.draw(st.integers(0, 3)) :])


@quick
@given(st.integers(*INT64), st.lists(st.integers(0, 2**70), max_size=3).map(tuple))
def test_calibration_is_kept(lo: int, histogram: tuple[int, ...]) -> None:
    calibration = Calibration(float(lo), float(lo) + 1.0, histogram)
    type = TensorType((2, 3), calibration)
    (node,) = round_trip(with_input(type))
    assert node.type.calibration == calibration
    assert replace(node.type, calibration=None) == TensorType((2, 3))
