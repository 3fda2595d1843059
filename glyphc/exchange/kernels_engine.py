"""What an evaluation needs of the engine ``kernels``: see :class:`glyphc.exchange.engines.ServerEngine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glyphc.ir.instructions import Kind, Register, Schedule
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters

from .parts import Place

if TYPE_CHECKING:
    from glyphc.backends.kernels.basis import Basis
    from glyphc.backends.kernels.exchange import Exchange
    from glyphc.backends.kernels.machine import KernelsMachine
    from glyphc.backends.kernels.shape import EngineShape
    from glyphc.backends.kernels.slot_machine import KernelsSlotKeys, SlotKernels
    from glyphc.backends.openfhe.keys import EvaluationKeys


class KernelsServerEngine:
    """Coefficient layouts on the kernels. OpenFHE's BGV context alone is there: for fresh inputs and for outputs."""

    def __init__(self, schedule: Schedule) -> None:
        assert isinstance(schedule.parameters, Parameters)
        self._schedule, self._parameters = schedule, schedule.parameters
        self._torus = frozenset(r for i in schedule.instructions if i.result is Kind.TORUS for r in i.writes)
        self.machine: KernelsMachine
        self._shape: EngineShape
        self._basis: Basis
        self._exchange: Exchange
        self._linear_keys: EvaluationKeys

    def part_names(self) -> tuple[str, ...]:
        from glyphc.backends.kernels.keyfiles import part_names

        return part_names(self._parameters, self._schedule.client.encrypted)

    def warm_up(self, stage: Callable[[str], None]) -> None:
        from glyphc.backends.kernels.warm import ready

        ready(stage)

    def load(self, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]) -> int:
        from glyphc.backends.kernels.exchange import Exchange
        from glyphc.backends.kernels.keyfiles import load_keys
        from glyphc.backends.kernels.keys import make_basis
        from glyphc.backends.kernels.machine import KernelsMachine
        from glyphc.backends.kernels.shape import EngineShape, check_shape
        from glyphc.backends.openfhe.load import load_bgv

        self._shape = EngineShape(self._parameters)
        check_shape(self._shape)
        self._basis = make_basis(self._shape)
        self._linear_keys = load_bgv(self._parameters, seed, read, observe)
        self._exchange = Exchange(self._shape, self._basis, self._linear_keys.bgv_mould)
        encrypted = self._schedule.client.encrypted
        keys = load_keys(self._shape, self._basis, self._exchange, seed, read, observe, encrypted)
        self.machine = KernelsMachine(self._schedule, keys)
        return self._linear_keys.contexts.bgv_ring.q

    def clear(self) -> None:
        """Drop the keys, which are gigabytes."""
        del self.machine

    def read_input(self, data: bytes, seed: bytes, name: str) -> Any:
        from glyphc.backends.openfhe.residues import Uniform

        return self._exchange.read(data, Uniform(seed, name))

    def output_bits(self, noise: float) -> int:
        from glyphc.backends.openfhe.wire import output_bits

        return output_bits(self._parameters.plaintext_bits, noise)

    def write_output(self, ciphertext: Any, place: Place, bits: int, flood: float) -> bytes:
        from glyphc.backends.openfhe.wire import Flood, write_output

        sent = self._exchange.sent(ciphertext)
        return write_output(self._linear_keys, sent, place.positions, bits, Flood(flood) if flood else None)

    def write_live(self, ciphertext: Any, register: Register | None) -> bytes:
        from glyphc.backends.kernels.keyfiles import pack_sum

        return pack_sum(self._basis, self._rows(register), ciphertext)

    def read_live(self, data: bytes, register: Register | None) -> Any:
        from glyphc.backends.kernels.keyfiles import unpack_sum

        return unpack_sum(self._basis, self._rows(register), data)

    def _rows(self, register: Register | None) -> tuple[int, ...]:
        """The primes of a ciphertext's rows."""
        return (0,) if register in self._torus else self._shape.linear


class KernelsSlotEngine:
    """Numbers in slots on the kernels. OpenFHE's context is there for the form of ciphertexts in files."""

    def __init__(self, schedule: Schedule, parameters: SlotParameters) -> None:
        self._schedule, self._parameters = schedule, parameters
        self._keys: KernelsSlotKeys
        self.machine: SlotKernels

    def part_names(self) -> tuple[str, ...]:
        from glyphc.backends.kernels.slot_load import slot_part_names

        return slot_part_names(self._parameters)

    def warm_up(self, stage: Callable[[str], None]) -> None:
        from glyphc.backends.kernels.warm import ready

        ready(stage)

    def load(self, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]) -> int:
        from glyphc.backends.kernels.slot_load import load_slot_keys
        from glyphc.backends.kernels.slot_machine import SlotKernels

        self._keys = load_slot_keys(self._parameters, seed, read, observe)
        self.machine = SlotKernels(self._schedule, self._keys)
        return self._keys.context.rings[-1].q

    def clear(self) -> None:
        """A few megabytes."""

    def read_input(self, data: bytes, seed: bytes, name: str) -> Any:
        from glyphc.backends.openfhe.residues import Uniform

        wire = self.machine.wire
        return wire.received(wire.moulds.read_fresh(data, Uniform(seed, name)))

    def output_bits(self, noise: float) -> int:
        return 8 * self._parameters.residue_bytes[0]

    def write_output(self, ciphertext: Any, place: Place, bits: int, flood: float) -> bytes:
        from glyphc.backends.openfhe.slot_wire import write_output

        unit, wire = max(place.port.fixed.magnitude, 1), self.machine.wire
        return write_output(wire.moulds, self._keys.public, wire.sent(ciphertext), flood / unit)

    def write_live(self, ciphertext: Any, register: Register | None) -> bytes:
        return self.machine.write(ciphertext)

    def read_live(self, data: bytes, register: Register | None) -> Any:
        # outputs are on one limb, and without a drift
        wire = self.machine.wire
        return wire.received(wire.moulds.read(data, 1)) if register is None else self.machine.read(data, register)
