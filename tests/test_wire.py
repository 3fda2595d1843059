"""Ciphertexts as bytes: outputs in a smaller modulus, and what survives of their messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.backends.openfhe.client import ClientKeys
from glyphc.backends.openfhe.keygen import KeyMaker, fresh_ciphertext
from glyphc.backends.openfhe.keys import EvaluationKeys
from glyphc.backends.openfhe.load import load_keys
from glyphc.backends.openfhe.residues import ResidueError, Uniform
from glyphc.backends.openfhe.wire import (
    Flood,
    fresh_size,
    output_bits,
    output_size,
    read_fresh,
    read_live,
    read_output,
    write_live,
    write_output,
)
from glyphc.ir.noise import ROUNDING
from glyphc.ir.parameters import INSECURE, Parameters

N, T_BITS = 1024, 26
T = 1 << T_BITS
PARAMETERS = Parameters(ring=N, plaintext_bits=T_BITS, bgv_bits=54, security=INSECURE)
SEED = bytes(range(32))


@pytest.fixture(scope="module")
def made() -> tuple[ClientKeys, EvaluationKeys]:
    """Keys of a program without bootstraps."""
    maker = KeyMaker(PARAMETERS)
    return maker.client, load_keys(PARAMETERS, SEED, dict(maker.parts(SEED)).__getitem__)


def messages(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-T // 2, T // 2, N)


@examples(20)
@given(st.integers(0, 2**32))
def test_fresh_ciphertexts_hold_their_message(made: tuple[ClientKeys, EvaluationKeys], seed: int) -> None:
    client, evaluation = made
    data = fresh_ciphertext(client, messages(seed), Uniform(SEED, "x"))
    assert len(data) == fresh_size(client.contexts.bgv_ring)
    ciphertext = read_fresh(evaluation.bgv_mould, data, Uniform(SEED, "x"))
    assert np.array_equal(client.decrypt(ciphertext), messages(seed))
    # the wrong place in the stream is another ciphertext
    moved = read_fresh(evaluation.bgv_mould, data, Uniform(SEED, "y"))
    assert not np.array_equal(client.decrypt(moved), messages(seed))


def test_live_ciphertexts_are_exact(made: tuple[ClientKeys, EvaluationKeys]) -> None:
    client, evaluation = made
    data = write_live(evaluation.bgv_mould, client.encrypt(messages(1)))
    assert len(data) == 2 * fresh_size(client.contexts.bgv_ring)
    again = read_live(evaluation.bgv_mould, data)
    assert write_live(evaluation.bgv_mould, again) == data
    assert np.array_equal(client.decrypt(again), messages(1))
    with pytest.raises(ResidueError):
        read_live(evaluation.bgv_mould, data[:-1])


@examples(20)
@given(st.integers(0, 2**32), st.sampled_from([24, 32, 40, 48]), st.integers(0, N))
def test_outputs_hold_their_message_at_their_positions(
    made: tuple[ClientKeys, EvaluationKeys], seed: int, bits: int, count: int
) -> None:
    """Off by rounding to 2^bits and to integers alone (8 deviations), or exactly right where the first is small."""
    client, evaluation = made
    positions = np.sort(np.random.default_rng(seed).permutation(N)[:count])
    data = write_output(evaluation, client.encrypt(messages(seed)), positions, bits)
    assert len(data) == output_size(client.contexts.bgv_ring, count, bits)
    found = client.decrypt(read_output(evaluation.bgv_mould, T, data, positions, bits))[positions]
    error = np.abs((found - messages(seed)[positions] + T // 2) % T - T // 2)
    deviation = np.sqrt((1 + 2 * N / 3) / 12) * T / 2.0**bits  # a uniform ternary secret
    assert int(error.max(initial=0)) <= (8 * deviation + 0.5 if deviation > 1 / 16 else 0)


def test_outputs_of_other_lengths_are_refused(made: tuple[ClientKeys, EvaluationKeys]) -> None:
    client, evaluation = made
    positions = np.arange(4)
    data = write_output(evaluation, client.encrypt(messages(1)), positions, 32)
    for wrong in (data[:-1], data + b"x", b""):
        with pytest.raises(ResidueError, match="bytes in an output of 4 values"):
            read_output(evaluation.bgv_mould, T, wrong, positions, 32)


@pytest.mark.parametrize("deviation", [50.0, 3000.0])
def test_floods_have_their_size(made: tuple[ClientKeys, EvaluationKeys], deviation: float) -> None:
    client, evaluation = made
    positions = np.arange(N)
    message = messages(5) // 4
    ciphertext = read_live(evaluation.bgv_mould, write_live(evaluation.bgv_mould, client.encrypt(message)))
    data = write_output(evaluation, ciphertext, positions, 40, Flood(deviation))
    error = client.decrypt(read_output(evaluation.bgv_mould, T, data, positions, 40)) - message
    assert 0.9 * deviation < error.std() < 1.1 * deviation
    assert abs(error.mean()) < deviation / 4
    assert np.abs(error).max() < 1.8 * deviation  # uniform: at most sqrt(3)


@given(st.integers(10, 40), st.floats(0, 2.0**30))
def test_the_modulus_of_outputs_is_the_smallest_that_does(plaintext_bits: int, noise: float) -> None:
    bits = output_bits(plaintext_bits, noise)
    allowed = max(noise / 4, 1 / 16)
    assert bits % 8 == 0
    assert ROUNDING * 2.0 ** (plaintext_bits - bits) <= allowed * (1 + 1e-9)
    assert ROUNDING * 2.0 ** (plaintext_bits - bits + 8) > allowed * (1 - 1e-9)
