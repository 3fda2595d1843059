"""Time, memory, traffic and parameters of programs whose numbers stand in slots, for people."""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.analysis.estimate import Estimate
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import CLIENT_OPS, Output
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding
from glyphc.program import Program
from glyphc.text_tables import counted


def slot_totals(
    program: Program, estimates: Estimate, p: SlotParameters, accuracy: Sequence[str], security: str
) -> str:
    """Of CKKS. accuracy: lines about what is lost."""
    sent = sum(port.layout.ciphertexts for port in program.client.inputs)
    lines = [
        _batch(program, p.slots),
        *accuracy,
        *_costs(program, estimates, sent),
        f"security    {security}",
        f"parameters  CKKS, ring {p.ring}, {p.slots} slots, {counted(p.depth, 'level')} of {p.scaling_bits} bits, last "
        f"prime {p.first_bits} bits, {counted(p.large_digits, 'digit')}, moduli {p.modulus_bits} bits",
    ]
    return "\n".join(lines)


def integer_totals(
    program: Program, estimates: Estimate, p: IntegerParameters, accuracy: Sequence[str], security: str
) -> str:
    """Of BFV."""
    sent = sum(port.layout.ciphertexts for port in program.client.inputs)
    sent = len(p.moduli) * (sent + sum(request.results(p.slots) for request in program.client.requests))
    bits = " and ".join(f"{t.bit_length()} bits" for t in p.moduli)
    keys = "a relinearisation key for each t" if p.products else "no evaluation keys"
    keys += f" and {len(p.automorphisms)} of automorphisms" if p.automorphisms else ""
    lines = [
        # what stands side by side in blocks takes the room of larger batches
        _batch(program, p.block or p.slots),
        *accuracy,
        *_limits(program, p),
        *_trips(program),
        *_costs(program, estimates, sent),
        f"security    {security}",
        f"parameters  BFV, ring {p.ring}, {p.slots} slots, t of {bits}, moduli {p.modulus_bits} bits, {keys}",
    ]
    return "\n".join(lines)


def _batch(program: Program, slots: int) -> str:
    batch = program.client.batch
    passes = -(-program.requested_batch // batch)
    asked = f" ({program.requested_batch} samples take {passes} passes)" if passes > 1 else ""
    return f"batch       {counted(batch, 'sample')} per pass{asked}; up to {slots:,} would take as long"


def _costs(program: Program, estimates: Estimate, sent: int) -> list[str]:
    return [
        f"time        {estimates.seconds:.1f} s per pass predicted, "
        f"{estimates.seconds / program.client.batch * 1e3:.1f} ms per sample; {estimates.client_seconds:.1f} s to "
        f"encrypt and decrypt; as measured on {estimates.measured_on}",
        f"memory      {estimates.memory_bytes / 1e9:.1f} GB peak predicted; evaluation keys "
        f"{estimates.key_bytes / 1e6:.1f} MB of it",
        f"upload      {estimates.upload_bytes / 1e6:.1f} MB per pass, {counted(sent, 'ciphertext')}",
    ]


def _limits(program: Program, p: IntegerParameters) -> list[str]:
    """How far results may go: hidden values may wrap as they like."""
    lines = []
    for node, op in program.graph.of(Output):
        source = program.graph.operands(node)[0]
        while source.type.encoding is not Encoding.INTEGERS:
            source = program.graph.operands(source)[0]
        fixed, calibration = source.type.fixed, source.type.calibration
        if fixed is None or calibration is None:
            continue
        limit = p.modulus / 2 * fixed.scale[0]
        seen = max(abs(calibration.lo), abs(calibration.hi)) or limit
        lines.append(
            f"limits      output {op.name} is exact up to {limit:.4g} on either side of zero, {limit / seen:.3g} times "
            "what calibration saw; beyond, it wraps ('run' tells of it)"
        )
    return lines


def _trips(program: Program) -> list[str]:
    graph = program.graph
    asked = [graph.operands(node)[0] for node in graph if isinstance(node.op, CLIENT_OPS)]
    names = [f"@{node.location}" for node in asked]
    if not names:
        return []
    return [
        f"trips       {len(names)} to the client and back for every pass: it decrypts the results of "
        f"{', '.join(names)} and encrypts them, or bits of them, again, so it sees them"
    ]
