"""The schedule: instructions on numbered ciphertexts, the contract between the compiler and the backends.

Backends know nothing of networks; the compiler knows nothing of a backend's objects. A ciphertext holds N numbers
("coefficients"). In BGV registers they are integers modulo t; in torus registers they are phases in units of t (the same
number, most significant bits first). Polynomials are given by their non-zero terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .functions import Function
from .layout import Layout
from .ops import Series
from .types import FixedPoint

Register = int


@dataclass(frozen=True)
class Load:
    """Bind the ciphertext ``part`` of input ``name``."""

    target: Register
    name: str
    part: int
    node: int


@dataclass(frozen=True)
class Dot:
    """target = sum_j sources[j] * weights[j] + bias, polynomial products modulo X^N + 1 (BGV).

    weights: name of a :class:`Polynomials` constant with one polynomial per source, bias the last one.
    """

    target: Register
    sources: tuple[Register, ...]
    weights: str
    node: int


@dataclass(frozen=True)
class Split:
    """targets[r] holds parts * (coefficients of source at stride*(r + parts*m)), moved to stride*parts*m (BGV).

    source must be zero off multiples of ``stride``. len(targets) is a power of two.
    """

    targets: tuple[Register, ...]
    source: Register
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
    """Second half: target = f(x) / 2^output_bits, a phase, for every phase x read by ``powers``.

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
    output_bits: int
    node: int


@dataclass(frozen=True)
class Store:
    """Hand the ciphertext out as ``part`` of output ``name``."""

    source: Register
    name: str
    part: int
    node: int


@dataclass(frozen=True)
class Free:
    """The registers are not needed any more."""

    registers: tuple[Register, ...]
    node: int


Instruction = Load | Dot | Split | ToTorus | FromTorus | Powers | Evaluate | Store | Free


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
    """An input or output as the client sees it: name, shape of a sample, number format, layout."""

    name: str
    shape: tuple[int, ...]
    fixed: FixedPoint
    layout: Layout


@dataclass(frozen=True)
class Parameters:
    """Cryptographic parameters of a program, chosen by the compiler.

    ring: N. plaintext_bits: log2 t. bgv_bits: log2 of the BGV modulus. scaling_bits: size of the bootstrap's primes.
    degree: of the series (all of a program). output_bits: log2 of the bootstrap's output divisor. slots: values/2 of one
    bootstrap; 0 when the program has none. security: name of OpenFHE's security level, "insecure" for test rings.
    """

    ring: int
    plaintext_bits: int
    bgv_bits: int
    unpack_automorphisms: tuple[int, ...]
    slots: int
    degree: int
    output_bits: int
    level_budget: tuple[int, int]
    scaling_bits: int
    large_digits: int
    security: str

    @property
    def secure(self) -> bool:
        return self.security != "insecure"


@dataclass(frozen=True, eq=False)
class Schedule:
    """A compiled program: what the server executes."""

    parameters: Parameters
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    instructions: tuple[Instruction, ...]
    polynomials: dict[str, Polynomials]
    batch: int
