"""Training's instructions as text: exact, complete for every class there is, and deaf to everything else."""

from __future__ import annotations

import types
import typing
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.ir.errors import IRError, IRSyntaxError
from glyphc.ir.functions import Function
from glyphc.ir.instructions import Free, Instruction, Load, Store
from glyphc.ir.instructions.ckks import (
    Bootstrap,
    Code,
    Convolve,
    Masked,
    Pack,
    Product,
    Raise,
    Refresh,
    Scaled,
    Sum,
    Unpack,
)
from glyphc.ir.instructions.ckks_operands import check_operands
from glyphc.ir.instructions.text import CKKS, code_text, parse_code
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series
from glyphc.ir.typed_json import TypedJSON

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
FUNCTIONS = st.one_of(
    st.builds(Function, st.sampled_from(["sigmoid", "exp", "reciprocal"])),
    st.builds(lambda a, b: Function("affine", (a, b)), FLOATS, FLOATS),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type, from the type alone: so new instructions are drawn as well."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Function:
        return FUNCTIONS
    if origin in (typing.Union, types.UnionType):
        return st.one_of([st.none() if a is type(None) else values(a) for a in arguments])
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: values(hints[f.name]) for f in fields(hint)})
    return {int: st.integers(-(2**62), 2**62), float: FLOATS, str: st.text(), bool: st.booleans()}[hint]


INSTRUCTION = st.one_of([values(cls) for cls in CKKS.instructions.values()])


@given(st.lists(INSTRUCTION, max_size=6).map(tuple))
def test_text_is_complete(code: Code) -> None:
    text = code_text(code, CKKS)
    again = parse_code(text, CKKS)
    assert again == code
    assert code_text(again, CKKS) == text  # the sign of zero too, which == does not see


def test_every_instruction_has_a_form() -> None:
    family = {c for c in Instruction.__subclasses__() if c.__module__ == Scaled.__module__}
    assert set(CKKS.instructions.values()) == {*family, Load, Store, Free}
    code = (Load(0, "state:0"), Scaled(1, 0, 0.1))
    assert code_text(code, CKKS) == (
        'glyphc-code 2 ckks\n{"load":{"target":0,"name":"state:0"}}\n{"scaled":{"target":1,"source":0,"factor":0.1}}\n'
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2"),
        ("[]", "not of type dict"),
        ("{}", "'' is none of load"),
        ('{"load":{"target":0,"name":"x"},"free":{"registers":[]}}', "is none of load"),
        ('{"__class__":{}}', "'__class__' is none of load, scaled"),
        ('{"load":{"target":0}}', "Load has the fields target, name"),
        ('{"load":{"target":0,"name":"x","more":1}}', "Load has the fields target, name"),
        ('{"load":{"target":0,"target":1,"name":"x"}}', "given twice"),
        ('{"load":{"target":0.0,"name":"x"}}', "Load: target: 0.0 is not an integer"),
        ('{"load":{"target":true,"name":"x"}}', "Load: target: True is not an integer"),
        ('{"load":{"target":18446744073709551616,"name":"x"}}', "not an integer of at most 64 bits"),
        ('{"load":{"target":' + "9" * 5000 + ',"name":"x"}}', "line 2"),
        ('{"scaled":{"target":1,"source":0,"factor":1}}', "factor: 1 is not of type float"),
        ('{"scaled":{"target":1,"source":0,"factor":NaN}}', "NaN is not a number"),
        ('{"scaled":{"target":1,"source":0,"factor":-Infinity}}', "-Infinity is not a number"),
        ('{"scaled":{"target":1,"source":0,"factor":1e999}}', "inf has no form"),
        ('{"sum":{"target":1,"terms":[[0]]}}', "1 values where 2 belong"),
        ('{"pack":{"target":1,"sources":[null,"x"],"parts":2,"stride":1}}', "'x' is not an integer"),
        ("[" * 100_000, "line 2"),
        ('{"free":{"registers":' + "[" * 100_000 + "]" * 100_000 + "}}", "line 2"),
    ],
)
def test_other_text_is_refused(line: str, message: str) -> None:
    with pytest.raises(IRSyntaxError, match=message):
        parse_code(f"{CKKS.head}\n{line}\n", CKKS)


def test_functions_that_do_not_exist_are_refused() -> None:
    text = code_text((Refresh(1, 0, Series((0.5,), (0.0,), 0.4, 0.0, 0.0), (Function("exp"),)),), CKKS)
    with pytest.raises(IRSyntaxError, match="unknown function 'system'"):
        parse_code(text.replace('"exp"', '"system"'), CKKS)


@pytest.mark.parametrize(
    "text", ["", "glyphc-ckks 1\n", "glyphc-code 2 slots\n", CKKS.head, f"{CKKS.head}\n{{}}", "\0"]
)
def test_text_without_its_frame_is_refused(text: str) -> None:
    with pytest.raises(IRSyntaxError, match="line 1"):
        parse_code(text, CKKS)


