"""What is predicted of a step is counted: every operation of an encrypted run (small rings), and its live bytes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from test_train_chain import chain as layers
from test_train_chain import one_hot

from glyphc.analysis.training_cost import Bootstraps, Figure, step_figures
from glyphc.analysis.training_memory import live_bytes
from glyphc.backends import base
from glyphc.backends.kernels.bootstrap import Bootstrapper
from glyphc.backends.kernels.ckks_linear import LinearArithmetic, LinearKernels
from glyphc.backends.kernels.ckks_machine import KernelsCKKS
from glyphc.backends.kernels.evaluator import Ciphertext
from glyphc.backends.kernels.slot_forms import SlotForms
from glyphc.exchange.training_machine import Stored
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Code, Instruction, Load
from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan
from glyphc.train.ways.layers import STATE_LIMBS
from glyphc.trainer.loop import train

STEPS, RING = 2, 1024
CONVOLUTION = """
weights he_normal(seed=1)
input x: [1, 6, 6]
z = x -> conv(2, 3, stride=2, padding=1) -> tanh -> flatten -> dense(3) as d
p = sigmoid(z)
output p
"""
# What automorphisms of the linear context are priced as.
AUTOMORPHISMS = ("branch", "key_switch")


@dataclass
class Executed:
    """counts: of what the kernels did in steps, and on how many limbs; bytes: at most in registers and outputs of one.

    within: a step, and not the kernels' own test of themselves."""

    counts: Counter[Figure] = field(default_factory=Counter)
    bytes: float = 0.0
    within: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, limbs: int = 0, often: int = 1) -> None:
        with self._lock:
            self.counts[Figure(name, limbs)] += often * self.within


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """Watches the kernels of this process."""
    found = Executed()

    def wrap(owner: type, name: str, told: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *arguments: Any) -> Any:
            told(self, *arguments)
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, wrapped)

    def every(owner: type, name: str, counted: str) -> None:
        wrap(owner, name, lambda *_: found.count(counted))

    def combined(
        _: Any, products: Sequence[Any], linear: Sequence[Any], constant: complex, limbs: int, *__: Any
    ) -> None:
        found.count("product", limbs, len(products))
        found.count("relinearise" if products else "rescale", limbs)

    wrap(LinearArithmetic, "combine", combined)
    wrap(LinearArithmetic, "automorphism", lambda _, x, *__: found.count("automorphism", x.limbs))
    wrap(LinearKernels, "convolved", lambda _, x, *__: found.count("public", x.limbs))
    wrap(LinearKernels, "raised", lambda _, x, *__: found.count("public", x.limbs))
    wrap(LinearKernels, "sum", lambda _, t: found.count("addition", min(x.limbs for x, _ in t), len(t) - 1))
    wrap(Stored, "__getitem__", lambda batch, name: found.count("load", batch._places[name][1]))
    every(KernelsCKKS, "_to_torus", "to_torus")
    every(KernelsCKKS, "_from_torus", "from_torus")
    every(Bootstrapper, "powers", "powers")
    every(Bootstrapper, "_series", "function")
    every(Bootstrapper, "_to_coefficients", "decode")
    every(SlotForms, "masked", "mask")
    every(SlotForms, "product", "slot_product")
    # with a rescaling, as in a mask
    wrap(SlotForms, "lowered", lambda _, form, limbs: found.count("mask", 0, int(form[0].limbs > limbs)))
    execute = base.execute

    def watched(code: Code, machine: Any, inputs: Mapping[str, Any], observe: base.Observer) -> dict[str, list[Any]]:
        state, held = base.State(), set[int]()

        def after(instruction: Instruction, seconds: float) -> None:
            if isinstance(instruction, Load) and instruction.name.startswith("state:"):
                held.update(id(a) for a in arrays(state.registers[instruction.target]))
            values = chain.from_iterable([state.registers.values(), *state.outputs.values()])
            live = {id(a): a.nbytes for value in values for a in arrays(value)}
            found.bytes = max(found.bytes, sum(size for key, size in live.items() if key not in held))
            observe(instruction, seconds)

        found.within = True
        try:
            return execute(code, machine, inputs, after, state)
        finally:
            found.within = False

    monkeypatch.setattr(base, "execute", watched)
    return found


def arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Of a ciphertext or a slot form."""
    for ciphertext in (value,) if isinstance(value, Ciphertext) else value:
        yield ciphertext.elements


def run(network: Graph, shape: tuple[int, ...], outputs: int, batch: int, optimizer: SGD) -> Plan:
    """The plan of an encrypted run that was done."""
    x = np.random.default_rng(1).normal(size=(batch, *shape)) / np.sqrt(np.prod(shape))
    options = Options(optimizer, STEPS, batch, insecure_ring=RING, convolutions=len(shape) > 1)
    job, plans = make_job(network, x, one_hot(batch, outputs), options), list[Plan]()
    train(job, "encrypted", engine="kernels", planned=plans.append)
    return plans[0]


def predicted(plan: Plan) -> tuple[Counter[Figure], float]:
    """Of all steps; and the most bytes of one."""
    p, server = plan.parameters, plan.server
    held = dict.fromkeys(server.state_names, STATE_LIMBS)
    counts: Counter[Figure] = Counter()
    for step in range(STEPS):
        counts += step_figures(server.code(step), held, server.data_limbs, p.decoded_limbs, Bootstraps.of(p))
    merged: Counter[Figure] = Counter()
    for figure, count in counts.items():
        merged[replace(figure, name="automorphism") if figure.name in AUTOMORPHISMS else figure] += count
    most = max(live_bytes(server.code(step), held, server.data_limbs, p) for step in range(STEPS))
    return merged, most


CASES = {
    "chain": (layers((6, 4, 4, 2)), (6,), 2, 8, SGD(0.3)),
    "momentum": (layers((40, 4, 2)), (40,), 2, 8, SGD(0.3, 0.5)),
    "softmax": (layers((6, 3), "softmax"), (6,), 3, 8, SGD(0.3)),
    # values that are added come in blocks, errors in groups
    "residual": (layers((5, 8, 8, 2), skips=((0, 1),)), (5,), 2, 32, SGD(0.3)),
    "residual, coarse": (layers((5, 4, 4, 2), skips=((0, 1),)), (5,), 2, 5, SGD(0.3)),
    "convolution": (parse_glyph(CONVOLUTION).graph, (1, 6, 6), 3, 4, SGD(0.3)),
}


@pytest.mark.parametrize("case", CASES)
def test_all_that_a_run_does_was_predicted(case: str, executed: Executed) -> None:
    plan = run(*CASES[case])
    counts, most = predicted(plan)
    assert executed.counts == counts
    assert executed.bytes <= most <= 1.05 * executed.bytes
