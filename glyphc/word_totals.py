"""Time, memory, traffic and parameters of programs on words of encrypted bits, for people."""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.analysis.estimate import Estimate
from glyphc.analysis.word_cost import gates_of
from glyphc.ir.word_parameters import WordParameters
from glyphc.program import Program
from glyphc.slow import duration
from glyphc.text_tables import counted


def word_totals(
    program: Program, estimates: Estimate, p: WordParameters, accuracy: Sequence[str], security: str
) -> str:
    """Of FHEW. accuracy: lines about what is lost."""
    client, gates = program.client, gates_of(program.schedule)
    sent = sum(port.layout.ciphertexts for port in client.inputs)
    secret = sum(m.products for m in client.encrypted)
    passes = program.requested_batch
    several = f"; {passes} samples take {passes} passes" if passes > 1 else ""
    lines = [
        f"batch       one sample per pass{several}",
        f"gates       {gates:,} per pass, each a bootstrap",
        *accuracy,
        f"time        {estimates.seconds:.1f} s per pass predicted ({duration(estimates.seconds * passes)} in all), "
        f"{estimates.client_seconds:.1f} s to encrypt and decrypt; as measured on {estimates.measured_on}",
        f"memory      {estimates.memory_bytes / 1e9:.2f} GB peak predicted; evaluation keys "
        f"{estimates.key_bytes / 1e6:.1f} MB of it",
        f"upload      {estimates.upload_bytes / 1e6:.2f} MB per pass, {counted(sent, 'bit')}"
        + (f"; {counted(secret, 'bit')} of encrypted weights along with the keys" if secret else ""),
        f"security    {security}",
        f"parameters  FHEW with GINX bootstrapping, words of {p.bits} bits, n = {p.dimension}, ring {p.ring}",
    ]
    return "\n".join(lines)
