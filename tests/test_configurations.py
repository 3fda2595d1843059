"""Several configurations of bootstraps of one size: which one a program gets, and that every engine executes it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cost_models import DEGREES, SIZES, growing_models, large, small
from hypothesis import given
from hypothesis import strategies as st
from pass_networks import mlp
from test_passes_layout import mlp as dense

import glyphc
from glyphc.analysis.configurations import Way, cheapest, configured, possible, priced
from glyphc.analysis.cost import FIGURES, REFERENCE_DEGREE, BootstrapCost, Configuration, CostModel, Shape
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import KERNELS, for_engine
from glyphc.analysis.security import is_secure, largest_modulus
from glyphc.backends import processors
from glyphc.backends.kernels.keyfiles import fingerprint, key_bytes
from glyphc.backends.kernels.shape import EngineShape
from glyphc.cli import main
from glyphc.constraints import Constraints
from glyphc.diagnostics import predicted
from glyphc.errors import ParameterError
from glyphc.ir.ops import Bootstrap
from glyphc.ir.parameters import MOST_BABY_STEPS, Parameters
from glyphc.passes.base import MEMORY, Context
from glyphc.passes.select_parameters import SelectParameters
from glyphc.program import Program
from glyphc.reasons import why
from glyphc.runtime import run

SAMPLES = np.random.default_rng(8).normal(size=(100, 2, 3))


# -- the choice --

ways = st.builds(
    Way,
    configuration=st.just(CostModel().configurations[0]),
    parameters=st.just(small()),
    seconds=st.sampled_from([1.0, 2.0, 3.0]),
    memory_bytes=st.sampled_from([1e9, 2e9, 3e9]),
    beyond=st.sampled_from(["", "more than there is"]),
)


@given(st.lists(ways, min_size=1, max_size=6))
def test_the_fastest_that_fits_is_taken(offered: list[Way]) -> None:
    best = cheapest(offered)
    fitting = [w for w in offered if w.fits]
    if not fitting:
        assert best.memory_bytes == min(w.memory_bytes for w in offered)
        return
    assert best in fitting
    assert all(best.seconds <= w.seconds for w in fitting)
    ties = [w for w in fitting if w.seconds == best.seconds]
    assert all(best.memory_bytes <= w.memory_bytes for w in ties)
    assert best is next(w for w in ties if w.memory_bytes == best.memory_bytes)


def test_there_is_nothing_to_choose_among_none() -> None:
    with pytest.raises(ValueError, match="empty"):
        cheapest([])


# -- the model --


def row(figure: float, degree: int = REFERENCE_DEGREE) -> BootstrapCost:
    return BootstrapCost(degree, *[figure] * len(FIGURES))


def beside(cost: CostModel, *others: Configuration) -> CostModel:
    """The model with more configurations, each behind those of its size."""
    return replace(cost, configurations=tuple(sorted((*cost.configurations, *others), key=lambda c: c.slots)))


@given(growing_models(), st.sampled_from(SIZES), st.floats(0.1, 10), st.integers(1, 32768), st.sampled_from(DEGREES))
def test_another_configuration_is_as_many_times_dearer_wherever_it_serves(
    cost: CostModel, size: int, factor: float, slots: int, degree: int
) -> None:
    usual = cost.configuration(size)
    other = replace(usual, large_digits=7, costs=tuple(scaled_row(r, factor) for r in usual.costs[:2]))
    model = beside(cost, other)
    assert model.configuration(slots) == cost.configuration(slots)
    assert model.powers_seconds(slots, degree) == cost.powers_seconds(slots, degree)
    assert model.taking(None) == model.taking(usual) == cost
    taken = model.taking(other)
    assert taken.configuration(size).shape == other.shape
    assert taken.powers_seconds(slots, degree) == pytest.approx(factor * cost.powers_seconds(slots, degree))
    assert taken.evaluate_seconds(size, degree) == pytest.approx(factor * cost.evaluate_seconds(size, degree))
    assert taken.key_bytes(large(size)) == pytest.approx(factor * cost.key_bytes(large(size)))


def scaled_row(one: BootstrapCost, factor: float) -> BootstrapCost:
    return replace(one, **{name: factor * getattr(one, name) for name in FIGURES})


def test_measured_rows_of_another_configuration_are_predicted_as_they_are() -> None:
    other = Configuration(64, (3, 2), 2, (row(5.0), row(8.0, 59)))
    taken = beside(CostModel(), other).taking(other)
    assert taken.powers_seconds(64, 27) == pytest.approx(5.0)
    assert taken.evaluate_seconds(64, 59) == pytest.approx(8.0)
    # what the model knows nothing of is the usual one
    assert CostModel().taking(other) == CostModel()


@given(st.sampled_from(SIZES), st.sampled_from(DEGREES), st.data())
def test_others_keep_their_levels_within_128_bits(size: int, degree: int, data: st.DataObject) -> None:
    level, digits = st.integers(1, 6), st.integers(1, 8)
    shapes = data.draw(st.lists(st.tuples(level, level, digits, st.integers(0, MOST_BABY_STEPS)), max_size=4))
    others = [Configuration(size, (e, d), digits, (row(1.0),), babies) for e, d, digits, babies in shapes]
    model = beside(CostModel(), *others)
    wanted = replace(large(size, degree), unpack_strides=(1, 2))
    usual, *found = possible(model, wanted).items()
    assert usual == (model.configuration(size), configured(wanted, model.configuration(size)))
    for configuration, parameters in found:
        assert is_secure(parameters)
        assert parameters.modulus_bits <= largest_modulus(parameters.ring)
        assert parameters.level_budget == configuration.level_budget
        assert parameters.large_digits >= configuration.large_digits
        assert replace(parameters, level_budget=(3, 3), large_digits=3, baby_steps=0) == wanted
    assert len({p for _, p in found} | {usual[1]}) == len(found) + 1


def test_a_program_is_priced_by_the_configuration_that_it_has() -> None:
    other = replace(CostModel().configuration(64), level_budget=(3, 2))
    model = beside(CostModel(), replace(other, costs=tuple(scaled_row(r, 2.0) for r in other.costs)))
    wanted = large(64)
    usual, found = possible(model, wanted).values()
    assert priced(model, usual) == CostModel()
    assert priced(model, found).powers_seconds(64, 27) == pytest.approx(2 * CostModel().powers_seconds(64, 27))
    # of no configuration that the model knows
    assert priced(model, replace(usual, level_budget=(1, 3))) == CostModel()
    linear = Parameters(ring=65536, plaintext_bits=27, bgv_bits=55)
    assert len(possible(model, linear)) == 1
    assert priced(model, linear).key_bytes(linear) == CostModel().key_bytes(linear)


def test_a_price_is_not_that_of_a_configuration_without_security() -> None:
    """One whose levels 128-bit security lowers becomes what another one is; figures are those of the other one."""
    lowered, kept = Configuration(64, (4, 3), 4, (row(50.0),)), Configuration(64, (3, 3), 4, (row(2.0),))
    model, found = beside(CostModel(), lowered, kept), configured(large(64), kept)
    assert configured(large(64), lowered) == found
    assert lowered not in possible(model, large(64))
    assert priced(model, found).powers_seconds(64, REFERENCE_DEGREE) == pytest.approx(2.0)


def test_what_the_kernels_refuse_is_not_offered_to_their_programs() -> None:
    flat = Configuration(8192, (1, 1), 4, (row(1e-3),))
    assert flat not in possible(beside(KERNELS, flat), large(8192)), "a single level of 13 stages"
    assert flat in possible(beside(CostModel(), flat), large(8192))


# -- programs --

FAST, SMALL = (3, 2), (1, 2)
FEWER = 3  # baby steps of the small one


@lru_cache(maxsize=2)
def model(babies: int = FEWER) -> CostModel:
    """Every size with two more: one is faster and takes much memory, one slower and takes little."""

    def more(configurations: tuple[Configuration, ...]) -> list[Configuration]:
        return [
            replace(c, level_budget=budget, baby_steps=steps, costs=tuple(changed(r, *factors) for r in c.costs))
            for c in configurations
            for budget, steps, factors in ((FAST, 0, (0.25, 4.0)), (SMALL, babies, (2.0, 0.25)))
        ]

    def changed(r: BootstrapCost, seconds: float, memory: float) -> BootstrapCost:
        bytes_ = {name: memory * getattr(r, name) for name in ("key_bytes", "idle_bytes", "work_bytes")}
        return replace(r, powers=seconds * r.powers, evaluate=seconds * r.evaluate, **bytes_)

    kernels = beside(KERNELS, *more(KERNELS.configurations))
    return replace(beside(CostModel(), *more(CostModel().configurations)), kernels=kernels)


def compiled(memory: float | None = None, cost: CostModel | None = None) -> Program:
    return glyphc.compile(
        mlp(), SAMPLES, 4, insecure_ring=1024, cost=cost or model(), strategy="glyph", memory=memory, tolerance=5.0
    )


def test_memory_decides_among_configurations() -> None:
    fast = compiled()
    assert fast.client.parameters.level_budget == FAST
    needed = predicted(fast, model()).memory_bytes
    usual = compiled(cost=CostModel())
    assert usual.client.parameters.level_budget == (2, 2)
    assert replace(fast.client.parameters, level_budget=(2, 2)) == usual.client.parameters
    between = predicted(usual, CostModel()).memory_bytes
    assert between < needed
    assert compiled(needed).client.parameters.level_budget == FAST
    assert compiled(needed - 1).client.parameters.level_budget == (2, 2)
    least = compiled(between - 1)
    assert least.client.parameters.level_budget == SMALL
    assert predicted(least, model()).seconds > predicted(usual, model()).seconds > predicted(fast, model()).seconds
    with pytest.raises(
        ParameterError, match=r"predicted to take .* GB of memory, one sample at a time, more than 0\.10 GB; allow more"
    ):
        compiled(0.1e9)


def test_why_shows_the_runners_up() -> None:
    program = compiled()
    node = next(n for n, _ in program.graph.of(Bootstrap))
    text = why(node)
    assert "select-parameters chose transforms 3+2, 2 digits" in text
    rows = {line[2:].split(",")[0]: line for line in text.splitlines() if "GB at the peak, keys" in line}
    assert set(rows) == {"transforms 2+2", "transforms 3+2", "transforms 1+2"}
    assert [name for name, line in rows.items() if line.startswith("*")] == ["transforms 3+2"]
    assert f"{estimate(program.schedule, for_engine(model(), 'kernels')).seconds:.3g}" in rows["transforms 3+2"]
    taken = predicted(program, model()).memory_bytes
    node = next(n for n, _ in compiled(taken - 1).graph.of(Bootstrap))
    most = f"{taken / 1e9:.2f} GB"
    assert f"{most} on the engine kernels, more than the {most} that a run may take there (--memory)" in why(node)
    # and one configuration is no choice
    node = next(n for n, _ in compiled(cost=CostModel()).graph.of(Bootstrap))
    assert "transforms" not in why(node)


def test_a_layout_is_not_named_after_a_configuration_that_it_may_not_get() -> None:
    """Layouts are priced in one; which one a program gets is known later."""
    for program in (compiled(), compiled(predicted(compiled(cost=CostModel()), CostModel()).memory_bytes - 1)):
        node = next(n for n, _ in program.graph.of(Bootstrap))
        (layout,) = (d for d in node.decisions if d.made_by == "assign-layout")
        assert not any("transforms" in c.name for c in layout.candidates)
        assert all("priced with transforms" in c.reason for c in layout.candidates)
        assert [c.name for c in layout.candidates].count(layout.chosen) == 1
        (selected,) = (d for d in node.decisions if d.chosen.startswith("transforms"))
        assert selected.chosen == Shape.of(program.client.parameters).label


def test_the_limit_holds_for_what_threads_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held against the limit is what a run here is predicted to take, and what is printed."""
    x = np.random.default_rng(1).normal(size=(64, 8))
    program = glyphc.compile(dense(8, 64, 16), x, 64, insecure_ring=1024, cost=CostModel(), strategy="glyph")
    assert program.client.parameters.conjugates
    monkeypatch.setattr(processors, "_threads", 2)
    limit = Constraints(memory_bytes=predicted(program, CostModel()).memory_bytes)
    assert not limit.broken(program, CostModel())
    monkeypatch.setattr(processors, "_threads", 8)
    assert "of memory, more than" in limit.broken(program, CostModel())
    assert predicted(program, CostModel(), "openfhe") == estimate(program.schedule, CostModel(), threads=0)


