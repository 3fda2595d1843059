"""glyphc with separate roles and files, as between two machines: python glyphc_mlp.py CASE.npz --batch N."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measured import Measured

import glyphc
from glyphc.exchange.artifacts import SPEC_FILE
from glyphc.exchange.client import SECRET_FILE, generate, load_account
from glyphc.exchange.server import Evaluator
from glyphc.exchange.split import split
from glyphc.progress import Silent

MODEL = Path(__file__).resolve().parents[2] / "models" / "mnist-mlp.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--engine", help="by name; by default the first one that can")
    arguments = parser.parse_args()
    with np.load(arguments.case) as case:
        train, x, labels = 255 * case["x_train"], 255 * case["x_test"], case["y_test"]
    found = Measured("glyphc", f"batch {arguments.batch}", {}, samples=min(arguments.samples, len(x)), tested=len(x))
    with found.stage("compile"):
        program = glyphc.compile(MODEL, train, arguments.batch, insecure_ring=arguments.ring)
    found.security = "NOT SECURE" if arguments.ring else "128 bits by the lattice-estimator, after a margin of 13"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        halves = split(program.graph)
        halves.server.specification.save(folder / SPEC_FILE)
        specification, keys = halves.server.specification, folder / "keys"
        with found.stage("keys"):
            engine = generate(specification, folder / SECRET_FILE, keys, None, Silent(), engine=arguments.engine)
        account = load_account(folder)
        with found.stage("encrypt"):
            account.encrypt(x[: found.samples], folder / "inputs")
        with Evaluator(halves.server, keys) as evaluator, found.stage("evaluate"):
            evaluator.evaluate(folder / "inputs", folder / "outputs")
        with found.stage("decrypt"):
            (scores,) = account.decrypt(folder / "outputs").values()
        found.key_bytes, found.input_bytes, found.output_bytes = (
            (folder / file).stat().st_size for file in ("keys", "inputs", "outputs")
        )
    clear = np.asarray(program.run(x, mode="clear")).argmax(axis=1)
    found.configuration += f", engine {engine.split()[0]}"
    found.versions = {"glyphc": glyphc.__version__}
    found.clear = float(np.mean(clear == labels))
    found.correct = float(np.mean(scores.argmax(axis=1) == labels[: found.samples]))
    found.agreement = float(np.mean(scores.argmax(axis=1) == clear[: found.samples]))
    found.print()


if __name__ == "__main__":
    main()
