"""The engine of kernels: which parameters it takes, its threads and processes, what it needs of a processor."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from itertools import islice
from math import inf, prod

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from glyphc.analysis.security import modulus_bits, modulus_limit
from glyphc.backends import processors
from glyphc.backends.errors import BackendError
from glyphc.backends.kernels import selftest, threads
from glyphc.backends.kernels.basis import Basis, primes_below
from glyphc.backends.kernels.shape import LARGEST_MODULUS, EngineShape, check_shape, largest_modulus
from glyphc.backends.kernels.uniform import UniformRows
from glyphc.errors import ParameterError
from glyphc.exchange.client import require_secure
from glyphc.exchange.engines import key_form
from glyphc.ir.parameters import INSECURE, Parameters

N = 512


@pytest.mark.parametrize(
    ("degree", "slots", "budget"),
    [(13, 64, (2, 2)), (247, 64, (2, 2)), (13, 1024, (4, 4)), (59, 1024, (5, 5)), (247, 4096, (5, 5))],
)
def test_shapes_keep_to_128_bits(degree: int, slots: int, budget: tuple[int, int]) -> None:
    shape = EngineShape(
        Parameters(ring=65536, plaintext_bits=20, bgv_bits=55, slots=slots, degree=degree, level_budget=budget)
    )
    check_shape(shape)
    assert shape.modulus_bits <= LARGEST_MODULUS
    for spec in shape.specs():
        auxiliary = prod(shape.primes[p] for p in spec.shape.special)
        for at in range(0, len(spec.shape.chain), spec.shape.digit):
            assert prod(shape.primes[p] for p in spec.shape.chain[at : at + spec.shape.digit]) < auxiliary << 1


@pytest.mark.parametrize(
    ("slots", "budget"), [(128, (9, 9)), (16, (5, 5)), (16, (4, 5)), (1, (1, 1)), (512, (1, 2)), (512, (2, 1))]
)
def test_levels_that_no_transform_has_are_refused(slots: int, budget: tuple[int, int]) -> None:
    """Too many for the slots, or so few that a level's diagonals take gigabytes."""
    with pytest.raises(BackendError, match=f"transforms of {slots} slots in .* levels are not possible"):
        check_shape(EngineShape(Parameters(1024, 20, 55, (), slots, 13, budget, security=INSECURE)))


def test_transforms_of_gigabytes_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stranger's parameters are asked for the form of keys, or for their moduli."""

    def made(*_: object) -> None:
        raise AssertionError("a transform is made")

    monkeypatch.setattr("glyphc.backends.kernels.shape.transform", made)
    hostile = Parameters(1 << 17, 20, 55, (), 1 << 16, 13, (1, 1))
    with pytest.raises(ParameterError, match=r"transforms of 65536 slots in 1 and 1 levels .* use --engine openfhe"):
        key_form("kernels", hostile)
    assert modulus_bits(replace(hostile, table_bits=4)) == inf
    with pytest.raises(ParameterError, match="not 128-bit secure"):
        require_secure(replace(hostile, table_bits=4))


@pytest.mark.parametrize(("slots", "budget"), [(2, (1, 1)), (16, (4, 4)), (128, (2, 1))])
def test_few_slots_have_few_levels(slots: int, budget: tuple[int, int]) -> None:
    parameters = Parameters(1024, 20, 55, (), slots, 13, budget, security=INSECURE)
    parameters.check_powers()
    check_shape(EngineShape(parameters))


def test_too_large_a_modulus_is_refused() -> None:
    shape = EngineShape(Parameters(ring=32768, plaintext_bits=20, bgv_bits=55, slots=64, degree=13))
    with pytest.raises(BackendError, match=r"ring dimension 32768 is known .* with none; use --engine openfhe"):
        check_shape(shape)
    for ring, message in ((8192, r"2\^19\d, where ring dimension 8192 .* with none"), (128, "smallest ring dimension")):
        with pytest.raises(BackendError, match=message):
            check_shape(EngineShape(Parameters(ring=ring, plaintext_bits=20, bgv_bits=55, unpack_strides=(1,))))
    for ring in (16384, 65536):
        check_shape(EngineShape(Parameters(ring=ring, plaintext_bits=20, bgv_bits=55, unpack_strides=(1,))))