def test_every_engine_has_the_usual_room_at_least() -> None:
    context = Context(engine="kernels", memory=1e9)
    assert context.limit("kernels") == 1e9
    assert context.limit("openfhe") == context.room == Context().limit("kernels") == MEMORY
    assert replace(context, memory=40e9).limit("openfhe") == 40e9


def test_what_fits_nowhere_is_said() -> None:
    """A run may take more than it should where nobody said what it may; the least is taken, and a warning says so."""
    graph, context = compiled().stages["assign-budget"], Context(cost=model(), memory=1.0)
    made = SelectParameters(security="insecure").run(graph, context)
    assert made.parameters is not None
    assert made.parameters.level_budget == SMALL
    warnings = {d.warning for n, _ in made.of(Bootstrap) for d in n.decisions}
    assert any("no configuration of its bootstraps fits: transforms 1+2, 2 digits" in w for w in warnings)
    assert any("more than the 0.00 GB that a run may take there (--memory)" in w for w in warnings)


def test_keys_of_other_baby_steps_are_other_keys() -> None:
    """So client and server have to agree on them; fewer baby steps of three stages take fewer keys."""
    wanted = configured(large(32768), KERNELS.configuration(32768))
    every = [replace(wanted, baby_steps=babies) for babies in (4, 0, MOST_BABY_STEPS)]
    assert len({fingerprint(p) for p in every}) == 3
    sizes = [key_bytes(EngineShape(p)) for p in every]
    assert sizes == sorted(set(sizes))
    assert fingerprint(replace(wanted, baby_steps=8)) == fingerprint(wanted)


