"""The cost model: its predictions, its file, and measuring it (on small rings, insecure, for speed)."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import glyphc as package
from glyphc.approx import cost_file
from glyphc.approx.cost import (
    CONFIGURATIONS,
    FIGURES,
    REFERENCE_DEGREE,
    BootstrapCost,
    Configuration,
    CostModel,
    Machine,
    calibrated,
)
from glyphc.approx.estimate import estimate, instruction_seconds, peak_bytes
from glyphc.approx.security import largest_modulus, with_secure_digits
from glyphc.backends.errors import BackendError
from glyphc.cli import main
from glyphc.diagnostics import cost_text, predicted, summary
from glyphc.errors import ArtifactError, EnvironmentSetupError, GlyphcError
from glyphc.ir.instructions import (
    ClientSpec,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Polynomials,
    Powers,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.parameters import INSECURE, MAX_DEGREES, Parameters
from glyphc.ir.series import Series
from glyphc.measure import Job, Measurement, calibrate, job_seconds, jobs, measure, measure_apart, this_machine
from glyphc.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
SIZES = [c.slots for c in CONFIGURATIONS]
DEGREES = list(MAX_DEGREES.values())
MACHINE = Machine("a processor", 3, 2, "1.6.1", "2030-01-02")
N = 65536
CIPHERTEXT = 2 * 8 * N


def small(slots: int = 32, degree: int = REFERENCE_DEGREE) -> Parameters:
    return Parameters(
        ring=1024,
        plaintext_bits=27,
        bgv_bits=54,
        unpack_strides=(1, 2, 4),
        slots=slots,
        degree=degree,
        level_budget=(2, 2),
        large_digits=3,
        security=INSECURE,
    )


def large(slots: int = 32768, degree: int = REFERENCE_DEGREE) -> Parameters:
    return Parameters(ring=N, plaintext_bits=27, bgv_bits=55, slots=slots, degree=degree)


@st.composite
def rows(draw: st.DrawFn, degree: int) -> BootstrapCost:
    figure = st.floats(1e-3, 1e12)
    return BootstrapCost(degree, *(draw(figure) for _ in FIGURES), measured=draw(st.booleans()))


@st.composite
def models(draw: st.DrawFn) -> CostModel:
    """Any figures at all, in the shape that the file must have."""
    configurations = []
    for configuration in CONFIGURATIONS:
        degrees = sorted({REFERENCE_DEGREE} | draw(st.sets(st.sampled_from(DEGREES))))
        configurations.append(replace(configuration, costs=tuple(draw(rows(d)) for d in degrees)))
    seconds = st.floats(1e-9, 1e3)
    text = st.text(max_size=20)
    count = st.integers(1, 1000)
    machine = Machine(draw(text), draw(count), draw(count), draw(text), draw(text))
    return CostModel(draw(seconds), draw(seconds), draw(seconds), tuple(configurations), machine)


@st.composite
def growing_models(draw: st.DrawFn) -> CostModel:
    """Models in which more slots and higher degrees never cost less."""
    steps = st.floats(1.0, 2.0)
    growth = np.cumprod([1.0] + [draw(steps) for _ in DEGREES[1:]])
    size = 1.0
    configurations = []
    for configuration in CONFIGURATIONS:
        size *= draw(steps)
        costs = (BootstrapCost(d, *(size * g for _ in FIGURES)) for d, g in zip(DEGREES, growth, strict=True))
        configurations.append(replace(configuration, costs=tuple(costs)))
    return CostModel(configurations=tuple(configurations))


# -- predictions --


@given(growing_models(), st.integers(1, N // 2), st.integers(1, N // 2), st.integers(1, 247), st.integers(1, 247))
def test_more_slots_and_higher_degrees_never_cost_less(cost: CostModel, a: int, b: int, c: int, d: int) -> None:
    slots, degrees = sorted((a, b)), sorted((c, d))
    assert cost.bootstrap_seconds(slots[0], c) <= cost.bootstrap_seconds(slots[1], c) * (1 + 1e-9)
    assert cost.bootstrap_seconds(a, degrees[0]) <= cost.bootstrap_seconds(a, degrees[1]) * (1 + 1e-9)
    smaller, larger = large(slots[0], degrees[0]), large(slots[1], degrees[1])
    for figure in (cost.key_bytes, cost.key_seconds, cost.idle_bytes, cost.work_bytes, cost.powers_bytes):
        assert figure(smaller) <= figure(larger) * (1 + 1e-9)


@given(models(), st.integers(1, N // 2), st.integers(1, 247))
def test_a_prediction_is_positive_whatever_was_measured(cost: CostModel, slots: int, degree: int) -> None:
    assert cost.powers_seconds(slots, degree) > 0
    assert cost.evaluate_seconds(slots, degree) > 0
    assert cost.idle_bytes(large(slots, degree)) > 0


def test_the_shipped_model_grows_with_the_degree() -> None:
    cost = CostModel()
    for slots in (2, *SIZES):
        seconds = [cost.bootstrap_seconds(slots, degree) for degree in DEGREES]
        assert seconds == sorted(seconds)


def test_a_measured_row_is_predicted_as_it_is() -> None:
    cost = CostModel()
    for configuration in cost.configurations:
        for row in configuration.costs:
            at = (configuration.slots, row.degree)
            assert cost.powers_seconds(*at) == pytest.approx(row.powers)
            assert cost.evaluate_seconds(*at) == pytest.approx(row.evaluate)
            assert cost.work_bytes(large(*at)) == pytest.approx(row.work_bytes)
            assert cost.idle_bytes(large(*at)) == pytest.approx(row.idle_bytes)


def test_a_configuration_without_the_degree_follows_those_that_have_it() -> None:
    def with_rows(slots: int, *seconds: tuple[int, float]) -> Configuration:
        costs = tuple(BootstrapCost(degree, *[s] * len(FIGURES)) for degree, s in seconds)
        return Configuration(slots, (2, 2), 2, costs)

    cost = CostModel(
        configurations=(
            with_rows(16, (27, 1.0), (59, 2.0)),
            with_rows(64, (27, 10.0)),
            with_rows(256, (27, 100.0), (59, 400.0), (119, 500.0)),
        )
    )
    assert cost.powers_seconds(64, 59) == pytest.approx(30.0)  # halfway between twice and four times
    assert cost.powers_seconds(64, 119) == pytest.approx(50.0)  # only one knows
    assert cost.powers_seconds(64, 247) == pytest.approx(50.0)  # nobody knows: as at the last degree of all
    assert cost.powers_seconds(64, 13) == pytest.approx(10.0)
    assert cost.powers_seconds(128, 27) == pytest.approx(55.0)


def test_smaller_rings_cost_less() -> None:
    cost = CostModel()
    assert cost.bootstrap_seconds(64, 27, 1024) == pytest.approx(cost.bootstrap_seconds(64, 27) / 64 * 10 / 16)
    assert cost.idle_bytes(small()) < cost.idle_bytes(large(32))
    assert cost.key_bytes(small()) < cost.key_bytes(large(32))


def test_a_program_without_bootstraps_needs_little() -> None:
    cost = CostModel()
    parameters = Parameters(ring=N, plaintext_bits=27, bgv_bits=55, unpack_strides=(1, 2))
    assert cost.work_bytes(parameters) == cost.powers_bytes(parameters) == 0
    assert cost.idle_bytes(parameters) < 1e9
    assert 0 < cost.key_bytes(parameters) < 10e6  # of the unpacking
    assert cost.key_seconds(parameters) < 1


# -- estimates of schedules --


def evaluation(target: int, powers: int, degree: int = REFERENCE_DEGREE) -> Evaluate:
    nothing, zeros = cast(Any, None), (0.0,) * (degree + 1)
    return Evaluate(target, powers, Series(zeros, zeros, 0.45, 0.0, 0.0), (), nothing, nothing, 1, node=2)


def schedule(*instructions: Instruction, weights: int = 0, parameters: Parameters | None = None) -> Schedule:
    polynomials = Polynomials(np.zeros(weights + 1, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros(0, np.int64))
    return Schedule(ClientSpec(parameters or large(), (), (), 1), instructions, {"w": polynomials})


BOOTSTRAP = (
    Load(0, "x", 0, node=0),
    ToTorus(1, 0, 32768, node=1),
    Powers(2, 1, 32768, REFERENCE_DEGREE, node=2),
    Free((1,), node=2),
    evaluation(3, 2),
    Free((2,), node=2),
    FromTorus(4, 3, node=3),
    Store(4, "y", 0, node=4),
    Free((3, 4), node=4),
)


def test_a_second_function_of_a_value_costs_only_its_own_half() -> None:
    cost, parameters = CostModel(), large()
    one = schedule(*BOOTSTRAP)
    two = schedule(*BOOTSTRAP[:5], evaluation(5, 2), *BOOTSTRAP[5:])
    added = estimate(two, cost).seconds - estimate(one, cost).seconds
    assert added == pytest.approx(cost.evaluate_seconds(32768, REFERENCE_DEGREE))
    assert estimate(two, cost).bootstraps == 1
    seconds = sum(instruction_seconds(i, parameters, cost) for i in BOOTSTRAP)
    assert seconds == pytest.approx(cost.bootstrap_seconds(32768, REFERENCE_DEGREE) + 2 * cost.switch)


def test_a_lower_degree_costs_less_but_not_as_little_as_in_a_context_of_its_own() -> None:
    cost, parameters = CostModel(), large()
    powers, function = Powers(2, 1, 32768, 13, node=2), evaluation(3, 2, degree=13)
    seconds = sum(instruction_seconds(i, parameters, cost) for i in (powers, function))
    assert cost.bootstrap_seconds(32768, 13) < seconds < cost.bootstrap_seconds(32768, REFERENCE_DEGREE)


def test_the_peak_is_that_of_the_bootstrap_with_all_that_is_alive() -> None:
    cost, parameters = CostModel(), large()
    base = cost.idle_bytes(parameters) + cost.work_bytes(parameters)
    # alive at the bootstrap: the input, the switched input or the result
    assert peak_bytes(schedule(*BOOTSTRAP), cost) == pytest.approx(base + 2 * CIPHERTEXT)
    assert peak_bytes(schedule(*BOOTSTRAP, weights=10), cost) == pytest.approx(base + 12 * CIPHERTEXT)


def test_kept_powers_count_and_freed_ones_do_not() -> None:
    cost, parameters = CostModel(), large()
    both = Powers(5, 1, 32768, REFERENCE_DEGREE, node=2)
    alone = peak_bytes(schedule(*BOOTSTRAP), cost)
    kept = peak_bytes(schedule(*BOOTSTRAP[:3], both, *BOOTSTRAP[3:]), cost)
    freed = peak_bytes(schedule(*BOOTSTRAP[:6], both), cost)
    assert kept == pytest.approx(alone + cost.powers_bytes(parameters))
    assert freed == pytest.approx(alone)


def test_stored_results_stay_alive_and_inputs_do_not() -> None:
    cost = CostModel()
    parameters = replace(large(), slots=0, unpack_strides=(1,))
    few = schedule(Load(0, "x", 0, node=0), Split((1, 2), 0, 2, 1, node=1), parameters=parameters)
    idle = cost.idle_bytes(parameters)
    assert peak_bytes(few, cost) == pytest.approx(idle + 3 * CIPHERTEXT)
    more = (Store(1, "y", 0, node=2), Free((0, 1, 2), node=2), Split((3, 4), 0, 2, 1, node=1))
    assert peak_bytes(schedule(*few.instructions, *more, parameters=parameters), cost) == pytest.approx(
        idle + 3 * CIPHERTEXT
    )


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_more_weights_never_take_less_memory(a: int, b: int) -> None:
    less, more = (peak_bytes(schedule(*BOOTSTRAP, weights=w), CostModel()) for w in sorted((a, b)))
    assert less <= more


# -- scaling what was not measured --


def shipped_row(slots: int, degree: int = REFERENCE_DEGREE, factor: float = 1.0) -> BootstrapCost:
    configuration = next(c for c in CONFIGURATIONS if c.slots == slots)
    figures = (factor * configuration.figure(name, degree) for name in FIGURES)
    return BootstrapCost(degree, *figures)


def flat(configurations: tuple[Configuration, ...]) -> list[float]:
    return [getattr(row, name) for c in configurations for row in c.costs for name in FIGURES]


@given(st.sampled_from(SIZES), st.floats(0.01, 100))
def test_one_measured_configuration_scales_all(slots: int, factor: float) -> None:
    measured = shipped_row(slots, factor=factor)
    result = calibrated(CONFIGURATIONS, {(slots, REFERENCE_DEGREE): measured})
    assert flat(result) == pytest.approx([factor * x for x in flat(CONFIGURATIONS)])
    marked = [(c.slots, row.degree) for c in result for row in c.costs if row.measured]
    assert marked == [(slots, REFERENCE_DEGREE)]


def test_between_two_measured_configurations_factors_are_between_theirs() -> None:
    ends = {(SIZES[0], 27): shipped_row(SIZES[0], factor=2.0), (SIZES[-1], 27): shipped_row(SIZES[-1], factor=4.0)}
    result = calibrated(CONFIGURATIONS, ends)
    pairs = zip(result, CONFIGURATIONS, strict=True)
    factors = [new.figure("powers", 27) / old.figure("powers", 27) for new, old in pairs]
    assert factors[0] == pytest.approx(2.0)
    assert factors[-1] == pytest.approx(4.0)
    assert factors == sorted(factors)


def test_measured_rows_are_kept_and_new_degrees_added() -> None:
    slots = SIZES[1]
    measured = {(slots, 27): shipped_row(slots, factor=3.0), (slots, 119): BootstrapCost(119, 9, 8, 7, 6, 5, 4, 3)}
    configuration = calibrated(CONFIGURATIONS, measured)[1]
    assert [row for row in configuration.costs if row.measured] == [measured[slots, 27], measured[slots, 119]]
    degrees = [row.degree for row in configuration.costs]
    assert degrees == sorted(set(degrees))


@given(st.sets(st.sampled_from([(s, d) for s in SIZES for d in (27, 59)]), min_size=1))
def test_measuring_what_ships_changes_nothing(keys: set[tuple[int, int]]) -> None:
    result = calibrated(CONFIGURATIONS, {key: shipped_row(*key) for key in keys})
    model, shipped = CostModel(configurations=result), CostModel()
    for slots in SIZES:
        assert model.bootstrap_seconds(slots, 27) == pytest.approx(shipped.bootstrap_seconds(slots, 27))


# -- the file --


@settings(max_examples=30)
@given(models())
def test_the_file_keeps_all(model: CostModel) -> None:
    assert cost_file.from_json(cost_file.to_json(model).encode()) == model


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    model = CostModel(product=1.5, machine=MACHINE)
    cost_file.save(path, model)
    assert cost_file.load(path) == model
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]
    with pytest.raises(ArtifactError, match="no folder"):
        cost_file.save(tmp_path / "missing" / "cost.json", model)


def tree() -> dict[str, Any]:
    parsed = json.loads(cost_file.to_json(CostModel()))
    assert isinstance(parsed, dict)
    return parsed


WHOLE = cost_file.to_json(CostModel()).encode()
PARTS = {
    "": [*tree()],
    "machine": [*tree()["machine"]],
    "configuration": [*tree()["configurations"][0]],
    "cost": [*tree()["configurations"][0]["costs"][0]],
}


def room(whole: dict[str, Any], part: str) -> dict[str, Any]:
    """The object in the file that a name of ``PARTS`` stands for."""
    configuration = whole["configurations"][0]
    rooms = {"": whole, "machine": whole["machine"], "configuration": configuration, "cost": configuration["costs"][0]}
    return cast(dict[str, Any], rooms[part])


def refusal(tmp_path: Path, data: bytes) -> str:
    """What is said of a file with this content."""
    path = tmp_path / "cost.json"
    path.write_bytes(data)
    with pytest.raises(GlyphcError) as caught:
        cost_file.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "glyphc calibrate" in text
    assert "delete" in text
    return text


@pytest.mark.parametrize(
    "data", [b"", b"\0\xff", WHOLE[: len(WHOLE) // 2], b"[" * 100_000, b"{}", b"[]", b"3", b'{"format": "other"}']
)
def test_what_is_no_cost_model_is_refused(tmp_path: Path, data: bytes) -> None:
    refusal(tmp_path, data)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_refused(tmp_path: Path, version: object) -> None:
    assert "version" in refusal(tmp_path, json.dumps(tree() | {"version": version}).encode())


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PARTS.items() for name in names])
def test_every_entry_must_be_there_and_right(tmp_path: Path, part: str, name: str) -> None:
    whole = tree()
    del room(whole, part)[name]
    refusal(tmp_path, json.dumps(whole).encode())
    for wrong in (None, -1, 0, float("nan"), float("inf"), {}, [1, "x"]):
        whole = tree()
        room(whole, part)[name] = wrong
        refusal(tmp_path, json.dumps(whole).encode())


def test_other_configurations_are_refused(tmp_path: Path) -> None:
    whole = tree()
    whole["configurations"][0]["slots"] = 32
    assert "other configurations" in refusal(tmp_path, json.dumps(whole).encode())
    whole["configurations"] = whole["configurations"][1:]
    refusal(tmp_path, json.dumps(whole).encode())


def test_degrees_must_ascend_and_know_the_usual_one(tmp_path: Path) -> None:
    for change in (lambda costs: costs.reverse(), lambda costs: costs.pop(1), lambda costs: costs.insert(0, costs[0])):
        whole = tree()
        change(whole["configurations"][0]["costs"])
        assert "ascending" in refusal(tmp_path, json.dumps(whole).encode())


# -- which file --


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of its own, and no variable that names a model."""
    monkeypatch.delenv(cost_file.VARIABLE)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_tests_use_the_shipped_model() -> None:
    assert os.environ[cost_file.VARIABLE] == ""
    assert cost_file.source() is None
    assert cost_file.current() == CostModel()


