"""Measuring costs (on small rings, insecure, for speed)."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cost_models import DEGREES, MACHINE, SIZES, N, large, small

from glyphc import free_memory, measure_slots
from glyphc.analysis import cost_file
from glyphc.analysis.cost import (
    FIGURES,
    CostModel,
    Machine,
)
from glyphc.analysis.kernels_cost import for_engine, shipped
from glyphc.analysis.security import largest_modulus, secured
from glyphc.analysis.slot_figures import FIGURES as SLOT_FIGURES
from glyphc.backends.kernels import selftest
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.backends.openfhe.slot_client import generate_slot_keys
from glyphc.cli import main
from glyphc.cost_report import cost_text
from glyphc.errors import EnvironmentSetupError, GlyphcError
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.measure import Job, calibrate, job_seconds, jobs, measure, measure_apart, this_machine
from glyphc.measure_kernels import measure_kernels
from glyphc.measuring import Measurement
from glyphc.progress import Silent

SMALL_SLOTS = SlotParameters(1024, 7, 28, 32, 3, INSECURE)


@pytest.fixture(autouse=True)
def contexts() -> Iterator[None]:
    """A process that measures ends then; OpenFHE would give its context to others that differ in digits alone."""
    yield
    release_all_keys()


# -- measuring --


def test_jobs_cover_what_the_model_needs() -> None:
    cost = CostModel()
    all_jobs = jobs(cost)
    assert {(j.configuration.slots, j.degree) for j in all_jobs} >= {(s, d) for s in SIZES for d in (27, 59)}
    assert {j.degree for j in all_jobs if j.configuration.slots == SIZES[0]} == set(DEGREES)
    for job in all_jobs:
        assert job.parameters.secure
        assert job.parameters.modulus_bits <= largest_modulus(N)
        assert job_seconds(job, cost) > 0
    quick = jobs(cost, quick=True)
    assert [(j.configuration.slots, j.degree) for j in quick] == [(SIZES[0], 27), (SIZES[-1], 27)]
    assert {j.configuration.slots for j in jobs(cost, [256])} == {256}
    assert [j.configuration.slots for j in jobs(cost, [256, 2048], quick=True)] == [256, 2048]
    with pytest.raises(GlyphcError, match="no configuration has 5 slots; configurations: 64"):
        jobs(cost, [5])


def test_digits_are_added_for_security_only_as_needed() -> None:
    parameters = replace(large(degree=59), level_budget=(5, 5), large_digits=4)
    found = secured(parameters)
    assert found.modulus_bits <= largest_modulus(N) < parameters.modulus_bits
    assert replace(found, large_digits=4) == parameters
    assert secured(found) == found
    assert secured(small()) == small()


def check(measurement: Measurement) -> None:
    for value in (measurement.product, measurement.automorphism, measurement.switch):
        assert 0 < value < 10
    assert min(measurement.baby, measurement.giant) > 0
    assert max(measurement.baby, measurement.giant) < 20
    cost = measurement.cost
    assert all(getattr(cost, name) > 0 for name in FIGURES)
    assert cost.measured
    assert cost.powers_bytes <= cost.work_bytes


@pytest.mark.parametrize("slots", [32, 512])
def test_measuring_a_small_ring(slots: int) -> None:
    steps: list[str] = []
    measurement = measure(small(slots, sums=True), lambda step, seconds: steps.append(step))
    check(measurement)
    assert steps == ["generate keys", "bootstrap 1", "bootstrap 2"]
    # keys are polynomials over at least all levels and two parts, one for each digit
    levels = small(slots).depth + 1
    assert measurement.cost.key_bytes > 10 * 2 * 3 * levels * 8 * 1024


def test_measuring_numbers_in_slots() -> None:
    """Three numbers of limbs; what works on all of them takes longer on more."""
    steps: list[str] = []
    found = measure_slots.measure_slots(SMALL_SLOTS, lambda step, seconds: steps.append(step))
    assert steps == ["2 limbs", "5 limbs", "8 limbs"]
    assert [(row.ring, row.limbs) for row in found.rows] == [(1024, 2), (1024, 5), (1024, 8)]
    assert all(0 < getattr(row, name) < 1 for row in found.rows for name in SLOT_FIGURES)


@pytest.mark.parametrize("dropped", [0, 3])
def test_encryption_is_measured_on_the_limbs_of_its_row(dropped: int) -> None:
    client, _ = generate_slot_keys(SMALL_SLOTS)
    message = np.random.default_rng(0).uniform(-1, 1, SMALL_SLOTS.slots)
    fresh = client.encrypt(message, dropped)
    assert fresh.GetLevel() == dropped
    np.testing.assert_allclose(client.decrypt(fresh), message, atol=1e-3)


def test_calibration_measures_numbers_in_slots() -> None:
    work = jobs(CostModel(), [64], quick=True)[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "parameters", property(lambda self: small(64, sums=True)))
        model = calibrate(work, CostModel(), Silent(), (SMALL_SLOTS,)).model
    assert {(row.ring, row.limbs) for row in model.slots} == {(1024, 2), (1024, 5), (1024, 8)}
    assert cost_file.from_json(cost_file.to_json(model).encode()) == model


def test_measuring_the_kernels() -> None:
    measurement = measure_kernels(small(sums=True))
    check(measurement)
    assert 0 < measurement.external < 1


@pytest.mark.usefixtures("small_jobs")
def test_each_engine_has_its_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    cost_file.save(path, CostModel(product=1.5))
    result = CliRunner().invoke(main, ["measure", "--quick", "--slots", "64", "-o", str(path)])
    assert result.exit_code == 0, result.output
    assert "engine kernels" in result.output
    assert "come from" not in result.output, "predictions are for this engine"
    found = cost_file.load(path)
    assert found.product == 1.5
    assert found.kernels is not None
    kernels = for_engine(found, "kernels")
    assert (kernels.engine, kernels.limbs) == ("kernels", 2)
    assert kernels.configurations[0].costs[1].measured
    assert for_engine(CostModel(), "kernels").configurations == shipped("kernels").configurations


def test_parameters_that_openfhe_refuses() -> None:
    """In a process of its own: behind a refusal OpenFHE refuses all other contexts of CKKS, too."""
    refused = replace(small(), security=large().security)
    with pytest.raises(EnvironmentSetupError, match="refuses"):
        measure_apart(refused, lambda step, seconds: None)


class Killed(Parameters):
    """The system ends the process that looks at these."""

    @property
    def secure(self) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False


class Exhausting(Parameters):
    """These need more memory than there is."""

    @property
    def secure(self) -> bool:
        raise MemoryError


@pytest.mark.parametrize(("kind", "reason"), [(Killed, "killed"), (Exhausting, "out of memory")])
def test_a_process_without_memory_is_told_apart(kind: type[Parameters], reason: str) -> None:
    fields = {name: getattr(small(), name) for name in Parameters.__dataclass_fields__}
    # not made here: only the new process may look at it
    parameters = object.__new__(kind)
    parameters.__dict__.update(fields)
    with pytest.raises(MemoryError, match=reason):
        measure_apart(parameters, lambda step, seconds: None)


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All measurements on a small ring."""
    monkeypatch.setattr(Job, "parameters", property(lambda self: small(min(self.configuration.slots, 512), sums=True)))
    monkeypatch.setattr(measure_slots, "slot_jobs", lambda: (SMALL_SLOTS,))
    yield
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("small_jobs")
def test_calibration_measures_scales_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder(Silent):
        stages: list[str] = []  # noqa: RUF012
        advanced = 0.0

        def stage(self, name: str, total: float) -> None:
            self.stages.append(name)
            assert total > 0

        def advance(self, amount: float, what: str = "") -> None:
            self.advanced += amount

    recorder = Recorder()
    work = jobs(CostModel(), quick=True)
    result = calibrate(work, CostModel(), recorder)
    assert recorder.stages == ["64 slots, degree 27 (1 of 2)", "32768 slots, degree 27 (2 of 2)"]
    assert recorder.advanced == pytest.approx(sum(job_seconds(job, CostModel()) for job in work))
    assert result.skipped == ()
    assert 0 <= result.disturbance <= 1
    model = result.model
    assert model.machine == this_machine()
    assert model.product != CostModel().product
    measured = {(c.slots, row.degree) for c in model.configurations for row in c.costs if row.measured}
    assert measured == {(64, 27), (32768, 27)}
    assert cost_file.from_json(cost_file.to_json(model).encode()) == model
    text = cost_text(model, "a file")
    assert "a file" in text
    assert text.count("scaled") == len([row for c in model.configurations for row in c.costs]) - 2


