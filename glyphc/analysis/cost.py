"""The cost model: time, memory and key size of what a program does.

The figures are measurements of OpenFHE at N = 65536 and 128-bit security: those that ship with glyphc, or those that
``glyphc measure`` made on the user's machine (``cost_file`` finds them). They rank alternatives when a program is
compiled, and tell users what to expect of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from glyphc.ir.galois import Conjugation
from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.parameters import MAX_DEGREES, Parameters, series_levels
from glyphc.ir.word_parameters import WordParameters

from . import word_figures
from .slot_figures import SLOT_ROWS, SlotRow
from .training_figures import TRAINING_FIGURES, TrainingFigures

REFERENCE_RING = 65536
# Every configuration is measured at this degree; what other degrees cost is known relative to it.
REFERENCE_DEGREE = 27
# Resident memory of a process with OpenFHE, numpy and a program loaded; all else grows with the ring. At the peak of
# runs whose keys and ciphertexts take some megabytes, what is left beside these is 0.17 to 0.19 GB.
PROCESS_BYTES = 0.18e9
# Contexts of a program without bootstraps.
_LINEAR_BYTES = 0.1e9
# An encrypted weight polynomial for each limb of a ciphertext: two keys of two polynomials on two primes each.
ENCRYPTED_WEIGHT_POLYNOMIALS = 8


@dataclass(frozen=True)
class BootstrapCost:
    """What bootstraps with series of one degree cost in one configuration, at N = 65536.

    powers, evaluate: seconds of the half that all functions of a value share, and of each function. key_seconds: to
    make all keys, the transforms' set-up included; key_bytes: of the evaluation keys. idle_bytes: resident memory of a
    process that holds contexts and keys; work_bytes: what a bootstrap adds to it at its peak; powers_bytes: what stays
    of it while the shared half is kept for more functions. measured: False when scaled from other rows.
    """

    degree: int
    powers: float
    evaluate: float
    key_seconds: float
    key_bytes: float
    idle_bytes: float
    work_bytes: float
    powers_bytes: float
    measured: bool = True


# The columns of a row that hold figures.
FIGURES = ("powers", "evaluate", "key_seconds", "key_bytes", "idle_bytes", "work_bytes", "powers_bytes")


@dataclass(frozen=True)
class Shape:
    """How bootstraps are set up: size, levels of both transforms, digits of keys, at least; baby steps, 0: any."""

    slots: int
    level_budget: tuple[int, int]
    large_digits: int
    baby_steps: int = 0

    @staticmethod
    def of(made: Configuration | Parameters) -> Shape:
        """That of a configuration or of a program's parameters."""
        return Shape(made.slots, made.level_budget, made.large_digits, made.baby_steps)

    @property
    def label(self) -> str:
        """All but the size, in words."""
        encode, decode = self.level_budget
        babies = f", {self.baby_steps} baby step{'s' if self.baby_steps > 1 else ''}" if self.baby_steps else ""
        return f"transforms {encode}+{decode}, {self.large_digits} digit{'s' if self.large_digits > 1 else ''}{babies}"


@dataclass(frozen=True)
class Configuration:
    """A way to set up bootstraps of up to ``slots`` slots, and its costs by ascending degree (27 is one of them)."""

    slots: int
    level_budget: tuple[int, int]
    large_digits: int
    costs: tuple[BootstrapCost, ...]
    baby_steps: int = 0

    def figure(self, name: str, degree: int) -> float:
        """One of ``FIGURES``, between degrees by linear interpolation, beyond them as at the last one."""
        return float(np.interp(degree, [c.degree for c in self.costs], [float(getattr(c, name)) for c in self.costs]))

    def covers(self, degree: int) -> bool:
        """Whether the degree lies between those of the rows."""
        return self.costs[0].degree <= degree <= self.costs[-1].degree

    @property
    def shape(self) -> Shape:
        """What tells it from others."""
        return Shape.of(self)


