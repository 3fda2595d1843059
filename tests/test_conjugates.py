"""The instructions for sums over conjugates, on every engine: exactly what a split and a sum of products give."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from test_masks import Untold

from glyphc.analysis.estimate import peak_bytes
from glyphc.analysis.kernels_cost import KERNELS, THREADS
from glyphc.backends.base import execute
from glyphc.backends.engine import engine
from glyphc.ir.galois import Conjugation
from glyphc.ir.instructions import (
    ClientSpec,
    Code,
    ConjugateDot,
    Conjugates,
    Divide,
    Dot,
    Load,
    Polynomials,
    Schedule,
    Split,
    Store,
)
from glyphc.ir.parameters import INSECURE, Parameters

I64 = npt.NDArray[np.int64]
RING, BITS = 1024, 20
T = 1 << BITS


@dataclass(frozen=True)
class Case:
    """sources: how many ciphertexts are taken apart; total: whether the sum goes on; divided: exactly, before."""

    parts: int
    stride: int
    sources: int = 1
    total: bool = False
    divided: bool = False
    babies: int = 0

    @property
    def steps(self) -> Conjugation:
        steps = Conjugation.of(RING, self.parts, self.stride)
        return replace(steps, babies=self.babies) if self.babies else steps

    def __str__(self) -> str:
        facts = ("total" if self.total else "", "divided" if self.divided else "")
        return f"{self.parts}@{self.stride}x{self.sources}{''.join(facts)}{self.babies or ''}"


CASES = [
    Case(2, 1),
    Case(2, 512, total=True),  # every odd number is an automorphism of two values
    Case(4, 2, sources=3),
    Case(8, 128, total=True),  # and of eight
    Case(8, 4, babies=8),
    Case(16, 64, sources=2, babies=2),
    Case(32, 1, divided=True, total=True),
    Case(64, 4, sources=2),
]


def polynomials(case: Case) -> Polynomials:
    """Of all parts, some of which nobody reads, and a bias."""
    random = np.random.default_rng(case.parts)
    dense = random.integers(-5, 6, (case.parts * case.sources + 1, RING))
    dense *= random.random(dense.shape) < 0.05
    dense[random.random(len(dense)) < 0.3] = 0
    dense[-1] = random.integers(-T // 2, T // 2, RING)
    rows, exponents = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(len(dense) + 1))
    return Polynomials(offsets.astype(np.int64), exponents.astype(np.int32), dense[rows, exponents])


def conjugated(case: Case) -> Schedule:
    steps = case.steps
    code, sources, last = opened(case)
    babies: list[int] = []
    for source in sources:
        targets = tuple(range(last, last + steps.babies - 1))
        last += len(targets)
        code += (Conjugates(targets, source, case.parts, case.stride, 0),)
        babies += [source, *targets]
    total = case.sources if case.total else None
    numbers = {"parts": case.parts, "stride": case.stride, "babies": steps.babies}
    code += (ConjugateDot(last, tuple(babies), "w", total, 0, **numbers),)
    return schedule(case, (*code, Store(last, "y")), steps.elements, ())


def split(case: Case) -> Schedule:
    code, sources, last = opened(case)
    parts: list[int] = []
    for source in sources:
        targets = tuple(range(last, last + case.parts))
        last += case.parts
        code += (Split(targets, source, case.parts, case.stride, 0),)
        parts += targets
    code += (Dot(last, tuple(parts), "w", case.sources if case.total else None, 0), Store(last, "y"))
    return schedule(case, code, (), tuple(case.stride << k for k in range(case.parts.bit_length() - 1)))


def opened(case: Case) -> tuple[Code, tuple[int, ...], int]:
    """Loads all sources and a total, and divides the sources; which registers these are, and the next one."""
    count = case.sources + 1
    loads = tuple(Load(r, "x", r) for r in range(count))
    sources = tuple(range(case.sources))
    if not case.divided:
        return loads, sources, count
    divided = tuple(range(count, count + case.sources))
    return loads + tuple(Divide(t, s, case.parts, 0) for t, s in zip(divided, sources, strict=True)), divided, 2 * count


def schedule(case: Case, code: Code, conjugates: tuple[int, ...], strides: tuple[int, ...]) -> Schedule:
    parameters = Parameters(RING, BITS, 54, strides, security=INSECURE, conjugates=tuple(sorted(conjugates)))
    return Schedule(ClientSpec(parameters, (), (), 1), code, {"w": polynomials(case)})


def messages(case: Case) -> list[I64]:
    """Of the sources, whatever fits the plaintext modulus on the stride, and of the total."""
    random = np.random.default_rng(1)
    found = random.integers(-T // 2, T // 2, (case.sources + 1, RING))
    found[:-1, np.arange(RING) % case.stride != 0] = 0
    return list(found)


def results(name: str, wanted: Schedule, inputs: list[I64]) -> I64:
    with engine(name).session(wanted, Untold()) as session:
        found = execute(wanted.instructions, session.machine, {"x": [session.encrypt(m) for m in inputs]})
        return np.asarray(session.decrypt(found["y"][0]))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["clear", "simulate", "kernels", "openfhe"])
def test_it_is_what_a_split_and_a_sum_give(name: str, case: Case) -> None:
    wanted = results("clear", split(case), messages(case))
    found = results(name, conjugated(case), messages(case))
    np.testing.assert_array_equal((found - wanted) % T, 0)


@pytest.mark.parametrize("make", [conjugated, split], ids=["conjugates", "split"])
@pytest.mark.parametrize("case", [Case(4, 2, sources=3), Case(16, 4), Case(8, 16)], ids=str)
@pytest.mark.parametrize("name", ["kernels", "openfhe"])
def test_noise_between_is_simulated(name: str, case: Case, make: Callable[[Case], Schedule]) -> None:
    """Noise off the stride, so large that it shows: on the stride and between as much as automorphisms make of it."""
    wanted = make(case)
    weights = wanted.polynomials["w"]
    # half of the terms are on the stride, as all are where results stand on the grid, so less noise gets there
    kept = np.arange(len(weights.exponents)) % 2 == 0
    exponents = np.where(kept, weights.exponents // case.stride * case.stride, weights.exponents).astype(np.int32)
    wanted = replace(wanted, polynomials={"w": replace(weights, exponents=exponents)})
    noise = np.random.default_rng(2).integers(-9, 10, (case.sources + 1, RING))
    noise[:, np.arange(RING) % case.stride == 0] = 0
    exact = results("clear", wanted, list(np.zeros_like(noise)))

    def deviations(engine: str) -> tuple[float, float]:
        found = results(engine, wanted, list(noise)) - exact
        errors = (found - T * np.rint(found / T)).reshape(-1, case.stride)
        return float(errors[:, 0].std()), float(errors[:, 1:].std())

    real, simulated = deviations(name), deviations("simulate")
    # of N/s numbers and more: four times their own deviations
    assert real == pytest.approx(simulated, rel=4 / np.sqrt(2 * RING / case.stride))
    assert simulated[0] < 0.9 * simulated[1]


@pytest.mark.parametrize("name", ["clear", "kernels", "openfhe"])
def test_the_conjugates_are_images(name: str) -> None:
    """Their own definition: the source with other powers of X."""
    case = Case(16, 4)
    message = messages(case)[0]
    wanted = conjugated(case)
    (instruction,) = (i for i in wanted.instructions if isinstance(i, Conjugates))
    code = (Load(0, "x"), replace(instruction, source=0), *(Store(r, "y") for r in instruction.targets))
    with engine(name).session(wanted, Untold()) as session:
        found = execute(code, session.machine, {"x": [session.encrypt(message)]})["y"]
        images = [session.decrypt(c) for c in found]
    for g, got in zip(case.steps.baby_elements, images, strict=True):
        exponents = np.arange(RING) * g % (2 * RING)
        image = np.zeros(RING, dtype=np.int64)
        image[exponents % RING] = np.where(exponents < RING, message, -message)
        np.testing.assert_array_equal((got - image) % T, 0)


class Traced(Untold):
    """What arrays took more after each stage than before it, in bytes."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[None]:
        tracemalloc.start()
        try:
            yield
            self.held[name], _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("case", [Case(64, 4), Case(32, 1, sources=3)], ids=str)
