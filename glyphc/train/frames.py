"""Optimizers as recurrences whose state only ever has gradients added to it.

A step of gradient descent with momentum and weight decay is linear: s' = A_t s + B_t g, where s = (w, v), or (w)
without momentum. In the moving frame s = Phi_t u, with Phi_0 = 1 and Phi_{t+1} = A_t Phi_t, it becomes
u' = u + Phi_{t+1}^-1 B_t g: a pure addition. Under encryption that is the difference between a state that loses a level
with every step, so that it must be bootstrapped, and one that never does: constants only ever multiply fresh data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TrainingError
from .optimizers import SGD

F64 = npt.NDArray[np.floating[Any]]

# The frame's factors grow as momentum^-steps. Up to here messages stay far below the two limbs that hold them.
MOST_GROWTH = 2.0**20


def transition(optimizer: SGD, decayed: bool, step: int) -> tuple[F64, F64]:
    """A_t (k, k) and B_t (k,) of the step; k is 2 with momentum, else 1."""
    rate, mu = optimizer.rate(step), optimizer.momentum
    decay = optimizer.weight_decay if decayed else 0.0
    if not mu:
        return np.array([[1 - rate * decay]]), np.array([-rate])
    if optimizer.nesterov:
        first, push = [1 - rate * decay * (1 + mu), -rate * mu * mu], -rate * (1 + mu)
    else:
        first, push = [1 - rate * decay, -rate * mu], -rate
    return np.array([first, [decay, mu]]), np.array([push, 1.0])


@dataclass(frozen=True)
class Frame:
    """The frame of all parameters of one kind (with or without weight decay)."""

    optimizer: SGD
    decayed: bool

    @property
    def size(self) -> int:
        """Components of the state of one parameter."""
        return 2 if self.optimizer.momentum else 1

    def basis(self, step: int) -> F64:
        """Phi_t, shape (size, size): (w, v) before step t from u."""
        return _basis(self.optimizer, self.decayed, step)

    def push(self, step: int) -> F64:
        """What step t adds to u for a gradient of 1, shape (size,).

        TrainingError when the frame has moved too far from its start.
        """
        _, b = transition(self.optimizer, self.decayed, step)
        push = np.linalg.solve(self.basis(step + 1), b)
        if np.abs(push).max() > MOST_GROWTH * np.abs(b).max():
            raise TrainingError(
                f"a momentum of {self.optimizer.momentum:g} cannot be kept under encryption for more than {step} "
                "steps; train in several runs, each from the last one's weights, or with less momentum"
            )
        return np.asarray(push)


@lru_cache(maxsize=4096)
def _basis(optimizer: SGD, decayed: bool, step: int) -> F64:
    if step == 0:
        return np.eye(2 if optimizer.momentum else 1)
    if step % 256 == 0:  # keeps the recursion shallow
        for earlier in range(0, step, 128):
            _basis(optimizer, decayed, earlier)
    a, _ = transition(optimizer, decayed, step - 1)
    return np.asarray(a @ _basis(optimizer, decayed, step - 1))
