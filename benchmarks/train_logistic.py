"""Training on encrypted data at 128-bit security, from zero weights, against scikit-learn's LogisticRegression.

    python benchmarks/train_logistic.py [breast-cancer] [digits] [digits-softmax] [--steps 10] [--mode simulate]

breast-cancer: logistic regression, 398 samples of 30 features in every step. digits: ten logistic regressions at once,
one for each digit against the rest, 1285 samples of 64 pixels in every step. Both on standardised features.
digits-softmax: softmax regression, 643 samples in a step, pixels centred and divided by 16. Simulation and training in
the clear are run beside the encrypted one: how far apart the weights are is printed too.
"""

from __future__ import annotations

import argparse
import resource
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from glyphc.console import reporter
from glyphc.ir.evaluate import evaluate
from glyphc.train.job import Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.loop import TrainingReport, train
from glyphc.train.optimizers import SGD

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
import datasets


@dataclass(frozen=True)
class Case:
    """A data set and how a model is trained on it."""

    split: str
    outputs: int
    optimizer: SGD
    steps: int
    reach: float
    ending: str = "sigmoid"
    batch: int | None = None


CASES = {
    "breast-cancer": Case("breast-cancer", 1, SGD(0.5), 30, 32.0),
    "digits": Case("digits", 10, SGD(2.0), 20, 16.0),
    "digits-softmax": Case("digits", 10, SGD(4.0, weight_decay=0.01), 30, 6.0, "softmax", 643),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--mode", choices=["encrypted", "simulate"], default="encrypted")
    arguments = parser.parse_args()
    for name in arguments.cases or CASES:
        case = CASES[name]
        run(name, case, arguments.steps or case.steps, arguments.mode)


def run(name: str, case: Case, steps: int, mode: str) -> None:
    """Train and print one line per figure."""
    split = datasets.SPLITS[case.split]()
    whole = case.ending == "sigmoid"
    x, x_test = (v.astype(np.float64) for v in (split.x_train, split.x_test))
    if not whole:
        x, x_test = ((v - x.mean(axis=0)) / 16 for v in (x, x_test))
    options = Options(case.optimizer, steps, case.batch, reach=case.reach)
    job = make_job(linear_model(x, case.outputs, case.ending, whole), x, split.y_train, options)
    print(f"{name}: {len(x)} samples, {x.shape[1]} features, {case.outputs} output(s), {steps} steps", flush=True)
    reports = {m: train(job, m, reporter=reporter()) for m in ("clear", "simulate")}
    if mode == "encrypted":
        reports[mode] = train(job, mode, reporter=reporter())
    last = reports[mode]
    scaled = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    test = (x_test - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = LogisticRegression(max_iter=5000).fit(scaled, split.y_train)
    show("scikit-learn, test accuracy", f"{reference.score(test, split.y_test):.2%}")
    for label, report in reports.items():
        show(f"{label}, test accuracy", f"{accuracy(report, x_test, split.y_test):.2%}")
    show("largest logit", f"{last.reach * case.reach:.1f} of {case.reach:g}")
    for first, second in (("simulate", "clear"), ("encrypted", "simulate")):
        if first in reports:
            show(f"{first} - {second}, weights", f"{distance(reports[first], reports[second]):.2e}")
    show("largest weight", f"{np.abs(last.network.constant('weight')).max():.3f}")
    show("seconds for a step", f"{np.median(last.seconds):.1f} (median), {np.min(last.seconds):.1f} (best)")
    show("security", last.security)
    show("peak memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def accuracy(report: TrainingReport, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right classes."""
    p = evaluate(report.network, {"x": x.astype(np.float64)})["y"]
    return float(np.mean((p[:, 0] > 0.5 if p.shape[1] == 1 else p.argmax(axis=1)) == y))


def distance(a: TrainingReport, b: TrainingReport) -> float:
    """Largest difference of two weights."""
    return max(float(np.abs(a.network.constant(n) - b.network.constant(n)).max()) for n in ("weight", "bias"))


def show(name: str, value: str) -> None:
    print(f"  {name:32} {value}", flush=True)


if __name__ == "__main__":
    main()
