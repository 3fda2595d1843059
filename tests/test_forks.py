"""Processes that are forked after OpenFHE has drawn random numbers: no two may draw the same.

Every child is given the same public seed, so uniform halves are equal and what differs are errors and secrets. The test
holds the secret key and takes the errors out.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glyphc.backends.errors import BackendError
from glyphc.backends.gaussian import gaussian
from glyphc.backends.openfhe import randomness
from glyphc.backends.openfhe.bridge import residues
from glyphc.backends.openfhe.client import ClientKeys
from glyphc.backends.openfhe.keygen import KeyMaker, fresh_ciphertext
from glyphc.backends.openfhe.keys import EvaluationKeys
from glyphc.backends.openfhe.load import load_keys
from glyphc.backends.openfhe.residues import Uniform, unpack
from glyphc.backends.openfhe.training_fresh import FreshCiphertexts, TrainingKeyMaker
from glyphc.backends.openfhe.weight_keys import encrypt_weights, weight_parts
from glyphc.backends.openfhe.wire import Flood, write_output
from glyphc.ir.instructions import EncryptedMap, Polynomials
from glyphc.ir.parameters import INSECURE, Parameters

I64 = npt.NDArray[np.int64]
N = 1024
SEED = bytes(range(32))
ZERO = np.zeros(N, dtype=np.int64)
PARAMETERS = Parameters(
    ring=N, plaintext_bits=20, bgv_bits=54, unpack_strides=(1, 2), slots=16, degree=13, security=INSECURE
)
TRAINING = replace(PARAMETERS, levels_kept=1, linear_bits=33, linear_limbs=3, decoded_limbs=2)
FORK = multiprocessing.get_context("fork")
MAP = EncryptedMap("w", 1, True)
WEIGHTS = {"w": Polynomials(np.array([0, 1, 2]), np.zeros(2, dtype=np.int32), np.array([3, 5]))}

Parts = dict[str, bytes]


@pytest.fixture(scope="module")
def maker() -> KeyMaker:
    """A client that has made its keys: this process's generator is in use."""
    made = KeyMaker(PARAMETERS)
    fresh_ciphertext(made.client, ZERO, Uniform(SEED, "first"))
    return made


@pytest.fixture(scope="module")
def evaluation(maker: KeyMaker) -> EvaluationKeys:
    parameters = replace(PARAMETERS, slots=0, degree=0)
    made = KeyMaker(parameters)
    return load_keys(parameters, SEED, dict(made.parts(SEED)).__getitem__)


def in_children(task: Callable[[], Any], children: int = 2) -> list[Any]:
    """What a task returns in children that are forked one after another; the first answer is this process's own."""

    def child(connection: Any) -> None:
        connection.send(task())

    found = []
    for _ in range(children):
        receive, send = FORK.Pipe(duplex=False)
        process = FORK.Process(target=child, args=(send,))
        process.start()
        send.close()  # so that a child that fails ends the waiting
        assert receive.poll(60), "a forked child says nothing"
        found.append(receive.recv())
        process.join(60)
        assert process.exitcode == 0
    return [task(), *found]


def all_differ(results: list[Parts]) -> None:
    """Each part of each result is another one than in all other results."""
    for name in results[0]:
        assert len({r[name] for r in results}) == len(results), name


def error_of(client: ClientKeys, c0: bytes, name: str) -> I64:
    """t times the error of a fresh encryption of zero."""
    ring = client.contexts.bgv_ring
    phase = ring.add(unpack(c0, N, ring.q), client.factor.times(Uniform(SEED, name).draw(N, ring.q)))
    return ring.centre(ring.to_coefficients(phase))


