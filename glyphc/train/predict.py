"""What an encrypted run takes, known before any key is made: seconds, memory, keys, what is uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from glyphc import free_memory
from glyphc.analysis.cost import PROCESS_BYTES, CostModel
from glyphc.analysis.kernels_cost import more_bytes
from glyphc.analysis.training_cost import Bootstraps, primitive_seconds, step_seconds
from glyphc.analysis.training_memory import live_bytes, mask_bytes
from glyphc.ir.instructions.ckks import Bootstrap, Refresh
from glyphc.ir.memory import VARIABLE, limit
from glyphc.ir.parameters import Parameters

from .batches import Batches, Shuffle
from .inference import Inference
from .plan import Plan
from .ways.layers import STATE_LIMBS

# Encryption of a message beside reading one from a file: CPU seconds at N = 16384, on 2 to 4 limbs (5.5 to 6.4).
_ENCRYPTION = 6.0


@dataclass(frozen=True)
class Prediction:
    """Of a run. step_seconds: of each step; bootstraps: in one; key_seconds: of making keys.

    encrypt_seconds: of all ``batches``, each once; batch_bytes: of the ciphertexts of a batch in memory; machine: that
    the seconds are for.
    """

    steps: int
    step_seconds: float
    bootstraps: int
    key_seconds: float
    encrypt_seconds: float
    key_bytes: float
    memory_bytes: float
    ciphertexts: int
    batch_bytes: float
    batches: int
    machine: str

    @property
    def seconds(self) -> float:
        """Of the whole run, keys and encryption included."""
        return self.key_seconds + self.encrypt_seconds + self.steps * self.step_seconds


def predict(plan: Plan, steps: int, cost: CostModel, batches: int = 1) -> Prediction:
    """What a run of so many steps on so many different batches is expected to take, on the engine of the prices."""
    p, server = plan.parameters, plan.server
    code = server.code(min(1, steps - 1))
    held = dict.fromkeys(server.state_names, STATE_LIMBS)
    return Prediction(
        steps,
        step_seconds(code, held, server.data_limbs, p.decoded_limbs, Bootstraps.of(p), p.ring, cost),
        sum(isinstance(i, Bootstrap | Refresh) for i in code),
        cost.key_seconds(p),
        batches * _encryption_seconds(plan, cost),
        key_bytes(plan, cost.engine),
        memory_bytes(plan, cost.engine),
        len(server.data_names),
        batch_bytes(plan),
        batches,
        cost.machine.text,
    )


def pass_seconds(inference: Inference, cost: CostModel) -> float:
    """Of a pass of a request: as many samples as a batch, with weights that are still encrypted."""
    plan = inference.plan
    p, server = plan.parameters, plan.server
    held = dict.fromkeys(server.state_names, STATE_LIMBS)
    return step_seconds(inference.code, held, server.data_limbs, p.decoded_limbs, Bootstraps.of(p), p.ring, cost)


def different_batches(batches: Batches, steps: int) -> int:
    """Of a run: each is encrypted once."""
    if batches.turns or batches.shuffle is Shuffle.SAMPLES:
        return len({batches.number(step) for step in range(steps)})
    return min(batches.per_epoch, steps)


def require_memory(plan: Plan, engine: str, allowed: float | None, here: bool) -> None:
    """EnvironmentSetupError when a run is predicted to take more than ``allowed`` bytes (--memory). None: than is free,
    where it runs ``here``, else than the limit of ``glyphc.ir.memory``."""
    most, where = allowed, "allowed (--memory)"
    if allowed is None:
        most, where = (None, "available") if here else (float(limit()), f"the limit ({VARIABLE})")
    needed = memory_bytes(plan, engine) + (more_bytes(plan.parameters, engine) if here else 0.0)
    free_memory.require(
        needed, "use a smaller --batch or a larger machine, or raise the limit with --memory", most, where
    )


def _encryption_seconds(plan: Plan, cost: CostModel) -> float:
    """Of a batch."""
    p, server = plan.parameters, plan.server
    unused, ring = Bootstraps.of(p), p.ring
    limbs = map(server.fresh_limbs, server.data_names)
    return _ENCRYPTION * sum(primitive_seconds("load", n, unused, ring, cost) for n in limbs)


def memory_bytes(plan: Plan, engine: str) -> float:
    """Predicted peak of a process that trains on two threads: transforms, keys, what a bootstrap works on, the state
    and what a step's instructions hold beside it. See ``kernels_cost.more_bytes`` for more threads."""
    p, server = plan.parameters, plan.server
    held = dict.fromkeys(server.state_names, STATE_LIMBS)
    state = 2.0 * STATE_LIMBS * 8 * p.ring * len(held)
    # a state in a moving frame has all that a step can have from its second one on
    given = server.code(1), held, server.data_limbs, p
    step = live_bytes(*given) + mask_bytes(*given)
    return PROCESS_BYTES + _bootstrap_bytes(p, engine) + key_bytes(plan, engine) + state + step


def _bootstrap_bytes(p: Parameters, engine: str) -> float:
    """Transforms, and what a bootstrap works on."""
    if engine == "kernels":
        from glyphc.backends.kernels.estimate import bootstrap_bytes

        return bootstrap_bytes(p)
    limb = 8.0 * p.ring
    # measured at N = 65536 within 10 %: 10.5 GB for 16,384 slots, 6.8 GB for 4,096
    transforms = _diagonals(p.slots, p.level_budget[0]) + _diagonals(p.slots, p.level_budget[1])
    return transforms * 0.95 * (p.depth + 1) * limb + 24 * (p.depth + 1) * 2 * limb + 0.3e9


def _diagonals(slots: int, budget: int) -> int:
    """Of the matrices that a transform is cut into."""
    bits, more = divmod(slots.bit_length() - 1, budget)
    return int(more * (2 ** (bits + 2) - 1) + (budget - more) * (2 ** (bits + 1) - 1))


def batch_bytes(plan: Plan) -> float:
    """The ciphertexts of a batch."""
    limbs = sum(plan.server.fresh_limbs(name) for name in plan.server.data_names)
    return 2.0 * limbs * plan.parameters.ring * 8


def key_bytes(plan: Plan, engine: str) -> float:
    """Keys of bootstraps, and the linear context's."""
    p, periods = plan.parameters, plan.server.periods
    if engine == "kernels":
        from glyphc.backends.kernels.keyfiles import key_bytes as bootstrap_key_bytes
        from glyphc.backends.kernels.keyfiles import linear_key_bytes
        from glyphc.backends.kernels.shape import EngineShape

        return float(bootstrap_key_bytes(EngineShape(p)) + linear_key_bytes(p, periods))
    from glyphc.backends.openfhe.contexts import bootstrap_automorphisms

    # one for each rotation, products, and three of OpenFHE's own
    linear = 2.0 * 2 * (p.linear_limbs + 2) * p.ring * 8
    return (len(bootstrap_automorphisms(p)) + 1) * p.torus_key_bytes + (log2(max(periods)) + 2) * linear
