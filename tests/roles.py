"""Small programs, keys and files for the tests of roles and service (insecure rings, for speed)."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import glyphc
from glyphc.exchange.artifacts import KEYS_FILE, PROGRAM_FILE, SPEC_FILE, ServerProgram
from glyphc.exchange.client import SECRET_FILE, Account, generate, load_account
from glyphc.exchange.split import split
from glyphc.ir.instructions.numbered import numbered
from glyphc.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
F32 = npt.NDArray[np.float32]


def samples(count: int, name: str = "digits") -> F32:
    return np.load(MODELS / "data" / f"{name}-test.npy")[:count]


# Of the models, the one with the fewest bootstraps: for what asks how passes are run, not what they compute.
ONE_BOOTSTRAP = "breast-cancer"


@functools.cache
def compiled(
    batch: int = 4, ring: int | None = 1024, name: str = "digits", encrypt_weights: str | None = None
) -> glyphc.Program:
    """Not to be changed: many tests take the same one."""
    train = np.load(MODELS / "data" / f"{name}-train.npy")
    return glyphc.compile(
        MODELS / f"{name}-mlp.onnx", train, batch, insecure_ring=ring, encrypt_weights=encrypt_weights
    )


@dataclass(frozen=True)
class Setting:
    """A compiled program with a client's and a server's folder."""

    program: glyphc.Program
    client: Path
    server: Path
    account: Account
    half: ServerProgram

    @property
    def keys(self) -> Path:
        return self.server / KEYS_FILE


def make_setting(folder: Path, program: glyphc.Program, engine: str = "openfhe") -> Setting:
    half = split(program.graph).server
    client, server = folder / "client", folder / "server"
    client.mkdir(parents=True)
    server.mkdir()
    half.specification.save(client / SPEC_FILE)
    half.save(server / PROGRAM_FILE)
    secrets = numbered(program.schedule).secret
    generate(half.specification, client / SECRET_FILE, server / KEYS_FILE, None, Silent(), secrets, engine)
    return Setting(program, client, server, load_account(client), half)


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLYPHC_COST_MODEL": ""} | changes
