"""Evaluation keys as named parts of plain residues, and the moulds that turn such parts into OpenFHE's objects again.

An evaluation key is a list of uniform elements a and of as many b = -a*s' + e + P*s; written are the b alone, the a
are expanded from a public seed (see ``residues``). Moulds are made from a throw-away key pair, so neither side ever
deserialises an OpenFHE object that came from the other, and key tags do not travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glyphc.ir.instructions import EncryptedMap
from glyphc.ir.parameters import Parameters

from .bridge import BridgeError, Mould
from .contexts import Contexts, bootstrap_automorphisms, list_rotations
from .keys import unpack_automorphism
from .library import fhe
from .residues import Uniform, unpack_towers
from .ring import U64

PUBLIC = "bgv/public"
MULTIPLICATION = "torus/multiplication"
WEIGHT_KEYS, BIAS = ("w", "ws"), "bias"
# A serialised EvalKeyMap begins with byte order, pointer, number of entries (8 bytes), index of the first (4 bytes).
_COUNT_AT, _INDEX_AT = 5, 13


def bgv_part(index: int) -> str:
    """Name of the part with one automorphism key of the BGV context."""
    return f"bgv/automorphism-{index}"


def torus_part(index: int) -> str:
    """Name of the part with one automorphism key of the bootstrapping context."""
    return f"torus/automorphism-{index}"


def weight_part(number: int, row: int, what: str) -> str:
    """Name of a part with encrypted weights: of map ``number``, polynomial ``row``.

    what: "w" and "ws" for the keys of a polynomial w, "bias" for the bias, which is the row behind the last.
    """
    return f"weights/{number:05d}/{row:05d}/{what}"


def part_names(parameters: Parameters, encrypted: Sequence[EncryptedMap] = ()) -> tuple[str, ...]:
    """All parts of a client's evaluation keys, in the order in which they are written and read."""
    names = [PUBLIC, *(bgv_part(i) for i in bgv_automorphisms(parameters))]
    if parameters.slots:
        names += [MULTIPLICATION, *(torus_part(i) for i in bootstrap_automorphisms(parameters))]
    for number, each in enumerate(encrypted):
        names += [weight_part(number, row, what) for row in range(each.products) for what in WEIGHT_KEYS]
        names += [weight_part(number, each.products, BIAS)] if each.bias else []
    return tuple(names)


def bgv_automorphisms(parameters: Parameters) -> tuple[int, ...]:
    """Indices of the automorphism keys that unpackings need, in ascending order (that of OpenFHE's maps)."""
    splits = {unpack_automorphism(parameters.ring, s) for s in parameters.unpack_strides}
    return tuple(sorted(splits.union(parameters.conjugates)))


