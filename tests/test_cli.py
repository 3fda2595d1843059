"""The command line as a user meets it: compile, inspect and run, each in a process of its own."""

from __future__ import annotations

import functools
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import glyphc as package
from glyphc.ir.graph import Graph
from glyphc.ir.text import parse
from glyphc.program import Program
from tests.commands import command, environment
from tests.commands import succeeding as glyphc

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
DIGITS = MODELS / "digits-mlp.onnx"
TRAIN, TEST = (MODELS / "data" / f"digits-{part}.npy" for part in ("train", "test"))
LABELS = MODELS / "data" / "digits-test-labels.npy"
NOT_SECURE = "NOT SECURE"

F64 = npt.NDArray[np.floating[Any]]


def node_lines(text: str) -> list[int]:
    """The numbers of the nodes that have a line of their own."""
    return [int(n) for n in re.findall(r"(?m)^%(\d+) = ", text)]


def reference(x: F64, model: Path = DIGITS) -> F64:
    session = onnxruntime.InferenceSession(str(model))
    (y, *_) = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})
    return np.asarray(y)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def compiled(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command of the documentation."""
    return glyphc("compile", DIGITS, "--calibration", TRAIN, "--batch", 512, "-o", folder / "digits.glyphc")


@pytest.fixture(scope="module")
def artifact(folder: Path, compiled: object) -> Path:
    return folder / "digits.glyphc"


@pytest.fixture(scope="module")
def program(artifact: Path) -> Program:
    return Program.load(artifact)


@pytest.fixture(scope="module")
def small_compiled(folder: Path) -> subprocess.CompletedProcess[str]:
    options = ("--batch", 8, "--insecure-ring", 2048, "-o", folder / "small.glyphc")
    return glyphc("compile", DIGITS, "--calibration", TRAIN, *options)


@pytest.fixture(scope="module")
def small(folder: Path, small_compiled: object) -> Path:
    return folder / "small.glyphc"


# -- compile ------------------------------------------------------------------------------------------------


def test_compile_prints_schedule_and_totals(
    compiled: subprocess.CompletedProcess[str], artifact: Path, program: Program
) -> None:
    text = compiled.stdout
    assert compiled.stderr == ""
    assert node_lines(text) == [node.id for node in program.graph]
    for layer in ("scale+fc1", "fc2", "fc3"):
        assert len(re.findall(rf"(?m)^%\d+ = linear.* bgv .* @{re.escape(layer)}$", text)) == 1
        assert re.search(rf"(?m)^ +{re.escape(layer)} +\[-", text), "the guard band of each layer"
    assert len(re.findall(r"(?m)^%\d+ = bootstrap relu\(%\d+\) .* torus .* degree \d+ .* [\d.]+ s +@relu", text)) == 2
    totals = dict(re.findall(r"(?m)^(batch|bootstraps|time|memory|security|parameters) +(.*)$", text))
    assert totals["batch"] == "512 samples per pass"
    assert totals["bootstraps"].startswith("2 per pass")
    assert re.match(r"\d+\.\d s per pass predicted, \d+\.\d ms per sample", totals["time"])
    assert re.match(r"\d+\.\d GB peak predicted", totals["memory"])
    assert totals["security"].startswith("128-bit (HEStd_128_classic")
    assert totals["parameters"].startswith("ring 65536, t = 2^")
    assert NOT_SECURE not in text
    assert f"wrote {artifact} ({artifact.stat().st_size:,} bytes)" in text


def test_columns_are_aligned(compiled: subprocess.CompletedProcess[str]) -> None:
    heading, *rows = compiled.stdout.split("\n\n")[0].splitlines()
    assert heading.split() == [
        "node",
        "shape",
        "scheme",
        "layout",
        "range",
        "precision",
        "error",
        "predicted",
        "from",
    ]
    for name in ("shape", "scheme", "layout", "range", "precision"):
        at = heading.index(name)
        assert all(row[at - 2 : at] == "  " for row in rows), name


def test_the_artifact_goes_beside_the_model_by_default(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(DIGITS.read_bytes())
    result = glyphc("compile", model, "--calibration", TRAIN)
    assert f"wrote {tmp_path / 'net.glyphc'}" in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.glyphc", "net.onnx"]
    assert Program.load(tmp_path / "net.glyphc").requested_batch == 1


def test_calibration_from_an_npz(artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", pixels=np.load(TRAIN))
    out = tmp_path / "digits.glyphc"
    glyphc("compile", DIGITS, "--calibration", tmp_path / "train.npz", "--batch", 512, "-o", out)
    assert out.read_bytes() == artifact.read_bytes()


def test_artifacts_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    """Whatever the order of sets, the number of threads, the time zone and the folder."""
    found = set()
    for i, seed in enumerate(["0", "31337"]):
        (tmp_path / seed).mkdir()
        out = tmp_path / seed / f"net{i}.glyphc"
        changes = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(i + 1), "OPENBLAS_NUM_THREADS": str(i + 1)}
        options = ("--calibration", TRAIN, "--batch", 64, "-o", out)
        glyphc("compile", DIGITS, *options, TZ=f"UTC{i - 1}", **changes)
        found.add(out.read_bytes())
    assert len(found) == 1


def test_options_of_passes_reach_the_program(artifact: Path, tmp_path: Path) -> None:
    from glyphc.passes.pipeline import DEFAULT

    out = tmp_path / "coarse.glyphc"
    passes = DEFAULT.replace("quantize", "quantize{input_bits=9}")
    glyphc("compile", DIGITS, "--calibration", TRAIN, "-o", out, "--passes", passes)
    (pixels,) = Program.load(out).graph.inputs
    assert pixels.type.fixed is not None
    assert pixels.type.fixed.bits == 9


# -- inspect ------------------------------------------------------------------------------------------------


def test_inspect_prints_what_compile_printed(compiled: subprocess.CompletedProcess[str], artifact: Path) -> None:
    result = glyphc("inspect", artifact)
    assert result.stderr == ""
    assert result.stdout.strip() == compiled.stdout[: compiled.stdout.index("\nwrote ")].strip()


def test_the_list_of_stages(artifact: Path, program: Program) -> None:
    assert glyphc("inspect", artifact, "--stage", "list").stdout.split() == [
        *program.stages,
        "schedule",
    ]


def test_the_schedule_of_instructions(artifact: Path, program: Program) -> None:
    heading, *rows = glyphc("inspect", artifact, "--stage", "schedule").stdout.splitlines()
    assert heading.split() == ["instruction", "target", "sources", "what", "node"]
    assert len(rows) == len(program.schedule.instructions)
    sums, bootstraps = ("conjugates", "conjugate dot"), ("to torus", "powers", "evaluate", "from torus")
    for name in ("load", *sums, *bootstraps, "store", "free"):
        assert any(row.startswith(f"{name} ") for row in rows), name
    assert sum("degree" in row for row in rows) == 2, "one bootstrap for each relu"


def _by_stage(text: str) -> dict[str, str]:
    pieces = re.split(r"(?m)^-- (.*) --\n", text)
    assert pieces[0] == ""
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_every_stage_as_text_is_the_whole_graph(artifact: Path, program: Program) -> None:
    shown = _by_stage(glyphc("inspect", artifact, "--stage", "all", "--text").stdout)
    assert list(shown) == list(program.stages)
    for name, text in shown.items():
        assert parse(text) == program.stages[name]
    # these find nothing to do in a chain of layers
    changed = [text for name, text in shown.items() if name not in ("expand", "merge")]
    assert len(set(changed)) == len(changed), "each stage is another graph"


def test_every_stage_in_columns(artifact: Path, program: Program) -> None:
    shown = _by_stage(glyphc("inspect", artifact, "--stage", "all").stdout)
    assert list(shown) == list(program.stages)
    for name, text in shown.items():
        assert node_lines(text) == [node.id for node in program.stages[name]]
        assert text.startswith("node ")
    assert "scheme" not in shown["quantize"].splitlines()[0]
    assert "scheme" in shown["assign-scheme"].splitlines()[0]
    assert "layout" in shown["assign-layout"].splitlines()[0]


@pytest.mark.parametrize("stage", ["source", "quantize", None])
def test_one_stage(stage: str | None, artifact: Path, program: Program) -> None:
    option = () if stage is None else ("--stage", stage)
    graph: Graph = program.graph if stage is None else program.stages[stage]
    text = glyphc("inspect", artifact, "--text", *option).stdout
    assert parse(text) == graph
    assert node_lines(glyphc("inspect", artifact, *option).stdout) == [n.id for n in graph]


def test_why_names_candidates_and_the_choice(artifact: Path, program: Program) -> None:
    bootstrap = next(n for n in program.graph if n.op.mnemonic == "bootstrap")
    text = glyphc("inspect", artifact, "--why", f"%{bootstrap.id}").stdout
    assert len(bootstrap.decisions) >= 3
    for decision in bootstrap.decisions:
        assert f"{decision.made_by} chose {decision.chosen}" in text
        chosen = [c.name for c in decision.candidates if c.name == decision.chosen]
        assert re.findall(rf"(?m)^\* ({re.escape(decision.chosen)})(?:  |$)", text) == chosen
        for candidate in decision.candidates:
            assert candidate.name in text
            assert candidate.reason in text
    assert "packed functional bootstrap" in text
    assert glyphc("inspect", artifact, "--why", str(bootstrap.id)).stdout == text, "also without %"


def test_why_of_a_node_without_decisions_names_those_nearby(artifact: Path, program: Program) -> None:
    switch = next(n for n in program.graph if n.op.mnemonic == "switch")
    text = glyphc("inspect", artifact, "--why", f"%{switch.id}").stdout
    near = re.fullmatch(r".*no choice was made for this node; it follows from those made for (.*)\n", text)
    assert near is not None, text
    found = [program.graph.node(int(id)) for id in re.findall(r"%(\d+)", near[1])]
    assert {n.op.mnemonic for n in found} == {"linear", "bootstrap"}
    assert all(n.decisions for n in found)


def test_why_of_a_stage(artifact: Path, program: Program) -> None:
    text = glyphc("inspect", artifact, "--why", "%0", "--stage", "quantize").stdout
    assert "quantize chose shared scale" in text
    assert "assign-layout" not in text
    assert "no choice was made" in glyphc("inspect", artifact, "--why", "%0", "--stage", "source").stdout


def test_a_reader_who_closes_the_pipe_early(artifact: Path) -> None:
    script = f"{' '.join(command('inspect', artifact, '--stage', 'all', '--text'))} | head -c 100"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment())
    assert len(result.stdout) == 100
    assert result.stderr == ""


# -- run without encryption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["clear", "simulate"])
def test_runs_agree_with_onnxruntime(mode: str, artifact: Path, program: Program, tmp_path: Path) -> None:
    out = tmp_path / "logits.npy"
    result = glyphc("run", artifact, "--input", TEST, "--output", out, "--mode", mode)
    y, x, labels = np.load(out), np.load(TEST), np.load(LABELS)
    assert (y.shape, y.dtype) == ((512, 10), np.float64)
    expected = reference(x)
    assert np.mean(y.argmax(axis=1) == expected.argmax(axis=1)) >= 0.99
    assert np.mean(y.argmax(axis=1) == labels) >= 0.97
    assert np.abs(y - expected).max() < 0.05 * np.ptp(expected)

    assert re.search(r"(?m)^samples +512 in 1 pass; [\d.]+ ms per sample", result.stdout)
    assert re.search(r"(?m)^memory +\d+\.\d+ GB peak", result.stdout)
    assert re.search(rf"(?m)^security +none \({mode} mode, no encryption\)$", result.stdout)
    assert result.stdout.endswith(f"wrote {out}\n")
    assert re.search(r"(?m)^evaluate +\d+\.\d\d$", result.stdout)
    if mode == "simulate":
        assert node_lines(result.stdout) == [node.id for node in program.graph]
    # comparing evaluation to bare bootstraps says something of encrypted runs only
    assert "bare bootstrap" not in result.stdout


def test_simulation_differs_from_clear_and_repeats(artifact: Path, tmp_path: Path) -> None:
    results = []
    for i, mode in enumerate(["simulate", "simulate", "clear"]):
        out = tmp_path / f"{i}.npy"
        seed = {"PYTHONHASHSEED": str(i)} if mode == "simulate" else {}
        glyphc("run", artifact, "--input", TEST, "--output", out, "--mode", mode, **seed)
        results.append(out.read_bytes())
    assert results[0] == results[1] != results[2]


def test_npz_in_and_out(artifact: Path, tmp_path: Path) -> None:
    """Named arrays in, named arrays out, with the names of the network; the same numbers as with .npy."""
    np.savez(tmp_path / "x.npz", pixels=np.load(TEST)[:30])
    np.save(tmp_path / "x.npy", np.load(TEST)[:30])
    for given, out in [("x.npz", "y.npz"), ("x.npy", "y.npy")]:
        glyphc("run", artifact, "--input", tmp_path / given, "--output", tmp_path / out, "--mode", "clear")
    with np.load(tmp_path / "y.npz") as archive:
        assert archive.files == ["logits"]
        np.testing.assert_array_equal(archive["logits"], np.load(tmp_path / "y.npy"))


def test_any_output_name_fits_into_an_npz(tmp_path: Path) -> None:
    """Names come from the network; numpy.savez itself could not store an array named 'file'."""
    import onnx

    model = onnx.load(DIGITS)
    model.graph.output[0].name = "file"
    for node in model.graph.node:
        node.output[:] = ["file" if o == "logits" else o for o in node.output]
    onnx.save(model, tmp_path / "net.onnx")
    glyphc("compile", tmp_path / "net.onnx", "--calibration", TRAIN)
    options = ("--input", TEST, "--output", tmp_path / "y.npz", "--mode", "clear")
    glyphc("run", tmp_path / "net.glyphc", *options)
    with np.load(tmp_path / "y.npz") as archive:
        assert archive.files == ["file"]
        assert archive["file"].shape == (512, 10)


def test_results_replace_older_ones(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.npy"
    out.write_bytes(b"older")
    glyphc("run", artifact, "--input", TEST, "--output", out, "--mode", "clear")
    assert np.load(out).shape == (512, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["y.npy"]


# -- run encrypted, on a small ring -------------------------------------------------------------------------


def test_an_insecure_program_says_so_loudly(small: Path, small_compiled: subprocess.CompletedProcess[str]) -> None:
    assert small_compiled.stderr.startswith(NOT_SECURE)
    for text in (small_compiled.stdout, glyphc("inspect", small).stdout):
        assert re.search(r"(?m)^security +NOT SECURE", text)


def test_encrypted_run(small: Path, tmp_path: Path) -> None:
    """Twenty samples in three passes of eight, the last one partly filled."""
    x = np.load(TEST)[:20]
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "y.npy"
    result = glyphc("run", small, "--input", tmp_path / "x.npy", "--output", out)
    y, expected = np.load(out), reference(x)
    assert y.shape == (20, 10)
    np.testing.assert_array_equal(y.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(y - expected).max() < 0.05 * np.ptp(expected)

    assert result.stderr.startswith(NOT_SECURE)
    assert result.stderr.count(NOT_SECURE) == 1
    assert re.search(r"(?m)^security +NOT SECURE", result.stdout)
    assert re.search(r"(?m)^samples +20 in 3 passes; \d", result.stdout)
    assert re.search(r"(?m)^bootstraps +\d+\.\d\d s of \d+\.\d\d s evaluation", result.stdout)
    for stage in ("generate keys", "encode weights", "encrypt", "evaluate", "decrypt"):
        assert re.search(rf"(?m)^{stage} +\d+\.\d\d$", result.stdout)
    program = Program.load(small)
    assert node_lines(result.stdout) == [node.id for node in program.graph]
    assert len(re.findall(r"(?m)^%\d+ = bootstrap .*\d+\.?\d* m?s +@relu", result.stdout)) == 2

    # a log gets lines, no control characters, each stage begun before it is done
    lines = result.stderr.splitlines()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", result.stderr)
    for stage in ("generate keys", *(f"evaluate (pass {i} of 3)" for i in (1, 2, 3))):
        done = [i for i, line in enumerate(lines) if re.fullmatch(rf"{re.escape(stage)}: \d+\.\d s", line)]
        assert len(done) == 1, stage
        assert f"{stage} ..." in lines[: done[0]], stage


def _wait_for(process: subprocess.Popen[bytes], text: str, seconds: float) -> str:
    """Standard error so far, as soon as it holds ``text``."""
    assert process.stderr is not None
    seen, end = "", time.monotonic() + seconds
    while text not in seen:
        left = end - time.monotonic()
        assert left > 0, f"no {text!r} within {seconds} s in: {seen}"
        if select.select([process.stderr], [], [], left)[0]:
            chunk = os.read(process.stderr.fileno(), 65536)
            assert chunk, f"ended without {text!r}: {seen}"
            seen += chunk.decode()
    return seen


@pytest.mark.parametrize(("moment", "older"), [("generate keys ...", False), ("evaluate (pass 2 of 64) ...", True)])
def test_interrupted_runs_write_nothing(moment: str, older: bool, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.npy"
    if older:
        out.write_bytes(b"older results")
    run = command("run", small, "--input", TEST, "--output", out)
    # processes in the background of a shell are started to ignore interrupts
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(run, env=environment(), preexec_fn=heeding, **pipes)
    try:
        _wait_for(process, moment, 60)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert stdout == b""
    assert stderr.decode().rstrip().endswith("interrupted; nothing was written")
    assert b"Traceback" not in stderr
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"older results"] if older else [])


def test_progress_on_a_terminal(small: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(TEST)[:10])
    run = command("run", small, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=theirs, env=environment(TERM="xterm-256color", COLUMNS="100")
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux reports that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    stdout, _ = process.communicate(timeout=60)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "\x1b[" in text, "a bar that is drawn in place"
    assert NOT_SECURE in text
    for stage in ("generate keys", "encode weights", "evaluate (pass 1 of 2)", "evaluate (pass 2 of 2)"):
        assert stage in text
    assert b"\x1b" not in stdout, "what is printed for reading or piping stays plain"
    assert b"samples     10 in 2 passes" in stdout


# -- the rest -----------------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert glyphc("--version").stdout.split()[-1] == package.__version__
    for flag in ("-h", "--help"):
        text = glyphc(flag).stdout
        for name in ("compile", "inspect", "run"):
            assert re.search(rf"(?m)^  {name} ", text)
    text = re.sub(r"\s+", " ", glyphc("compile", "-h").stdout)
    for part in ("--calibration", "--batch", "--output", "--insecure-ring", "NOT SECURE", "MODEL"):
        assert part in text
    text = glyphc("run", "-h").stdout
    assert "[encrypted|simulate|clear]" in text
    assert "[default: encrypted]" in text
