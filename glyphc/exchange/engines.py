"""What an evaluation needs of the backend, for each family of instructions: keys, ciphertexts as bytes, the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from glyphc.backends.engine import engine as find_engine
from glyphc.backends.errors import BackendError
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.instructions import ClientSpec, Instruction, Kind, Register, Schedule
from glyphc.ir.integer_parameters import IntegerParameters, ProgramParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters

from .kernels_engine import KernelsServerEngine, KernelsSlotEngine
from .parts import Place

if TYPE_CHECKING:
    from glyphc.backends.openfhe.evaluator import OpenFHEMachine
    from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
    from glyphc.backends.openfhe.integer_load import IntegerKeys
    from glyphc.backends.openfhe.keys import EvaluationKeys
    from glyphc.backends.openfhe.slot_evaluator import SlotKeys, SlotOpenFHE


class ServerEngine(Protocol):
    """One program with one client's keys. BackendError where OpenFHE cannot be loaded."""

    def part_names(self) -> tuple[str, ...]:
        """Of the client's evaluation keys."""

    def warm_up(self, stage: Callable[[str], None]) -> None:
        """What comes once in a process; ``stage`` is told its name. BackendError when the engine cannot be used."""

    def load(self, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]) -> int:
        """Load the keys; returns the modulus that their file must name. ResidueError for what is none."""

    def clear(self) -> None:
        """Drop the keys."""

    @property
    def machine(self) -> Any:
        """Executes the instructions."""

    def read_input(self, data: bytes, seed: bytes, name: str) -> Any:
        """A fresh ciphertext."""

    def output_bits(self, noise: float) -> int:
        """log2 of the modulus of outputs whose least noise is this."""

    def write_output(self, ciphertext: Any, place: Place, bits: int, flood: float) -> bytes:
        """An output. flood: 0, or the deviation of noise to add, in units of the message's integers."""

    def write_live(self, ciphertext: Any, register: Register | None) -> bytes:
        """A ciphertext in the middle of an evaluation; None: an output."""

    def read_live(self, data: bytes, register: Register | None) -> Any:
        """The inverse."""


# Those that have keys in files.
KEY_ENGINES = ("openfhe", "kernels")


def server_engine(schedule: Schedule, engine: str = "openfhe") -> ServerEngine:
    """The one for a program's family, and for keys of this engine (see :func:`check_engine`)."""
    if isinstance(schedule.parameters, SlotParameters):
        in_slots = KernelsSlotEngine if engine == "kernels" else SlotEngine
        return in_slots(schedule, schedule.parameters)
    if isinstance(schedule.parameters, IntegerParameters):
        return IntegerEngine(schedule.parameters)
    return KernelsServerEngine(schedule) if engine == "kernels" else PackedEngine(schedule)


def check_engine(engine: str, parameters: ProgramParameters) -> None:
    """GlyphcError when an engine makes no keys in files, or none for such a program."""
    if engine not in KEY_ENGINES:
        raise GlyphcError(f"the engine {engine!r} has no keys in files; use one of: {', '.join(KEY_ENGINES)}")
    if reason := find_engine(engine).refusal(parameters):
        other = next(name for name in KEY_ENGINES if name != engine)
        raise GlyphcError(f"the engine {engine!r} has no keys for such a program: {reason}; use --engine {other}")


def key_form(engine: str, parameters: ProgramParameters) -> str:
    """What the form of an engine's keys depends on beside the parameters (``KeysHeader.shape``).

    ParameterError for parameters that the engine has no keys for.
    """
    if engine != "kernels" or not isinstance(parameters, Parameters | SlotParameters):
        return ""
    from glyphc.backends.kernels.keyfiles import fingerprint
    from glyphc.backends.kernels.slot_shape import slots_fingerprint

    try:
        return slots_fingerprint(parameters) if isinstance(parameters, SlotParameters) else fingerprint(parameters)
    except BackendError as e:
        raise ParameterError(str(e)) from None


def input_size(client: ClientSpec, modulus: int) -> int:
    """Bytes of a fresh ciphertext. modulus: as the header of the keys says."""
    p = client.parameters
    if isinstance(p, SlotParameters | IntegerParameters):
        return p.fresh_bytes
    return p.ring * (((modulus - 1).bit_length() + 7) // 8)


class PackedEngine:
    """Coefficient layouts: BGV and bootstraps."""

    def __init__(self, schedule: Schedule) -> None:
        assert isinstance(schedule.parameters, Parameters)
        self._schedule, self._parameters = schedule, schedule.parameters
        self._keys: EvaluationKeys
        self.machine: OpenFHEMachine
        self._torus = torus_registers(schedule.instructions)

    def part_names(self) -> tuple[str, ...]:
        from glyphc.backends.openfhe.keymoulds import part_names

        return part_names(self._parameters, self._schedule.client.encrypted)

    def warm_up(self, stage: Callable[[str], None]) -> None:
        """Nothing."""

    def load(self, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]) -> int:
        from glyphc.backends.openfhe.evaluator import OpenFHEMachine
        from glyphc.backends.openfhe.load import load_keys

        self._keys = load_keys(self._parameters, seed, read, observe, self._schedule.client.encrypted)
        self.machine = OpenFHEMachine(self._schedule, self._keys)
        return self._keys.contexts.bgv_ring.q

    def clear(self) -> None:
        from glyphc.backends.openfhe.keys import clear_keys

        clear_keys(self._keys)

    def read_input(self, data: bytes, seed: bytes, name: str) -> Any:
        from glyphc.backends.openfhe.residues import Uniform
        from glyphc.backends.openfhe.wire import read_fresh

        return read_fresh(self._keys.bgv_mould, data, Uniform(seed, name))

    def output_bits(self, noise: float) -> int:
        from glyphc.backends.openfhe.wire import output_bits

        return output_bits(self._parameters.plaintext_bits, noise)

    def write_output(self, ciphertext: Any, place: Place, bits: int, flood: float) -> bytes:
        from glyphc.backends.openfhe.wire import Flood, write_output

        return write_output(self._keys, ciphertext, place.positions, bits, Flood(flood) if flood else None)

    def write_live(self, ciphertext: Any, register: Register | None) -> bytes:
        return self.machine.write(ciphertext, register in self._torus)

    def read_live(self, data: bytes, register: Register | None) -> Any:
        return self.machine.read(data, register in self._torus)


