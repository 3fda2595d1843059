"""The schedule: instructions on numbered ciphertexts, the contract between the compiler and the backends.

Backends know nothing of networks; the compiler knows nothing of a backend's objects. A ciphertext holds N numbers
("coefficients"). In BGV registers they are integers modulo t; in torus registers they are phases in units of t (the
same
number, most significant bits first). Polynomials are given by their non-zero terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .functions import Function
from .layout import Layout
from .ops import Op
from .parameters import Parameters
from .series import Series
from .slot_parameters import SlotParameters
from .slots import SlotInstruction
from .types import Encoding, FixedPoint

Register = int


@dataclass(frozen=True)
class Load:
    """Bind the ciphertext number ``part`` of input ``name`` (of all chunks and parts)."""

    target: Register
    name: str
    part: int
    node: int


@dataclass(frozen=True)
class Dot:
    """target = total + sum_j sources[j] * weights[j] + bias, polynomial products modulo X^N + 1 (BGV).

    weights: name of a :class:`Polynomials` constant with one polynomial per source, and the bias as the last one if it
    has one more. total: an earlier sum to go on with.
    """

    target: Register
    sources: tuple[Register, ...]
    weights: str
    total: Register | None
    node: int


@dataclass(frozen=True)
class EncryptedDot:
    """Like :class:`Dot` with weights and bias that are encrypted under the client's key: external products (BGV).

    weights: name of an :class:`EncryptedMap` of the client's specification.
    """

    target: Register
    sources: tuple[Register, ...]
    weights: str
    total: Register | None
    node: int


@dataclass(frozen=True)
class Split:
    """targets[r] = parts * (coefficients of source at stride*(r + parts*m), moved to stride*parts*m) (BGV).

    Separates residue classes of exponents by automorphisms; ``source`` must be zero off multiples of ``stride``.
    parts is a power of two; len(targets) <= parts: the classes that are needed.
    """

    targets: tuple[Register, ...]
    source: Register
    parts: int
    stride: int
    node: int


@dataclass(frozen=True)
class ToTorus:
    """BGV -> torus: message m modulo t becomes phase m/t. A modulus switch to the bootstrap's modulus."""

    target: Register
    source: Register
    slots: int
    node: int


@dataclass(frozen=True)
class FromTorus:
    """Torus -> BGV: the phase times t, read as a (noisy) message modulo t."""

    target: Register
    source: Register
    node: int


@dataclass(frozen=True)
class Powers:
    """First half of a functional bootstrap: refresh and e^{2 pi i k x} of every phase x, shared by all functions.

    Reads the coefficients at multiples of N/(2*slots); the others are dropped.
    """

    target: Register
    source: Register
    slots: int
    degree: int
    node: int


@dataclass(frozen=True)
class Evaluate:
    """Second half: target = f(x) / 2^OUTPUT_BITS, a phase, for every phase x read by ``powers``.

    exact: what the series approximates, as a map of fixed-point integers: from input format through the functions to
    output format, divided by ``divisor``; the cleartext backend computes this instead of the series.
    """

    target: Register
    powers: Register
    series: Series
    functions: tuple[Function, ...]
    input_format: FixedPoint
    output_format: FixedPoint
    divisor: int
    node: int


@dataclass(frozen=True)
class Store:
    """Hand the ciphertext out as number ``part`` of output ``name`` (of all chunks and parts)."""

    source: Register
    name: str
    part: int
    node: int


@dataclass(frozen=True)
class Free:
    """The registers are not needed any more."""

    registers: tuple[Register, ...]
    node: int


Instruction = (
    Load
    | Dot
    | EncryptedDot
    | Split
    | ToTorus
    | FromTorus
    | Powers
    | Evaluate
    | Store
    | Free
    # on numbers in slots
    | SlotInstruction
)


@dataclass(frozen=True, eq=False)
class Polynomials:
    """Sparse polynomials as rows: row r is the sum of values[k] X^exponents[k], offsets[r] <= k < offsets[r+1]."""

    offsets: npt.NDArray[np.int64]
    exponents: npt.NDArray[np.int32]
    values: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

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
    integers.
    """

    name: str
    shape: tuple[int, ...]
    fixed: FixedPoint
    layout: Layout
    tail: tuple[Op, ...] = ()
    encoding: Encoding = Encoding.LSB


@dataclass(frozen=True)
class EncryptedMap:
    """Weights that the client encrypts along with making keys: so many polynomials, and one more if there is a bias."""

    name: str
    products: int
    bias: bool


@dataclass(frozen=True)
class ClientSpec:
    """All of a program that the client needs: no weights, no instructions.

    encrypted: the weights that it has to encrypt, not their values.
    """

    parameters: Parameters | SlotParameters
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batch: int
    encrypted: tuple[EncryptedMap, ...] = ()

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
    def parameters(self) -> Parameters | SlotParameters:
        return self.client.parameters
