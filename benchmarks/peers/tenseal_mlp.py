"""TenSEAL (leveled CKKS) on the network of a case: python tenseal_mlp.py CASE.npz --samples N.

It has no bootstraps, so each ReLU is a polynomial (``polynomials``); a sample is one ciphertext.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tenseal as ts
from measured import Measured
from polynomials import Case

RING = 16384
SCALE_BITS = 30
# Three linear maps take a level each, two squares two each; the first and the last prime hold results and keys.
MODULI = [45, *[SCALE_BITS] * 7, 45]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    case = Case(arguments.case)
    security = f"ring {RING}, log QP {sum(MODULI)}, refused above 128 bits by SEAL"
    versions = {"tenseal": version("tenseal")}
    found = Measured("TenSEAL", case.words, versions, security, samples=arguments.samples, tested=len(case.labels))
    with found.stage("keys"):
        context = ts.context(ts.SCHEME_TYPE.CKKS, RING, coeff_mod_bit_sizes=MODULI)
        context.global_scale = 2.0**SCALE_BITS
        context.generate_galois_keys()
    scores = []
    for sample in case.x[: arguments.samples].astype(np.float64):
        with found.stage("encrypt"):
            encrypted = ts.ckks_vector(context, sample.tolist())
            found.input_bytes += len(encrypted.serialize())
        with found.stage("evaluate"):
            for number, (weights, bias) in enumerate(case.layers):
                encrypted = encrypted.mm(weights.T.tolist()) + bias.tolist()
                if number < len(case.polynomials):
                    encrypted = encrypted.polyval(case.polynomials[number])
        found.output_bytes += len(encrypted.serialize())
        with found.stage("decrypt"):
            scores.append(encrypted.decrypt())
    found.key_bytes = len(context.serialize(save_secret_key=False))
    case.judge(found, scores)
    found.print()


if __name__ == "__main__":
    main()
