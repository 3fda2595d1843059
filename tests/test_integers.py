"""Exact integers in slots (BFV): instructions, bits, noise bounds, and ciphertexts that are right bit for bit."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import glyphc
from glyphc import knowledge
from glyphc.analysis.cost import SHIPPED_MACHINE, CostModel
from glyphc.backends.base import execute
from glyphc.backends.errors import BackendError
from glyphc.backends.integers_clear import ClearIntegers, join, split
from glyphc.backends.openfhe.integer_client import generate_integer_keys
from glyphc.backends.openfhe.integer_contexts import IntegerContexts
from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.diagnostics import predicted
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.client_requests import Request
from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientRequest, Instruction, IntegerDot, IntegerProduct, Load, Store, with_frees
from glyphc.ir.instructions.integers import check_integers
from glyphc.ir.integer_parameters import IntegerParameters, is_prime
from glyphc.ir.ops import Apply, ClientRefresh, IntegerPolynomial, Linear
from glyphc.ir.parameters import INSECURE
from glyphc.ir.text import parse, to_text
from glyphc.program import Program
from glyphc.runtime import run
from glyphc.slots.integer_lowering import integer_code
from glyphc.slots.integer_noise import NoiseBounds, limbs_for
from glyphc.slots.integers import plaintext_primes, polynomial_of
from tests.pass_networks import SAMPLES, Network, mlp

RING = 1024


def deep(function: Function) -> Graph:
    """Three layers with the same function between them."""
    n = Network(6)
    x = n.dense(n.x, 5, "a")
    for name, width in (("b", 4), ("c", 3)):
        x = n.dense(n.graph.add(Apply((function,)), (x,), location=f"f{name}"), width, name)
    n.output(x)
    return n.graph


def parameters(bits: float = 40.0, limbs: int = 3, ring: int = RING) -> IntegerParameters:
    return IntegerParameters(ring, plaintext_primes(ring, bits), limbs, True, INSECURE)


# -- numbers --


@given(st.integers(20, 59), st.lists(st.integers(-(2**58), 2**58), min_size=1, max_size=9))
@settings(max_examples=50, deadline=None)
def test_residues_stand_for_integers_modulo_the_product(bits: int, values: list[int]) -> None:
    moduli = plaintext_primes(RING, bits)
    modulus = prod(moduli)
    assert modulus >= 2**bits
    assert len(moduli) == (1 if bits <= 29 else 2)
    found = join(split(np.array(values), moduli), moduli)
    for value, back in zip(values, found, strict=True):
        assert (int(back) - value) % modulus == 0
        assert abs(int(back)) <= modulus // 2


def test_plaintext_primes_are_prime_and_give_slots() -> None:
    for ring in (1024, 16384, 32768):
        for bits in (10.0, 22.0, 29.4, 30.0, 59.0):
            for t in plaintext_primes(ring, bits):
                assert t % (2 * ring) == 1
                assert t < 2**30
                assert pow(2, t - 1, t) == 1
                assert pow(3, t - 1, t) == 1
    with pytest.raises(ParameterError, match=r"59\.5"):
        plaintext_primes(1024, 61.0)


def test_composite_moduli_are_refused() -> None:
    """OpenFHE looks for roots of unity that there are none of."""
    sieve = np.ones(1 << 16, dtype=bool)
    sieve[:2] = False
    for p in range(2, 256):
        if sieve[p]:
            sieve[p * p :: p] = False
    assert [is_prime(n) for n in range(1 << 16)] == sieve.tolist()
    (t,) = plaintext_primes(RING, 20.0)
    composite = next(n for n in range(t + 2 * RING, 1 << 30, 2 * RING) if n % 3 == 0)
    with pytest.raises(ValueError, match="no plaintext modulus"):
        IntegerParameters(RING, (composite,), 2, True, INSECURE)


# -- instructions --

_CODE: tuple[Instruction, ...] = (
    Load(0, "x", 0),
    Load(1, "x", 1),
    IntegerDot(2, (0, 1), (3, -2), 7, 0),
    IntegerProduct(3, 2, 0, 0),
    IntegerDot(4, (3, 1, 0), (-1, 5, -5), -(2**40), 0),
    Store(4, "y", 0),
)


def test_ciphertexts_and_clear_integers_agree_with_big_integers() -> None:
    p = parameters(45.0)
    rng = np.random.default_rng(3)
    x, y = (rng.integers(-(2**14), 2**14, RING) for _ in range(2))
    # every Python integer is exact
    wanted = [-(3 * a - 2 * b + 7) * a + 5 * b - 5 * a - 2**40 for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    machine = ClearIntegers(p)
    (clear,) = execute(_CODE, machine, {"x": [machine.encrypt(x), machine.encrypt(y)]})["y"]
    assert machine.decrypt(clear).tolist() == wanted
    try:
        client = generate_integer_keys(p)
        code = with_frees(_CODE)
        (found,) = execute(code, IntegerOpenFHE(client.contexts), {"x": [client.encrypt(x), client.encrypt(y)]})["y"]
        assert client.decrypt(found).tolist() == wanted
    finally:
        release_all_keys()


def test_values_wrap_on_the_way_and_results_are_right_all_the_same() -> None:
    p = parameters(20.0, limbs=2)
    (t,) = p.moduli
    code = (
        Load(0, "x", 0),
        IntegerDot(1, (0,), (t // 2,), 0, 0),
        IntegerDot(2, (1, 0), (2, 1), 0, 0),
        Store(2, "y", 0),
    )
    machine = ClearIntegers(p)
    x = np.arange(RING) - RING // 2
    (found,) = execute(code, machine, {"x": [machine.encrypt(x)]})["y"]
    np.testing.assert_array_equal(machine.decrypt(found), np.zeros(RING))  # 2 (t // 2) + 1 = t


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ((Load(0, "x", 2),), "not there"),
        ((Load(0, "x", 0), IntegerDot(1, (0,), (1, 2), 0, 0)), "2 weights for 1"),
        ((Load(0, "x", 0), IntegerDot(1, (0,), (0,), 5, 0)), "zeros"),
        ((Load(0, "x", 0), Store(0, "y", 0), Store(0, "y", 0)), "twice"),
    ],
)
def test_code_that_cannot_be_executed(code: tuple[Instruction, ...], problem: str) -> None:
    with pytest.raises(IRError, match=problem):
        check_integers(code, {"x": 2}, parameters())


# -- noise --


@pytest.mark.parametrize("squares", [0, 1, 2])
def test_noise_stays_below_its_bound_and_the_bound_wastes_little(squares: int) -> None:
    """A chain of products by 3 fails not before the bound says, and no more than 12 bits later."""
    ring, t = RING, plaintext_primes(RING, 22.0)[0]
    limbs = 1 + squares
    p = IntegerParameters(ring, (t,), limbs, True, INSECURE)
    triple = IntegerDot(0, (0,), (3,), 0, 0)
    x = np.random.default_rng(1).integers(-t // 2, t // 2, ring)
    try:
        client = generate_integer_keys(p)
        machine, bounds, clear = IntegerOpenFHE(client.contexts), NoiseBounds(ring, t, limbs), ClearIntegers(p)
        ciphertext, noise, exact = client.encrypt(x), bounds.fresh(), clear.encrypt(x)
        for _ in range(squares):
            ciphertext, noise = machine.integer_product(ciphertext, ciphertext), bounds.integer_product(noise, noise)
            exact = clear.integer_product(exact, exact)
        right = promised = 0
        while np.array_equal(client.decrypt(ciphertext), clear.decrypt(exact)):
            promised += np.log2(noise * t) + 1 <= 60 * limbs
            right += 1
            ciphertext, noise = machine.integer_dot([ciphertext], triple), bounds.integer_dot([noise], triple)
            exact = clear.integer_dot([exact], triple)
    finally:
        release_all_keys()
    assert promised > 4
    assert np.log2(noise * t) + 1 > 60 * limbs  # it failed where nothing was promised any more
    assert (right - promised) * np.log2(3) < 12


def test_limbs_grow_with_products_and_the_modulus() -> None:
    code = [Load(0, "x", 0)]
    counts = []
    for depth in range(4):
        counts.append(limbs_for([*code, Store(depth, "y", 0)], 16384, plaintext_primes(16384, 29.0)[0], 7))
        code.append(IntegerProduct(depth + 1, depth, depth, 0))
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] <= 4
    assert limbs_for([*code, Store(3, "y", 0)], 16384, plaintext_primes(16384, 29.0)[0], 1) == 2


# -- networks --


def test_polynomials_are_found_in_compositions() -> None:
    found = polynomial_of((Function("affine", (2.0, 1.0)), Function("quadratic", (1.0, 0.0, -1.0))), 5.0)
    np.testing.assert_allclose(found, [0.0, 4.0, 4.0], atol=1e-6)
    assert polynomial_of((Function("relu"),), 5.0) is None


@pytest.mark.parametrize("name", ["cryptonets", "ghimes"])
def test_encrypted_results_equal_those_in_the_clear_bit_for_bit(name: str) -> None:
    x = np.random.default_rng(5).normal(size=(80, 6))
    program = glyphc.compile(deep(Function("relu")), x, 16, strategy=name, insecure_ring=RING)
    p = program.client.parameters
    assert isinstance(p, IntegerParameters)
    assert p.products is (name == "cryptonets")
    results = {mode: run(program, x[:16], mode).outputs["y"] for mode in ("clear", "simulate", "encrypted")}
    np.testing.assert_array_equal(results["simulate"], results["clear"])
    np.testing.assert_array_equal(results["encrypted"], results["clear"])
    wanted = evaluate(program.stages["substitute"], {"x": x[:16]})["y"]
    assert np.abs(results["clear"] - wanted).max() < 0.1 * np.ptp(wanted)
    assert len(list(program.graph.of(Linear))) == 3  # nothing is folded away
    again = Program.from_bytes(program.to_bytes())
    assert again.fingerprint == program.fingerprint
    assert parse(to_text(program.graph)) == program.graph
    np.testing.assert_array_equal(run(again, x[:16], "clear").outputs["y"], results["clear"])


def test_the_client_refreshes_what_it_may_see_and_nothing_is_lost() -> None:
    x = np.random.default_rng(5).normal(size=(80, 6))
    program = glyphc.compile(deep(Function("tanh")), x, 16, strategy="hesamifard", insecure_ring=RING)
    p = program.client.parameters
    assert isinstance(p, IntegerParameters)
    squares = glyphc.compile(deep(Function("tanh")), x, 16, strategy="cryptonets", insecure_ring=RING).client.parameters
    assert isinstance(squares, IntegerParameters)
    assert p.modulus.bit_length() + 8 < squares.modulus.bit_length()  # the client scales down
    assert knowledge.trips(program) == len(list(program.graph.of(ClientRefresh))) == 2
    assert "activations of 2 layers" in str(knowledge.of_program(program))
    reports = {mode: run(program, x[:16], mode) for mode in ("clear", "simulate", "encrypted")}
    results = {mode: report.outputs["y"] for mode, report in reports.items()}
    np.testing.assert_array_equal(results["simulate"], results["clear"])
    np.testing.assert_array_equal(results["encrypted"], results["clear"])
    assert reports["encrypted"].seconds["refresh"] > 0
    wanted = evaluate(program.stages["substitute"], {"x": x[:16]})["y"]
    assert np.abs(results["clear"] - wanted).max() < 0.1 * np.ptp(wanted)
    refreshes = [i for i in program.schedule.instructions if isinstance(i, ClientRequest)]
    assert [len(i.targets) for i in refreshes] == [5, 4]  # a layer in one trip


def test_a_server_without_a_client_refreshes_nothing() -> None:
    contexts = IntegerContexts(parameters(), (), ())
    with pytest.raises(BackendError, match="none to ask"):
        IntegerOpenFHE(contexts).client_request((), Request(1, 0.5))


def test_polynomials_of_the_users_own_are_computed_exactly() -> None:
    """A cube and a quadratic with all its coefficients; the leading ones are scales, one of them negative."""
    for function in (Function("pow", (3.0,)), Function("quadratic", (-0.5, 1.0, 0.25))):
        n = Network(3)
        n.output(n.dense(n.graph.add(Apply((function,)), (n.dense(n.x, 4, "a"),), location="f"), 2, "b"))
        x = np.random.default_rng(6).normal(size=(60, 3))
        program = glyphc.compile(n.graph, x, 8, insecure_ring=RING, passes=_integer_passes(), strategy=None)
        (op,) = [op for _, op in program.graph.of(IntegerPolynomial)]
        assert abs(op.coefficients[-1]) == 1
        clear = run(program, x[:8], "clear").outputs["y"]
        np.testing.assert_array_equal(run(program, x[:8], "simulate").outputs["y"], clear)
        wanted = evaluate(n.graph, {"x": x[:8]})["y"]
        assert np.abs(clear - wanted).max() < 0.08 * np.ptp(wanted)
        check_integers(with_frees(integer_code(program.graph, RING)), {"x": 3}, program.client.parameters)


def _integer_passes() -> str:
    from glyphc.passes.pipeline import DEFAULT

    return DEFAULT.replace("assign-scheme", "assign-scheme{strategy=cryptonets}")


def test_what_integers_cannot_do_is_said() -> None:
    with pytest.raises(GlyphcError, match="relu is no polynomial"):
        glyphc.compile(mlp("relu"), SAMPLES, 4, insecure_ring=RING, passes=_integer_passes())
    program = glyphc.compile(mlp("relu"), SAMPLES, 4, strategy="ghimes", insecure_ring=RING)
    ours = replace(SHIPPED_MACHINE, processor="a processor")
    assert predicted(program, CostModel(machine=ours)).measured_on == SHIPPED_MACHINE.text  # BFV is not measured there
    deeper = deep(Function("pow", (4.0,)))
    with pytest.raises(GlyphcError, match="weights of 3 bits"):
        glyphc.compile(deeper, np.random.default_rng(1).normal(size=(40, 6)), 4, passes=_integer_passes())
