"""Passes alone, graphs as text in and out, compilation from any stage on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from onnx_models import MODELS
from strategies import examples

import glyphc
from glyphc.cli import main
from glyphc.errors import GlyphcError, ModelError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Schedule
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import Level
from glyphc.passes.pipeline import PASSES
from glyphc.program import Program
from tests.schedule_cases import Case, cases

RING = 4096
DIGITS = MODELS / "digits-mlp.onnx"
TRAIN = MODELS / "data" / "digits-train.npy"


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.load(TRAIN)[:200]


@pytest.fixture(scope="module")
def program(samples: np.ndarray) -> Program:
    return glyphc.compile(DIGITS, samples, batch=4, insecure_ring=RING)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def same(a: Schedule, b: Schedule) -> bool:
    """The same instructions on the same polynomials."""
    return (
        a.instructions == b.instructions
        and a.client == b.client
        and a.polynomials.keys() == b.polynomials.keys()
        and all(np.array_equal(p.values, b.polynomials[k].values) for k, p in a.polynomials.items())
        and all(np.array_equal(p.exponents, b.polynomials[k].exponents) for k, p in a.polynomials.items())
    )


# -- the text of every stage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits-mlp", "breast-cancer-mlp", pytest.param("mnist-mlp", marks=pytest.mark.slow)])
def test_every_stage_of_every_model_survives(name: str) -> None:
    size = {"digits-mlp": 64, "breast-cancer-mlp": 30, "mnist-mlp": 784}[name]
    x = np.random.default_rng(0).uniform(0, 16, (64, size))
    for graph in glyphc.compile(MODELS / f"{name}.onnx", x, batch=16).stages.values():
        text = to_text(graph)
        again = parse(text)
        assert again == graph
        assert to_text(again) == text


@examples(4)
@given(cases())
def test_every_stage_of_random_networks_survives(case: Case) -> None:
    for graph in case.compile().stages.values():
        text = to_text(graph)
        again = parse(text)
        assert again == graph
        assert to_text(again) == text


# -- compiling from a stage on ----------------------------------------------------------------------------------


def test_from_any_stage_comes_the_same_program(program: Program, samples: np.ndarray, tmp_path: Path) -> None:
    for name, graph in program.stages.items():
        path = tmp_path / f"{name}.gir"
        path.write_text(to_text(graph))
        start = name if name in PASSES else None
        again = glyphc.compile(path, samples, start=start, insecure_ring=RING)
        assert next(iter(again.stages)) == name
        assert same(again.schedule, program.schedule), name


def test_behind_the_quantizer_no_samples_are_needed(program: Program, tmp_path: Path) -> None:
    for level, stage in (("assigned", "insert-switches"), ("laidout", "select-parameters")):
        path = tmp_path / f"{level}.gir"
        path.write_text(to_text(program.stages[stage]))
        result = run("compile", path, "--from", level, "--insecure-ring", RING)
        assert result.exit_code == 0, result.output
        again = Program.load(path.with_suffix(".glyphc"))
        x = np.load(TRAIN)[:4]
        np.testing.assert_array_equal(again.run(x, "clear"), program.run(x, "clear"))
        assert again.requested_batch == 4


def test_layouts_keep_their_ring(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.gir"
    path.write_text(to_text(program.stages["assign-layout"]))
    for command in (["compile"], ["opt", "--passes", "select-parameters"]):
        result = run(*command, path, "--insecure-ring", 2048)
        assert result.exit_code == 2
        assert f"is laid out for ring {RING}, not for the insecure ring 2048" in result.output
    assert not path.with_suffix(".glyphc").exists()
    result = run("opt", path, "--passes", "select-parameters", "--insecure-ring", RING)
    assert "NOT SECURE" in result.stderr
    parameters = parse(result.stdout).parameters
    assert parameters is not None
    assert (parameters.ring, parameters.secure) == (RING, False)


@pytest.mark.parametrize("suffix", [".onnx", ".glyph"])
def test_networks_begin_at_their_source(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / "x.glyphc"
    result = run("compile", MODELS / f"digits-mlp{suffix}", "--from", "fold", "--calibration", TRAIN, "-o", output)
    assert result.exit_code == 2
    assert "leave out 'fold'" in result.output
    assert not output.exists()


@pytest.mark.parametrize("option", ["--tolerance=0.5", "--logit-tolerance=1"])
def test_tolerances_need_samples(option: str, program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.gir"
    path.write_text(to_text(program.stages["insert-switches"]))
    result = run("compile", path, option, "--insecure-ring", RING)
    assert result.exit_code == 2
    assert "pass --calibration" in result.output
    result = run("compile", path, "--insecure-ring", RING)
    assert result.exit_code == 0
    assert "accuracy    not simulated, no error budget: there were no calibration samples" in result.output
    path.write_text(to_text(program.graph))
    result = run("compile", path, option, "--insecure-ring", RING, "--calibration", TRAIN)
    assert "'assign-budget', which is not among the passes to run" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "source"], ["at level 'quantized', not 'source'"]),
        (["--from", "insert-switches"], ["'insert-switches' gives graphs at level 'assigned'", "'quantized'"]),
        (["--from", "sauce"], ["no stage 'sauce'", "levels: source", "expand, fold"]),
        (["--batch", "7"], ["keeps its batch of 4, not 7"]),
    ],
)
def test_what_does_not_fit_the_graph(options: list[str], words: list[str], program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.gir"
    path.write_text(to_text(program.quantized))
    result = run("compile", path, *options)
    assert result.exit_code == 2
    assert all(word in result.output for word in words), result.output
    assert not path.with_suffix(".glyphc").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("glyph-ir 1 level source batch 1\n%0 = inputt () : TensorType(shape=[1])\n", ["line 2, column 1", "'inputt'"]),
        ("glyph-ir 1 level source batch 1\n", ["no output"]),
        ("hello", ["line 1, column 1"]),
    ],
)
def test_texts_that_are_no_graph(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "x.gir"
    path.write_text(text)
    with pytest.raises(ModelError) as caught:
        glyphc.compile(path)
    assert all(word in str(caught.value) for word in [str(path), *words])
    with pytest.raises(ModelError, match="does not exist"):
        glyphc.compile(tmp_path / "missing.gir")


# -- glyphc opt -------------------------------------------------------------------------------------------------


def test_passes_one_by_one(program: Program, samples: np.ndarray, tmp_path: Path) -> None:
    """Every pass run alone on the text of the stage before it gives the text of the next stage."""
    data = tmp_path / "samples.npy"
    np.save(data, samples)
    path = tmp_path / "00.gir"
    path.write_text(to_text(program.stages["source"]))
    for number, (name, graph) in enumerate(list(program.stages.items())[1:], 1):
        if name == "assign-budget":  # measures against the float network, which is not in the text of this stage
            path.write_text(to_text(graph))
            continue
        output = tmp_path / f"{number:02}.gir"
        result = run("opt", path, "--passes", name, "--calibration", data, "-o", output, "--insecure-ring", RING)
        assert result.exit_code == 0, result.output
        assert parse(output.read_text()) == graph, name
        path = output


def test_the_result_goes_to_standard_output(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.gir"
    path.write_text(to_text(program.stages["source"]))
    result = run("opt", path, "--passes", "fold", "--print-between-passes")
    assert parse(result.stdout) == program.stages["fold"]
    before, after = result.stderr.split("# after fold\n")
    assert parse(before) == program.stages["source"]
    assert parse(after) == program.stages["fold"]
    nothing = run("opt", path, "--passes", "")
    assert parse(nothing.stdout) == program.stages["source"]
    columns = run("opt", path, "--passes", "fold", "--columns").stdout
    assert columns.startswith("node ")
    assert "dense(%0) 32x64" in columns


def test_networks_are_read_too() -> None:
    outputs = [run("opt", MODELS / f"digits-mlp{suffix}", "--passes", "fold").stdout for suffix in (".onnx", ".glyph")]
    graphs = [parse(o) for o in outputs]
    assert [g.level for g in graphs] == [Level.SOURCE] * 2
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--passes", "foldd"], ["unknown pass 'foldd'"]),
        (["--passes", "assign-layout"], ["needs a graph at level 'assigned'", "'source'"]),
        (["--passes", "calibrate"], ["no calibration samples for input 'pixels'"]),
        (["--passes", "fold", "-o", "x.txt"], ["must end in .gir"]),
    ],
)
def test_mistakes(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    result = run("opt", DIGITS, *arguments)
    assert result.exit_code == 2
    assert all(word in result.output for word in words), result.output


def test_export_on_the_command_line(samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "digits.glyph"
    result = run("export", "--dsl", DIGITS, "-o", path)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits.glyph", "digits.npz"]
    schedules = [glyphc.compile(m, samples, batch=4, insecure_ring=RING).schedule for m in (path, DIGITS)]
    assert same(*schedules)
    again = run("export", "--dsl", DIGITS, "-o", path)
    assert again.exit_code == 2
    assert "exists already" in again.output
    wrong = run("export", "--dsl", DIGITS, "-o", tmp_path / "x.txt")
    assert "must end in .glyph" in wrong.output


def test_export_keeps_what_a_file_says(samples: np.ndarray, tmp_path: Path) -> None:
    """Name, batch, hints and training: so the same program comes of it. The name does not follow the file's."""
    path = tmp_path / "first.glyph"
    path.write_text(
        "network digits\nweights he_normal(seed=1)\nbatch 4\ninput pixels: encrypted [64]\n"
        "hidden = pixels / 16 -> dense(8) as fc1 -> tanh as act\nlogits = dense(hidden, 10)\noutput logits\n"
        "quantize { margin = 1.5  act: 9 bits }\ntraining { loss mse(logits) optimizer sgd(0.5) }\n"
    )
    result = run("export", "--dsl", path, "-o", tmp_path / "second.glyph")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "second.glyph").read_text()
    assert "network digits\n" in text
    assert "quantize {\n  margin = 1.5\n  act: 9 bits\n}\n" in text
    assert "training {\n  loss mse(logits)\n  optimizer sgd(learning_rate=0.5)\n}\n" in text
    programs = [glyphc.compile(tmp_path / f"{n}.glyph", samples, insecure_ring=RING) for n in ("first", "second")]
    assert [p.client.batch for p in programs] == [4, 4]
    assert same(*(p.schedule for p in programs))


def test_graphs_of_later_levels_are_no_networks(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.gir"
    path.write_text(to_text(program.quantized))
    result = run("export", "--dsl", path)
    assert "level 'quantized'" in result.output
    assert not path.with_suffix(".glyph").exists()


def test_compile_takes_graphs(program: Program) -> None:
    graph: Graph = program.stages["insert-switches"]
    with pytest.raises(GlyphcError, match="keeps its batch"):
        glyphc.compile(graph, batch=5, insecure_ring=RING)
