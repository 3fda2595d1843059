"""Tables that are looked up by the client's bits: products of bits, blocks of slots, and whole networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import glyphc
from glyphc import knowledge
from glyphc.backends.base import execute
from glyphc.backends.integers_clear import ClearIntegers
from glyphc.backends.openfhe.integer_client import generate_integer_keys
from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.errors import GlyphcError
from glyphc.ir.client_requests import Request
from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import (
    ClientRequest,
    Instruction,
    IntegerBlocks,
    IntegerDot,
    IntegerProduct,
    Load,
    Register,
    Store,
)
from glyphc.ir.instructions.integers import check_integers
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import Add, TableLookup
from glyphc.ir.parameters import INSECURE
from glyphc.ir.text import parse, to_text
from glyphc.program import Program
from glyphc.runtime import run
from glyphc.slots.integers import plaintext_primes
from glyphc.slots.table_lookup import Lookup
from tests.pass_networks import Network

RING = 1024


def parameters(bits: float = 20.0, limbs: int = 2, block: int = 0) -> IntegerParameters:
    return IntegerParameters(RING, plaintext_primes(RING, bits), limbs, True, INSECURE, block)


@dataclass
class Writer:
    """Instructions of a look-up whose bits are the first registers."""

    count: int
    code: list[Instruction] = field(default_factory=list)

    def dot(self, sources: Sequence[Register], weights: Sequence[int], bias: int, node: int) -> Register:
        self.code.append(IntegerDot(self._next(), tuple(sources), tuple(weights), bias, node))
        return self.count - 1

    def product(self, a: Register, b: Register, node: int) -> Register:
        self.code.append(IntegerProduct(self._next(), a, b, node))
        return self.count - 1

    def _next(self) -> Register:
        self.count += 1
        return self.count - 1


@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.integers(-300, 300), min_size=1 << n, max_size=1 << n)))
@settings(max_examples=40, deadline=None)
def test_products_of_bits_give_every_entry_of_every_table(table: list[int]) -> None:
    bits = len(table).bit_length() - 1
    writer = Writer(bits)
    result = Lookup(writer, range(bits), 0).of(table)
    loads = [Load(k, "b", k) for k in range(bits)]
    machine = ClearIntegers(parameters(30.0))
    given_bits = [machine.encrypt(np.array([i >> k & 1 for i in range(len(table))])) for k in range(bits)]
    (found,) = execute([*loads, *writer.code, Store(result, "y", 0)], machine, {"b": given_bits})["y"]
    assert machine.decrypt(found).tolist() == table
    # 4 low bits and 3 high ones: 11 + 4 products of bits, and 7 with sums of them
    assert sum(isinstance(i, IntegerProduct) for i in writer.code) <= (0, 0, 1, 3, 5, 10, 15, 22)[bits]


@given(
    st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=9),
    st.integers(1, 6),
    st.floats(1e-9, 10.0),
    st.floats(-40.0, 40.0),
    st.sampled_from([2, 4, 16]),
)
@settings(max_examples=60, deadline=None)
def test_the_clients_bits_are_those_of_the_nearest_index(
    values: list[int], bits: int, ratio: float, shift: float, block: int
) -> None:
    """Two samples of each feature; the other slots of a source are garbage that nobody reads."""
    slots = 16
    x = np.full((len(values), slots), 77)
    x[:, 0], x[:, 1] = values, [-v for v in values]
    groups = -(-len(values) * block // slots)
    request = Request(len(values), ratio, shift, bits, block)
    request.check(slots)
    assert request.results(slots) == groups * bits
    found = request.answer(x)
    assert found.shape == (groups * bits, slots)
    assert set(np.unique(found)) <= {0, 1}
    for feature, value in enumerate(values):
        group, place = divmod(feature, slots // block)
        for sample, v in enumerate((value, -value)):
            index = sum(int(found[group * bits + k, place * block + sample]) << k for k in range(bits))
            exact = min(max(ratio * v + shift, 0), 2**bits - 1)
            assert abs(index - exact) <= 0.5 + 1e-6


@pytest.mark.parametrize("block", [1, 64, RING // 4, RING // 2])
def test_blocks_are_summed_up_in_every_block_of_ciphertexts(block: int) -> None:
    """Rotations of both rows and their exchange: beside sums of Python's integers."""
    p = parameters(block=block)
    rng = np.random.default_rng(block)
    x = rng.integers(-100, 100, (2, RING))
    weights = rng.integers(-50, 50, (2, RING // block))
    wanted = [
        sum(int(w) * int(v) for row, ws in zip(x, weights, strict=True) for w, v in zip(ws, row[s::block], strict=True))
        for s in range(block)
    ]
    modulus = p.modulus
    wanted = [(w - 9 + modulus // 2) % modulus - modulus // 2 for w in wanted]
    rows = tuple(tuple(int(w) for w in row) for row in weights)
    code = (Load(0, "x", 0), Load(1, "x", 1), IntegerBlocks(2, (0, 1), rows, block, -9, 0), Store(2, "y", 0))
    check_integers(code, {"x": 2}, p)
    clear = ClearIntegers(p)
    (exact,) = execute(code, clear, {"x": [clear.encrypt(row) for row in x]})["y"]
    assert clear.decrypt(exact).tolist() == wanted * (RING // block)
    try:
        client = generate_integer_keys(p)
        machine = IntegerOpenFHE(client.contexts)
        (found,) = execute(code, machine, {"x": [client.encrypt(row) for row in x]})["y"]
        assert client.decrypt(found).tolist() == wanted * (RING // block)
    finally:
        release_all_keys()


@pytest.mark.parametrize(
    ("instruction", "problem"),
    [
        (IntegerBlocks(1, (0,), ((1,) * 4,), RING // 4, 0, 0), "blocks of 256 slots"),
        (IntegerBlocks(1, (0,), ((1,) * 3,), 64, 0, 0), "a weight for each block"),
        (ClientRequest((1, 2), (0,), Request(1, 1.0, 0.0, 3, 64), 0), "makes 2 registers"),
        (ClientRequest((1,), (0,), Request(1, 1.0, 0.0, 11, 64), 0), "11 bits"),
        (ClientRequest((1,), (0,), Request(1, float("nan"), 0.0, 1, 64), 0), "nan"),
        (ClientRequest((1,), (0,), Request(2, 1.0, 0.0, 1, 64), 0), "not its request"),
        (ClientRequest((1,), (0,), Request(1, 1.5), 0), "no share"),
    ],
)
def test_code_that_cannot_be_executed(instruction: Instruction, problem: str) -> None:
    with pytest.raises(IRError, match=problem):
        check_integers((Load(0, "x", 0), instruction), {"x": 1}, parameters(block=64))


def network() -> Graph:
    """Two hidden layers; the result reads the input, too, beside what was looked up."""
    n = Network(6)
    a = n.apply(n.dense(n.x, 9, "a"), "sigmoid")
    b = n.apply(n.dense(a, 4, "b"), "sigmoid")
    n.output(n.graph.add(Add(), (n.dense(b, 3, "c"), n.dense(n.x, 3, "d"))))
    return n.graph


@pytest.mark.parametrize(
    ("batch", "block"),
    [
        pytest.param(16, 16, id="all features in one register"),
        pytest.param(RING // 2 + 1, 0, id="one feature in a register", marks=pytest.mark.slow),
        pytest.param(RING // 4, RING // 4, id="several registers, the last not full"),
    ],
)
def test_networks_with_tables_are_right_bit_for_bit(batch: int, block: int) -> None:
    x = np.random.default_rng(5).normal(size=(80, 6))
    program = glyphc.compile(network(), x, batch, strategy="nandakumar", insecure_ring=RING)
    p = program.client.parameters
    assert isinstance(p, IntegerParameters)
    assert p.block == block
    assert knowledge.trips(program) == 2
    assert "activations of 2 layers" in str(knowledge.of_program(program))
    assert all(len(op.table) == 2**7 for _, op in program.graph.of(TableLookup))
    results = {mode: run(program, x[:16], mode).outputs["y"] for mode in ("clear", "simulate", "encrypted")}
    np.testing.assert_array_equal(results["simulate"], results["clear"])
    np.testing.assert_array_equal(results["encrypted"], results["clear"])
    wanted = evaluate(network(), {"x": x[:16]})["y"]
    assert np.abs(results["clear"] - wanted).max() < 0.05 * np.ptp(wanted)
    assert Program.from_bytes(program.to_bytes()).fingerprint == program.fingerprint
    assert parse(to_text(program.graph)) == program.graph


def test_tables_of_other_sizes_and_ends() -> None:
    """A network that ends with a function; more bits are nearer to it."""
    n = Network(4)
    n.output(n.apply(n.dense(n.x, 3, "fc"), "tanh"))
    x = np.random.default_rng(2).normal(size=(60, 4))
    wanted = evaluate(n.graph, {"x": x})["y"]
    errors = []
    for bits in (3, 6, 9):
        program = glyphc.compile(n.graph, x, 8, strategy="nandakumar", table_bits=bits, insecure_ring=RING)
        errors.append(np.abs(run(program, x, "clear").outputs["y"] - wanted).max())
        simulated = run(program, x[:8], "simulate").outputs["y"]
        np.testing.assert_array_equal(simulated, run(program, x[:8], "clear").outputs["y"])
    assert errors[0] > 3 * errors[1] > 3 * errors[2]


def test_tables_have_no_entries_where_the_function_is_constant_and_linear_parts_are_exact() -> None:
    """ReLU: all 128 entries lie where values are positive, and are multiples of one integer."""
    n = Network(4)
    n.output(n.dense(n.apply(n.dense(n.x, 5, "fc"), "relu"), 2, "out"))
    x = np.random.default_rng(2).normal(size=(60, 4))
    program = glyphc.compile(n.graph, x, 8, strategy="nandakumar", insecure_ring=RING)
    ((_, op),) = program.graph.of(TableLookup)
    assert op.table == tuple(2 * k for k in range(128))


def test_bits_that_are_none() -> None:
    x = np.random.default_rng(5).normal(size=(40, 6))
    for name, bits in (("glyph", 7), ("hesamifard", 7), ("nandakumar", 0), ("nandakumar", 11)):
        with pytest.raises(GlyphcError, match=r"tables|index"):
            glyphc.compile(network(), x, 4, strategy=name, table_bits=bits, insecure_ring=RING)
    with pytest.raises(GlyphcError, match="degree"):
        glyphc.compile(network(), x, 4, strategy="nandakumar", degree=3, insecure_ring=RING)
