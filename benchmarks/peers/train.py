"""Logistic regression on encrypted breast cancer data, glyphc beside Concrete ML: steps of both, one after the other.

    python benchmarks/peers/train.py [--steps N] [--concrete-steps N] [--concrete-seconds S] [--output FILE.md]

398 training and 171 held-out samples of 30 measurements, standardised and decorrelated by their owner (the same
numbers for both), from zero weights, one learning rate, 128-bit security. A step of glyphc is on all samples; one of
Concrete ML on 8 of them, its own choice. Concrete ML in an environment of its own, as `make peers` makes it;
--concrete-steps: fewer encrypted steps of it, where they take too long (its accuracy is of these then);
--concrete-seconds: after which it is stopped, with what it has done by then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from measured import Training, notes, read_training, training_table
from run import ENVIRONMENTS, HERE, ROOT

from glyphc.train.whitening import Whitening

RIDGE = 1.0


def write_case(path: Path) -> None:
    """Arrays x_train, y_train, x_test and y_test, as both read them."""
    import datasets

    split = datasets.SPLITS["breast-cancer"]()
    deviations = split.x_train.astype(np.float64).std(axis=0)
    x, x_test = (v.astype(np.float64) / deviations for v in (split.x_train, split.x_test))
    weight, bias = Whitening(RIDGE).layer(x)
    whitened = {"x_train": x @ weight.T + bias, "x_test": x_test @ weight.T + bias}
    np.savez(path, **whitened, y_train=split.y_train, y_test=split.y_test)


def measure(python: Path, script: str, *arguments: object, seconds: float | None = None) -> Training:
    """One run in a process of its own. seconds: after which it is stopped; then the last line that it printed counts,
    which it did when the step began that it is at."""
    command = [python, HERE / script, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as output:
        stopped = 0.0
        try:
            subprocess.run([*map(str, command)], check=True, stdout=output, env=environment, timeout=seconds)
        except subprocess.TimeoutExpired:
            stopped = time.time() - os.fstat(output.fileno()).st_mtime
        output.seek(0)
        return replace(read_training(output.read()), stopped=stopped)


def main() -> None:
    from engines import processor

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--concrete-steps", type=int, help="encrypted ones of Concrete ML [default: as many]")
    parser.add_argument("--concrete-seconds", type=float, help="for Concrete ML [default: as many as it takes]")
    parser.add_argument("--ring", type=int, help="of glyphc, a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    arguments = parser.parse_args()
    environment = ENVIRONMENTS / "concrete-ml"
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.npz"
        write_case(case)
        small = ("--ring", arguments.ring) if arguments.ring else ()
        results = [measure(Path(sys.executable), "glyphc_sgd.py", case, "--steps", arguments.steps, *small)]
        if (environment / ".made").exists():
            steps = arguments.concrete_steps or arguments.steps
            python, limit = environment / "bin" / "python", arguments.concrete_seconds
            results.append(measure(python, "concrete_ml_sgd.py", case, "--steps", steps, seconds=limit))
        else:
            print("Concrete ML has no environment here; `make peers` makes it", file=sys.stderr)
    load = f"{processor()}; load average {os.getloadavg()[0]:.1f} at the end."
    page = f"{training_table(results)}\n\n{notes(results)}\n\n{load}"
    print(page)
    if arguments.output:
        arguments.output.write_text(page + "\n")


if __name__ == "__main__":
    sys.path[1:1] = [str(HERE.parent), str(ROOT / "models")]
    main()
