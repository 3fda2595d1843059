"""What a client needs of the backend, for each family of instructions: keys, fresh ciphertexts, outputs. Secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import EncryptedMap, Polynomials
from glyphc.ir.integer_parameters import IntegerParameters, ProgramParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters

from .parts import Place

if TYPE_CHECKING:
    from glyphc.backends.openfhe.bridge import CiphertextMould
    from glyphc.backends.openfhe.ckks_client import TrainingClient
    from glyphc.backends.openfhe.client import ClientKeys

Message = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]


class Maker(Protocol):
    """A fresh secret, shape (N,), and the keys that follow from it. modulus: what their file is to name."""

    @property
    def ternary(self) -> I64: ...

    @property
    def modulus(self) -> int: ...

    def names(self) -> Sequence[str]:
        """Of all parts."""

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all evaluation keys. seed: 32 fresh random bytes, public."""


def key_maker(
    parameters: ProgramParameters,
    encrypted: Sequence[EncryptedMap],
    weights: Mapping[str, Polynomials],
    engine: str = "openfhe",
) -> Maker:
    """The one for a program's family and an engine's keys (``engines.check_engine``).

    BackendError when OpenFHE refuses the parameters, or the kernels do.
    """
    if isinstance(parameters, SlotParameters):
        if engine == "kernels":
            from glyphc.backends.kernels.slot_client import KernelsSlotKeyMaker

            return KernelsSlotKeyMaker(parameters)
        return SlotMaker(parameters)
    if isinstance(parameters, IntegerParameters):
        from glyphc.backends.openfhe.integer_keygen import IntegerKeyMaker

        return IntegerKeyMaker(parameters)
    assert isinstance(parameters, Parameters)  # specifications on words are refused where they are read
    if engine == "kernels":
        from glyphc.backends.kernels.client import FileMaker

        return FileMaker(parameters, encrypted, weights)
    return PackedMaker(parameters, encrypted, weights)


class TrainingMaker(Protocol):
    """A fresh secret and the keys of a training run that follow from it."""

    @property
    def client(self) -> TrainingClient: ...

    def names(self) -> Sequence[str]:
        """Of all parts."""

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all evaluation keys. seed: 32 fresh random bytes, public."""


def training_key_maker(engine: str, parameters: Parameters, periods: Sequence[int]) -> TrainingMaker:
    """The one for what bootstraps; BackendError when OpenFHE refuses the parameters, or the kernels do."""
    if engine == "kernels":
        from glyphc.backends.kernels.training_fresh import KernelsTrainingKeyMaker

        return KernelsTrainingKeyMaker(parameters, periods)
    from glyphc.backends.openfhe.training_fresh import TrainingKeyMaker

    return TrainingKeyMaker(parameters, periods)


class PackedMaker:
    """Coefficient layouts: BGV and bootstraps, and the weights that are encrypted along with the keys."""

    def __init__(
        self, parameters: Parameters, encrypted: Sequence[EncryptedMap], weights: Mapping[str, Polynomials]
    ) -> None:
        from glyphc.backends.openfhe.keygen import KeyMaker

        self._maker = KeyMaker(parameters)
        self._parameters, self._encrypted, self._weights = parameters, encrypted, weights

    @property
    def ternary(self) -> I64:
        return self._maker.ternary

    @property
    def modulus(self) -> int:
        return self._maker.client.contexts.bgv_ring.q

    def names(self) -> Sequence[str]:
        from glyphc.backends.openfhe.keymoulds import part_names

        return part_names(self._parameters, self._encrypted)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        from glyphc.backends.openfhe.weight_keys import weight_parts

        hidden = weight_parts(self._maker.client, self.ternary, self._encrypted, self._weights, seed)
        return chain(self._maker.parts(seed), hidden)


class SlotMaker:
    """Numbers in slots: CKKS."""

    def __init__(self, parameters: SlotParameters) -> None:
        from glyphc.backends.openfhe.slot_keygen import SlotKeyMaker

        self._maker = SlotKeyMaker(parameters)

    @property
    def ternary(self) -> I64:
        return self._maker.ternary

    @property
    def modulus(self) -> int:
        return self._maker.modulus

    def names(self) -> Sequence[str]:
        from glyphc.backends.openfhe.slot_wire import PARTS

        return PARTS

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        return self._maker.parts(seed)


class ClientEngine(Protocol):
    """Encrypts and decrypts with a stored secret."""

    def fresh(self, messages: Iterable[tuple[str, Message]], seed: bytes) -> Iterator[bytes]:
        """Fresh ciphertexts of messages, shape (positions,) each, as parts of these names."""

    def output_size(self, place: Place, bits: int) -> int:
        """Bytes of an output whose residues are modulo 2^bits."""

    def output(self, data: bytes, place: Place, bits: int) -> Message:
        """The message of an output; ResidueError when the bytes are none."""


def client_engine(parameters: ProgramParameters, ternary: I64) -> ClientEngine:
    """The one for a program's family."""
    match parameters:
        case SlotParameters():
            return SlotAccess(parameters, ternary)
        case IntegerParameters():
            return IntegerAccess(parameters, ternary)
        case _:
            assert isinstance(parameters, Parameters)
            return PackedAccess(parameters, ternary)