def test_keys_and_weights_take_the_memory_that_is_predicted(case: Case) -> None:
    wanted, traced = conjugated(case), Traced()
    # the first session of a process makes what later ones have
    for stages in (Untold(), traced):
        with engine("kernels").session(wanted, stages):
            pass
    idle, parameters = replace(wanted, instructions=()), wanted.parameters
    assert isinstance(parameters, Parameters)
    keys = KERNELS.idle_bytes(parameters) - KERNELS.idle_bytes(replace(parameters, conjugates=()))
    weights = peak_bytes(idle, KERNELS) - peak_bytes(replace(idle, polynomials={}), KERNELS)
    # beside the keys there are tables of transforms
    assert traced.held["generate keys"] == pytest.approx(keys, rel=0.25)
    assert traced.held["encode weights"] == pytest.approx(weights, rel=0.05)


def test_a_program_that_takes_little_else_has_its_peak_where_weights_are_made() -> None:
    case = Case(64, 4)
    wanted = conjugated(case)
    kept = peak_bytes(replace(wanted, instructions=()), KERNELS)
    terms = int(wanted.polynomials["w"].offsets[case.parts])
    assert peak_bytes(wanted, KERNELS) - kept == pytest.approx(case.steps.encoding_bytes(terms, THREADS))
    live = sum(len(i.writes) for i in wanted.instructions) + case.steps.giants
    assert peak_bytes(wanted, KERNELS) - kept > live * 32 * RING
