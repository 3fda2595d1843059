"""Trying configurations side by side (on a small ring, insecure, for speed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from cost_models import MACHINE, shipped_row, small
from hypothesis import given
from hypothesis import strategies as st

from glyphc import free_memory, measure_configurations
from glyphc.analysis import cost_file
from glyphc.analysis.configurations import configured
from glyphc.analysis.cost import (
    CONFIGURATIONS,
    FIGURES,
    REFERENCE_DEGREE,
    BootstrapCost,
    Configuration,
    CostModel,
    Shape,
    calibrated,
)
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.analysis.security import is_secure
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.cli import main
from glyphc.cost_report import cost_text
from glyphc.errors import EnvironmentSetupError, GlyphcError
from glyphc.measure import Job, this_machine
from glyphc.measure_configurations import (
    candidates,
    carried,
    faster,
    neighbours,
    own_part,
    try_configurations,
    with_rows,
)
from glyphc.measuring import Measurement
from glyphc.progress import Silent

# -- what is tried --


@pytest.mark.parametrize("cost", [CostModel(), KERNELS], ids=["openfhe", "kernels"])
def test_candidates_are_secure_neighbours_behind_the_usual_one(cost: CostModel) -> None:
    for usual, jobs in zip(cost.usual, candidates(cost), strict=True):
        first, *others = jobs
        assert first.configuration == usual
        assert others
        for job in others:
            assert job.degree == REFERENCE_DEGREE
            assert is_secure(job.parameters)
            assert job.parameters.level_budget == job.configuration.level_budget
            steps = [abs(a - b) for a, b in zip(job.configuration.level_budget, usual.level_budget, strict=True)]
            digits = abs(job.configuration.large_digits - usual.large_digits)
            assert max(*steps, digits, bool(job.configuration.baby_steps)) == 1
        assert len({job.parameters for job in jobs}) == len(jobs)
        if cost.engine == "kernels":
            assert {job.configuration.large_digits for job in jobs} == {usual.large_digits}
            assert {job.configuration.baby_steps for job in jobs} == {0, 4, 15}
    assert [jobs[0].configuration.slots for jobs in candidates(cost, [256])] == [256]


def test_what_the_model_knows_is_tried_again() -> None:
    known = Configuration(64, (4, 3), 2, (shipped_row(64),))
    cost = replace(CostModel(), configurations=(CONFIGURATIONS[0], known, *CONFIGURATIONS[1:]))
    (jobs,) = candidates(cost, [64])
    assert [job.configuration for job in jobs[:2]] == [CONFIGURATIONS[0], known]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_neighbours_have_levels_and_digits(encode: int, decode: int, digits: int) -> None:
    found = neighbours(Configuration(64, (encode, decode), digits, ()), "openfhe")
    assert all(min(*c.level_budget, c.large_digits) >= 1 for c in found)
    assert len(set(found)) == len(found)


# -- what becomes of it --


def test_rows_are_replaced_or_added_behind_those_of_their_size() -> None:
    new, again = shipped_row(64, factor=2.0), shipped_row(256, factor=3.0)
    usual = CONFIGURATIONS[1]
    found = with_rows(CONFIGURATIONS, {Shape(64, (3, 2), 2): new, usual.shape: again})
    assert [c.shape for c in found[:3]] == [CONFIGURATIONS[0].shape, Shape(64, (3, 2), 2), usual.shape]
    assert found[0] == CONFIGURATIONS[0]
    assert found[1].costs == (new,)
    assert found[2].costs == (again, *usual.costs[1:])
    assert found[3:] == CONFIGURATIONS[2:]


def test_the_faster_of_two_measurements_counts_half_by_half() -> None:
    def measurement(powers: float, evaluate: float, keys: float) -> Measurement:
        return Measurement(BootstrapCost(27, powers, evaluate, keys, 1.0, 2.0, 3.0, 4.0), 1.0, 1.0, 1.0)

    found = faster(measurement(5.0, 1.0, 9.0), measurement(4.0, 2.0, 8.0)).cost
    assert (found.powers, found.evaluate, found.key_seconds) == (4.0, 1.0, 8.0)


@given(st.floats(0.1, 10))
def test_measured_anew_the_usual_ones_carry_the_others(factor: float) -> None:
    other = replace(CONFIGURATIONS[0], level_budget=(3, 2), costs=(shipped_row(64, factor=2.0),))
    earlier = replace(CostModel(), configurations=(CONFIGURATIONS[0], other, *CONFIGURATIONS[1:]))
    measured = calibrated(CONFIGURATIONS, {(64, 27): shipped_row(64, factor=factor)})
    found = carried(CostModel(configurations=measured), earlier)
    assert found.usual == measured
    usual, kept = found.alternatives(64)
    assert kept.shape == other.shape
    for name in FIGURES:
        assert kept.figure(name, 27) == pytest.approx(2 * usual.figure(name, 27))
    assert not any(row.measured for row in kept.costs)
    assert carried(found, earlier) == found


def test_a_part_of_another_machine_is_not_added_to() -> None:
    assert own_part(CostModel(), "openfhe") is None
    assert own_part(CostModel(product=2.0), "kernels") is None
    here = CostModel(machine=replace(this_machine(), date="2030-01-01"))
    assert own_part(here, "openfhe") == here
    with pytest.raises(GlyphcError, match=r"3 cores, 2 threads of a processor.*without --configurations"):
        own_part(CostModel(machine=MACHINE), "openfhe")


# -- measuring --


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All measurements on a small ring, of each size's usual configuration and one neighbour."""

    def parameters(job: Job) -> object:
        return configured(small(min(job.configuration.slots, 512), sums=True), job.configuration)

    def here(work: Callable[..., object], *arguments: object, errors: object, observe: object) -> object:
        """In this process: how it goes in one of its own is tested with the usual configurations."""
        try:
            return work(*arguments, observe)
        finally:
            release_all_keys()

    monkeypatch.setattr("glyphc.measure.apart", here)
    monkeypatch.setattr(Job, "parameters", property(parameters))
    every = neighbours
    monkeypatch.setattr(measure_configurations, "neighbours", lambda usual, engine: every(usual, engine)[-1:])


