"""What integers in slots are predicted to take, beside a run: its memory, and how often it does what is priced."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

import glyphc
from glyphc.analysis import integer_cost
from glyphc.analysis.cost import PROCESS_BYTES
from glyphc.analysis.integer_cost import REFERENCE_RING, ROWS, IntegerRow, integer_estimate
from glyphc.backends.openfhe import integer_client
from glyphc.backends.openfhe.integer_contexts import IntegerContexts
from glyphc.backends.openfhe.library import fhe
from glyphc.backends.processes import apart
from glyphc.errors import GlyphcError
from glyphc.ir.graph import Graph
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.program import Program
from glyphc.runtime import run
from tests.pass_networks import Network

FIGURES = tuple(field.name for field in fields(IntegerRow) if field.name != "limbs")
BATCH = 16
X = np.random.default_rng(5).normal(size=(80, 40))


def network() -> Graph:
    """Two hidden layers, so that some products are of fresh ciphertexts and some of others."""
    n = Network(40)
    a = n.apply(n.dense(n.x, 20, "a"), "sigmoid")
    b = n.apply(n.dense(a, 8, "b"), "sigmoid")
    n.output(n.dense(b, 4, "c"))
    return n.graph


def compiled(strategy: str, ring: int) -> Program:
    return glyphc.compile(network(), X, BATCH, strategy=strategy, insecure_ring=ring)


# -- memory --


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["cryptonets", "nandakumar"])
def test_memory_is_what_a_process_takes(strategy: str) -> None:
    small, program = compiled(strategy, 1024), compiled(strategy, 8192)
    before, peak = apart(resident, small.to_bytes(), program.to_bytes(), X[:BATCH], errors=GlyphcError)
    predicted = integer_estimate(program.schedule).memory_bytes - PROCESS_BYTES
    assert predicted > 0.05e9
    assert 0.75 < predicted / (peak - before) < 1.5


def resident(small: bytes, program: bytes, x: npt.NDArray[Any]) -> tuple[int, int]:
    """Bytes of this process once everything is loaded, and at the peak of an encrypted run."""
    run(Program.from_bytes(small), x, engine="openfhe")
    before = psutil.Process().memory_info().rss
    run(Program.from_bytes(program), x, engine="openfhe")
    # that of resource.getrusage would be the peak of the process that started this one, where that is larger
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return before, int(peak) * 1024


# -- what is priced --


class Counting:
    """A context of OpenFHE's that counts what it is asked for, by the names of the figures."""

    def __init__(self, context: Any, counts: Counter[str]) -> None:
        self._context, self._counts = context, counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._context, name)

        def counted(*arguments: Any) -> Any:
            if figure := _figure(name, arguments):
                self._counts[figure] += 1
            return found(*arguments)

        return counted


def _figure(name: str, arguments: tuple[Any, ...]) -> str:
    by_ciphertext = len(arguments) > 1 and type(arguments[1]).__name__ == "Ciphertext"
    match name:
        case "EvalMult":
            return "product" if by_ciphertext else "scaled"
        case "EvalAddInPlace":
            return "added" if by_ciphertext else "shifted"
        case "EvalAdd" | "EvalSubInPlace" | "EvalNegate":
            return "added"
        case "EvalAutomorphism" | "Encrypt" | "Decrypt":
            return name.removeprefix("Eval").lower()
        case "MakePackedPlaintext":
            return "packed"
        case "MakeCoefPackedPlaintext":
            return "constant"
    return ""


@pytest.mark.parametrize("strategy", ["cryptonets", "hesamifard", "nandakumar"])
def test_what_is_priced_is_what_is_done(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, counts = compiled(strategy, 1024), Counter[str]()
    make, clone = integer_client.make_integer_contexts, fhe.Ciphertext.Clone

    def counting(parameters: IntegerParameters) -> IntegerContexts:
        made = make(parameters)
        return replace(made, contexts=tuple(Counting(context, counts) for context in made.contexts))

    def cloned(ciphertext: Any) -> Any:
        """The first term of a sum."""
        counts["added"] += 1
        return clone(ciphertext)

    monkeypatch.setattr(integer_client, "make_integer_contexts", counting)
    monkeypatch.setattr(fhe.Ciphertext, "Clone", cloned)
    run(program, X[:BATCH], engine="openfhe")
    # a message is encoded before it is encrypted, a constant before it is added: parts of these figures
    counts["packed"] -= counts["encrypt"]
    counts["constant"] -= counts["shifted"]
    p = program.client.parameters
    unit = p.ring * np.log2(p.ring) / (REFERENCE_RING * np.log2(REFERENCE_RING))
    priced = {}
    for figure in FIGURES:
        one = {name: float(name == figure) for name in FIGURES}
        monkeypatch.setattr(integer_cost, "ROWS", tuple(replace(row, **one) for row in ROWS))
        estimate = integer_estimate(program.schedule)
        priced[figure] = round((estimate.seconds + estimate.client_seconds) / unit, 6)
    assert priced == {figure: counts[figure] for figure in FIGURES}