def test_the_users_file_is_used_when_there_is_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost_file.current() == CostModel()
    path = home / ".config" / "glyphc" / "cost.json"
    assert cost_file.output_path() == path
    cost_file.make_folder(path)
    model = CostModel(product=2.0)
    cost_file.save(path, model)
    assert cost_file.source() == path
    assert cost_file.current() == model
    monkeypatch.setenv(cost_file.VARIABLE, "")
    assert cost_file.current() == CostModel()
    assert cost_file.output_path() == path


def test_the_config_folder_can_be_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))
    assert cost_file.user_path() == home / "settings" / "glyphc" / "cost.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert cost_file.user_path() == home / ".config" / "glyphc" / "cost.json"


def test_the_variable_names_another_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "mine.json"
    monkeypatch.setenv(cost_file.VARIABLE, str(path))
    with pytest.raises(GlyphcError, match=r"No such file.*glyphc calibrate"):
        cost_file.current()
    cost_file.save(path, CostModel(switch=3.0))
    assert cost_file.current().switch == 3.0
    assert cost_file.output_path() == path
    assert cost_file.in_use(path)
    assert not cost_file.in_use(home / "other.json")


def test_without_a_home_the_shipped_model_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cost_file.current() == CostModel()
    with pytest.raises(GlyphcError, match=cost_file.VARIABLE):
        cost_file.output_path()


