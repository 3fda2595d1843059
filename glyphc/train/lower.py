"""The encrypted step of a chain of dense layers, as instructions: forward, errors, errors sent back, updates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from glyphc.ir.instructions import Instruction, Register, with_frees
from glyphc.ir.instructions.ckks import Code, check
from glyphc.ir.parameters import Parameters

from .first_layers import FirstLayer
from .heads import Approximated, Head, label_name
from .hidden_layers import HiddenLayer
from .layers import GRADIENT_LIMBS, ONES, REVERSED_ONES, STATE_LIMBS, Layer, state_names
from .units import Units
from .writer import Writer


@dataclass(frozen=True)
class Between:
    """What lies between two layers: the activation and its slope, and the errors sent back as they are."""

    activation: Approximated
    slope: Approximated
    passed: Approximated


@dataclass(frozen=True)
class Chain:
    """first, hidden: the layers, in order; between: the activation before each hidden one. masked: errors are.

    What the server needs of it are ``parameters``, ``periods``, the limbs of the ciphertexts, and ``code``.
    """

    parameters: Parameters
    first: FirstLayer
    hidden: tuple[HiddenLayer, ...]
    between: tuple[Between, ...]
    head: Head
    masked: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.first, *self.hidden)

    @property
    def periods(self) -> tuple[int, ...]:
        """Of packing and unpacking, whose keys the server needs."""
        return tuple(sorted({p for layer in self.layers for p in layer.periods}))

    @cached_property
    def data_limbs(self) -> dict[str, int]:
        """Limbs of a batch's fresh ciphertexts, by name."""
        limbs = {label_name(h): self.parameters.decoded_limbs for h in range(self.head.units.used_groups)}
        if any(part.name == "bias" for layer in self.layers for part in layer.parts):
            limbs |= {ONES: STATE_LIMBS + 1, REVERSED_ONES: GRADIENT_LIMBS}
        for layer in self.layers:
            limbs |= layer.data_limbs
        return limbs

    @property
    def data_names(self) -> tuple[str, ...]:
        return tuple(self.data_limbs)

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(name for layer in self.layers for name in state_names(layer))

    def fresh_limbs(self, name: str) -> int:
        """Limbs of the ciphertext of that name when it is fresh."""
        return self.data_limbs.get(name, STATE_LIMBS)

    def code(self, step: int) -> Code:
        """The instructions of step 0, 1, ...: from the batch's and the state's ciphertexts to the state's next ones."""
        code = tuple(with_frees(_write(self, step)))
        limbs = self.data_limbs | dict.fromkeys(self.state_names, STATE_LIMBS)
        stored = check(code, limbs, self.parameters.decoded_limbs - 1, self.parameters.slot_levels)
        assert stored == dict.fromkeys(self.state_names, STATE_LIMBS), stored
        return code


def _write(chain: Chain, step: int) -> list[Instruction]:
    w = Writer()
    sums = chain.first.forward(w, step)
    values: list[Register] = []
    slopes: list[Register] = []
    for layer, between in zip(chain.hidden, chain.between, strict=True):
        in_slots, slope = w.bootstrap(sums, between.activation, between.slope)
        values.append(w.decode(w.masked(in_slots, *layer.source.kept())))
        slopes.append(slope)
        sums = layer.forward(w, values[-1], step)
    errors = [chain.head.errors(w, sums)]
    for layer, between, slope in zip(chain.hidden[::-1], chain.between[::-1], slopes[::-1], strict=True):
        (in_slots,) = w.bootstrap(layer.sent_back(w, errors[-1], step), between.passed)
        errors.append(_decoded(w, w.slot_product(in_slots, slope), layer.source, chain.masked))
    first, *rest = errors[::-1]
    chain.first.update(w, first[0], step)
    for layer, value, after in zip(chain.hidden, values, rest, strict=True):
        layer.update(w, value, after, step)
    return list(w.code)


def _decoded(w: Writer, in_slots: Register, units: Units, masked: bool) -> list[Register]:
    """Errors of units, one register for each of their groups."""
    if not masked:
        # what stands beside the useful places, packing removes from the gradients
        return [w.decode(in_slots)]
    return [w.decode(w.masked(in_slots, *units.kept(h))) for h in range(units.used_groups)]