# The fastest of each size in a sweep over level budgets and digits (``benchmarks/sweep.py`` measures them again): small
# transforms (many levels) win when there are many slots, since every diagonal of a transform is a product over all
# limbs. The rows are printed by ``benchmarks/shipped_costs.py`` from a file that ``glyphc measure`` wrote.
CONFIGURATIONS = (
    Configuration(
        64,
        (2, 2),
        2,
        (
            BootstrapCost(13, 6.77, 1.33, 5.53, 1.75e9, 2.61e9, 3.43e8, 2.52e7),
            BootstrapCost(27, 8.85, 2.04, 6.3, 1.81e9, 2.7e9, 3.56e8, 3.78e7),
            BootstrapCost(59, 8.19, 2.73, 6.21, 1.88e9, 2.79e9, 3.71e8, 4.83e7),
            BootstrapCost(119, 10.7, 4.36, 11.3, 2.71e9, 3.68e9, 3.98e8, 7.76e7, measured=False),
            BootstrapCost(247, 9.64, 5.57, 12.3, 2.92e9, 3.83e9, 4.16e8, 9.34e7),
        ),
    ),
    Configuration(
        256,
        (3, 3),
        3,
        (
            BootstrapCost(27, 11, 1.95, 15.8, 3.23e9, 4.19e9, 3.8e8, 4.51e7),
            BootstrapCost(59, 10.4, 4.25, 10.4, 3.47e9, 4.49e9, 4.09e8, 5.66e7),
        ),
    ),
    Configuration(
        2048,
        (4, 4),
        3,
        (
            BootstrapCost(27, 11.1, 2.77, 19.2, 5.16e9, 6.52e9, 4.23e8, 5.25e7, measured=False),
            BootstrapCost(59, 11.6, 4, 14.5, 5.35e9, 6.74e9, 4.38e8, 6.5e7, measured=False),
        ),
    ),
    Configuration(
        8192,
        (5, 5),
        4,
        (
            BootstrapCost(27, 12.9, 2.95, 36, 7.45e9, 9.04e9, 4.72e8, 5.98e7, measured=False),
            BootstrapCost(59, 13.1, 4.53, 21.8, 9.24e9, 1.08e10, 5.05e8, 7.34e7, measured=False),
            BootstrapCost(119, 14, 7, 30, 1.17e10, 1.35e10, 5.1e8, 1.2e8, measured=False),
        ),
    ),
    Configuration(
        32768,
        (5, 5),
        4,
        (
            BootstrapCost(13, 16.8, 3.4, 13, 4.74e9, 6.47e9, 4.19e8, 8.18e7),
            BootstrapCost(27, 20.7, 4.22, 20.5, 5.93e9, 7.59e9, 4.5e8, 1.2e8),
            BootstrapCost(59, 20.8, 7.22, 18.7, 7.36e9, 9.14e9, 4.6e8, 1.47e8, measured=False),
            BootstrapCost(119, 20.7, 10.4, 28, 1.17e10, 1.38e10, 4.84e8, 2.31e8, measured=False),
            BootstrapCost(247, 27, 17, 25, 6.34e9, 1.1e10, 5.1e8, 2.5e8, measured=False),
        ),
    ),
)


@dataclass(frozen=True)
class Machine:
    """Where and when a model was measured. cores: those the process may use; threads: OpenMP's; date: ISO 8601."""

    processor: str
    cores: int
    threads: int
    openfhe: str
    date: str

    @property
    def text(self) -> str:
        """In a few words."""
        threads = "" if self.threads == self.cores else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.cores} core{'s' if self.cores > 1 else ''}{threads} of {self.processor}"


SHIPPED_MACHINE = Machine("AMD EPYC", 2, 2, "1.6.1.0.22.4", "2026-11-25")


# Of series.
_LOWEST_DEGREE = 13
# Bytes per coefficient of a fresh BGV ciphertext (55 bits), and bytes a second of a network.
_FRESH_BYTES = 7
_UPLOAD_RATE = 12.5e6