@pytest.mark.usefixtures("small_jobs")
def test_what_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    available = CostModel().idle_bytes(small(64)) + CostModel().work_bytes(small(64)) + 0.31e9

    monkeypatch.setattr(free_memory, "available_bytes", lambda: available)
    first, last = jobs(CostModel(), quick=True)
    result = calibrate((first, last), CostModel(), Silent())
    assert len(result.skipped) == 1
    assert result.skipped[0].startswith("32768 slots, degree 27: needs about")
    available = 0
    with pytest.raises(EnvironmentSetupError, match="nothing could be measured"):
        calibrate((first, last), CostModel(), Silent())


@pytest.mark.usefixtures("small_jobs")
def test_the_command_writes_what_is_then_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    shown = run(main, ["measure", "--show"])
    assert shown.exit_code == 0
    assert "ships with glyphc" in shown.output
    result = run(main, ["measure", "--quick", "--slots", "64", "--engine", "openfhe"])
    assert result.exit_code == 0, result.output
    assert "predictions for the engine 'kernels' come from 'glyphc measure'" in result.output
    path = home / ".config" / "glyphc" / "cost.json"
    assert f"wrote {path}\n" in result.output
    assert [p.name for p in path.parent.iterdir()] == ["cost.json"]
    assert cost_file.current().machine == this_machine()
    assert str(path) in run(main, ["measure", "--show"]).output
    path.write_text("damaged")
    assert run(main, ["measure", "--show"]).exit_code == 2


