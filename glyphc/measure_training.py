"""Measures what training does beside usual bootstraps on this machine, for ``glyphc measure``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glyphc.analysis.cost import REFERENCE_RING
from glyphc.analysis.security import secured
from glyphc.analysis.training_figures import TrainingFigures, TrainingRow
from glyphc.ir.parameters import Parameters
from glyphc.measuring import fastest

# Terms of the measured sums and operands of all else, and parts of the measured unpacking.
_TERMS, _PARTS = 8, 8
# Steps that a measurement reports, and about how many seconds it takes at N = 65536.
TRAINING_STEPS = 3
TRAINING_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingJob:
    """parameters: of a training run; engine: that computes it."""

    parameters: Parameters
    engine: str


def training_job(engine: str) -> TrainingJob:
    """What to measure: as much as layers ask for, with the smallest bootstraps, whose size is measured elsewhere."""
    parameters = Parameters(
        ring=REFERENCE_RING,
        plaintext_bits=20,
        bgv_bits=44,
        slots=64,
        degree=13,
        level_budget=(2, 2),
        large_digits=2,
        levels_kept=2,
        slot_levels=2,
        linear_limbs=4,
        linear_bits=36,
        decoded_limbs=4,
    )
    return TrainingJob(secured(parameters), engine)


def measure_training(
    job: TrainingJob, observe: Callable[[str, float], None] = lambda step, seconds: None
) -> TrainingFigures:
    """Measure in this process; figures of the job's own ring, not scaled to N = 65536. BackendError from OpenFHE, or
    where the engine cannot be used."""
    import numpy as np

    from glyphc.analysis.series import fit
    from glyphc.backends.openfhe.residues import Uniform
    from glyphc.backends.openfhe.training_fresh import FreshCiphertexts

    p = job.parameters
    begun = time.perf_counter()
    client, machine, wire = _party(job)
    fresh = FreshCiphertexts(client, p.ring)
    observe("generate keys", time.perf_counter() - begun)
    begun = time.perf_counter()
    message, seed = np.random.default_rng(0).uniform(-0.2, 0.2, p.ring), os.urandom(32)

    def encrypted(limbs: int) -> Callable[[], Any]:
        data = fresh.write(message, limbs, Uniform(seed, "x"))
        return lambda: wire.read_fresh(data, limbs, Uniform(seed, "x"))

    def row(limbs: int) -> TrainingRow:
        read, read_two = encrypted(limbs), encrypted(max(limbs, 2))
        some, least = ([source() for _ in range(_TERMS)] for source in (read, read_two))
        one = _each(lambda x: machine.product([(x, x)]), least)
        product = _least((fastest(lambda: machine.product([(x, x) for x in least])) - one) / (_TERMS - 1))
        return TrainingRow(
            limbs,
            product=product,
            relinearise=_least(one - product),
            key_switch=_each(machine.reverse, some),
            rescale=_each(lambda x: machine.scaled(x, 0.3), least),
            addition=fastest(lambda: machine.sum([(x, 1) for x in (*some, some[0])])) / _TERMS,
            branch=fastest(lambda: machine.unpack(some[0], _PARTS, 1, _PARTS)) / (_PARTS - 1),
            public=_each(lambda x: machine.convolved(x, (0, 1), 1), some),
            load=fastest(read),
        )

    rows = tuple(map(row, range(1, p.linear_limbs + 1)))
    observe("products", time.perf_counter() - begun)
    begun = time.perf_counter()
    bootstrapper, series = machine._bootstrapper, fit(np.tanh, p.degree)
    source = encrypted(1)()
    powers = bootstrapper.powers(machine._to_torus(source), p.degree)
    form = bootstrapper.slot_form(powers, series)
    decoded = machine._decoded(form)
    figures = TrainingFigures(
        rows=rows,
        to_torus=fastest(lambda: machine._to_torus(source)),
        from_torus=fastest(lambda: machine._from_torus(decoded)),
        series=fastest(lambda: bootstrapper.slot_form(powers, series)),
        mask=fastest(lambda: machine.masked(form, ((p.ring, 0, p.ring // 2),))),
        slot_product=fastest(lambda: machine.slot_product(form, form)),
    )
    observe("bootstraps", time.perf_counter() - begun)
    return figures


def _party(job: TrainingJob) -> tuple[Any, Any, Any]:
    """With fresh keys: what encrypts, the machine, and the form of its ciphertexts in files."""
    if job.engine == "kernels":
        from glyphc.backends.errors import BackendError
        from glyphc.backends.kernels.ckks_machine import KernelsCKKS
        from glyphc.backends.kernels.ckks_wire import KernelsWire
        from glyphc.backends.kernels.engine import ENGINE
        from glyphc.backends.kernels.training_fresh import generate_training_keys as generate
        from glyphc.backends.kernels.warm import exercise

        if (problem := ENGINE.problem()) is not None:
            raise BackendError(problem)
        exercise()
        client, held = generate(job.parameters, (_PARTS,))
        return client, KernelsCKKS(held), KernelsWire.of(held.linear.contexts, held.linear.basis)
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS
    from glyphc.backends.openfhe.training_wire import TrainingWire

    owner, keys = generate_training_keys(job.parameters, (_PARTS,))
    return owner, OpenFHECKKS(keys), TrainingWire.of(keys)


def _each(function: Callable[[Any], Any], operands: Sequence[Any]) -> float:
    """Seconds for one of many operands, whose results are kept: as in a step, no cache holds them all."""
    return fastest(lambda: [function(x) for x in operands]) / len(operands)


def _least(seconds: float) -> float:
    """A difference of two measurements, which other work may have made negative."""
    return max(seconds, 1e-5)
