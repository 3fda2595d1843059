"""Predicted time and memory of a schedule, from the cost model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glyphc.backends.processors import thread_count
from glyphc.ir.instructions import (
    ClientSpec,
    ConjugateDot,
    Conjugates,
    Divide,
    Dot,
    EncryptedDot,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Port,
    Powers,
    Register,
    Schedule,
    Split,
    Store,
    ToTorus,
    TransientDot,
    masks_of,
    weighted,
)
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Lookup
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters

from .configurations import priced
from .cost import (
    ENCRYPTED_WEIGHT_POLYNOMIALS,
    SHIPPED_MACHINE,
    CostModel,
    deepest,
    mask_bytes,
    split_automorphisms,
)
from .integer_cost import integer_estimate
from .kernels_cost import THREADS, more_bytes
from .lookup_cost import idle_bytes, key_bytes, lookup_bytes, lookup_seconds
from .slot_cost import SlotEstimate, slot_estimate
from .word_cost import word_estimate

# How many products' time it takes to encode a polynomial of few terms.
ENCODING = 2.5


@dataclass(frozen=True)
class Estimate:
    """Of one pass of a batch: seconds by graph node, number of bootstraps; bytes of keys and at the peak of a run.

    measured_on: the machine that the figures are for. upload_bytes, download_bytes: of encrypted inputs and outputs.
    client_seconds: of encryption, and of decryption where it takes a part of that.
    """

    node_seconds: dict[int, float]
    bootstraps: int
    bootstrap_seconds: float
    key_bytes: float
    memory_bytes: float
    measured_on: str
    upload_bytes: float = 0.0
    client_seconds: float = 0.0
    download_bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """Evaluation time on the server."""
        return sum(self.node_seconds.values())


def estimate(schedule: Schedule, cost: CostModel, threads: int | None = None) -> Estimate:
    """What one pass of the schedule is expected to take.

    threads: of the run, as of ``kernels_cost.more_bytes``: each keeps some memory for itself.
    """
    parameters = schedule.parameters
    if not isinstance(parameters, Parameters):
        found = _in_slots(schedule, cost)
        return Estimate(
            found.node_seconds,
            0,
            0.0,
            found.key_bytes,
            found.memory_bytes,
            # figures of BFV and of gates ship with glyphc, 'glyphc measure' makes none
            (cost.machine if isinstance(parameters, SlotParameters) else SHIPPED_MACHINE).text,
            found.upload_bytes,
            found.client_seconds,
            found.download_bytes,
        )
    peak = peak_bytes(schedule, cost, threads)
    cost = priced(cost, parameters)
    by_node: dict[int, float] = {}
    bootstrap = 0.0
    for instruction in schedule.instructions:
        seconds = instruction_seconds(instruction, parameters, cost)
        by_node[instruction.node] = by_node.get(instruction.node, 0.0) + seconds
        if isinstance(instruction, Powers | Evaluate):
            bootstrap += seconds
    sent = sum(p.layout.ciphertexts for p in schedule.client.inputs)
    return Estimate(
        by_node,
        sum(isinstance(i, Powers) for i in schedule.instructions),
        bootstrap,
        key_bytes(parameters, cost) + weight_bytes(schedule.client, cost.limbs),
        peak + more_bytes(parameters, cost.engine, threads),
        cost.machine.text,
        sent * parameters.ring * -(-parameters.bgv_bits // 8),
        sent * cost.encryption(parameters.ring),
        sum(map(_output_residues, schedule.client.outputs)) * -(-parameters.bgv_bits // 8),
    )


def _in_slots(schedule: Schedule, cost: CostModel) -> SlotEstimate:
    match schedule.parameters:
        case IntegerParameters():
            return integer_estimate(schedule)
        case WordParameters():
            return word_estimate(schedule)
        case _:
            return slot_estimate(schedule, cost)


def _output_residues(port: Port) -> int:
    """What leaves the server of an output: one element of each ciphertext, and of the other what holds a value."""
    return port.layout.ciphertexts * port.layout.ring + port.layout.batch * port.layout.features


def instruction_costs(schedule: Schedule, cost: CostModel) -> tuple[float, ...]:
    """Predicted seconds of every instruction."""
    parameters = schedule.parameters
    if not isinstance(parameters, Parameters):
        return _in_slots(schedule, cost).instruction_seconds
    cost = priced(cost, parameters)
    return tuple(instruction_seconds(i, parameters, cost) for i in schedule.instructions)


def instruction_seconds(instruction: Instruction, parameters: Parameters, cost: CostModel) -> float:
    """Predicted seconds of one instruction, in the usual configuration of the model."""
    match instruction:
        case TransientDot(sources=sources):
            each = cost.scaled(cost.product, parameters.ring)
            return each * ((1 + ENCODING) * len(sources) + 1)
        case Dot(sources=sources):
            return cost.scaled(cost.product, parameters.ring) * (len(sources) + 1)
        case EncryptedDot(sources=sources):
            return cost.scaled(cost.encrypted_product, parameters.ring) * len(sources)
        case Conjugates():
            return cost.conjugates_seconds(instruction.steps(parameters.ring))
        case ConjugateDot():
            products = cost.scaled(cost.product, parameters.ring) * (instruction.count * instruction.parts + 1)
            return products + cost.giants_seconds(instruction.steps(parameters.ring))
        case Split(parts=parts, targets=targets):
            return cost.scaled(cost.automorphism, parameters.ring) * split_automorphisms(parts, len(targets))
        case Divide() | ToTorus() | FromTorus():
            # the way to the coefficients and back is what takes time
            return cost.scaled(cost.switch, parameters.ring)
        case Powers(degree=degree):
            return cost.powers_seconds(parameters.slots, degree, parameters.ring, deepest(parameters, cost.engine))
        case Evaluate(series=series, mask=mask):
            if isinstance(series, Lookup):
                function = lookup_seconds(series, parameters, cost)
            else:
                function = cost.evaluate_seconds(
                    parameters.slots, series.degree, parameters.ring, deepest(parameters, cost.engine)
                )
            return function + (cost.mask_seconds(parameters.slots, parameters.ring) if mask is not None else 0.0)
        case _:
            return 0.0


def peak_bytes(schedule: Schedule, cost: CostModel, threads: int | None = None) -> float:
    """Predicted resident memory at the peak of a run; what more than two threads keep is in ``more_bytes``.

    Contexts and keys and encoded weights are there throughout, once these are encoded; registers come and go, inputs
    too, as they are made or read when they are loaded; a bootstrap takes room for its intermediate results while it
    runs.
    """
    parameters = schedule.parameters
    assert isinstance(parameters, Parameters)
    cost = priced(cost, parameters)
    # two polynomials of 64-bit coefficients for each limb; weights one, in OpenFHE two
    limbs, polynomial = cost.ciphertext_limbs(parameters), 8 * parameters.ring
    ciphertext = 2 * polynomial * limbs
    weight = polynomial * (limbs if cost.engine == "kernels" else 2)
    powers = cost.powers_bytes(parameters)
    brief = {i.weights for i in schedule.instructions if isinstance(i, TransientDot)}
    weights = sum(len(rows) for name, rows in schedule.polynomials.items() if name not in brief)
    kept = idle_bytes(parameters, cost) + weight * weights + weight_bytes(schedule.client, cost.limbs)
    kept += mask_bytes(parameters) * len(masks_of(schedule.instructions))
    scratch = max(0.0, cost.work_bytes(parameters) - powers)
    stored = {i.source for i in schedule.instructions if isinstance(i, Store)}
    live: dict[Register, float] = {}
    held, peak = kept, kept + _encoding_bytes(schedule, threads)
    for instruction in schedule.instructions:
        if isinstance(instruction, Free):
            held -= sum(live.pop(r, 0.0) for r in set(instruction.registers) - stored)
            continue
        made = dict.fromkeys(instruction.writes, powers if isinstance(instruction, Powers) else float(ciphertext))
        live |= made
        held += sum(made.values())
        if isinstance(instruction, Powers | Evaluate):
            looked_up = isinstance(instruction, Evaluate) and isinstance(instruction.series, Lookup)
            peak = max(peak, held + scratch + (lookup_bytes(parameters) if looked_up else 0.0))
        if isinstance(instruction, TransientDot):
            peak = max(peak, held + weight * len(instruction.sources))
        if isinstance(instruction, ConjugateDot):
            # a sum of products for each giant step
            peak = max(peak, held + ciphertext * instruction.steps(parameters.ring).giants)
        peak = max(peak, held)
    return peak


def _encoding_bytes(schedule: Schedule, threads: int | None) -> float:
    """What encoding weights takes beside them at its peak: those of conjugates are made as dense polynomials.

    threads: by default as many as kernels have in this process, no fewer than predictions are for.
    """
    found, at_once = [0.0], max(THREADS, thread_count() if threads is None else threads)
    for name, dot in weighted(schedule.instructions).items():
        if isinstance(dot, ConjugateDot):
            rows = schedule.polynomials[name].offsets[: dot.count * dot.parts + 1]
            most = int(np.diff(rows[:: dot.parts]).max())  # terms of one source
            found.append(dot.steps(schedule.parameters.ring).encoding_bytes(most, at_once))
    return max(found)


def weight_bytes(client: ClientSpec, limbs: int = 1) -> float:
    """Encrypted weights in memory: polynomials of 64-bit coefficients. Their file takes about half of it.

    limbs: of a BGV ciphertext.
    """
    polynomials = sum(ENCRYPTED_WEIGHT_POLYNOMIALS * m.products + 2 * m.bias for m in client.encrypted)
    return 8.0 * limbs * client.parameters.ring * polynomials
