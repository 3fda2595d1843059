"""A compiled program for a server and a client: instructions, plaintext weights, and what the client must know."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt

from ..client_requests import Request
from ..encodings import Ids, Labels, Ranks
from ..integer_parameters import ProgramParameters
from ..layout import Layout
from ..ops import Op
from ..types import Encoding, FixedPoint
from .base import Instruction

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Polynomials:
    """Sparse polynomials as rows: row r is the sum of values[k] X^exponents[k], offsets[r] <= k < offsets[r+1]."""

    offsets: npt.NDArray[np.int64]
    exponents: npt.NDArray[np.int32]
    values: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def terms(self, first: int, count: int) -> tuple[I64, I64, I64]:
        """Of so many rows from one on: which of them each term is in, from 0, its exponent and its value."""
        bounds = self.offsets[first : first + count + 1]
        at = slice(bounds[0], bounds[-1])
        rows = np.repeat(np.arange(count, dtype=np.int64), np.diff(bounds))
        return rows, self.exponents[at].astype(np.int64), self.values[at]

    def dense(self, row: int, n: int) -> npt.NDArray[np.int64]:
        """Row ``row`` as n coefficients."""
        out = np.zeros(n, dtype=np.int64)
        at = slice(self.offsets[row], self.offsets[row + 1])
        np.add.at(out, self.exponents[at], self.values[at])
        return out


@dataclass(frozen=True)
class Port:
    """An input or output as the client sees it: name, shape of a sample, number format, layout.

    tail: what the client computes after decryption (outputs only). encoding: ``SLOTS`` where the layout's positions are
    slots, which hold the format's integers divided by its magnitude; otherwise they are coefficients, which hold the
    integers; ``BITS``: each "feature" is one bit of one of them, the lowest first. ranks: what of an input is
    encrypted, if not the tensor as it is. labels: what an output's indices stand for. columns: of an input, names of
    its elements; ids: which of these name rows of a table.
    """

    name: str
    shape: tuple[int, ...]
    fixed: FixedPoint
    layout: Layout
    tail: tuple[Op, ...] = ()
    encoding: Encoding = Encoding.LSB
    ranks: Ranks | None = None
    labels: Labels | None = None
    columns: tuple[str, ...] = ()
    ids: Ids | None = None

    @property
    def size(self) -> int:
        """How many numbers of a sample are encrypted."""
        return prod(self.shape) if self.ranks is None else len(self.ranks.features)

    @property
    def stored_parts(self) -> int:
        """Ciphertexts of one chunk of an output: parts beyond its features hold nothing."""
        return min(self.layout.parts, self.layout.features)


@dataclass(frozen=True)
class EncryptedMap:
    """Weights that the client encrypts along with making keys: so many polynomials, and one more if there is a bias.

    On words of bits: so many bits, those of the bias among them.
    """

    name: str
    products: int
    bias: bool


@dataclass(frozen=True)
class ClientSpec:
    """All of a program that the client needs: no weights, no instructions.

    encrypted: the weights that it has to encrypt, not their values. requests: what it is asked on the way, in order.
    """

    parameters: ProgramParameters
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batch: int
    encrypted: tuple[EncryptedMap, ...] = ()
    requests: tuple[Request, ...] = ()

    @property
    def chunks(self) -> int:
        """Of the tensor that has most."""
        return max(port.layout.chunks for port in (*self.inputs, *self.outputs))

    def chunks_for(self, samples: int) -> int:
        """How many chunks so many samples of one batch take, at least one: the others need not be computed."""
        rounds, rest = divmod(self.batch, self.chunks)
        # the first ``rest`` chunks have room for one sample more than the others
        full = rest * (rounds + 1)
        used = -(-samples // (rounds + 1)) if samples <= full else rest - (full - samples) // rounds
        return max(1, used)

    def places(self, samples: int) -> npt.NDArray[np.int64]:
        """Where in the batch so many samples stand, in ascending order: side by side in as few chunks as hold them.

        Tensors of fewer chunks have them in their first chunks, too, as their number divides that of wider ones.
        """
        used = self.chunks_for(samples)
        turn, chunk = np.divmod(np.arange(samples, dtype=np.int64), used)
        return np.asarray(turn * self.chunks + chunk, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Schedule:
    """A compiled program: what the server executes (``instructions``) and what the client must know (``client``).

    polynomials: plaintext weights. secret: those that are to be encrypted, by the names of ``client.encrypted``; none
    where the program is without their values, as on the server.
    """

    client: ClientSpec
    instructions: tuple[Instruction, ...]
    polynomials: dict[str, Polynomials]
    secret: dict[str, Polynomials] = field(default_factory=dict)

    @property
    def parameters(self) -> ProgramParameters:
        return self.client.parameters
