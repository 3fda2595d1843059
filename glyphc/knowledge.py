"""Who learns what when a program runs: a line that belongs beside every result.

Of an honest server and an honest client that both keep to the protocol. What the results themselves tell about a
network, and what its program tells about the samples that it was calibrated on, is in docs/security.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from glyphc.ir.ops import CLIENT_OPS, Input, Linear

if TYPE_CHECKING:
    from glyphc.program import Program


@dataclass(frozen=True)
class Knowledge:
    """What only the client learns, only the server, both, and neither. Of each: names of what there is to learn."""

    client: tuple[str, ...]
    server: tuple[str, ...]
    both: tuple[str, ...]
    neither: tuple[str, ...]

    def __str__(self) -> str:
        parts = (("client", self.client), ("server", self.server), ("both", self.both), ("neither", self.neither))
        return "; ".join(f"{who}: {', '.join(what)}" for who, what in parts if what)


_SHAPES = "shapes and number formats of all values"
# A client that encrypts ranks has to know among what.
_KNOTS = "thresholds that inputs are compared with"


def trips(program: Program) -> int:
    """How often the server waits for the client in a pass: once for each layer that it refreshes or gives bits of."""
    return sum(isinstance(node.op, CLIENT_OPS) for node in program.graph)


def of_program(program: Program) -> Knowledge:
    """Of inference: no gradients are computed."""
    own = ("inputs", "results")
    both = (_SHAPES, _KNOTS) if any(op.ranks is not None for _, op in program.graph.of(Input)) else (_SHAPES,)
    if count := trips(program):
        return Knowledge((*own, f"activations of {count} layers, which tell of the weights"), ("weights",), both, ())
    if program.encrypted_weights:
        others = any(not op.encrypted for _, op in program.graph.of(Linear))
        return Knowledge((*own, "encrypted weights"), ("other weights",) if others else (), both, ("activations",))
    return Knowledge(own, ("weights",), both, ("activations",))


# Of training: gradients and weights stay under the client's key, activations are never decrypted.
TRAINING = Knowledge(
    ("samples", "labels", "weights"),
    (),
    ("shapes of all values", "steps, learning rates, number of samples"),
    ("activations", "gradients"),
)
# Of training with frozen layers on the server, as two machines: one process has all of it.
TRAINING_KEPT = Knowledge(
    ("samples", "labels", "trained weights, which tell of the frozen ones"),
    ("frozen weights",),
    ("shapes of all values", "steps, learning rates, number of samples"),
    ("activations", "gradients"),
)