@dataclass(frozen=True)
class CostModel:
    """Seconds and bytes of the primitives, at N = 65536; seconds scale with N log N, bytes with N.

    There may be several configurations of one size: the first one is the usual one, whose figures are meant wherever no
    other one is named (:meth:`taking`). Without arguments: the model that ships with glyphc.
    """

    product: float = 0.79e-3  # BGV ciphertext x cached plaintext, and its addition
    automorphism: float = 10.7e-3  # BGV automorphism with its addition, subtraction and shift
    switch: float = 0.019  # scheme switch, either way
    configurations: tuple[Configuration, ...] = CONFIGURATIONS  # by ascending slots, the usual one of a size first
    machine: Machine = SHIPPED_MACHINE
    slots: tuple[SlotRow, ...] = SLOT_ROWS  # CKKS in slots
    training: TrainingFigures = TRAINING_FIGURES
    level: float = 0.06  # relative cost of one more level in the bootstrapping context
    # a mask, beside one function of a bootstrap with the lowest degree: some transforms, a key switch more in OpenFHE
    mask: float = 0.04
    external: float = 0.0  # BGV ciphertext x encrypted weight; 0: two automorphisms
    engine: str = "openfhe"  # whose figures these are
    limbs: int = 1  # of a BGV ciphertext, at most
    fresh: float = 0.018  # the client's for a fresh BGV ciphertext
    baby: float = 1.0  # beside an automorphism: one of many of the same ciphertext
    giant: float = 1.0  # the same: one of many of other ciphertexts
    kernels: CostModel | None = None  # the same for the engine ``kernels``, where it was measured (``kernels_cost``)

    def encryption(self, ring: int) -> float:
        """Seconds of the client for a fresh BGV ciphertext."""
        return self.scaled(self.fresh, ring)

    def fresh_bytes(self, ring: int) -> float:
        """Bytes of a fresh BGV ciphertext as it is sent: one of its elements, the other is expanded from a seed."""
        return ring * _FRESH_BYTES

    def upload_seconds(self, size: float) -> float:
        """Seconds to send so many bytes, at 100 Mbit/s."""
        return size / _UPLOAD_RATE

    @property
    def encrypted_product(self) -> float:
        """Seconds of a BGV ciphertext x encrypted weight: two key switches, which are nearly all of an automorphism."""
        return self.external or 2 * self.automorphism

    def conjugates_seconds(self, steps: Conjugation) -> float:
        """The baby steps of sums over conjugates, for one ciphertext."""
        return self.scaled((steps.babies - 1) * self.baby * self.automorphism, steps.ring)

    def giants_seconds(self, steps: Conjugation) -> float:
        """The giant steps of one sum over conjugates, beside its products."""
        return self.scaled((steps.giants - 1) * self.giant * self.automorphism, steps.ring)

    @cached_property
    def usual(self) -> tuple[Configuration, ...]:
        """The usual configuration of each size, by ascending slots."""
        first: dict[int, Configuration] = {}
        for configuration in self.configurations:
            first.setdefault(configuration.slots, configuration)
        return tuple(first.values())

    def configuration(self, slots: int) -> Configuration:
        """The usual configuration for bootstraps of so many slots."""
        return next((c for c in self.usual if c.slots >= slots), self.usual[-1])

    def alternatives(self, slots: int) -> tuple[Configuration, ...]:
        """All configurations for bootstraps of so many slots, the usual one first."""
        size = self.configuration(slots).slots
        return tuple(c for c in self.configurations if c.slots == size)

    def taking(self, wanted: Configuration | None) -> CostModel:
        """The model with one configuration of each size, the wanted one as the usual one.

        It prices bootstraps that the wanted one serves: others are as many times dearer or cheaper than usual as these.
        None, or one that the model has no figures of, stands for the usual one.
        """
        own = next((c for c in self.configurations if wanted is not None and c.shape == wanted.shape), None)
        if own is None or own in self.usual:
            return self if len(self.usual) == len(self.configurations) else replace(self, configurations=self.usual)
        alone = calibrated(self.usual, {(own.slots, row.degree): row for row in own.costs})
        named = (replace(own, costs=c.costs) if c.slots == own.slots else c for c in alone)
        return replace(self, configurations=tuple(named))

    def powers_seconds(self, slots: int, degree: int, ring: int = REFERENCE_RING, deepest: int = 0) -> float:
        """The half of a bootstrap that all functions of its input share, in a context for degrees up to ``deepest``."""
        return self._deeper(degree, deepest) * self.scaled(self._figure("powers", slots, degree), ring)

    def evaluate_seconds(self, slots: int, degree: int, ring: int = REFERENCE_RING, deepest: int = 0) -> float:
        """One function of a bootstrap, in a context for degrees up to ``deepest``."""
        return self._deeper(degree, deepest) * self.scaled(self._figure("evaluate", slots, degree), ring)

    def mask_seconds(self, slots: int, ring: int = REFERENCE_RING) -> float:
        """What a mask adds to one function of a bootstrap, beside the level that it takes where it is no part of the
        series (see :func:`deepest`)."""
        return self.mask * self.evaluate_seconds(slots, _LOWEST_DEGREE, ring)

    def bootstrap_seconds(self, slots: int, degree: int, ring: int = REFERENCE_RING) -> float:
        """One full bootstrap with one function."""
        return self.powers_seconds(slots, degree, ring) + self.evaluate_seconds(slots, degree, ring)

    def key_bytes(self, parameters: Parameters) -> float:
        """All evaluation keys."""
        unpack = self._unpack_key_bytes(parameters, len(parameters.unpack_strides) + len(parameters.conjugates))
        return unpack + self._bytes("key_bytes", parameters, deepest(parameters, self.engine))

    def conjugate_bytes(self, parameters: Parameters) -> float:
        """Keys of sums over conjugates."""
        return self._unpack_key_bytes(parameters, len(parameters.conjugates))

    def _unpack_key_bytes(self, parameters: Parameters, keys: int) -> float:
        return 8.0 * parameters.ring * 2 * min(2 * self.limbs, parameters.sum_primes) * keys

    def ciphertext_limbs(self, parameters: Parameters) -> int:
        """Of a BGV ciphertext of a program."""
        return min(self.limbs, parameters.sum_limbs)

    def key_seconds(self, parameters: ProgramParameters) -> float:
        """Making all keys, set-up of the bootstrap included."""
        if isinstance(parameters, WordParameters):
            return word_figures.key_seconds(parameters)
        if not isinstance(parameters, Parameters) or not parameters.slots:
            return 0.5
        return self.scaled(self._figure("key_seconds", parameters.slots, parameters.degree), parameters.ring)

    def idle_bytes(self, parameters: Parameters) -> float:
        """Resident memory of a process that holds contexts and keys and no ciphertext."""
        share = parameters.ring / REFERENCE_RING
        # measured processes had the few keys of a split
        conjugates = self.conjugate_bytes(parameters)
        if not parameters.slots:
            return PROCESS_BYTES + _LINEAR_BYTES * share + conjugates
        at_reference = self._figure("idle_bytes", parameters.slots, deepest(parameters, self.engine))
        return PROCESS_BYTES + max(0.0, at_reference - PROCESS_BYTES) * share + conjugates

    def work_bytes(self, parameters: Parameters) -> float:
        """What a bootstrap takes beyond that at its peak, its own powers included."""
        return self._bytes("work_bytes", parameters, deepest(parameters, self.engine))

    def powers_bytes(self, parameters: Parameters) -> float:
        """The shared half of one bootstrap while it is kept."""
        return self._bytes("powers_bytes", parameters, parameters.degree)

    def scaled(self, seconds: float, ring: int) -> float:
        """A cost at N = 65536 for another ring dimension."""
        return float(seconds * ring * np.log2(ring) / (REFERENCE_RING * np.log2(REFERENCE_RING)))

    def _deeper(self, degree: int, deepest: int) -> float:
        """How much longer a series takes in a context that has more levels than it needs."""
        return 1 + self.level * (series_levels(max(degree, deepest)) - series_levels(degree))

    def _bytes(self, name: str, parameters: Parameters, degree: int) -> float:
        if not parameters.slots:
            return 0.0
        return self._figure(name, parameters.slots, degree) * parameters.ring / REFERENCE_RING

    def _figure(self, name: str, slots: int, degree: int) -> float:
        """At the reference degree between configurations, times what the degree adds in those that know it.

        A degree beyond all rows costs what the nearest one does. Kept: planners ask for few figures again and again.
        """
        asked = name, slots, degree
        if asked not in self._figures:
            self._figures[asked] = self._interpolated(*asked)
        return self._figures[asked]

    @cached_property
    def _figures(self) -> dict[tuple[str, int, int], float]:
        return {}

    def _interpolated(self, name: str, slots: int, degree: int) -> float:
        typical = _between(self.usual, slots, lambda c: c.figure(name, REFERENCE_DEGREE))
        degrees = [row.degree for c in self.usual for row in c.costs]
        degree = min(max(degree, min(degrees)), max(degrees))
        known = [c for c in self.usual if c.covers(degree)]
        return typical * _between(known, slots, lambda c: c.figure(name, degree) / c.figure(name, REFERENCE_DEGREE))