def test_an_impossible_folder_is_a_clear_error(home: Path) -> None:
    (home / ".config").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot make the folder"):
        cost_file.make_folder(cost_file.output_path())


def test_programs_are_predicted_with_the_users_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.load(ROOT / "models" / "data" / "digits-train.npy")[:200]
    program = package.compile(ROOT / "models" / "digits-mlp.onnx", train, 4, insecure_ring=1024)
    before = predicted(program)
    doubled = calibrated(CONFIGURATIONS, {(64, 27): shipped_row(64, factor=2.0)})
    path = home / "mine.json"
    cost_file.save(path, CostModel(configurations=doubled, machine=MACHINE))
    monkeypatch.setenv(cost_file.VARIABLE, str(path))
    assert predicted(program).bootstrap_seconds == pytest.approx(2 * before.bootstrap_seconds)
    assert "as measured on 3 cores, 2 threads of a processor" in summary(program)
    path.write_text("damaged")
    for act in (
        lambda: summary(program),
        lambda: program.run(train[:1], mode="simulate"),
        lambda: package.compile(ROOT / "models" / "digits-mlp.onnx", train, 4, insecure_ring=1024),
    ):
        with pytest.raises(GlyphcError, match="mine"):
            act()
    model = ROOT / "models" / "digits-mlp.onnx"
    assert package.compile(model, train, 4, insecure_ring=1024, cost=CostModel()).to_bytes() == program.to_bytes()