class PackedAccess:
    """Coefficient layouts. keys: in OpenFHE's form."""

    def __init__(self, parameters: Parameters, ternary: I64) -> None:
        from glyphc.backends.openfhe.client import keys_from_secret

        self._parameters = parameters
        self.keys: ClientKeys = keys_from_secret(parameters, ternary)

    @cached_property
    def _mould(self) -> CiphertextMould:
        from glyphc.backends.openfhe.bridge import CiphertextMould

        ring = self.keys.contexts.bgv_ring
        return CiphertextMould.of(self.keys.encrypt(np.zeros(ring.n, dtype=np.int64)), ring)

    def fresh(self, messages: Iterable[tuple[str, Message]], seed: bytes) -> Iterator[bytes]:
        from glyphc.backends.kernels.threads import each
        from glyphc.backends.openfhe.keygen import fresh_ciphertext
        from glyphc.backends.openfhe.residues import Uniform

        return each(lambda part: fresh_ciphertext(self.keys, part[1], Uniform(seed, part[0])), messages)

    def output_size(self, place: Place, bits: int) -> int:
        from glyphc.backends.openfhe.wire import output_size

        return output_size(self.keys.contexts.bgv_ring, len(place.positions), bits)

    def output(self, data: bytes, place: Place, bits: int) -> Message:
        from glyphc.backends.openfhe.wire import read_output

        modulus = self._parameters.plaintext_modulus
        return self.keys.decrypt(read_output(self._mould, modulus, data, place.positions, bits))


class SlotAccess:
    """Numbers in slots."""

    def __init__(self, parameters: SlotParameters, ternary: I64) -> None:
        from glyphc.backends.openfhe.slot_keygen import account_from_secret

        self._parameters = parameters
        self._account = account_from_secret(parameters, ternary)

    def fresh(self, messages: Iterable[tuple[str, Message]], seed: bytes) -> Iterator[bytes]:
        from glyphc.backends.openfhe.residues import Uniform

        return (self._account.fresh(message, Uniform(seed, name)) for name, message in messages)

    def output_size(self, place: Place, bits: int) -> int:
        return self._parameters.output_bytes

    def output(self, data: bytes, place: Place, bits: int) -> Message:
        return self._account.output(data)


class IntegerAccess:
    """Exact integers in slots."""

    def __init__(self, parameters: IntegerParameters, ternary: I64) -> None:
        from glyphc.backends.openfhe.integer_keygen import account_from_secret

        self._parameters = parameters
        self._account = account_from_secret(parameters, ternary)

    def fresh(self, messages: Iterable[tuple[str, Message]], seed: bytes) -> Iterator[bytes]:
        from glyphc.backends.openfhe.residues import Uniform

        return (self._account.fresh(message, Uniform(seed, name)) for name, message in messages)

    def output_size(self, place: Place, bits: int) -> int:
        return self.shown_size

    @property
    def shown_size(self) -> int:
        """Bytes of what the server shows."""
        return self._parameters.output_bytes

    def output(self, data: bytes, place: Place, bits: int) -> Message:
        return self.integers(data)

    def integers(self, data: bytes) -> I64:
        """What it shows, shape (slots,); ResidueError when the bytes are none."""
        return self._account.integers(data)
