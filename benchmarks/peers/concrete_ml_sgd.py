"""Concrete ML's logistic regression on encrypted data: python concrete_ml_sgd.py CASE.npz --steps N [--rate R].

Its SGDClassifier(fit_encrypted=True) as it is: batches of 8 samples, 6 bits, sums rounded to 7 bits, a failure
probability of 0.01 of each table look-up. It begins at zero, as glyphc does. What the steps take is measured around its
own calls of the compiled circuit; --mode simulate executes nothing encrypted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from concrete.fhe import Circuit
from concrete.ml.sklearn import SGDClassifier
from measured import Training

# Parameters are to stay within: those of the same steps in the clear do.
RANGE = (-2.0, 2.0)
STAGES = {"keygen": "keys", "encrypt": "encrypt", "run": "step"}


def trained(case: dict[str, np.ndarray], steps: int, rate: float, mode: str) -> Any:
    model = SGDClassifier(random_state=0, max_iter=steps, fit_encrypted=True, parameters_range=RANGE)
    model.learning_rate_value = rate
    features = case["x_train"].shape[1]
    start = {"coef_init": np.zeros((1, features)), "intercept_init": np.zeros(1)}
    return model.fit(case["x_train"], case["y_train"], fhe=mode, **start)


def timed(call: Callable[..., Any], found: Training, stage: str) -> Callable[..., Any]:
    def around(*given: Any, **more: Any) -> Any:
        with found.stage(stage):
            result = call(*given, **more)
        found.steps += stage == "step"
        # what there is if the run is stopped before the next step ends
        if stage != "encrypt":
            found.print()
        return result

    return around


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--mode", choices=("execute", "simulate"), default="execute")
    arguments = parser.parse_args()
    with np.load(arguments.case) as archive:
        case = {name: archive[name] for name in archive.files}
    found = Training("Concrete ML", f"SGDClassifier(fit_encrypted=True), rate {arguments.rate:g}", {})
    found.tested = len(case["y_test"])

    def accuracy(model: Any) -> float:
        return float(np.mean(model.predict(case["x_test"]) == case["y_test"]))

    clear = trained(case, arguments.steps, arguments.rate, "disable")
    found.clear, found.batch = accuracy(clear), clear.batch_size
    circuit = clear.training_quantized_module.fhe_circuit
    for name, stage in STAGES.items():
        setattr(Circuit, name, timed(getattr(Circuit, name), found, stage))
    found.security = f"128 bits, its default; probability of a wrong look-up {circuit.p_error:.1e}"
    if arguments.mode == "simulate":
        found.security, found.steps = "nothing was encrypted (simulated)", arguments.steps
    found.versions = {n: version(n) for n in ("concrete-ml", "concrete-python", "scikit-learn")}
    found.print()
    found.encrypted = accuracy(trained(case, arguments.steps, arguments.rate, arguments.mode))
    found.print()


if __name__ == "__main__":
    main()