# -- measuring --


def test_jobs_cover_what_the_model_needs() -> None:
    cost = CostModel()
    all_jobs = jobs(cost)
    assert {(j.configuration.slots, j.degree) for j in all_jobs} >= {(s, d) for s in SIZES for d in (27, 59)}
    assert {j.degree for j in all_jobs if j.configuration.slots == SIZES[0]} == set(DEGREES)
    for job in all_jobs:
        assert job.parameters.secure
        assert job.parameters.modulus_bits <= largest_modulus(N, sparse=True)
        assert job_seconds(job, cost) > 0
    quick = jobs(cost, quick=True)
    assert [(j.configuration.slots, j.degree) for j in quick] == [(SIZES[0], 27), (SIZES[-1], 27)]
    assert {j.configuration.slots for j in jobs(cost, [256])} == {256}
    assert [j.configuration.slots for j in jobs(cost, [256, 2048], quick=True)] == [256, 2048]
    with pytest.raises(GlyphcError, match="no configuration has 5 slots; configurations: 64"):
        jobs(cost, [5])


def test_digits_are_added_for_security_only_as_needed() -> None:
    parameters = replace(large(degree=59), level_budget=(5, 5), large_digits=4)
    secured = with_secure_digits(parameters)
    assert secured.modulus_bits <= largest_modulus(N, sparse=True) < parameters.modulus_bits
    assert with_secure_digits(secured) == secured
    assert with_secure_digits(small()) == small()