# The standard's bounds for uniform ternary secrets (Albrecht et al. 2018), and OpenFHE's at 65536.
STANDARD = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881, 65536: 1747}


@pytest.mark.parametrize("slots", [0, 64])
def test_the_bounds_are_those_of_all_engines(slots: int) -> None:
    for ring, bound in STANDARD.items():
        parameters = Parameters(ring=ring, plaintext_bits=20, bgv_bits=55, slots=slots)
        assert largest_modulus(ring, sparse=slots > 0) == modulus_limit(parameters) <= bound


def test_levels_that_nothing_computes_on_are_refused() -> None:
    shape = EngineShape(Parameters(ring=65536, plaintext_bits=20, bgv_bits=55, slots=64, degree=13, levels_kept=2))
    with pytest.raises(BackendError, match="keeps levels after a bootstrap in training alone"):
        check_shape(shape)


def test_forks_and_threads_compute_the_same() -> None:
    basis = Basis.of(N, [next(primes_below(bits, N)) for bits in (36, 40, 48)])
    which = np.arange(3)
    x = np.floor(np.random.default_rng(0).random((3, N)) * basis.moduli[:, None])

    def transformed(count: int) -> npt.NDArray[np.float64]:
        processors.set_threads(count)
        y = x.copy()
        basis.forward(y, which)
        return y

    try:
        wanted = transformed(1)
        np.testing.assert_array_equal(transformed(3), wanted)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(transformed(3), wanted) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        processors.set_threads(0)


@pytest.mark.parametrize("count", [1, 3])
def test_each_keeps_the_order(count: int) -> None:
    try:
        processors.set_threads(count)
        assert list(threads.each(lambda x: x * x, iter(range(40)))) == [x * x for x in range(40)]
        assert list(threads.each(str, [])) == []
        with pytest.raises(ZeroDivisionError):
            list(threads.each(lambda x: 1 // (30 - x), range(40)))
    finally:
        processors.set_threads(0)


@pytest.mark.parametrize(
    ("own", "openmp", "wanted"),
    [("3", "2", 3), ("", "5,2", 5), ("0", "4", 4), ("many", "", len(os.sched_getaffinity(0)))],
)
def test_threads_are_as_many_as_asked_for(own: str, openmp: str, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLYPHC_THREADS", own)
    monkeypatch.setenv("OMP_NUM_THREADS", openmp)
    try:
        processors.set_threads(0)
        assert processors.thread_count() == wanted
    finally:
        monkeypatch.undo()
        processors.set_threads(0)


def test_a_processor_without_fused_multiply_add_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selftest.problem() is None
    monkeypatch.setattr(selftest.llvm, "get_host_cpu_features", lambda: {"avx2": True})
    assert "use --engine openfhe" in str(selftest.problem())


@pytest.mark.parametrize("q", [1099511590913, (1 << 39) + 25, (1 << 40) - (1 << 30)])
def test_uniform_rows_are_as_the_format_says(q: int) -> None:
    """docs/service.md, "Keys of the engine kernels"; also where nearly no word, or every second one, is too large."""
    n, seed = 1500, bytes(range(32))
    key = hashlib.sha256(b"kernels" + seed + b"dense").digest()
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 10000))
    words = (int.from_bytes(stream[i : i + 8], "little") % 2 ** q.bit_length() for i in range(0, len(stream), 8))
    wanted = list(islice((w for w in words if w < q), 2 * n))
    rows = UniformRows(seed, "dense")
    assert [int(x) for x in (*rows.row(n, q), *rows.row(n, q))] == wanted