@pytest.mark.usefixtures("small_jobs")
def test_an_interrupted_command_writes_nothing_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Silent):
        def advance(self, amount: float, what: str = "") -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("glyphc.console.reporter", Interrupted)
    path = tmp_path / "cost.json"
    path.write_text("as it was")
    result = CliRunner().invoke(main, ["measure", "--quick", "-o", str(path)])
    assert result.exit_code == 130
    assert "nothing was written" in result.output
    assert path.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


def test_an_engine_that_cannot_run_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "problem", lambda: "this processor has no fused multiply-add")
    path = tmp_path / "cost.json"
    result = CliRunner().invoke(main, ["measure", "-o", str(path)])
    assert result.exit_code == 2
    assert "'kernels' cannot be measured here: this processor has no fused multiply-add; --engine" in result.output
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--slots", "5"], "no configuration has 5 slots"),
        (["--configurations", "--slots", "5"], "no configuration has 5 slots"),
        (["--configurations", "--quick"], "does not go with --quick"),
        (["--show", "--configurations"], "--show measures nothing"),
        (["--show", "--quick"], "--show measures nothing"),
        (["-o", "missing/cost.json"], "no folder"),
    ],
)
def test_wrong_uses_of_the_command(tmp_path: Path, arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(main, ["measure", *arguments])
    assert result.exit_code == 2
    assert reason in result.output


def test_facts_about_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, threads in (("3", 3), ("5,2", 5), ("", this_machine().cores), ("junk", this_machine().cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert this_machine().threads == threads
    assert Machine("p", 1, 1, "", "").text == "1 core of p"
    assert MACHINE.text == "3 cores, 2 threads of a processor"
