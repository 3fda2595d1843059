"""TenSEAL (leveled CKKS) on the network of a case: python tenseal_mlp.py CASE.npz --samples N.

It has no bootstraps, so each ReLU is a polynomial of degree 2, fitted by least squares to what reaches it on the
training samples, without retraining; a sample is one ciphertext.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tenseal as ts
from measured import Measured

RING = 16384
SCALE_BITS = 30
# Three linear maps take a level each, two squares two each; the first and the last prime hold results and keys.
MODULI = [45, *[SCALE_BITS] * 7, 45]
DEGREE = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    with np.load(arguments.case) as archive:
        case = {name: archive[name] for name in archive.files}
    layers = [(case[f"w{i}"].astype(np.float64), case[f"b{i}"].astype(np.float64)) for i in range(3)]
    polynomials = []
    value, clear = (case[name].astype(np.float64) for name in ("x_train", "x_test"))
    for number, (weights, bias) in enumerate(layers):
        value, clear = value @ weights.T + bias, clear @ weights.T + bias
        if number < len(layers) - 1:
            fit = np.polynomial.Polynomial.fit(value.ravel(), np.maximum(value, 0).ravel(), DEGREE).convert()
            polynomials.append([float(c) for c in fit.coef])
            value, clear = fit(value), fit(clear)
    words = f"ReLU replaced by polynomials of degree {DEGREE}"
    security = f"ring {RING}, log QP {sum(MODULI)}, refused above 128 bits by SEAL"
    found = Measured("TenSEAL", words, {"tenseal": version("tenseal")}, security)
    found.samples, found.tested = arguments.samples, len(clear)
    with found.stage("keys"):
        context = ts.context(ts.SCHEME_TYPE.CKKS, RING, coeff_mod_bit_sizes=MODULI)
        context.global_scale = 2.0**SCALE_BITS
        context.generate_galois_keys()
    scores = []
    for sample in case["x_test"][: arguments.samples].astype(np.float64):
        with found.stage("encrypt"):
            encrypted = ts.ckks_vector(context, sample.tolist())
            found.input_bytes += len(encrypted.serialize())
        with found.stage("evaluate"):
            for number, (weights, bias) in enumerate(layers):
                encrypted = encrypted.mm(weights.T.tolist()) + bias.tolist()
                if number < len(polynomials):
                    encrypted = encrypted.polyval(polynomials[number])
        found.output_bytes += len(encrypted.serialize())
        with found.stage("decrypt"):
            scores.append(encrypted.decrypt())
    labels, got, plain = case["y_test"], np.array(scores).argmax(axis=1), clear.argmax(axis=1)
    found.key_bytes = len(context.serialize(save_secret_key=False))
    found.clear = float(np.mean(plain == labels))
    found.correct = float(np.mean(got == labels[: len(got)]))
    found.agreement = float(np.mean(got == plain[: len(got)]))
    found.print()


if __name__ == "__main__":
    main()