def _between(configurations: Sequence[Configuration], slots: int, value: Callable[[Configuration], float]) -> float:
    """A value between configurations, linear in the logarithm of the slots."""
    sizes = np.log2([c.slots for c in configurations])
    return float(np.interp(np.log2(max(slots, 1)), sizes, [value(c) for c in configurations]))


def deepest(parameters: Parameters, engine: str) -> int:
    """The degree whose series take all levels in the middle of a bootstrap, those for products in slots among them.

    A context of OpenFHE for degree 13 and a mask is one for degree 27: as deep, with keys of that size. On the kernels
    it is one for degree 13 where masks are multiplied into series.
    """
    levels = parameters.slot_levels - (parameters.folded_levels if engine == "kernels" else 0)
    if not levels:
        return parameters.degree
    return MAX_DEGREES.get(series_levels(parameters.degree) + levels, max(MAX_DEGREES.values()))


def mask_bytes(parameters: Parameters) -> int:
    """A mask in memory: plaintexts, two where bootstraps fill the ring, on the limbs of SlotsToCoeffs and one more, or
    those of the series that it is multiplied into."""
    plaintexts = 2 if 2 * parameters.slots == parameters.ring else 1
    levels = series_levels(parameters.degree) if parameters.folded_levels else 1
    return 8 * parameters.ring * plaintexts * (parameters.level_budget[1] + 1 + levels)