def check(measurement: Measurement) -> None:
    for value in (measurement.product, measurement.automorphism, measurement.switch):
        assert 0 < value < 10
    cost = measurement.cost
    assert all(getattr(cost, name) > 0 for name in FIGURES)
    assert cost.measured
    assert cost.powers_bytes <= cost.work_bytes


@pytest.mark.parametrize("slots", [32, 512])
def test_measuring_a_small_ring(slots: int) -> None:
    steps: list[str] = []
    measurement = measure(small(slots), lambda step, seconds: steps.append(step))
    check(measurement)
    assert steps == ["generate keys", "bootstrap 1", "bootstrap 2"]
    # keys are polynomials over at least all levels and two parts, one for each digit
    levels = small(slots).depth + 1
    assert measurement.cost.key_bytes > 10 * 2 * 3 * levels * 8 * 1024


def test_parameters_that_openfhe_refuses() -> None:
    refused = replace(small(), security=large().security)
    with pytest.raises(BackendError):
        measure(refused)
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
    monkeypatch.setattr(Job, "parameters", property(lambda self: small(min(self.configuration.slots, 512))))
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

    class Memory:
        def __init__(self) -> None:
            self.available = available

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
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
    shown = run(main, ["calibrate", "--show"])
    assert shown.exit_code == 0
    assert "ships with glyphc" in shown.output
    result = run(main, ["calibrate", "--quick", "--slots", "64"])
    assert result.exit_code == 0, result.output
    path = home / ".config" / "glyphc" / "cost.json"
    assert f"wrote {path}\n" in result.output
    assert [p.name for p in path.parent.iterdir()] == ["cost.json"]
    assert cost_file.current().machine == this_machine()
    assert str(path) in run(main, ["calibrate", "--show"]).output
    path.write_text("damaged")
    assert run(main, ["calibrate", "--show"]).exit_code == 2


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
    result = CliRunner().invoke(main, ["calibrate", "--quick", "-o", str(path)])
    assert result.exit_code == 130
    assert "nothing was written" in result.output
    assert path.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--slots", "5"], "no configuration has 5 slots"),
        (["--show", "--quick"], "--show measures nothing"),
        (["-o", "missing/cost.json"], "no folder"),
    ],
)
def test_wrong_uses_of_the_command(tmp_path: Path, arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(main, ["calibrate", *arguments])
    assert result.exit_code == 2
    assert reason in result.output


def test_facts_about_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, threads in (("3", 3), ("5,2", 5), ("", this_machine().cores), ("junk", this_machine().cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert this_machine().threads == threads
    assert Machine("p", 1, 1, "", "").text == "1 core of p"
    assert MACHINE.text == "3 cores, 2 threads of a processor"
