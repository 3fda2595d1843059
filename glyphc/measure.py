"""Measuring the cost model on this machine: what ``glyphc measure`` does.

Each configuration of the bootstrap is measured in a process of its own, since the system tells only one peak memory
per process, and since OpenFHE's keys take gigabytes.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from glyphc import free_memory
from glyphc.analysis.configurations import configured
from glyphc.analysis.cost import (
    REFERENCE_DEGREE,
    REFERENCE_RING,
    Configuration,
    CostModel,
    Machine,
    calibrated,
)
from glyphc.analysis.kernels_cost import shipped
from glyphc.analysis.security import is_secure
from glyphc.analysis.slot_figures import SlotRow
from glyphc.analysis.training_figures import TrainingFigures
from glyphc.backends.processes import apart
from glyphc.errors import EnvironmentSetupError, GlyphcError
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.measure_kernels import measure_kernels
from glyphc.measure_slots import SLOT_STEPS, SlotMeasurement, measure_kernel_slots, measure_slots
from glyphc.measure_training import TRAINING_STEPS, TrainingJob, measure_training
from glyphc.measuring import (
    BOOTSTRAPS,
    FACTORS,
    PARTS,
    SUM_WEIGHTS,
    SUMS,
    SWITCHES,
    Measurement,
    Observer,
    bootstrap_cost,
    clock,
    step_seconds,
    sum_steps,
)
from glyphc.progress import Reporter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from glyphc.backends.openfhe.client import ClientKeys
    from glyphc.backends.openfhe.keys import EvaluationKeys

# Degrees that are measured in every configuration; the smallest and the largest one show how all others compare.
_COMMON_DEGREES = (REFERENCE_DEGREE, 59)
# Room that a measurement needs beyond its predicted peak, e.g. for the primitives' operands.
_RESERVE_BYTES = 0.3e9


@dataclass(frozen=True)
class Job:
    """One process: a configuration and the degree of its series."""

    configuration: Configuration
    degree: int

    @property
    def name(self) -> str:
        return f"{self.configuration.slots} slots, degree {self.degree}"

    @property
    def parameters(self) -> Parameters:
        """What the compiler would choose for a program of that many slots and that degree."""
        wanted = Parameters(
            ring=REFERENCE_RING,
            plaintext_bits=27,
            bgv_bits=55,
            unpack_strides=tuple(1 << level for level in range(PARTS.bit_length() - 1)),
            slots=self.configuration.slots,
            degree=self.degree,
            conjugates=tuple(sorted(sum_steps(REFERENCE_RING).elements)),
        )
        return configured(wanted, self.configuration)


@dataclass(frozen=True)
class Calibration:
    """A model for this machine, and what could not be measured for want of memory, with the reasons.

    disturbance: the share of all processors' time that other work took meanwhile.
    """

    model: CostModel
    skipped: tuple[str, ...]
    disturbance: float


def jobs(cost: CostModel, slots: Sequence[int] = (), quick: bool = False) -> tuple[Job, ...]:
    """What to measure: all usual configurations at the usual degrees, the smallest and the largest at every secure one.

    slots: only configurations of these sizes. quick: at the reference degree only and, unless ``slots`` names others,
    the smallest and the largest configuration only. GlyphcError for a size that no configuration has.
    """
    chosen = usual_of(cost, slots)
    ends = (chosen[0], chosen[-1])
    if quick:
        return tuple(Job(c, REFERENCE_DEGREE) for c in chosen if slots or c in ends)
    degrees = sorted({row.degree for c in cost.usual for row in c.costs})
    every = [Job(c, d) for c in chosen for d in degrees if c in ends or d in _COMMON_DEGREES]
    return tuple(job for job in every if is_secure(job.parameters))


def usual_of(cost: CostModel, slots: Sequence[int] = ()) -> tuple[Configuration, ...]:
    """The usual configurations of these sizes, or of all. GlyphcError for a size that no configuration has."""
    sizes = [c.slots for c in cost.usual]
    for wanted in slots:
        if wanted not in sizes:
            known = ", ".join(map(str, sizes))
            raise GlyphcError(f"no configuration has {wanted} slots; configurations: {known}")
    return tuple(c for c in cost.usual if not slots or c.slots in slots)


def job_seconds(job: Job, cost: CostModel) -> float:
    """How long a measurement is expected to take."""
    return cost.key_seconds(job.parameters) + BOOTSTRAPS * cost.bootstrap_seconds(job.configuration.slots, job.degree)


def calibrate(
    work: Sequence[Job],
    cost: CostModel,
    reporter: Reporter,
    slots: Sequence[SlotParameters] = (),
    training: TrainingJob | None = None,
) -> Calibration:
    """Measure and make a model of it. ``cost``: of the engine to measure; it predicts how long and large the work is.

    slots, training: what to measure of numbers in slots, and of training. What is not measured is scaled from the model
    that ships with glyphc.
    GlyphcError when no measurement fits into memory or glyphc cannot run OpenFHE. Safe to interrupt: the process at
    work is ended, nothing is kept.
    """
    found: dict[tuple[int, int], Measurement] = {}
    skipped: list[str] = []
    others = Others()
    try:
        for number, job in enumerate(work, 1):
            reporter.stage(f"{job.name} ({number} of {len(work)})", job_seconds(job, cost))
            try:
                found[job.configuration.slots, job.degree] = measure_job(job, cost, reporter)
            except MemoryError as e:
                skipped.append(f"{job.name}: {e}")
        rows = _measure_slots(slots, cost.engine, reporter)
        figures = _measure_training(training, cost, reporter, skipped) if training else None
    finally:
        reporter.done()
    if not found:
        raise EnvironmentSetupError(
            f"nothing could be measured ({'; '.join(skipped)}); stop other programs and try again"
        )
    model = modelled(found, shipped(cost.engine))
    model = replace(model, slots=rows or model.slots, training=figures or model.training)
    return Calibration(model, tuple(skipped), others.share())


def _measure_slots(work: Sequence[SlotParameters], engine: str, reporter: Reporter) -> tuple[SlotRow, ...]:
    rows: list[SlotRow] = []
    for parameters in work:
        reporter.stage(f"numbers in slots, N = {parameters.ring}", SLOT_STEPS)
        found = measure_apart(parameters, lambda step, seconds: reporter.advance(1, step), engine)
        assert isinstance(found, SlotMeasurement)
        rows += found.rows
    return tuple(rows)


def _measure_training(
    job: TrainingJob, cost: CostModel, reporter: Reporter, skipped: list[str]
) -> TrainingFigures | None:
    reporter.stage("training", TRAINING_STEPS)
    try:
        _check_memory(job.parameters, cost)
        found = measure_apart(job, lambda step, seconds: reporter.advance(1, step))
    except MemoryError as e:
        skipped.append(f"training: {e}")
        return None
    assert isinstance(found, TrainingFigures)
    return found


def measure_job(job: Job, cost: CostModel, reporter: Reporter, more: float = 0.0) -> Measurement:
    """One job, in a process of its own. MemoryError where there is not enough for it.

    cost: predicts seconds and memory. more: bytes that it takes beyond that.
    """
    _check_memory(job.parameters, cost, more)
    predicted = _step_seconds(job, cost)
    found = measure_apart(
        job.parameters, lambda step, seconds: reporter.advance(predicted.get(step, 0.0), step), cost.engine
    )
    assert isinstance(found, Measurement)
    return found


def modelled(found: Mapping[tuple[int, int], Measurement], shipped: CostModel) -> CostModel:
    """The shipped model with what was measured of its usual configurations, by (slots, degree), and the rest scaled."""
    rows = {key: measurement.cost for key, measurement in found.items()}
    return replace(
        shipped,
        product=statistics.median(m.product for m in found.values()),
        automorphism=statistics.median(m.automorphism for m in found.values()),
        switch=statistics.median(m.switch for m in found.values()),
        external=statistics.median(m.external for m in found.values()),
        baby=statistics.median(m.baby for m in found.values()),
        giant=statistics.median(m.giant for m in found.values()),
        configurations=calibrated(shipped.usual, rows),
        machine=this_machine(),
    )


def _check_memory(parameters: Parameters, cost: CostModel, more: float = 0.0) -> None:
    """MemoryError before the work rather than have the system kill something."""
    needed = cost.idle_bytes(parameters) + cost.work_bytes(parameters) + more + _RESERVE_BYTES
    available = free_memory.available_bytes()
    if needed > available:
        raise MemoryError(f"needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available")


def _step_seconds(job: Job, cost: CostModel) -> dict[str, float]:
    """Predicted seconds of the steps that :func:`measure` reports."""
    seconds = {"generate keys": cost.key_seconds(job.parameters)}
    for lap in range(1, BOOTSTRAPS + 1):
        seconds[f"bootstrap {lap}"] = cost.bootstrap_seconds(job.configuration.slots, job.degree)
    return seconds


# -- a process of its own --


Work = Parameters | SlotParameters | TrainingJob
Found = Measurement | SlotMeasurement | TrainingFigures


def measure_apart(work: Work, observe: Observer, engine: str = "openfhe") -> Found:
    """:func:`measure`, or what there is for slots, for training and for the engine ``kernels``, in a new process.

    MemoryError when it runs out of memory, EnvironmentSetupError when OpenFHE is missing or refuses, RuntimeError when
    it ends in any other way (a bug; its traceback is on stderr).
    """
    return apart(_measured, work, engine, errors=EnvironmentSetupError, observe=observe)


def _measured(work: Work, engine: str, observe: Observer) -> Found:
    # also says that OpenFHE cannot be loaded
    from glyphc.backends.errors import BackendError

    try:
        if isinstance(work, SlotParameters):
            return (measure_kernel_slots if engine == "kernels" else measure_slots)(work, observe)
        if isinstance(work, TrainingJob):
            return measure_training(work, observe)
        return (measure_kernels if engine == "kernels" else measure)(work, observe)
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None


# -- the work itself --


def measure(parameters: Parameters, observe: Observer = lambda step, seconds: None) -> Measurement:
    """Measure in this process, which must be fresh for the memory figures to mean anything. BackendError from OpenFHE.

    The figures are of these parameters' ring, not scaled to N = 65536.
    """
    import numpy as np

    from glyphc.analysis.series import fit
    from glyphc.backends.openfhe.bootstrap import Bootstrapper
    from glyphc.backends.openfhe.client import generate_keys
    from glyphc.backends.openfhe.keys import bootstrap_key_bytes
    from glyphc.backends.openfhe.switch import Switcher

    # the series costs the same whatever the function
    series = fit(lambda x: np.tanh(8 * x) / 4, parameters.degree)
    with clock() as making:
        client, keys = generate_keys(parameters)
    observe("generate keys", making.seconds)
    edge = parameters.plaintext_modulus // 4
    message = np.random.default_rng(0).integers(-edge, edge, parameters.ring)
    ciphertext = client.encrypt(message)
    torus = Switcher(keys).to_torus(ciphertext, parameters.slots)
    bootstrapper = Bootstrapper(keys.contexts.torus, keys.contexts.torus_ring, parameters)
    made = making.seconds, bootstrap_key_bytes(keys)
    held = CostModel().conjugate_bytes(parameters)
    cost = bootstrap_cost(bootstrapper, torus, parameters.degree, series, made, held, observe)
    product, automorphism, baby, giant = _linear_seconds(client, keys, message)
    switch = _switch_seconds(keys, ciphertext)
    return Measurement(cost, product, automorphism, switch, baby=baby / automorphism, giant=giant / automorphism)


def _linear_seconds(
    client: ClientKeys, keys: EvaluationKeys, message: npt.NDArray[np.int64]
) -> tuple[float, float, float, float]:
    """Of one product with its addition, of one automorphism of an unpacking with what belongs to it, and of a baby and
    a giant step of a sum over conjugates."""
    import numpy as np

    from glyphc.backends.openfhe.linear import LinearEngine
    from glyphc.ir.instructions import Polynomials

    rows = FACTORS + 1
    weights = Polynomials(np.arange(rows + 1), np.arange(rows, dtype=np.int32), np.arange(1, rows + 1))
    engine = LinearEngine(keys, {"weights": weights, SUMS: SUM_WEIGHTS})
    engine.prepare("weights")
    sources = [client.encrypt(message) for _ in range(FACTORS)]
    # once each beforehand, for what is made only at the first use
    total = engine.dot(sources, "weights")
    engine.split(total, PARTS, 1, PARTS)
    with clock() as dot:
        engine.dot(sources, "weights")
    with clock() as split:
        engine.split(total, PARTS, 1, PARTS)
    product = dot.seconds / rows
    return product, split.seconds / (PARTS - 1), *step_seconds(engine, total, len(message), product)


def _switch_seconds(keys: EvaluationKeys, ciphertext: Any) -> float:
    """Of one scheme switch, either way: both are the same arithmetic."""
    from glyphc.backends.openfhe.switch import Switcher

    switcher = Switcher(keys)
    slots = keys.contexts.parameters.slots
    switcher.from_torus(switcher.to_torus(ciphertext, slots))
    with clock() as there_and_back:
        for _ in range(SWITCHES):
            switcher.from_torus(switcher.to_torus(ciphertext, slots))
    return there_and_back.seconds / (2 * SWITCHES)


# -- the machine --


class Others:
    """How busy other programs keep the processors while this one and its children work."""

    def __init__(self) -> None:
        self._start = self._now()

    def share(self) -> float:
        """Of all processors' time since the beginning."""
        wall, all_busy, own = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return max(0.0, (all_busy - own) / (wall * (psutil.cpu_count() or 1)))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: wall clock, busy over all processors, of this process and its ended children."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        busy = sum(times[:8]) - idle  # what follows, guests, is counted in the first ones already
        own = sum(os.times()[:4])
        return time.perf_counter(), busy, own


def this_machine() -> Machine:
    """Facts about this machine and process, as of today."""
    cores = len(os.sched_getaffinity(0))
    return Machine(
        processor=_processor(),
        cores=cores,
        threads=_threads(cores),
        openfhe=_openfhe_version(),
        date=datetime.date.today().isoformat(),
    )


def _threads(cores: int) -> int:
    """Of OpenMP, which reads a list of numbers by nesting level."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cores


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _openfhe_version() -> str:
    try:
        return importlib.metadata.version("openfhe")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