@pytest.mark.parametrize("engine", ["openfhe", "kernels"])
@pytest.mark.parametrize(("budget", "babies"), [(FAST, 0), (SMALL, FEWER), (SMALL, MOST_BABY_STEPS)])
def test_both_engines_execute_what_was_chosen(engine: str, budget: tuple[int, int], babies: int) -> None:
    most = None if budget == FAST else predicted(compiled(cost=CostModel()), CostModel()).memory_bytes - 1
    program = Program.from_bytes(compiled(most, model(babies or FEWER)).to_bytes())
    assert program.client.parameters.level_budget == budget
    assert program.client.parameters.baby_steps == babies
    x = SAMPLES[:4]
    (clear,), (simulated,) = (run(program, x, mode).outputs.values() for mode in ("clear", "simulate"))
    report = run(program, x, "encrypted", engine=engine)
    (encrypted,) = report.outputs.values()
    assert report.engine == engine
    span = np.ptp(clear)
    noise = float(np.abs(simulated - clear).max() / span)
    assert float(np.abs(encrypted - clear).max() / span) < 1.5 * noise + 1e-3


def test_inspect_shows_what_was_chosen(tmp_path: Path) -> None:
    compiled().save(tmp_path / "program.glyphc")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "program.glyphc"), "--why", "tanh"])
    assert shown.exit_code == 0, shown.output
    assert "* transforms 3+2, 2 digits" in shown.output
    assert "  transforms 2+2, 2 digits" in shown.output
