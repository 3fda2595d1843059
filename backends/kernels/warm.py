"""Loads the compiled kernels, or compiles them on first use, before anything is timed: by a run of nonsense."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from glyphc.ir.galois import Conjugation
from glyphc.ir.instructions import NO_NODE, ConjugateDot, Conjugates, Polynomials
from glyphc.ir.masks import Mask
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.series import Series

from ..engine import FIRST_USE
from ..errors import BackendError
from . import selftest
from .basis import Basis, primes_below
from .bootstrap import Bootstrapper
from .ckks_linear import LinearArithmetic, LinearKernels
from .ckks_wire import KernelsWire
from .evaluator import Ciphertext, Evaluator
from .keys import WeightKeys, make_basis
from .keyswitch import SwitchingKey
from .linear import LinearAlgebra
from .linear_shape import LinearShape
from .shape import EngineShape, KeySpec
from .transforms import forward_rows

_RING = 256
_CONJUGATES = Conjugation.of(_RING, 4, 1)


def cache_folder() -> Path | None:
    """Where compiled kernels are kept: beside the code, or for the user; None where numba finds no such place."""
    path = forward_rows.stats.cache_path
    return Path(path) if path else None


def compiled() -> bool:
    """Whether this process or an earlier one has compiled them."""
    folder = cache_folder()
    return folder is not None and any(folder.glob("transforms.forward_rows-*.nbi"))


def stage_name() -> str:
    """What :func:`exercise` is going to do in this process, as a stage for whoever waits for it."""
    return "load kernels" if compiled() else FIRST_USE


def ready(stage: Callable[[str], object]) -> None:
    """For a process with keys of this engine; ``stage`` is told what is done. BackendError when it cannot be used."""
    if (problem := selftest.problem()) is not None:
        raise BackendError(f"{problem}; these keys are for the engine 'kernels' alone")
    stage(stage_name())
    exercise()


@cache
def exercise() -> None:
    """Every kernel once, on a tiny ring, with keys that are none: random numbers, and so are the results.

    The first call of a process is all that it takes: the kernels stay loaded.
    """
    random = np.random.default_rng(0)
    for slots in (_RING // 2, _RING // 8):
        shape = EngineShape(
            Parameters(
                ring=_RING,
                plaintext_bits=8,
                bgv_bits=40,
                unpack_strides=(1,),
                conjugates=_CONJUGATES.elements,
                slots=slots,
                degree=6,
                level_budget=(2, 2),
                slot_levels=1,
                security=INSECURE,
            )
        )
        basis = make_basis(shape)
        keys = _nonsense(shape.specs(), random)
        evaluator = Evaluator(shape, basis, keys)
        rows = Polynomials(np.arange(6, dtype=np.int64), np.zeros(5, dtype=np.int32), np.ones(5, dtype=np.int64))
        key = keys[shape.linear_key(1 + _RING).name]
        held = {"h": WeightKeys(((key, key),), None)}
        linear = LinearAlgebra(evaluator, {"w": rows, "c": rows}, held)
        sums = linear.dot([np.zeros((2, 2, _RING))] * 4, "w", None)
        sums = linear.encrypted_dot([linear.split(sums, 2, 1, 2)[1]], "h", sums)
        images = Conjugates((1,), 0, _CONJUGATES.parts, _CONJUGATES.stride, NO_NODE)
        both = sums, *linear.conjugates(sums, images)
        numbers = {"parts": _CONJUGATES.parts, "stride": _CONJUGATES.stride, "babies": _CONJUGATES.babies}
        sums = linear.conjugate_dot(both, ConjugateDot(2, (0, 1), "c", None, NO_NODE, **numbers), sums)
        boot = Bootstrapper(evaluator)
        powers = boot.powers(Ciphertext(linear.to_torus(sums), 1.0), 6)
        series = Series((0.1,) * 7, (0.1,) * 7, 0.45, 0.0, 0.0)
        linear.from_torus(boot.evaluate(powers, series, Mask(0)).elements)
        form = boot.slot_form(powers, series)
        boot.decoded(boot.forms.product(form, form))
        x = form[0]
        evaluator.combine([], [(x, 1)] * 4, 0, x.limbs, x.scale)
    _exercise_training(random)


def _exercise_training(random: np.random.Generator) -> None:
    """What training's linear algebra has beside that."""
    parameters = Parameters(_RING, 8, 40, linear_bits=30, linear_limbs=2, security=INSECURE)
    shape = LinearShape(parameters, tuple(islice(primes_below(30, _RING), 2)), (2,))
    basis, keys = Basis.of(_RING, shape.primes), _nonsense(shape.specs(), random)
    scales, order = (2.0**30, 2.0**30), np.arange(_RING, dtype=np.int32)
    wire = KernelsWire(_RING, shape.moduli, scales, (order,) * 2, (order,) * 2)
    x = wire.read(bytes(wire.state_size(2)), 2)
    packed = LinearKernels(LinearArithmetic(shape, basis, keys), scales).pack([x, x], 2, 1)
    wire.write(packed, 2)


def _nonsense(specs: Iterable[KeySpec], random: np.random.Generator) -> dict[str, SwitchingKey]:
    keys = {}
    for spec in specs:
        size = (2, spec.shape.digits, len(spec.shape.primes), _RING)
        keys[spec.name] = SwitchingKey(spec.shape, random.integers(-1000, 1000, size).astype(np.float64))
    return keys