class SlotEngine:
    """Numbers in slots: CKKS."""

    def __init__(self, schedule: Schedule, parameters: SlotParameters) -> None:
        self._schedule, self._parameters = schedule, parameters
        self._keys: SlotKeys
        self.machine: SlotOpenFHE

    def part_names(self) -> tuple[str, ...]:
        from glyphc.backends.openfhe.slot_wire import PARTS

        return PARTS

    def warm_up(self, stage: Callable[[str], None]) -> None:
        """Nothing."""

    def load(self, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]) -> int:
        from glyphc.backends.openfhe.slot_evaluator import SlotOpenFHE
        from glyphc.backends.openfhe.slot_load import load_slot_keys

        self._keys = load_slot_keys(self._parameters, seed, read, observe)
        self.machine = SlotOpenFHE(self._schedule, self._keys)
        return self._keys.context.rings[-1].q

    def clear(self) -> None:
        """The one key is of a few megabytes, and goes when all contexts are released."""

    def read_input(self, data: bytes, seed: bytes, name: str) -> Any:
        from glyphc.backends.openfhe.residues import Uniform

        return self.machine.moulds.read_fresh(data, Uniform(seed, name))

    def output_bits(self, noise: float) -> int:
        return 8 * self._parameters.residue_bytes[0]

    def write_output(self, ciphertext: Any, place: Place, bits: int, flood: float) -> bytes:
        from glyphc.backends.openfhe.slot_wire import write_output

        unit = max(place.port.fixed.magnitude, 1)
        return write_output(self.machine.moulds, self._keys.public, ciphertext, flood / unit)

    def write_live(self, ciphertext: Any, register: Register | None) -> bytes:
        return self.machine.write(ciphertext)

    def read_live(self, data: bytes, register: Register | None) -> Any:
        # outputs are on one limb
        return self.machine.moulds.read(data, 1) if register is None else self.machine.read(data, register)


class IntegerEngine:
    """Exact integers in slots: BFV. The machine asks the client by its ``answer``."""

    def __init__(self, parameters: IntegerParameters) -> None:
        self.parameters = parameters
        self._keys: IntegerKeys
        self.machine: IntegerOpenFHE

    def part_names(self) -> tuple[str, ...]:
        from glyphc.backends.openfhe.integer_wire import part_names

        return part_names(self.parameters)

    def warm_up(self, stage: Callable[[str], None]) -> None:
        """Nothing."""

    def load(self, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]) -> int:
        from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
        from glyphc.backends.openfhe.integer_load import load_integer_keys

        self._keys = load_integer_keys(self.parameters, seed, read, observe)
        self.machine = IntegerOpenFHE(self._keys.contexts)
        return self._keys.contexts.rings[-1][-1].q

    def clear(self) -> None:
        """A few megabytes, which go when all contexts are released."""

    def read_input(self, data: bytes, seed: bytes, name: str) -> Any:
        from glyphc.backends.openfhe.residues import Uniform

        return self._keys.moulds.read_fresh(data, Uniform(seed, name))

    def output_bits(self, noise: float) -> int:
        # residues are whole words
        return 64

    def write_output(self, ciphertext: Any, place: Place, bits: int, flood: float) -> bytes:
        return self.write_shown(ciphertext, flood)

    def write_shown(self, ciphertext: Any, flood: float) -> bytes:
        """What the client is to decrypt. flood: as of outputs."""
        from glyphc.backends.openfhe.integer_wire import flooded

        keys = self._keys
        return keys.moulds.write(flooded(keys.moulds, keys.publics, ciphertext, flood) if flood else ciphertext)

    def write_live(self, ciphertext: Any, register: Register | None) -> bytes:
        return self._keys.moulds.write(ciphertext)

    def read_live(self, data: bytes, register: Register | None) -> Any:
        return self._keys.moulds.read(data)


def torus_registers(instructions: Sequence[Instruction]) -> frozenset[Register]:
    """Registers that hold ciphertexts of the bootstrapping context."""
    return frozenset(r for i in instructions if i.result is Kind.TORUS for r in i.writes)
