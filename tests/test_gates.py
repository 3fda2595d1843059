"""Circuits of gates and words of bits: every 4-bit operand, random longer ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glyphc.gates.circuit import Circuit, evaluate, invert
from glyphc.gates.words import Word, Words, constant, extended
from glyphc.ir.instructions import GateKind

I64 = npt.NDArray[np.int64]


def bits_of(values: I64, width: int) -> npt.NDArray[np.bool_]:
    return np.array([values >> k & 1 for k in range(width)]).astype(bool)


def signed(bits: npt.NDArray[np.bool_]) -> I64:
    places = 1 << np.arange(len(bits), dtype=np.int64)
    places[-1] = -places[-1]
    return np.asarray(places @ bits.astype(np.int64))


def wrapped(values: I64, width: int) -> I64:
    return (values + (1 << width - 1)) % (1 << width) - (1 << width - 1)


BINARY: dict[str, tuple[Callable[[Words, Word, Word, int], Word], Callable[[I64, I64], I64]]] = {
    "add": (lambda w, a, b, n: w.add(a, b, n), np.add),
    "subtract": (lambda w, a, b, n: w.subtract(a, b, n), np.subtract),
    "multiply": (lambda w, a, b, n: w.multiply(a, b, n), np.multiply),
}


def both(name: str, a: I64, b: I64, width: int, result: int) -> int:
    """Checks a circuit on all pairs; its gates."""
    circuit = Circuit()
    x, y = circuit.word(width), circuit.word(width)
    made, exact = BINARY[name]
    out = made(Words(circuit), x, y, result)
    found = signed(evaluate(circuit, out, np.concatenate([bits_of(a, width), bits_of(b, width)])))
    np.testing.assert_array_equal(found, wrapped(exact(a, b), result))
    return len(circuit.needed(out))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("result", [4, 6, 8])
def test_all_pairs_of_4_bits(name: str, result: int) -> None:
    a, b = (v.ravel() for v in np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)))
    both(name, a, b, 4, result)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("width", [8, 16])
def test_random_longer_words(name: str, width: int) -> None:
    rng = np.random.default_rng(width)
    a, b = rng.integers(-(1 << width - 1), 1 << width - 1, (2, 500))
    count = both(name, a, b, width, width)
    # two exclusive ors and a majority a bit, less at both ends
    assert name == "multiply" or count <= 3 * width - 1


@given(st.integers(-(2**15), 2**15 - 1), st.integers(2, 20))
@settings(max_examples=60, deadline=None)
def test_public_factors_fold_away(factor: int, result: int) -> None:
    """A product with a public integer takes a sum for each digit of it, and nothing for zeros."""
    circuit = Circuit()
    x = circuit.word(8)
    out = Words(circuit).scale(x, factor, result)
    values = np.arange(-128, 128)
    np.testing.assert_array_equal(signed(evaluate(circuit, out, bits_of(values, 8))), wrapped(values * factor, result))
    if factor and factor & (factor - 1) == 0:
        assert not circuit.gates  # a shift
    # non-adjacent digits: each a sum of words at most
    digits = sum(c != "0" for c in f"{abs(factor) ^ (3 * abs(factor)):b}")
    assert len(circuit.needed(out)) <= 3 * result * digits


@pytest.mark.parametrize("width", [2, 3, 4])
def test_saturation_relu_and_sign_of_all_words(width: int) -> None:
    circuit = Circuit()
    x = circuit.word(6)
    words = Words(circuit)
    values = np.arange(-32, 32)
    given_bits = bits_of(values, 6)
    limit = 1 << width - 1
    short = signed(evaluate(circuit, words.saturate(x, width), given_bits))
    np.testing.assert_array_equal(short, np.clip(values, -limit, limit - 1))
    np.testing.assert_array_equal(signed(evaluate(circuit, words.relu(x), given_bits)), np.maximum(values, 0))
    np.testing.assert_array_equal(signed(evaluate(circuit, words.negate(x, 7), given_bits)), -values)
    np.testing.assert_array_equal(signed(evaluate(circuit, extended(x, 9), given_bits)), values)


@given(st.lists(st.integers(-8, 7), min_size=16, max_size=16))
@settings(max_examples=40, deadline=None)
def test_tables_of_all_words(table: list[int]) -> None:
    circuit = Circuit()
    out = Words(circuit).lookup(circuit.word(4), table, 4)
    assert signed(evaluate(circuit, out, bits_of(np.arange(-8, 8), 4))).tolist() == table
    with pytest.raises(ValueError, match="16 entries"):
        Words(circuit).lookup(out[:3], table, 4)


def test_gates_with_constants_and_copies_are_none() -> None:
    circuit = Circuit()
    a, b, c = circuit.word(3)
    for bit in (a, b):
        assert circuit.both(bit, True) == bit
        assert circuit.both(bit, False) is False
        assert circuit.xor(bit, True) == invert(bit)
        assert circuit.both(bit, invert(bit)) is False
        assert circuit.xor(bit, invert(bit)) is True
        assert circuit.majority(bit, invert(bit), c) == c
        assert circuit.majority(bit, bit, c) == bit
        assert circuit.choose(c, bit, bit) == bit
    assert not circuit.gates
    assert circuit.both(a, b) == circuit.both(b, a)
    assert circuit.xor(invert(a), b) == invert(circuit.xor(a, b))
    assert [gate.kind for gate in circuit.gates] == [GateKind.AND, GateKind.XOR]
    with pytest.raises(ValueError, match="before gates"):
        circuit.word(1)
    with pytest.raises(ValueError, match="signed integer of 4 bits"):
        constant(8, 4)