@examples(300)
@given(st.data())
def test_damaged_text_never_crashes(data: st.DataObject) -> None:
    """Cut, with characters replaced: still text of instructions, or refused in so many words."""
    text = code_text(data.draw(st.lists(INSTRUCTION, min_size=1, max_size=3).map(tuple)), CKKS)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 5)) :]
    with suppress(IRSyntaxError):
        parse_code(damaged, CKKS)


def test_what_has_no_form_is_not_written() -> None:
    for factor in (float("nan"), float("inf"), "1"):
        with pytest.raises(IRError):
            code_text((Scaled(1, 0, factor),), CKKS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no form"):
        TypedJSON().text({}, dict[str, int])
    # integers may stand for floats in code
    assert parse_code(code_text((Scaled(1, 0, 2),), CKKS), CKKS) == (Scaled(1, 0, 2.0),)


SERIES = Series((0.5, 0.25), (0.0, 0.0), 0.4, 0.0, 0.0)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Product(1, ()), "has no operand"),
        (Sum(1, ()), "has no operand"),
        (Sum(1, ((0, 2),)), "neither 1 nor -1"),
        (Convolve(1, 0, ()), "has no operand"),
        (Convolve(1, 0, (2**40,)), "beyond the ring"),
        (Convolve(1, 0, (1,), 2**40), "more than 31 bits"),
        (Unpack((1,), 0, 3, 1), "3 parts at stride 1, for which there are no keys"),
        (Unpack((1,), 0, 2, 0), "no keys"),
        (Unpack((1,), 0, 2**60, 1), "no keys"),
        (Unpack((), 0, 4, 1), "0 of 4 parts"),
        (Unpack((1, 2, 3), 0, 2, 1), "3 of 2 parts"),
        (Pack(1, (None, None), 2, 1), "has no operand"),
        (Pack(1, (0,), 8, 16), "no keys"),
        (Bootstrap((), 0, (), ()), "one series and one list"),
        (Bootstrap((1,), 0, (SERIES, SERIES), ((),)), "one series and one list"),
        (Bootstrap((1,), 0, (Series((), (), 0.4, 0.0, 0.0),), ((),)), "unequal parts"),
        (Bootstrap((1,), 0, (SERIES,), ((),)), "another degree than 27"),
        (Refresh(1, 0, Series((0.5,) * 99, (0.5,) * 99, 0.4, 0.0, 0.0), ()), "a degree above 27"),
        (Refresh(1, 0, Series((0.5,), (), 0.4, 0.0, 0.0), ()), "unequal parts"),
        (Refresh(1, 0, Series((0.5,), (0.0,), 0.4, 0.0, 0.0), ()), "of degree 0"),
        (Scaled(1, 0, -(2.0**40)), "has the factor -1.09951e\\+12"),
        (Scaled(1, 0, float("nan")), "has the factor nan"),
        (Raise(1, 0, 2.0**40), "adds 1.09951e\\+12"),
        (Raise(1, 0, float("-inf")), "adds -inf"),
        (Masked(1, 0, ((0, 0, 1),)), "not 0 <= start <= stop modulo a period"),
        (Masked(1, 0, ((8, 0, 1), (8, -1, 1))), "not 0 <= start <= stop"),
        (Masked(1, 0, ((8, 2, 1),)), "not 0 <= start <= stop"),
        (Free((1, 0, 1)), "frees a register twice"),
    ],
)
def test_operands_are_checked(instruction: Instruction, message: str) -> None:
    parameters = Parameters(1024, 20, 44, slots=8, degree=27)
    with pytest.raises(IRError, match=rf"instruction 0 \({type(instruction).__name__.lower()}\) .*{message}"):
        check_operands((instruction,), parameters, (64,))


@given(st.integers(20, 60), st.floats(0, 2.0**70))
def test_whatever_may_be_added_is_an_integer_of_64_bits(linear_bits: int, value: float) -> None:
    """At the largest scale there is: that of one limb, a prime that may be above 2^linear_bits."""
    parameters = Parameters(1024, 20, 44, slots=8, degree=27, linear_bits=linear_bits)
    with suppress(IRError):
        check_operands((Raise(1, 0, value), Raise(1, 0, -value)), parameters, ())
        assert round(value * 2.0 ** (linear_bits + 1)) < 2**63


@given(st.lists(st.tuples(st.integers(1, 2048), st.integers(0, 99), st.integers(99, 2048)), max_size=3).map(tuple))
def test_conditions_of_masks_are_accepted(conditions: tuple[tuple[int, int, int], ...]) -> None:
    parameters = Parameters(1024, 20, 44, slots=8, degree=27)
    check_operands((Masked(1, 0, conditions), Scaled(2, 0, 0.0), Raise(3, 0, -0.5), Free((0, 1))), parameters, ())
