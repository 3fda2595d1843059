"""Trying configurations of bootstraps side by side: what ``glyphc measure --configurations`` does.

The usual configuration of a size and its neighbours are measured one after another, and then all of them again, since
the speed of a machine varies within minutes; the fastest of each half counts. All rows stay in the model, and the
planner chooses among them for each program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from glyphc.analysis.configurations import possible
from glyphc.analysis.cost import (
    FIGURES,
    REFERENCE_DEGREE,
    BootstrapCost,
    Configuration,
    CostModel,
    Shape,
    scaled_row,
)
from glyphc.analysis.kernels_cost import shipped
from glyphc.analysis.security import MOST_KEYS
from glyphc.errors import EnvironmentSetupError, GlyphcError
from glyphc.ir.parameters import MOST_BABY_STEPS, Parameters
from glyphc.measure import Calibration, Job, Others, job_seconds, measure_job, modelled, this_machine, usual_of
from glyphc.measuring import Measurement
from glyphc.progress import Reporter

# Measurements of each configuration.
ROUNDS = 2
# One level more or fewer of one transform, or of both.
_LEVELS = ((0, -1), (-1, 0), (-1, -1), (0, 1), (1, 0), (1, 1))
# Of the kernels, which otherwise take 8; they choose the digits of each key, whatever parameters say.
_BABY_STEPS = (4, MOST_BABY_STEPS)


def neighbours(usual: Configuration, engine: str) -> tuple[Configuration, ...]:
    """What differs from a configuration in one thing, with the costs of that one: by a level of its transforms, in
    baby steps on the kernels, by a digit on OpenFHE."""
    encode, decode = usual.level_budget
    found = [replace(usual, level_budget=(encode + e, decode + d)) for e, d in _LEVELS if min(encode + e, decode + d)]
    if engine == "kernels":
        return (*found, *(replace(usual, baby_steps=b) for b in _BABY_STEPS))
    digits = (usual.large_digits - 1, usual.large_digits + 1)
    return (*found, *(replace(usual, large_digits=d) for d in digits if d))


def candidates(cost: CostModel, slots: Sequence[int] = ()) -> tuple[tuple[Job, ...], ...]:
    """For each size, or those that are named: the usual configuration, those that the model knows beside it, and all
    neighbours that keep to 128 bits and that the engine takes. GlyphcError for a size that there is not."""
    found = []
    for usual in usual_of(cost, slots):
        known = cost.alternatives(usual.slots)
        shapes = {c.shape for c in known}
        tried = (*known, *(n for n in neighbours(usual, cost.engine) if n.shape not in shapes))
        made = possible(replace(cost, configurations=tried), Job(usual, REFERENCE_DEGREE).parameters)
        found.append(tuple(Job(c, REFERENCE_DEGREE) for c in made))
    return tuple(found)


def trial_seconds(work: Sequence[Sequence[Job]], cost: CostModel) -> float:
    """How long all rounds are expected to take, if all candidates take as long as the usual ones."""
    return ROUNDS * sum(job_seconds(job, cost) for jobs in work for job in jobs)


def try_configurations(
    work: Sequence[Sequence[Job]],
    earlier: CostModel | None,
    engine: str,
    reporter: Reporter,
    keep: Callable[[CostModel], None],
) -> Calibration:
    """Measure all candidates of each size in turn, as often as ``ROUNDS`` says.

    earlier: this machine's model, whose rows are replaced or added to; without one, the shipped model is scaled to what
    the usual configurations take here. keep: is given the model after each measurement, so that nothing is lost when
    the work is interrupted. EnvironmentSetupError when nothing fits into memory.
    """
    cost = earlier or shipped(engine)
    found: dict[Job, Measurement] = {}
    skipped: dict[Job, str] = {}
    others = Others()
    model = None
    try:
        for jobs in work:
            for lap in range(1, ROUNDS + 1):
                for job in jobs:
                    # without the usual one there is nothing to compare others with
                    if job in skipped or jobs[0] in skipped:
                        continue
                    name = f"{job.name}, {job.configuration.shape.label} (round {lap} of {ROUNDS})"
                    reporter.stage(name, job_seconds(job, cost))
                    try:
                        seen = measure_job(job, cost, reporter, _more_keys(job, jobs[0], engine))
                    except MemoryError as e:
                        skipped[job] = f"{job.name}, {job.configuration.shape.label}: {e}"
                        continue
                    found[job] = faster(found[job], seen) if job in found else seen
                    model = _model(work, found, earlier, engine)
                    keep(model)
    finally:
        reporter.done()
    if model is None:
        reasons = "; ".join(skipped.values())
        raise EnvironmentSetupError(f"nothing could be measured ({reasons}); stop other programs and try again")
    return Calibration(model, tuple(skipped.values()), others.share())


def own_part(earlier: CostModel, engine: str) -> CostModel | None:
    """The part of an engine in a model of this machine; None where there is none.

    GlyphcError where it is of another machine, whose seconds say nothing here.
    """
    part = earlier.kernels if engine == "kernels" else earlier
    if part is None or part.machine == shipped(engine).machine:
        return None
    here = this_machine()
    if replace(part.machine, date="") != replace(here, date=""):
        raise GlyphcError(
            f"the file holds what {part.machine.text} takes (OpenFHE {part.machine.openfhe}), and this is {here.text} "
            f"(OpenFHE {here.openfhe}): measure the usual configurations first, without --configurations, or name "
            "another file (-o)"
        )
    return part


def faster(first: Measurement, second: Measurement) -> Measurement:
    """Of two measurements of one configuration: the seconds of the faster one, half by half, and all else of the second
    one."""
    a, b = first.cost, second.cost
    seconds = {name: min(getattr(a, name), getattr(b, name)) for name in ("powers", "evaluate", "key_seconds")}
    return replace(second, cost=replace(b, **seconds))


def with_rows(
    configurations: Sequence[Configuration], rows: Mapping[Shape, BootstrapCost]
) -> tuple[Configuration, ...]:
    """Configurations with a row each replaced or added; those that are not there come behind those of their size."""
    known = {c.shape: c for c in configurations}
    for shape, row in rows.items():
        costs = {r.degree: r for r in known[shape].costs} if shape in known else {}
        costs[row.degree] = row
        ordered = tuple(costs[degree] for degree in sorted(costs))
        known[shape] = Configuration(shape.slots, shape.level_budget, shape.large_digits, ordered, shape.baby_steps)
    return _ordered(known.values())


def carried(model: CostModel, earlier: CostModel) -> CostModel:
    """The model with those configurations of an earlier one that it lacks, scaled: as many times dearer or cheaper than
    the usual one as they were."""
    known = {c.shape for c in model.configurations}
    kept = []
    for configuration in earlier.configurations:
        if configuration.shape in known:
            continue
        before, now = earlier.configuration(configuration.slots), model.configuration(configuration.slots)
        factors = {n: now.figure(n, REFERENCE_DEGREE) / before.figure(n, REFERENCE_DEGREE) for n in FIGURES}
        kept.append(replace(configuration, costs=tuple(scaled_row(row, factors) for row in configuration.costs)))
    return replace(model, configurations=_ordered((*model.configurations, *kept)))


def _ordered(configurations: Iterable[Configuration]) -> tuple[Configuration, ...]:
    """By ascending slots, those of one size in the order that they are in."""
    return tuple(sorted(configurations, key=lambda c: c.slots))


def _model(
    work: Sequence[Sequence[Job]], found: Mapping[Job, Measurement], earlier: CostModel | None, engine: str
) -> CostModel:
    if earlier is None:
        usual = {jobs[0]: found[jobs[0]] for jobs in work if jobs[0] in found}
        earlier = modelled({(job.configuration.slots, job.degree): m for job, m in usual.items()}, shipped(engine))
    rows = {job.configuration.shape: measurement.cost for job, measurement in found.items()}
    return replace(earlier, configurations=with_rows(earlier.configurations, rows))


def _more_keys(job: Job, usual: Job, engine: str) -> float:
    """Bytes of keys that a candidate has more than the usual configuration, as far as that is known beforehand."""
    return max(0.0, _key_bytes(job.parameters, engine) - _key_bytes(usual.parameters, engine))


def _key_bytes(parameters: Parameters, engine: str) -> float:
    if engine == "kernels":
        from glyphc.backends.kernels.keyfiles import key_bytes
        from glyphc.backends.kernels.shape import EngineShape

        return key_bytes(EngineShape(parameters))
    return MOST_KEYS.get(parameters.level_budget, max(MOST_KEYS.values())) * parameters.torus_key_bytes
