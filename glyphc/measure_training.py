"""Measures what training does beside usual bootstraps on this machine, for ``glyphc measure``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from glyphc.analysis.cost import REFERENCE_RING
from glyphc.analysis.security import secured
from glyphc.analysis.training_figures import TrainingFigures, TrainingRow
from glyphc.ir.parameters import Parameters
from glyphc.measuring import fastest

# Terms of the measured sums, and parts of the measured unpacking.
_TERMS, _PARTS = 8, 8
# Steps that a measurement reports, and about how many seconds it takes at N = 65536.
TRAINING_STEPS = 3
TRAINING_SECONDS = 40.0


@dataclass(frozen=True)
class TrainingJob:
    """parameters: of a training run."""

    parameters: Parameters


def training_job() -> TrainingJob:
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
    return TrainingJob(secured(parameters))


def measure_training(
    job: TrainingJob, observe: Callable[[str, float], None] = lambda step, seconds: None
) -> TrainingFigures:
    """Measure in this process; figures of the job's own ring, not scaled to N = 65536. BackendError from OpenFHE."""
    import numpy as np

    from glyphc.analysis.series import fit
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS
    from glyphc.backends.openfhe.residues import Uniform
    from glyphc.backends.openfhe.training_fresh import FreshCiphertexts
    from glyphc.backends.openfhe.training_wire import TrainingWire

    p = job.parameters
    begun = time.perf_counter()
    client, keys = generate_training_keys(p, (_PARTS,))
    machine, wire, fresh = OpenFHECKKS(keys), TrainingWire.of(keys), FreshCiphertexts(client, p.ring)
    observe("generate keys", time.perf_counter() - begun)
    begun = time.perf_counter()
    message, seed = np.random.default_rng(0).uniform(-0.2, 0.2, p.ring), os.urandom(32)

    def row(limbs: int) -> TrainingRow:
        x = client.encrypt(message, limbs)
        data = fresh.write(message, limbs, Uniform(seed, "x"))
        one = fastest(lambda: machine.product([(x, x)]))
        several = fastest(lambda: machine.product([(x, x)] * _TERMS))
        key_switch = fastest(lambda: machine.reverse(x))
        unpacked = fastest(lambda: machine.unpack(x, _PARTS, 1, _PARTS)) / (_PARTS - 1)
        return TrainingRow(
            limbs,
            product=_least((several - one) / (_TERMS - 1)),
            key_switch=key_switch,
            rescale=fastest(lambda: machine.scaled(x, 0.3)),
            addition=fastest(lambda: machine.sum([(x, 1)] * (_TERMS + 1))) / _TERMS,
            shift=_least(unpacked - key_switch),
            public=fastest(lambda: machine.convolved(x, (0, 1), 1)),
            load=fastest(lambda: wire.read_fresh(data, limbs, Uniform(seed, "x"))),
        )

    rows = tuple(map(row, range(2, p.linear_limbs + 1)))
    observe("products", time.perf_counter() - begun)
    begun = time.perf_counter()
    bootstrapper, series = machine._bootstrapper, fit(np.tanh, p.degree)
    source = client.encrypt(message, 1)
    powers = bootstrapper.powers(machine._to_torus(source), p.degree)
    form = bootstrapper.slot_form(powers, series)
    spare = p.depth - form.GetLevel() - p.levels_kept - p.level_budget[1]
    decoded = bootstrapper.decoded(form, spare)
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


def _least(seconds: float) -> float:
    """A difference of two measurements, which other work may have made negative."""
    return max(seconds, 1e-5)