def test_the_attack_without_the_hook(maker: KeyMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests are about, and that they would see it: both children encrypt with one error."""
    monkeypatch.setattr(randomness, "_CORE_LIBRARY", None)
    context = maker.client.contexts.bgv
    plain = context.MakeCoefPackedPlaintext(ZERO)

    def attack() -> bytes:
        return b"".join(e.tobytes() for e in residues(context.Encrypt(maker.client.secret_key, plain), N, (q,), 2))

    q = maker.client.contexts.bgv_ring.q
    _, first, second = in_children(attack)
    assert first == second


def test_refusal_where_the_generator_cannot_be_replaced(maker: KeyMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "_CORE_LIBRARY", None)
    unused = KeyMaker(PARAMETERS)
    fresh = FreshCiphertexts(TrainingKeyMaker(TRAINING, (N,)).client, N)
    tasks: list[Callable[[], object]] = [
        lambda: maker.client.encrypt(ZERO),
        lambda: KeyMaker(PARAMETERS),
        lambda: list(unused.parts(SEED)),
        lambda: TrainingKeyMaker(TRAINING, (N,)),
        lambda: fresh.write(np.zeros(N), 1, Uniform(SEED, "x")),
        lambda: encrypt_weights(maker.client, [replace(MAP, bias=False)], {"w": one_weight()}),
    ]

    def refusals() -> list[str]:
        return [refusal(task) for task in tasks]

    own, *children = in_children(refusals)
    assert own == [""] * len(tasks)
    for child in children:
        assert all("set_start_method('spawn')" in text for text in child)


def one_weight() -> Polynomials:
    return Polynomials(np.array([0, 1]), np.zeros(1, dtype=np.int32), np.array([3]))


def refusal(task: Callable[[], object]) -> str:
    try:
        task()
    except BackendError as e:
        return str(e)
    return ""


def test_fresh_encryptions(maker: KeyMaker) -> None:
    results = in_children(lambda: fresh_ciphertext(maker.client, ZERO, Uniform(SEED, "x")), 3)
    errors = [error_of(maker.client, c0, "x") // PARAMETERS.plaintext_modulus for c0 in results]
    for at, error in enumerate(errors):
        assert 2.5 < error.std() < 4  # OpenFHE's deviation is 3.19
        for other in errors[:at]:
            assert np.mean(error == other) < 0.2  # of two independent errors: 9 %


def test_errors_of_our_own() -> None:
    """They take fresh bytes of the system's each time: nothing is there that a child could inherit."""
    gaussian(N)
    errors = in_children(lambda: gaussian(N).tobytes(), 3)
    assert len(set(errors)) == len(errors) == 4


def test_grandchildren(maker: KeyMaker) -> None:
    def both() -> list[bytes]:
        return in_children(lambda: fresh_ciphertext(maker.client, ZERO, Uniform(SEED, "x")), 1)

    found = [c for results in in_children(both) for c in results]
    assert len(set(found)) == len(found) == 6


def test_secrets_and_keys_of_one_secret(maker: KeyMaker) -> None:
    secrets = in_children(lambda: KeyMaker(PARAMETERS).ternary)
    assert not any(np.array_equal(a, b) for a, b in zip(secrets, secrets[1:] + secrets[:1], strict=True))
    fresh = KeyMaker(PARAMETERS)
    all_differ(in_children(lambda: dict(fresh.parts(SEED)), 1))
    # OpenFHE keeps the key for products and would give it out again, for another seed to show its error
    with pytest.raises(BackendError, match="have been made"):
        next(fresh.parts(bytes(32)))


def test_encrypted_weights(maker: KeyMaker) -> None:
    all_differ(in_children(lambda: dict(weight_parts(maker.client, maker.ternary, [MAP], WEIGHTS, SEED))))


def test_sanitized_outputs(evaluation: EvaluationKeys) -> None:
    """c1 shows it: the uniform noise of c0 comes from the system each time."""
    zero = np.zeros(N, dtype=np.uint64)
    ciphertext = evaluation.bgv_mould.cast(zero, zero)
    c1 = in_children(lambda: write_output(evaluation, ciphertext, ZERO[:0], 48, Flood(1.0)))
    assert len(set(c1)) == len(c1)


def test_training_batches_and_keys() -> None:
    maker = TrainingKeyMaker(TRAINING, (N,))
    fresh = FreshCiphertexts(maker.client, N)

    def batch() -> Parts:
        return {"batch": fresh.write(np.zeros(N), 2, Uniform(SEED, "x"))}

    batch()
    all_differ(in_children(batch))
    all_differ(in_children(lambda: dict(maker.parts(SEED)), 1))


def test_threads_and_forks_from_threads(maker: KeyMaker) -> None:
    """A thread has its own generator, which a child that it forks would inherit."""
    found: list[bytes] = []

    def encrypt() -> bytes:
        return fresh_ciphertext(maker.client, ZERO, Uniform(SEED, "x"))

    def work() -> None:
        encrypt()
        found.extend(in_children(encrypt))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 6


_POOLED: ClientKeys | None = None


def pooled(_: int) -> tuple[int, bytes]:
    assert _POOLED is not None
    return os.getpid(), fresh_ciphertext(_POOLED, ZERO, Uniform(SEED, "x"))


@pytest.fixture
def shared(maker: KeyMaker) -> Iterator[None]:
    global _POOLED  # as a server that forks its workers after loading: they find it in their memory
    _POOLED = maker.client
    yield
    _POOLED = None


def test_pools_and_servers_that_fork_their_workers(shared: None) -> None:
    with ProcessPoolExecutor(2, mp_context=FORK) as pool:
        results = list(pool.map(pooled, range(8)))
    assert len({data for _, data in results}) == 8


def test_key_generation_in_a_child_of_many_threads() -> None:
    """OpenMP's threads are gone in a forked child; waiting for them would hang. In a process with two of them."""
    script = (
        "import os; from glyphc.backends.openfhe.keygen import KeyMaker; "
        "from glyphc.ir.parameters import *; "
        "p = Parameters(ring=1024, plaintext_bits=20, bgv_bits=54, slots=16, degree=13, security=INSECURE); "
        "KeyMaker(p); pid = os.fork(); KeyMaker(p); pid or os._exit(0); assert os.waitpid(pid, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "2"}, check=True, timeout=120)
