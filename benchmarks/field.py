"""What becomes of the files and estimators that people bring: read, compiled, error in simulation, refused and why.

    python benchmarks/field.py [--cases FOLDER]... [--estimators] [--all-estimators] [--only NAME] [--skip NAME]
        [--ring 4096] [--output TABLE.md]

A case is a folder with ``model.onnx``, ``calibration.npy`` (or ``cal.npy``, ``.npz``) and ``x.npy`` (or ``test.npy``).
Where there is an ``expected.npy`` or ``.npz``, results are compared with it, otherwise with ONNX Runtime's on the same
samples. Estimators (``estimators.py``) are 32 of scikit-learn, alone and in pipelines, as a new user would try them,
XGBoost's and LightGBM's where they are installed, and with --all-estimators all that skl2onnx converts, fitted on iris,
breast cancer or diabetes.

The error is the root mean square difference to the float network, in percent of the outputs' range, on at most 64
samples; of labels, the share that differs. Everything is compiled for a small ring, which is not secure: approximation
and noise are simulated as they are there.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

import glyphc
from glyphc.errors import GlyphcError
from glyphc.sources import read_model

Array = npt.NDArray[Any]
Arrays = Array | Mapping[str, Array]
_SAMPLES = 64


@dataclass(frozen=True)
class Subject:
    """A model with samples. expected: results by output name, or the only one; None: ONNX Runtime is asked."""

    name: str
    model: Any
    calibration: Arrays
    x: Arrays
    expected: Arrays | None


@dataclass(frozen=True)
class Row:
    """outcome: "compiled", "read" (and refused later on) or "refused"; error: percent, by output."""

    name: str
    outcome: str
    seconds: float
    bootstraps: int | None = None
    errors: tuple[tuple[str, float], ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        errors = ", ".join(f"{name} {value:.2f} %" for name, value in self.errors)
        count = "" if self.bootstraps is None else self.bootstraps
        return f"| {self.name} | {self.outcome} | {count} | {errors} | {self.seconds:.0f} | {self.reason} |"


def folders(root: Path) -> Iterator[Subject]:
    """All cases in a folder and its subfolders."""
    for path in sorted(root.rglob("model.onnx")):
        calibration, x = _array(path.parent, "calibration", "cal"), _array(path.parent, "x", "test")
        if calibration is None or x is None:
            calibration = x = _random(path)
        yield Subject(path.parent.name, path, calibration, x, _array(path.parent, "expected"))


def _array(folder: Path, *names: str) -> Arrays | None:
    for name in names:
        for suffix in (".npy", ".npz"):
            path = folder / f"{name}{suffix}"
            if path.exists():
                loaded = np.load(path)
                return loaded if isinstance(loaded, np.ndarray) else dict(_readable(loaded))
    return None


def _readable(archive: Any) -> Iterator[tuple[str, Array]]:
    """Arrays of a .npz file, but for those of Python objects."""
    for name in archive.files:
        with contextlib.suppress(ValueError):
            yield name, archive[name]


def _random(path: Path) -> dict[str, Array]:
    """Numbers in [0, 1] where a case has no samples."""
    try:
        graph = read_model(path).graph
    except GlyphcError:
        return {}
    rng = np.random.default_rng(0)
    return {n.op.name: rng.uniform(size=(16, *n.type.shape)) for n in graph.inputs}  # type: ignore[attr-defined]


def _estimators(kinds: Iterator[tuple[str, Any, str]], wanted: Callable[[str], bool]) -> Iterator[Subject]:
    from estimators import fitted

    for found in fitted(kinds, wanted):
        yield Subject(found.name, found.model, found.train, found.test[:_SAMPLES], None)


# -- one subject --


def judge(subject: Subject, ring: int | None) -> Row:
    """Read, compile and simulate."""
    begin = time.process_time()
    outcome, program = "refused", None
    try:
        if isinstance(subject.model, GlyphcError):
            raise subject.model
        read_model(subject.model)
        outcome = "read"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _compiled(subject, ring)
            outcome = "compiled"
            x = _head(subject.x)
            found = program.run(x, mode="simulate")
        errors = _errors(found, subject, x)
    except (GlyphcError, MemoryError) as e:
        reason = " ".join(str(e).split()).replace("|", "/") or type(e).__name__
        return Row(subject.name, outcome, time.process_time() - begin, reason=reason[:300])
    except Exception as e:  # a fault of the compiler's, to be seen in the table
        return Row(subject.name, "CRASH", time.process_time() - begin, reason=f"{type(e).__name__}: {e}"[:300])
    from glyphc.diagnostics import predicted

    return Row(subject.name, outcome, time.process_time() - begin, predicted(program).bootstraps, errors)


def _compiled(subject: Subject, ring: int | None) -> glyphc.Program:
    """For a small ring, or the next larger one where it has no room."""
    rings = [ring, 2 * ring, 4 * ring] if ring else [None]
    for number, tried in enumerate(rings):
        try:
            return glyphc.compile(subject.model, subject.calibration, 4, insecure_ring=tried)
        except GlyphcError:
            if number == len(rings) - 1:
                raise
    raise AssertionError


def _head(x: Arrays) -> Arrays:
    return {k: v[:_SAMPLES] for k, v in x.items()} if isinstance(x, Mapping) else x[:_SAMPLES]


def _errors(found: Any, subject: Subject, x: Arrays) -> tuple[tuple[str, float], ...]:
    expected = subject.expected if subject.expected is not None else by_onnxruntime(subject.model, x)
    results = found if isinstance(found, dict) else {"": found}
    wanted = expected if isinstance(expected, Mapping) else dict.fromkeys(results, expected)
    errors = []
    for name, value in results.items():
        want = wanted[name] if name in wanted else next(iter(wanted.values())) if len(wanted) == 1 else None
        if want is None:
            continue
        got, want = np.asarray(value), np.asarray(want)[: len(value)]
        if want.dtype.kind not in "fiub" or "label" in name:
            errors.append((name, 100 * float(np.mean(got.reshape(-1) != want.reshape(-1)))))
            continue
        got, want = got.astype(np.float64).reshape(want.shape), want.astype(np.float64)
        span = float(np.ptp(want)) or float(np.abs(want).max()) or 1.0
        errors.append((name, 100 * float(np.sqrt(np.mean((got - want) ** 2))) / span))
    return tuple(errors)


def by_onnxruntime(model: Path | ModelProto, x: Arrays) -> dict[str, Array]:
    """Results by output name, sample by sample: whatever the file's batch is.

    As the standard defines them, without optimisations: those of quantised networks make products of 8 bits whose sums
    saturate at 16 bits on processors with AVX2 and without VNNI, which is not what the file says.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given_model = model if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given_model, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    given = x if isinstance(x, Mapping) else {inputs[0].name: x}
    types = {"tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    rows = []
    for at in range(len(next(iter(given.values())))):
        feeds = {}
        for i in inputs:
            if i.name in given:
                sample = np.asarray(given[i.name][at : at + 1], types.get(i.type, np.float32))
                shape = [n if isinstance(n, int) else 1 for n in i.shape]
                feeds[i.name] = sample.reshape(shape) if len(shape) != sample.ndim or 1 in shape else sample
        rows.append(session.run(None, feeds))
    names = [o.name for o in session.get_outputs()]
    return {n: _rows([r[at] for r in rows]) for at, n in enumerate(names)}


def _rows(values: list[Any]) -> Array:
    if isinstance(values[0], list):  # ZipMap: a dictionary for each sample
        return np.array([list(v[0].values()) for v in values])
    return np.concatenate([np.atleast_1d(v) for v in values])


def _subjects(arguments: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Iterator[Subject]]:
    yield (s for root in arguments.cases for s in folders(root) if wanted(s.name))
    if arguments.estimators or arguments.all_estimators:
        import estimators
    if arguments.estimators:
        yield _estimators(chain(estimators.tried(), estimators.boosted()), wanted)
    if arguments.all_estimators:
        yield _estimators(estimators.converted(), wanted)


def main() -> None:
    """Judge all that is asked for; print a row at a time, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, action="append", default=[], help="folder of cases (repeatable)")
    parser.add_argument("--estimators", action="store_true", help="32 estimators and pipelines, and boosted trees")
    parser.add_argument("--all-estimators", action="store_true", help="all that skl2onnx converts")
    parser.add_argument("--only", default="", help="subjects whose name contains this")
    parser.add_argument("--skip", default=None, help="but not those whose name contains this")
    parser.add_argument("--ring", type=int, default=4096, help="small ring; 0 for parameters of 128-bit security")
    parser.add_argument("--memory", type=float, default=6.0, help="gigabytes that may be used")
    parser.add_argument("--output", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    limit = int(arguments.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    head = ["| subject | outcome | bootstraps | error | CPU s | reason |", "| --- | --- | --- | --- | --- | --- |"]
    print("\n".join(head), flush=True)
    rows: list[Row] = []

    def wanted(name: str) -> bool:
        return arguments.only in name and (arguments.skip is None or arguments.skip not in name)

    for subject in chain(*_subjects(arguments, wanted)):
        rows.append(judge(subject, arguments.ring or None))
        print(rows[-1], flush=True)
    text = _summary(rows)
    print(text)
    if arguments.output is not None:
        page = [_HEADING.format(count=len(rows)), *head, *map(str, rows), text, ""]
        arguments.output.write_text("\n".join(page))


_HEADING = """# Estimators

Made by `python benchmarks/field.py --estimators --output docs/estimators.md`; do not edit. {count} models, compiled for
a small ring (not secure) and simulated on at most 64 held-out samples. The error is the root mean square difference to
ONNX Runtime, in percent of an output's range; of labels, the share that differs. `compile` holds labels to a
half point of accuracy, so scores beside a label may differ by more than that. The last column says why a model was
refused: *refused* when it was read, *read* when it was compiled.
"""


def _summary(rows: list[Row]) -> str:
    """What `predict` returns decides: the label where there is one, otherwise everything."""
    compiled = [r for r in rows if r.outcome == "compiled"]
    labelled = [[e for name, e in r.errors if "label" in name] or [e for _, e in r.errors] for r in compiled]
    everything = sum(all(e <= 1 for _, e in r.errors) for r in compiled)
    good = sum(all(e <= 1 for e in errors) for errors in labelled)
    text = f"\n{len(rows)} models: {good} compile and predict within 1 % ({everything} in all outputs)"
    for outcome in ("compiled", "read", "refused", "CRASH"):
        text += f", {sum(r.outcome == outcome for r in rows)} {outcome}"
    return text


if __name__ == "__main__":
    main()
