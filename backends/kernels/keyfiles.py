"""Keys of the kernels' shapes as named parts of a file, and back: the server's side. No secret here.

A part holds the b of one key: its residues, row by row, little-endian, each in as many whole bytes as its prime needs
(see ``openfhe.residues``). The a are expanded from the file's seed. Values stand in the kernels' evaluation order, so a
file names the shape that it was made for (:func:`fingerprint`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from glyphc.ir import memory
from glyphc.ir.errors import TooLargeError
from glyphc.ir.instructions import EncryptedMap
from glyphc.ir.parameters import Parameters

from ..errors import BackendError
from ..openfhe.keymoulds import BIAS, PUBLIC, WEIGHT_KEYS, weight_part
from ..openfhe.residues import ResidueError, Uniform, width
from .basis import F64, Basis
from .exchange import Exchange
from .keys import KeyRoom, ServerKeys, WeightKeys, whole_key
from .keyswitch import KeyShape, SwitchingKey
from .linear import Sum
from .linear_shape import linear_specs
from .shape import KEY_FORMAT, WIDE_BITS, EngineShape, KeySpec, levels_problem, refuse

_PREFIX = "kernels/"


def fingerprint(parameters: Parameters) -> str:
    """Of everything that the meaning of these parameters' key files depends on, hexadecimal. BackendError as of
    ``shape.levels_problem``, before anything is computed."""
    shape = EngineShape(parameters)
    refuse(levels_problem(shape))
    parts = [f"format {KEY_FORMAT}", f"ring {shape.n}", f"primes {shape.primes}", *map(repr, shape.specs())]
    parts += map(repr, linear_specs(parameters, ()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def key_bytes(shape: EngineShape, encrypted: Sequence[EncryptedMap] = ()) -> int:
    """Bytes of all keys as the server keeps them, from the shape alone."""
    linear = _doubles(shape.linear_shape)
    products = sum(len(WEIGHT_KEYS) * each.products for each in encrypted)
    return 8 * shape.n * (sum(_doubles(spec.shape) for spec in shape.specs()) + products * linear)


def file_bytes(shape: EngineShape, periods: Sequence[int]) -> int:
    """Bytes of a training run's keys in a file, from the shape alone. periods: of packing."""
    widths = [width(q) for q in shape.primes]
    bootstraps = sum(s.shape.digits * sum(widths[p] for p in s.shape.primes) for s in shape.specs())
    p, linear = shape.parameters, 0
    # OpenFHE's primes may be a little larger than 2^linear_bits
    own, special = width(2 << p.linear_bits), width(1 << WIDE_BITS - 1)
    for spec in linear_specs(p, periods):
        linear += spec.shape.digits * (len(spec.shape.chain) * own + len(spec.shape.special) * special)
    return shape.n * (bootstraps + linear)


def linear_key_bytes(parameters: Parameters, periods: Sequence[int]) -> int:
    """Bytes of the keys of training's linear algebra as the server keeps them."""
    return 8 * parameters.ring * sum(_doubles(spec.shape) for spec in linear_specs(parameters, periods))


def _doubles(shape: KeyShape) -> int:
    return 2 * shape.digits * len(shape.primes)


def key_part(spec: KeySpec) -> str:
    """Name of the part with one key."""
    return _PREFIX + spec.name


def weight_specs(shape: EngineShape, number: int, row: int) -> tuple[KeySpec, KeySpec]:
    """The keys from a weight polynomial w and from w*s to the secret: row ``row`` of the map ``number``."""
    first, second = (KeySpec(weight_part(number, row, what), what, "s", shape.linear_shape) for what in WEIGHT_KEYS)
    return first, second


def part_names(parameters: Parameters, encrypted: Sequence[EncryptedMap] = ()) -> tuple[str, ...]:
    """All parts of a client's keys, in the order in which they are written and read."""
    shape = EngineShape(parameters)
    names = [PUBLIC, *map(key_part, shape.specs())]
    for number, each in enumerate(encrypted):
        names += [spec.name for row in range(each.products) for spec in weight_specs(shape, number, row)]
        names += [weight_part(number, each.products, BIAS)] if each.bias else []
    return tuple(names)


def load_keys(
    shape: EngineShape,
    basis: Basis,
    exchange: Exchange,
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None] = lambda name: None,
    encrypted: Sequence[EncryptedMap] = (),
) -> ServerKeys:
    """Keys from the parts of :func:`part_names` but the first, which ``openfhe.load.load_bgv`` reads.

    ResidueError when one does not hold what it should; BackendError, before anything is read, when all of them would
    take more memory than they may.
    """
    _require(key_bytes(shape, encrypted))
    switching = _switching(shape, basis, seed, read, observe)
    weights = {}
    for number, each in enumerate(encrypted):
        products = []
        for row in range(each.products):
            specs = weight_specs(shape, number, row)
            first, second = (load_key(basis, spec, spec.name, seed, read, observe) for spec in specs)
            products.append((first, second))
        bias = None
        if each.bias:
            name = weight_part(number, each.products, BIAS)
            bias = exchange.read(read(name), Uniform(seed, name))
            observe(name)
        weights[each.name] = WeightKeys(tuple(products), bias)
    return ServerKeys(shape, basis, switching, weights)