class Recorder(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: float) -> None:
        self.stages.append(name)


@pytest.mark.usefixtures("small_jobs")
@pytest.mark.parametrize(
    ("engine", "other"), [("openfhe", "2+2, 3 digits"), ("kernels", "2+2, 2 digits, 15 baby steps")]
)
def test_candidates_are_measured_in_turn_and_all_are_kept(engine: str, other: str) -> None:
    recorder, models = Recorder(), []
    shipped = KERNELS if engine == "kernels" else CostModel()
    result = try_configurations(candidates(shipped, [64]), None, engine, recorder, models.append)
    names = [f"64 slots, degree 27, transforms {shape}" for shape in ("2+2, 2 digits", other)]
    assert recorder.stages == [f"{name} (round {lap} of 2)" for lap in (1, 2) for name in names]
    assert len(models) == 4
    assert result.model == models[-1]
    assert result.skipped == ()
    usual, found = result.model.alternatives(64)
    assert f"transforms {other}" == found.shape.label
    for configuration, lap in ((usual, 0), (found, 1)):
        (row,) = [r for r in configuration.costs if r.measured]
        (before,) = [
            r for c in models[lap].alternatives(64) if c.shape == configuration.shape for r in c.costs if r.measured
        ]
        assert row.powers <= before.powers
        assert row.evaluate <= before.evaluate
    assert result.model.machine == this_machine()
    assert result.model.usual[1].costs[0].powers != shipped.usual[1].costs[0].powers, "scaled"
    text = cost_text(result.model, "a file")
    assert text.count("fastest") == 1


@pytest.mark.usefixtures("small_jobs")
def test_the_command_adds_to_the_file_and_an_interruption_keeps_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Silent):
        begun = 0

        def stage(self, name: str, total: float) -> None:
            Interrupted.begun += 1
            if Interrupted.begun == 3:
                raise KeyboardInterrupt

    path = tmp_path / "cost.json"
    own = replace(KERNELS, product=2.0, machine=this_machine())
    cost_file.save(path, CostModel(switch=3.0, kernels=own))
    monkeypatch.setattr("glyphc.console.reporter", Interrupted)
    arguments = ["measure", "--configurations", "--engine", "kernels", "--slots", "64", "-o", str(path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 130, result.output
    assert f"what was measured until then is in {path}" in result.output
    model = cost_file.load(path)
    assert model.switch == 3.0
    assert model.kernels is not None
    assert model.kernels.product == 2.0
    assert [c.baby_steps for c in model.kernels.alternatives(64)] == [0, 15]
    assert [c.shape for c in model.kernels.usual] == [c.shape for c in KERNELS.usual]
    assert model.kernels.usual[1:] == KERNELS.usual[1:], "what is of this machine is left as it is"
    path.unlink()
    Interrupted.begun = 2
    nothing = CliRunner().invoke(main, arguments)
    assert nothing.exit_code == 130
    assert "nothing was written" in nothing.output
    assert not path.exists()


@pytest.mark.usefixtures("small_jobs")
def test_without_memory_for_the_usual_one_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available_bytes", lambda: 0.0)
    kept: list[CostModel] = []
    with pytest.raises(
        EnvironmentSetupError, match=r"nothing could be measured \(64 slots, degree 27, transforms 2\+2"
    ):
        try_configurations(candidates(CostModel(), [64]), None, "openfhe", Recorder(), kept.append)
    assert not kept
