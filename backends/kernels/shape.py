"""What the kernels make of a program's parameters: primes, levels, and the keys that the client has to make.

Own primes: all below 2^48. The chain is, from the bottom, q0 (where bootstraps begin), primes that are kept after a
bootstrap (training), the levels of SlotsToCoeffs, of products in slots, of the series and the exponential, of
CoeffsToSlots. BGV sums are kept modulo q0, where parameters say that this is enough, or modulo q0 times one prime
more: then a scheme switch is a division by that prime, or a product with it. One list of auxiliary primes serves all
keys; each key takes as many as its digits need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from math import ceil, log2

from glyphc.ir.parameters import (
    MAX_LOG_QP_SPARSE,
    MAX_LOG_QP_UNIFORM,
    MOST_LINEAR_LIMBS,
    SUM_PRIME_BITS,
    Parameters,
)

from ..errors import BackendError
from .basis import SMALLEST_RING, primes_below
from .keyswitch import KeyShape
from .slots import Level, transform

# Bits of q0, of the BGV prime and the auxiliary primes; of levels of SlotsToCoeffs; of the other levels.
WIDE_BITS, DECODING_BITS, LEVEL_BITS = SUM_PRIME_BITS, 36, 40
# Scale of the diagonals of CoeffsToSlots, at least: a phase is a small part of what they are multiplied with.
DIAGONAL_BITS = 37
# OpenFHE does not see these moduli, so they are checked here.
LARGEST_MODULUS = MAX_LOG_QP_SPARSE
# Of training's linear context, whose primes OpenFHE chooses near that size; auxiliary primes are larger.
LARGEST_LINEAR_BITS = 46
# The sparse secret of the modulus raise: its weight, and how often a phase may wrap around: beyond that with a
# probability of 2^-78 per coefficient, 2^-62 for 65,536 of them (the sum of 33 uniform numbers; docs/security.md).
SPARSE_WEIGHT, WRAPS = 32, 14
# The exponential: a Chebyshev series of this degree, and so many squarings. It errs by 2^-27 after these, 2^-30 of a
# turn, far below the noise of phases in secure rings. Three degrees more would take a product more for as many levels.
EXPONENTIAL_DEGREE, EXPONENTIAL_LEVELS, SQUARINGS = 27, 5, 3
# P exceeds a digit by about so many bits.
MARGIN = 4
# Baby steps of a level, where parameters leave them to the kernels.
_BABIES = 8
# One decomposition serves so many terms of the trace: more would take more keys than time.
_TRACE_RADIX = 4
# Of a transform: a level of so many stages has some 2^9 diagonals of all slots each, gigabytes beyond that.
_MOST_STAGES = 8
# A conversion reads at most 15 primes, one of which may be the dropped level's.
_MOST_SOURCES = 14
# Raised whenever keys in files would be misread: another evaluation order, another way to expand seeds.
KEY_FORMAT = 1
# One digit alone does not pay beyond this size: it takes as many auxiliary primes.
_LARGEST_DIGIT = 480


@dataclass(frozen=True)
class KeySpec:
    """One switching key. source, target: "s", "s^2", "sparse", or for the automorphism g "s(X^g)"."""

    name: str
    source: str
    target: str
    shape: KeyShape


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """One level of a transform, by baby and giant steps; offsets in units of the level's stride.

    limbs: before the level. shape: of its keys.
    """

    level: Level
    limbs: int
    shape: KeyShape
    babies: tuple[int, ...]
    giants: tuple[int, ...]


def series_depth(degree: int, masked: bool = False) -> int:
    """Levels of a polynomial of this degree: 2^levels - 2 is the highest, or a degree less with a mask (see
    :mod:`.polynomials`)."""
    return max(2, (degree + 1 + masked).bit_length())


@dataclass(frozen=True)
class EngineShape:
    """See the module. automorphism indices: X -> X^g."""

    parameters: Parameters

    @property
    def n(self) -> int:
        return self.parameters.ring

    @property
    def packed_fully(self) -> bool:
        return self.parameters.slots == self.n // 2

    @property
    def encoding_levels(self) -> int:
        return self._levels(self.parameters.level_budget[0])

    @property
    def decoding_levels(self) -> int:
        return self._levels(self.parameters.level_budget[1])

    def _levels(self, budget: int) -> int:
        """Of a transform: no more than it has stages, where parameters may ask for more (``check_powers``)."""
        stages = self.parameters.slots.bit_length() - 1
        return min(budget, max(1, stages)) if self.parameters.linear_limbs else budget

    @cached_property
    def chain_bits(self) -> tuple[int, ...]:
        if not self.parameters.slots:
            return (WIDE_BITS,)
        middle = (
            series_depth(self.parameters.degree, self.masks_fold) + EXPONENTIAL_LEVELS + SQUARINGS + self.slot_levels
        )
        decoding, encoding = [DECODING_BITS] * self.decoding_levels, [self._encoding_bits] * self.encoding_levels
        return (*[WIDE_BITS] * self.result_limbs, *decoding, *[LEVEL_BITS] * middle, *encoding)

    @property
    def _encoding_bits(self) -> int:
        """Of the levels of CoeffsToSlots, which bring the scale down from that of raised coefficients, equally.

        Their primes are as much larger than those that follow as keeps the diagonals precise.
        """
        raised = WIDE_BITS + log2(WRAPS * self.summed)
        down = (raised - (LEVEL_BITS - 1)) / self.encoding_levels
        return min(WIDE_BITS, max(LEVEL_BITS, ceil(DIAGONAL_BITS + down)))

    @property
    def summed(self) -> int:
        """How many images the trace adds up: 1 where all slots are used."""
        return self.n // 2 // self.parameters.slots

    @property
    def limbs(self) -> int:
        """Primes of the whole chain."""
        return len(self.chain_bits)

    @property
    def linear(self) -> tuple[int, ...]:
        """The primes of BGV sums, as indices into the basis: q0 and perhaps one of its own."""
        return (0,) if self.parameters.sum_limbs == 1 else (0, self.limbs)

    @property
    def _first_auxiliary(self) -> int:
        """Where auxiliary primes begin in the basis: behind the chain and the prime of BGV sums."""
        return self.limbs + len(self.linear) - 1

    @property
    def _auxiliary(self) -> int:
        """How many auxiliary primes there are."""
        return max(2, *(len(self.key_shape(limbs).special) for limbs in range(1, self.limbs + 1)))

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The basis: the chain, the prime of BGV sums if they have one, the auxiliary primes."""
        bits = (*self.chain_bits, *[WIDE_BITS] * (len(self.linear) - 1 + self._auxiliary))
        sources = {b: primes_below(b, self.n) for b in set(bits)}
        return tuple(next(sources[b]) for b in bits)

    @property
    def modulus_bits(self) -> float:
        """log2 of the largest modulus that a key is for. Keys of encrypted weights have the form of BGV sums'."""
        shapes = {self.linear_shape, *(spec.shape for spec in self.specs())}
        return max(sum(log2(self.primes[p]) for p in shape.primes) for shape in shapes)

    def key_shape(self, limbs: int) -> KeyShape:
        """Of keys for the lowest ``limbs`` primes of the chain: as few digits as fit."""
        bits = self.chain_bits[:limbs]
        for digits in range(1, limbs + 1):
            each = -(-limbs // digits)
            largest = max(sum(bits[at : at + each]) for at in range(0, limbs, each))
            special = -(-(largest + MARGIN) // WIDE_BITS)
            fits = sum(bits) + special * WIDE_BITS <= LARGEST_MODULUS
            if fits and max(special, each) <= _MOST_SOURCES and (digits > 1 or largest <= _LARGEST_DIGIT):
                break
        first = self._first_auxiliary
        return KeyShape(tuple(range(limbs)), each, tuple(range(first, first + special)))

    @property
    def linear_shape(self) -> KeyShape:
        """Of keys for BGV sums: one digit."""
        limbs, first = len(self.linear), self._first_auxiliary
        special = range(first, first + self.parameters.sum_primes - limbs)
        return KeyShape(self.linear, limbs, tuple(special))

    @property
    def sparse_shape(self) -> KeyShape:
        """Of the key into the sparse secret."""
        return KeyShape((0,), 1, (self._first_auxiliary,))

    # -- where a bootstrap stands --

    @property
    def encoded_limbs(self) -> int:
        """After CoeffsToSlots."""
        return self.limbs - self.encoding_levels

    @property
    def exponential_limbs(self) -> int:
        """After the exponential."""
        return self.encoded_limbs - EXPONENTIAL_LEVELS - SQUARINGS

    @property
    def form_limbs(self) -> int:
        """After the series, where values in slots are multiplied."""
        return self.slot_limbs + self.slot_levels

    @property
    def masks_fold(self) -> bool:
        """Whether masks are multiplied into series, or else take a level."""
        return self.parameters.folded_levels > 0

    @property
    def slot_levels(self) -> int:
        """Of products of values in slots."""
        return self.parameters.slot_levels - self.parameters.folded_levels

    @property
    def slot_limbs(self) -> int:
        """Before SlotsToCoeffs."""
        return self.result_limbs + self.decoding_levels

    @property
    def result_limbs(self) -> int:
        """After a bootstrap."""
        return 1 + self.parameters.levels_kept

    @cached_property
    def encoding(self) -> tuple[LevelPlan, ...]:
        """The levels of CoeffsToSlots."""
        levels = transform(self.parameters.slots, self.encoding_levels, back=True)
        return tuple(self._plan(level, self.limbs - i) for i, level in enumerate(levels))

    @cached_property
    def decoding(self) -> tuple[LevelPlan, ...]:
        """The levels of SlotsToCoeffs."""
        levels = transform(self.parameters.slots, self.decoding_levels, back=False)
        return tuple(self._plan(level, self.slot_limbs - i) for i, level in enumerate(levels))

    def _plan(self, level: Level, limbs: int) -> LevelPlan:
        offsets = sorted(level.diagonals)
        lowest, count = offsets[0], offsets[-1] - offsets[0] + 1
        babies = min(count, self.parameters.baby_steps or _BABIES)
        giants = range(0, count, babies)
        shape = self.key_shape(limbs)
        return LevelPlan(level, limbs, shape, tuple(range(lowest, lowest + babies)), tuple(giants))

    @cached_property
    def relinearisation_limbs(self) -> tuple[int, ...]:
        """For how many limbs there is a key for products; one serves all smaller numbers down to the next."""
        top, bottom = self.encoded_limbs, self.slot_limbs + 1
        middle = (top + bottom) // 2
        return tuple(sorted({top, middle}, reverse=True))

    def relinearisation(self, limbs: int) -> int:
        """The key for a product on so many limbs, by its own number of limbs."""
        return min(k for k in self.relinearisation_limbs if k >= limbs)

    @cached_property
    def trace(self) -> tuple[tuple[int, ...], ...]:
        """Groups of rotations whose images are added before CoeffsToSlots of fewer than N/2 slots.

        Each group makes the sum four times as large; the last one may double it.
        """
        groups, at = [], self.parameters.slots
        while at < self.n // 2:
            radix = min(_TRACE_RADIX, self.n // 2 // at)
            groups.append(tuple(at * j for j in range(1, radix)))
            at *= radix
        return tuple(groups)

    def rotation(self, steps: int) -> int:
        """The automorphism that rotates slots by so many steps."""
        return pow(5, steps % (self.n // 2), 2 * self.n)

    def automorphism_key(self, index: int, shape: KeyShape) -> KeySpec:
        """X -> X^index: switches from s to s(X^(1/index)), after which the automorphism leads back to s."""
        inverse = inverse_automorphism(index, self.n)
        return KeySpec(f"automorphism-{index}-{len(shape.chain)}", "s", f"s(X^{inverse})", shape)

    def specs(self) -> Iterator[KeySpec]:
        """All switching keys of a program."""
        found: dict[str, KeySpec] = {}
        for spec in self._specs():
            found.setdefault(spec.name, spec)
        yield from found.values()

    def linear_key(self, index: int) -> KeySpec:
        """The automorphism X -> X^index of BGV sums."""
        spec = self.automorphism_key(index, self.linear_shape)
        return KeySpec(f"linear-{index}", spec.source, spec.target, spec.shape)

    def baby_keys(self, plan: LevelPlan) -> tuple[str, ...]:
        """The names of the keys of a level's baby steps, in their order."""
        steps = (b * plan.level.stride for b in plan.babies if b)
        return tuple(self.automorphism_key(self.rotation(s), plan.shape).name for s in steps)

    def _specs(self) -> Iterator[KeySpec]:
        for stride in self.parameters.unpack_strides:
            yield self.linear_key(1 + self.n // stride)
        for index in self.parameters.conjugates:
            yield self.linear_key(index)
        if not self.parameters.slots:
            return
        top = self.key_shape(self.limbs)
        yield KeySpec("sparse", "s", "sparse", self.sparse_shape)
        yield KeySpec("dense", "sparse", "s", top)
        for steps in chain.from_iterable(self.trace):
            yield self.automorphism_key(self.rotation(steps), top)
        for plan in (*self.encoding, *self.decoding):
            for steps in (*plan.babies, *plan.giants):
                if steps:
                    yield self.automorphism_key(self.rotation(steps * plan.level.stride), plan.shape)
        for limbs in (self.encoded_limbs, self.form_limbs):
            yield self.automorphism_key(2 * self.n - 1, self.key_shape(limbs))
        for limbs in self.relinearisation_limbs:
            yield KeySpec(f"multiplication-{limbs}", "s^2", "s", self.key_shape(limbs))
        if not self.packed_fully:
            yield self.automorphism_key(self.rotation(self.parameters.slots), self.key_shape(self.result_limbs))


def inverse_automorphism(index: int, n: int) -> int:
    """Of X -> X^index."""
    return pow(index, -1, 2 * n)


def check_shape(shape: EngineShape) -> None:
    """BackendError for what :func:`shape_problem` finds."""
    refuse(shape_problem(shape))


def refuse(problem: str | None) -> None:
    """BackendError for a problem, if there is one."""
    if problem is not None:
        raise BackendError(f"the engine 'kernels' does not take this program: {problem}; use --engine openfhe")


def shape_problem(shape: EngineShape) -> str | None:
    """In a sentence: a modulus is too large for 128 bits, which OpenFHE does not see, or levels are missing."""
    parameters = shape.parameters
    if parameters.levels_kept and not parameters.linear_limbs:
        return "it keeps levels after a bootstrap in training alone"
    if parameters.linear_bits > LARGEST_LINEAR_BITS:
        return f"its products have primes of up to {LARGEST_LINEAR_BITS} bits, not {parameters.linear_bits}"
    if parameters.linear_limbs > MOST_LINEAR_LIMBS:
        return f"its products have up to {MOST_LINEAR_LIMBS} limbs, not {parameters.linear_limbs}"
    problem = levels_problem(shape)
    if problem is not None:
        return problem
    limit = largest_modulus(shape.n, sparse=parameters.slots > 0)
    if not parameters.secure or shape.modulus_bits <= limit:
        return None
    return (
        f"its keys would have a modulus of 2^{shape.modulus_bits:.0f}, where ring dimension {shape.n} is known to "
        f"give 128 bits of security {f'up to 2^{limit:.0f}' if limit else 'with none'}"
    )


@lru_cache(maxsize=64)
def parameters_problem(parameters: Parameters) -> str | None:
    """What :func:`shape_problem` finds of them. Kept, as every compilation asks it of the same typical program: the
    answer takes the diagonals of its transforms, longer than a small network takes to be compiled."""
    return shape_problem(EngineShape(parameters))


def levels_problem(shape: EngineShape) -> str | None:
    """In a sentence: transforms that are not possible, or of gigabytes. To be asked before a shape's keys are."""
    parameters = shape.parameters
    if shape.n < SMALLEST_RING:
        return f"its smallest ring dimension is {SMALLEST_RING}, not {shape.n}"
    stages = parameters.slots.bit_length() - 1
    budget = shape.encoding_levels, shape.decoding_levels
    if parameters.slots and not -(-stages // _MOST_STAGES) <= min(budget) <= max(budget) <= stages:
        return f"transforms of {parameters.slots} slots in {budget[0]} and {budget[1]} levels are not possible"
    return None


def largest_modulus(n: int, sparse: bool) -> int:
    """The bound in bits; 0 where none is known. sparse: with the secret of bootstraps, else a uniform ternary one.

    That of ``analysis.security.modulus_limit``.
    """
    bounds = {65536: LARGEST_MODULUS}
    return (bounds if sparse else MAX_LOG_QP_UNIFORM | bounds).get(n, 0)