def load_bootstrap_keys(
    shape: EngineShape,
    basis: Basis,
    periods: Sequence[int],
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None],
) -> ServerKeys:
    """Those of bootstraps alone, of a training run that has others, too; errors of :func:`load_keys`."""
    _require(key_bytes(shape) + linear_key_bytes(shape.parameters, periods))
    return ServerKeys(shape, basis, _switching(shape, basis, seed, read, observe))


def _require(size: int) -> None:
    try:
        memory.require(size, "a set of evaluation keys of this program")
    except TooLargeError as e:
        raise BackendError(str(e)) from None


def _switching(
    shape: EngineShape, basis: Basis, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]
) -> dict[str, SwitchingKey]:
    room = KeyRoom(shape)
    specs = shape.specs()
    return {spec.name: load_key(basis, spec, key_part(spec), seed, read, observe, room.of(spec)) for spec in specs}


def load_key(
    basis: Basis,
    spec: KeySpec,
    name: str,
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None],
    values: F64 | None = None,
) -> SwitchingKey:
    """The key in the part of this name. values: its memory."""
    if values is None:
        values = np.empty((2, spec.shape.digits, len(spec.shape.primes), basis.n))
    found = whole_key(basis, spec, unpack_key(basis, spec.shape, read(name)), seed, values)
    observe(name)
    return found


# -- rows of residues --


@njit(nogil=True, error_model="numpy", cache=True)
def _read_row(data, size, q, out):  # type: ignore[no-untyped-def]
    """Little-endian numbers of ``size`` bytes; whether all are below q."""
    for i in range(out.shape[0]):
        value = np.uint64(0)
        for k in range(size):
            value |= np.uint64(data[i * size + k]) << np.uint64(8 * k)
        if value >= q:
            return False
        out[i] = np.float64(np.int64(value))
    return True


@njit(nogil=True, error_model="numpy", cache=True)
def _write_row(row, size, q, out):  # type: ignore[no-untyped-def]
    """The inverse of :func:`_read_row`, of reduced residues."""
    for i in range(row.shape[0]):
        value = np.uint64(np.int64(row[i] + q if row[i] < 0.0 else row[i]))
        for k in range(size):
            out[i * size + k] = np.uint8((value >> np.uint64(8 * k)) & np.uint64(255))


def pack_rows(rows: F64, primes: Sequence[int]) -> bytes:
    """Reduced residues, (rows, n), as bytes; primes: of each row."""
    n, parts = rows.shape[1], []
    for row, q in zip(rows, primes, strict=True):
        out = np.empty(n * width(q), dtype=np.uint8)
        _write_row(row, width(q), float(q), out)
        parts.append(out.tobytes())
    return b"".join(parts)


def unpack_rows(data: bytes, n: int, primes: Sequence[int]) -> F64:
    """The inverse, canonical; ResidueError for another length or a residue that is not below its prime."""
    expected = n * sum(map(width, primes))
    if len(data) != expected:
        raise ResidueError(f"{len(data)} bytes where {len(primes)} elements take {expected}")
    out, given, at = np.empty((len(primes), n)), np.frombuffer(data, dtype=np.uint8), 0
    for row, q in zip(out, primes, strict=True):
        end = at + n * width(q)
        if not _read_row(given[at:end], width(q), np.uint64(q), row):
            raise ResidueError("a residue is not below its modulus")
        at = end
    return out


def _row_primes(basis: Basis, shape: KeyShape) -> list[int]:
    return [basis.primes[p] for _ in range(shape.digits) for p in shape.primes]


def pack_key(basis: Basis, key: SwitchingKey) -> bytes:
    """The b of a key."""
    return pack_rows(key.values[0].reshape(-1, basis.n), _row_primes(basis, key.shape))


def unpack_key(basis: Basis, shape: KeyShape, data: bytes) -> F64:
    """The b of a key, (digits, primes, n), centred; ResidueError."""
    rows = unpack_rows(data, basis.n, _row_primes(basis, shape)).reshape(shape.digits, len(shape.primes), basis.n)
    q = basis.moduli[list(shape.primes)][:, None]
    rows -= np.where(rows > q / 2, q, 0.0)
    return rows


def pack_sum(basis: Basis, which: Sequence[int], elements: Sum) -> bytes:
    """A live ciphertext, (2, rows, n), canonical, exactly; which: the prime of each row."""
    return pack_rows(elements.reshape(-1, basis.n), [basis.primes[p] for p in which] * 2)


def unpack_sum(basis: Basis, which: Sequence[int], data: bytes) -> Sum:
    """The inverse of :func:`pack_sum`; ResidueError."""
    return unpack_rows(data, basis.n, [basis.primes[p] for p in which] * 2).reshape(2, len(which), basis.n)