@dataclass(frozen=True)
class KeyShape:
    """The moduli of one evaluation key's elements: those of all a, then those of all b.

    seeded: whether the a are expanded from the seed. Not for the key 2N-4: its target secret, which would be needed to
    replace OpenFHE's a, never leaves OpenFHE.
    """

    moduli: tuple[int, ...]
    seeded: bool = True

    @property
    def half(self) -> tuple[int, ...]:
        return self.moduli[: len(self.moduli) // 2]

    def decode(self, name: str, data: bytes, n: int, seed: bytes) -> list[U64]:
        """All elements from a part; ResidueError when it does not hold the right number of residues in range."""
        if not self.seeded:
            return list(unpack_towers(data, n, self.moduli))
        b = list(unpack_towers(data, n, self.half))
        stream = Uniform(seed, name)
        return [*(stream.draw(n, q) for q in self.half), *b]


def key_shape(moduli: Sequence[int], seeded: bool = True) -> KeyShape:
    """The shape of a key with these moduli; BridgeError when they are not two equal halves."""
    half = len(moduli) // 2
    if not half or list(moduli[:half]) != list(moduli[half:]):
        raise BridgeError(f"an evaluation key has as many elements a as b, found {len(moduli)} towers")
    return KeyShape(tuple(moduli), seeded)


# -- one key after another, so that only one is in memory twice --


def automorphism_mould(context: Any, secret: Any, index: int) -> Mould:
    """A map with the one automorphism key of ``index``; nothing stays in OpenFHE's tables."""
    context.ClearEvalAutomorphismKeys()
    context.EvalAutomorphismKeyGen(secret, [index])
    found = Mould.of(context.GetEvalAutomorphismKeyMap(secret.GetKeyTag()), context.GetRingDimension())
    context.ClearEvalAutomorphismKeys()
    _check_header(found.blob, 1, index)
    return found


def reindexed(mould: Mould, index: int) -> Mould:
    """The same map for another automorphism."""
    blob = mould.blob[:_INDEX_AT] + index.to_bytes(4, "little") + mould.blob[_INDEX_AT + 4 :]
    return Mould(blob, mould.n, mould.towers)


def special_mould(context: Any, secret: Any, parameters: Parameters) -> Mould:
    """A map with the keys 2N-4, 2N-2 and 2N-1, in this order, and empty entries for all rotations.

    OpenFHE makes these three only together with the rotations, but leaves out rotations that it believes to have.
    """
    context.ClearEvalAutomorphismKeys()
    rotations = bootstrap_automorphisms(parameters)[:-3]
    context.InsertEvalAutomorphismKey(_empty_entries(rotations), secret.GetKeyTag())
    list_rotations(context, parameters)
    context.EvalBootstrapKeyGen(secret, parameters.slots)
    found = Mould.of(context.GetEvalAutomorphismKeyMap(secret.GetKeyTag()), context.GetRingDimension())
    context.ClearEvalAutomorphismKeys()
    _check_header(found.blob, len(rotations) + 3, rotations[0])
    return found


def special_shapes(mould: Mould, ordinary: int) -> tuple[tuple[int, KeyShape], ...]:
    """(automorphism index, shape) of the keys in :func:`special_mould`; ``ordinary``: towers of an ordinary key."""
    small = len(mould.towers) - 2 * ordinary
    if small <= 0:
        raise BridgeError(f"{len(mould.towers)} towers are too few for three keys of the bootstrap")
    n, q = mould.n, mould.moduli
    return (
        (2 * n - 4, key_shape(q[:small], seeded=False)),
        (2 * n - 2, key_shape(q[small : small + ordinary])),
        (2 * n - 1, key_shape(q[small + ordinary :])),
    )


def bgv_mould(contexts: Contexts, secret: Any) -> Mould:
    """A map with the BGV automorphism keys of all unpackings."""
    keys = contexts.bgv.EvalAutomorphismKeyGen(secret, list(bgv_automorphisms(contexts.parameters)))
    found = Mould.of(keys, contexts.bgv_ring.n)
    contexts.bgv.ClearEvalAutomorphismKeys()
    return found


def shapes_of(mould: Mould, keys: int) -> Iterator[KeyShape]:
    """The shapes of ``keys`` equal keys in a map."""
    each = len(mould.towers) // keys
    for k in range(keys):
        yield key_shape(mould.moduli[k * each : (k + 1) * each])


def cast_map(mould: Mould, towers: Sequence[U64]) -> Any:
    """A map of automorphism keys with these elements."""
    return fhe.DeserializeEvalKeyMapString(mould.with_residues(towers), fhe.BINARY)


def _empty_entries(indices: Sequence[int]) -> Any:
    """A map from these indices to nothing, in OpenFHE's binary form."""
    header = fhe.Serialize(fhe.EvalKeyMap(), fhe.BINARY)[:_COUNT_AT]
    entries = b"".join(i.to_bytes(4, "little") + bytes(4) for i in indices)
    return fhe.DeserializeEvalKeyMapString(header + len(indices).to_bytes(8, "little") + entries, fhe.BINARY)


def _check_header(blob: bytes, entries: int, first: int) -> None:
    found = (
        int.from_bytes(blob[_COUNT_AT:_INDEX_AT], "little"),
        int.from_bytes(blob[_INDEX_AT : _INDEX_AT + 4], "little"),
    )
    if found != (entries, first):
        raise BridgeError(f"a serialised map of {entries} keys from index {first} on begins with {found}")


Observer = Callable[[str], None]
