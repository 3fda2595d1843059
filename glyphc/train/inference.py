"""Prediction by a step's forward pass: encrypted samples meet weights that are still encrypted.

A trained state goes on as it is. The last layer's sums are what a bootstrap would read next: on one limb, as phases.
They are the answer, so that each activation between two layers costs a bootstrap, and the end of the network none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Load
from glyphc.ir.instructions.ckks import Code
from glyphc.ir.ops import Output

from .heads import Softmax
from .losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from .plan import Plan
from .units import HALF_RANGE, coefficients

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Inference:
    """With the weights before ``step`` of a plan's run, whose ranges hold. Requests have a layout of their own: what
    a batch has for the forward pass alone."""

    plan: Plan
    step: int

    @cached_property
    def code(self) -> Code:
        """From a request's and the state's ciphertexts to ``LOGITS``."""
        return self.plan.server.inference(self.step)

    @cached_property
    def data(self) -> tuple[tuple[str, int], ...]:
        """Names and limbs of a request's ciphertexts, for as many samples as a pass takes."""
        server, loaded = self.plan.server, {i.name for i in self.code if isinstance(i, Load)}
        return tuple((name, limbs) for name, limbs in server.data_limbs.items() if name in loaded)

    @property
    def batch(self) -> int:
        """Samples of a pass: those of a batch, or of a micro-batch where a step has several."""
        return self.plan.server.micro_batch

    def messages(self, features: F64) -> Iterator[dict[str, F64]]:
        """A request's messages by name, for one pass after another, from what the trained part reads. Places that no
        sample fills are zero."""
        batch, flat = self.batch, features.reshape(len(features), -1)
        for at in range(0, len(flat), batch):
            part = flat[at : at + batch]
            padded = np.vstack([part, np.zeros((batch - len(part), flat.shape[1]))])
            every = self.plan.server.data(padded, np.zeros((batch, self.plan.server.head.units.count)))
            yield {name: every[name] for name, _ in self.data}

    def logits(self, message: F64) -> F64:
        """Of one pass, shape (batch, outputs), from the decrypted message."""
        head, units = self.plan.server.head, self.plan.server.head.units
        phases = coefficients(message, units.samples[:, None] + units.units)
        phases -= np.rint(phases)
        offset = head.offset if isinstance(head, Softmax) else 0.0
        return np.asarray((phases + offset) * head.reach / HALF_RANGE)


def outputs(network: Graph, loss: Loss, logits: F64) -> F64:
    """What a network gives, from its logits."""
    ((node, _),) = network.of(Output)
    (last,) = network.operands(node)
    if last.id == loss.attachment(network, node).id:
        return logits
    if isinstance(loss, SoftmaxCrossEntropy):
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
    assert isinstance(loss, BinaryCrossEntropy)
    return np.asarray(1 / (1 + np.exp(-logits)))


def score(loss: Loss, logits: F64, targets: F64) -> tuple[float, float | None]:
    """Mean loss, and the share of right classes where there are classes, of targets as those of a job."""
    if isinstance(loss, SoftmaxCrossEntropy):
        highest = logits.max(axis=1, keepdims=True)
        totals = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
        found = totals - (targets * logits).sum(axis=1)
    elif isinstance(loss, BinaryCrossEntropy):
        found = (np.logaddexp(0, logits) - targets * logits).sum(axis=1)
    else:
        return float(np.mean((logits - targets) ** 2)), None
    if logits.shape[1] == 1:
        right = (logits[:, 0] > 0) == (targets[:, 0] > 0.5)
    else:
        right = logits.argmax(axis=1) == targets.argmax(axis=1)
    return float(found.mean()), float(right.mean())
