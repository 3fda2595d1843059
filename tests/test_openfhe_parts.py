"""The parts of the OpenFHE backend against exact arithmetic, on small rings (insecure, for speed)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openfhe
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.analysis.series import fit
from glyphc.backends.openfhe.bootstrap import Bootstrapper
from glyphc.backends.openfhe.bridge import CiphertextMould, Mould, rings_of
from glyphc.backends.openfhe.client import ClientKeys, generate_keys
from glyphc.backends.openfhe.contexts import make_contexts
from glyphc.backends.openfhe.keys import EvaluationKeys
from glyphc.backends.openfhe.linear import LinearEngine
from glyphc.backends.openfhe.ring import Ring, rescale
from glyphc.backends.openfhe.switch import Switcher
from glyphc.ir.instructions import Polynomials
from glyphc.ir.parameters import INSECURE, MAX_DEGREES, Parameters
from glyphc.ir.series import LARGEST_BITS, OUTPUT_BITS, Series, evaluate_series
from glyphc.passes.fit_series import scaled

I64 = npt.NDArray[np.int64]
N = 1024
T_BITS = 28
PARAMETERS = Parameters(
    ring=N,
    plaintext_bits=T_BITS,
    bgv_bits=54,
    unpack_strides=(1, 2, 4, 8),
    slots=N // 2,
    degree=27,
    security=INSECURE,
)


@pytest.fixture(scope="module")
def keys() -> tuple[ClientKeys, EvaluationKeys]:
    return generate_keys(PARAMETERS)


def bootstrapper_of(keys: EvaluationKeys) -> Bootstrapper:
    return Bootstrapper(keys.contexts.torus, keys.contexts.torus_ring, keys.contexts.parameters)


def negacyclic(a: I64, b: I64) -> I64:
    """Product modulo X^N + 1 by convolution with Python integers."""
    full = np.convolve(a.astype(object), b.astype(object))
    full = np.concatenate([full, np.zeros(2 * len(a) - len(full), dtype=object)])
    return full[: len(a)] - full[len(a) :]


def centred(x: npt.NDArray[np.object_] | I64, t: int = 1 << T_BITS) -> I64:
    return np.array([(int(v) + t // 2) % t - t // 2 for v in x], dtype=np.int64)


def ring(n: int) -> Ring:
    """A ring with a prime just below 2^50 and a root found by trial."""
    q = (1 << 50) // (2 * n) * (2 * n) + 1
    while pow(3, q - 1, q) != 1 or any(q % p == 0 for p in (3, 5, 7, 11, 13)):
        q -= 2 * n
    for base in range(2, 200):
        psi = pow(base, (q - 1) // (2 * n), q)
        if pow(psi, n, q) == q - 1:
            return Ring(n, q, psi)
    raise AssertionError("no root")


# -- ring --


@examples(25)
@given(st.integers(1, 6), st.data())
def test_evaluation_format_multiplies_polynomials(log_n: int, data: st.DataObject) -> None:
    r = ring(1 << log_n)
    residue = st.integers(0, r.q - 1)
    a, b = (np.array(data.draw(st.lists(residue, min_size=r.n, max_size=r.n)), dtype=np.uint64) for _ in "ab")
    fa, fb = r.to_evaluation(a), r.to_evaluation(b)
    product = np.array([int(x) * int(y) % r.q for x, y in zip(fa, fb, strict=True)], dtype=np.uint64)
    expected = [int(v) % r.q for v in negacyclic(a.astype(object), b.astype(object))]
    assert r.to_coefficients(product).tolist() == expected
    assert np.array_equal(r.to_coefficients(fa), a)


@given(st.integers(0, 2**63), st.integers(-(2**70), 2**70))
def test_scaling_by_a_constant(value: int, constant: int) -> None:
    r = ring(8)
    a = np.full(8, value % r.q, dtype=np.uint64)
    assert r.scale(a, constant).tolist() == [value % r.q * constant % r.q] * 8


def test_a_wrong_root_is_refused() -> None:
    r = ring(8)
    with pytest.raises(ValueError, match="root of unity"):
        Ring(8, r.q, 1)


@given(st.integers(-(2**48), 2**48))
def test_rescaling_rounds_to_the_nearest(value: int) -> None:
    source, target = ring(8), Ring(8, 17, next(p for p in range(17) if pow(p, 8, 17) == 16))
    out = target.centre(rescale(source.reduce(np.full(8, value)), source, target))[0]
    exact = value * target.q / source.q
    assert abs(((out - exact + 8.5) % 17) - 8.5) <= 0.5 + 1e-6


# -- bridge and keys --


def test_transform_agrees_with_openfhe(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    """Reading and writing back a ciphertext through coefficients gives a ciphertext of the same message."""
    client, _ = keys
    message = np.arange(N) - N // 2
    ciphertext = client.encrypt(message)
    mould = CiphertextMould.of(ciphertext, client.contexts.bgv_ring)
    assert np.array_equal(client.decrypt(mould.cast(*mould.coefficients(ciphertext))), message)


def test_mould_refuses_foreign_residues(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    client, _ = keys
    r = client.contexts.bgv_ring
    mould = Mould.of(client.encrypt(np.zeros(N, dtype=np.int64)), N, (r.q,))
    assert len(mould.towers) == 2
    with pytest.raises(RuntimeError, match="residues below"):
        mould.with_residues([np.full(N, r.q, dtype=np.uint64)] * 2)
    with pytest.raises(RuntimeError, match="towers"):
        mould.with_residues([np.zeros(N, dtype=np.uint64)])


def test_rings_match_the_library(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    contexts = keys[0].contexts
    assert rings_of(contexts.bgv) == (contexts.bgv_ring,)
    assert float(contexts.bgv_ring.q) == contexts.bgv.GetModulus()
    assert len(contexts.torus_rings) == PARAMETERS.depth + 1
    assert (contexts.bgv_ring.q - 1) % PARAMETERS.plaintext_modulus == 0


@pytest.mark.parametrize("levels", MAX_DEGREES)
def test_levels_of_a_series_are_openfhes(levels: int) -> None:
    """The table of highest degrees per level: one degree more costs one level more."""
    for degree, expected in ((MAX_DEGREES[levels], levels), (MAX_DEGREES[levels] + 1, levels + 1)):
        coefficients = [1 + 1j] * (degree + 1)
        depth = openfhe.CryptoContext.GetFBTDepth([3, 2], coefficients, 256, 1, openfhe.SPARSE_ENCAPSULATED)
        assert depth == 3 + 2 + 10 + expected


def test_openfhe_refuses_insecure_parameters_under_a_secure_name() -> None:
    from dataclasses import replace

    from glyphc.backends.errors import BackendError

    with pytest.raises(BackendError, match="OpenFHE refuses"):
        make_contexts(replace(PARAMETERS, security="HEStd_128_classic"))


# -- linear engine --


def test_dot_is_the_sum_of_polynomial_products(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    client, evaluation = keys
    random = np.random.default_rng(1)
    messages = [random.integers(-100, 100, N) for _ in range(3)]
    rows = [random.integers(-9, 9, N) for _ in range(4)]  # three factors and the bias
    polynomials = Polynomials(np.arange(5) * N, np.tile(np.arange(N, dtype=np.int32), 4), np.concatenate(rows))
    engine = LinearEngine(evaluation, {"w": polynomials})
    result = client.decrypt(engine.dot([client.encrypt(m) for m in messages], "w"))
    expected = sum(negacyclic(m, w) for m, w in zip(messages, rows, strict=False)) + rows[3]
    assert np.array_equal(result, centred(expected))


@pytest.mark.parametrize(("stride", "parts", "count"), [(1, 16, 16), (1, 2, 2), (2, 8, 5), (1, 8, 1), (4, 4, 3)])
def test_split_separates_residue_classes(
    keys: tuple[ClientKeys, EvaluationKeys], stride: int, parts: int, count: int
) -> None:
    client, evaluation = keys
    message = np.zeros(N, dtype=np.int64)
    message[::stride] = np.random.default_rng(2).integers(-1000, 1000, N // stride)
    engine = LinearEngine(evaluation, {})
    pieces = engine.split(client.encrypt(message), parts, stride, count)
    assert len(pieces) == count
    for r, piece in enumerate(pieces):
        expected = np.zeros(N, dtype=np.int64)
        expected[:: stride * parts] = parts * message[stride * r :: stride * parts]
        assert np.array_equal(client.decrypt(piece), expected)


# -- switches and bootstrap --


def test_a_switch_and_back_keeps_the_message(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    client, evaluation = keys
    switcher = Switcher(evaluation)
    message = np.random.default_rng(3).integers(-(1 << 22), 1 << 22, N)
    back = switcher.from_torus(switcher.to_torus(client.encrypt(message), N // 2))
    assert np.array_equal(client.decrypt(back), message)


# What a value of 1 becomes when series are as large as they may be: decryption rounds to integers.
_STEP = 2.0 ** (LARGEST_BITS - OUTPUT_BITS)


def _large(series: Series) -> Series:
    return scaled(series, 2.0**LARGEST_BITS)


@pytest.mark.parametrize("function", ["relu", "tanh", "cube"])
def test_bootstrap_applies_the_series(keys: tuple[ClientKeys, EvaluationKeys], function: str) -> None:
    client, evaluation = keys
    compute = {
        "relu": lambda x: np.maximum(x, 0) / 4,
        "tanh": lambda x: np.tanh(6 * x) / 8,
        "cube": lambda x: 2 * x**3 - x / 8,
    }[function]
    series = fit(compute, PARAMETERS.degree)
    t = 1 << T_BITS
    message = np.rint(np.linspace(-0.45, 0.45, N) * t).astype(np.int64)
    switcher = Switcher(evaluation)
    bootstrapper = Bootstrapper(
        evaluation.contexts.torus, evaluation.contexts.torus_ring, evaluation.contexts.parameters
    )
    powers = bootstrapper.powers(switcher.to_torus(client.encrypt(message), N // 2), PARAMETERS.degree)
    result = client.decrypt(switcher.from_torus(bootstrapper.evaluate(powers, _large(series)))) / t / _STEP
    assert np.abs(result - evaluate_series(series, message / t)).max() < 4e-5
    assert np.abs(result - compute(message / t)).max() < series.max_error * np.ptp(compute(message / t)) + 4e-5


def test_several_functions_share_the_powers(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    client, evaluation = keys
    t = 1 << T_BITS
    message = np.rint(np.linspace(-0.4, 0.4, N) * t).astype(np.int64)
    switcher = Switcher(evaluation)
    bootstrapper = Bootstrapper(
        evaluation.contexts.torus, evaluation.contexts.torus_ring, evaluation.contexts.parameters
    )
    powers = bootstrapper.powers(switcher.to_torus(client.encrypt(message), N // 2), PARAMETERS.degree)
    for slope in (0.25, -0.5):
        series = fit(lambda x, slope=slope: slope * np.sin(2 * np.pi * x) / 2, PARAMETERS.degree)
        result = client.decrypt(switcher.from_torus(bootstrapper.evaluate(powers, _large(series)))) / t / _STEP
        assert np.abs(result - slope * np.sin(2 * np.pi * message / t) / 2).max() < 4e-5


def test_two_clients_do_not_share_keys(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    """Another client's secret decrypts to noise."""
    other, _ = generate_keys(PARAMETERS)
    message = np.full(N, 5, dtype=np.int64)
    assert not np.array_equal(other.decrypt(keys[0].encrypt(message)), message)


def test_sparse_bootstrap_drops_what_is_off_its_grid() -> None:
    """With few slots only multiples of N/(2*slots) are read; everything else comes out as zero."""
    slots = 16
    parameters = Parameters(
        ring=N, plaintext_bits=T_BITS, bgv_bits=54, slots=slots, degree=27, level_budget=(2, 2), security=INSECURE
    )
    client, evaluation = generate_keys(parameters)
    t, grid = 1 << T_BITS, N // (2 * slots)
    message = np.rint(np.random.default_rng(4).uniform(-0.4, 0.4, N) * t).astype(np.int64)
    series = fit(lambda x: np.tanh(3 * x) / 8 + 0.05, 27)
    switcher, bootstrapper = (
        Switcher(evaluation),
        bootstrapper_of(evaluation),
    )
    powers = bootstrapper.powers(switcher.to_torus(client.encrypt(message), slots), 27)
    result = client.decrypt(switcher.from_torus(bootstrapper.evaluate(powers, _large(series)))) / t / _STEP
    expected = np.zeros(N)
    expected[::grid] = evaluate_series(series, message[::grid] / t)
    assert np.abs(result - expected).max() < 4e-5