def split_automorphisms(parts: int, wanted: int) -> int:
    """Automorphisms of a split into ``parts`` residue classes: one for each inner node of the tree to those wanted."""
    return sum(min(1 << level, wanted) for level in range(parts.bit_length() - 1))


def calibrated(
    shipped: Sequence[Configuration], measured: Mapping[tuple[int, int], BootstrapCost]
) -> tuple[Configuration, ...]:
    """Usual configurations with measured rows, by (slots, degree); all others scaled to fit.

    A row that was not measured becomes the shipped one times measured over shipped of its own configuration, or
    between the nearest configurations. Rows that the shipped table lacks are added. ``measured`` must not be empty.
    """
    known = [c for c in shipped if any(slots == c.slots for slots, _ in measured)]
    out = []
    for configuration in shipped:
        factors = {name: _factor(known, measured, configuration.slots, name) for name in FIGURES}
        rows = {row.degree: scaled_row(row, factors) for row in configuration.costs}
        rows |= {degree: row for (slots, degree), row in measured.items() if slots == configuration.slots}
        out.append(replace(configuration, costs=tuple(rows[degree] for degree in sorted(rows))))
    return tuple(out)


def _factor(
    known: Sequence[Configuration], measured: Mapping[tuple[int, int], BootstrapCost], slots: int, name: str
) -> float:
    """Measured over shipped of one figure, between the configurations that something was measured of."""

    def ratio(configuration: Configuration) -> float:
        degrees = [degree for slots, degree in measured if slots == configuration.slots]
        degree = min(degrees, key=lambda d: abs(d - REFERENCE_DEGREE))
        row = measured[configuration.slots, degree]
        return float(getattr(row, name)) / configuration.figure(name, degree)

    return _between(known, slots, ratio)


def scaled_row(row: BootstrapCost, factors: Mapping[str, float]) -> BootstrapCost:
    """A row with each figure times its factor, by name; it no longer counts as measured."""
    return replace(row, measured=False, **{name: getattr(row, name) * factors[name] for name in FIGURES})
