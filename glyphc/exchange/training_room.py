"""How much room a training run's files take, known before any of them is made. For the client."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from glyphc.errors import EnvironmentSetupError
from glyphc.ir.parameters import AUXILIARY_PRIME_BITS, Parameters

from .training_files import TrainingProgram

# Beside ciphertexts and keys: lists of parts, rounding of files to blocks.
_MARGIN = 1.05
# Of a key in the linear context (see ``backends.openfhe.ckks_contexts``).
_LINEAR_DIGITS = 2


def folder_bytes(program: TrainingProgram, engine: str, owned: bool = False) -> float:
    """Of the server's folder as it is prepared. Keys and batches are there without their uniform halves, but for
    batches of ``owned`` data, which are encrypted under the public key. engine: that the keys are for.

    The first call for parameters makes small keys in OpenFHE, to learn how many the bootstrap has.
    """
    p, outline = program.parameters, program.outline
    keys = _all_keys(p, outline.periods, engine)
    batches = outline.batches * batch_bytes(program) * (2 if owned else 1)
    state = sum(ciphertext_bytes(p, limbs) for _, limbs in outline.state)
    return _MARGIN * (keys + batches + state + sum(map(len, program.codes)))


def _all_keys(p: Parameters, periods: tuple[int, ...], engine: str) -> int:
    if engine == "kernels":
        from glyphc.backends.kernels.keyfiles import file_bytes
        from glyphc.backends.kernels.shape import EngineShape

        return file_bytes(EngineShape(p), periods)
    from glyphc.backends.openfhe.contexts import bootstrap_automorphisms
    from glyphc.backends.openfhe.training_load import linear_part_names

    count, linear = len(bootstrap_automorphisms(p)) + 1, len(linear_part_names(p, periods))
    torus_key = _key_bytes(p, p.depth + 1, p.scaling_bits, p.large_digits)
    return count * torus_key + linear * _key_bytes(p, p.linear_limbs, p.linear_bits, _LINEAR_DIGITS)


def batch_bytes(program: TrainingProgram) -> float:
    """Of the file of a batch under the secret key."""
    p = program.parameters
    return float(p.ring * _width(p.linear_bits) * sum(limbs for _, limbs in program.outline.data))


def ciphertext_bytes(p: Parameters, limbs: int) -> float:
    """Of both elements of one, as states and live values have them."""
    return 2.0 * p.ring * _width(p.linear_bits) * limbs


def check_room(program: TrainingProgram, server: Path, engine: str) -> None:
    """EnvironmentSetupError when the server's folder, which exists, has no room for what is prepared."""
    needed, free = folder_bytes(program, engine), shutil.disk_usage(server).free
    if needed > free:
        raise EnvironmentSetupError(
            f"keys and encrypted batches for the server are about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free "
            f"in {os.fspath(server)!r}; make room, or choose a folder on another disk"
        )


def _key_bytes(p: Parameters, limbs: int, bits: int, digits: int) -> int:
    """The half of an evaluation key that is written."""
    digit = -(-limbs // digits)
    auxiliary = -(-digit * bits // AUXILIARY_PRIME_BITS)
    return digits * p.ring * (limbs * _width(bits) + auxiliary * _width(AUXILIARY_PRIME_BITS))


def _width(bits: int) -> int:
    """Bytes of a residue modulo a prime near 2^bits, which may be a little above it."""
    return bits // 8 + 1
