"""What an encrypted run takes, known before any key is made: seconds, memory, keys, what is uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from glyphc.analysis.cost import CostModel
from glyphc.analysis.training_cost import Bootstraps, step_seconds
from glyphc.ir.instructions.ckks import Bootstrap, Refresh

from .plan import Plan
from .ways.layers import STATE_LIMBS

# Of encrypted batches that are kept in memory, beside the one in use.
MOST_BATCH_BYTES = 1e9


@dataclass(frozen=True)
class Prediction:
    """Of a run. step_seconds: of each step; bootstraps: in one; key_seconds: of making keys.

    batch_bytes: of the ciphertexts of a batch in memory; machine: that the seconds are for.
    """

    steps: int
    step_seconds: float
    bootstraps: int
    key_seconds: float
    key_bytes: float
    memory_bytes: float
    batch_bytes: float
    machine: str

    @property
    def seconds(self) -> float:
        """Of the whole run, keys included."""
        return self.key_seconds + self.steps * self.step_seconds


def predict(plan: Plan, steps: int, cost: CostModel) -> Prediction:
    """What a run of so many steps is expected to take."""
    p, server = plan.parameters, plan.server
    code = server.code(min(1, steps - 1))
    held = dict.fromkeys(server.state_names, STATE_LIMBS)
    return Prediction(
        steps,
        step_seconds(code, held, server.data_limbs, p.decoded_limbs, Bootstraps.of(p), p.ring, cost),
        sum(isinstance(i, Bootstrap | Refresh) for i in code),
        cost.key_seconds(p),
        key_bytes(plan),
        memory_bytes(plan),
        batch_bytes(plan),
        cost.machine.text,
    )


def memory_bytes(plan: Plan) -> float:
    """Predicted peak of a process that trains: transforms, keys, what a bootstrap works on, data and state."""
    p = plan.parameters
    limb = 8.0 * p.ring
    # measured at N = 65536 within 10 %: 10.5 GB for 16,384 slots, 6.8 GB for 4,096
    transforms = _diagonals(p.slots, p.level_budget[0]) + _diagonals(p.slots, p.level_budget[1])
    work = 24 * (p.depth + 1) * 2 * limb + 0.3e9
    state = 2.0 * STATE_LIMBS * limb * len(plan.server.state_names)
    data = max(batch_bytes(plan), MOST_BATCH_BYTES)
    return transforms * 0.95 * (p.depth + 1) * limb + key_bytes(plan) + work + 2 * state + data


def _diagonals(slots: int, budget: int) -> int:
    """Of the matrices that a transform is cut into."""
    bits, more = divmod(slots.bit_length() - 1, budget)
    return int(more * (2 ** (bits + 2) - 1) + (budget - more) * (2 ** (bits + 1) - 1))


def batch_bytes(plan: Plan) -> float:
    """The ciphertexts of a batch."""
    limbs = sum(plan.server.fresh_limbs(name) for name in plan.server.data_names)
    return 2.0 * limbs * plan.parameters.ring * 8


def key_bytes(plan: Plan) -> float:
    """Keys of bootstraps (one for each rotation, products, three of OpenFHE's own), and the linear context's."""
    from glyphc.backends.openfhe.contexts import bootstrap_automorphisms

    p = plan.parameters
    linear = 2.0 * 2 * (p.linear_limbs + 2) * p.ring * 8
    return (len(bootstrap_automorphisms(p)) + 1) * p.torus_key_bytes + (log2(max(plan.server.periods)) + 2) * linear
