"""Instructions on exact integers in slots, modulo the plaintext modulus: no levels, no rescaling, no rounding.

Slots stand in two rows of N/2. A *block* is so many neighbouring slots of a row, a power of two of them: one register
may hold a feature in each block, its sample s in slot s of the block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import IRError
from ..integer_parameters import IntegerParameters
from ..ops import MOST_TABLE_BITS
from ..rescaling import index_bits, rescaled, table_indices
from .base import Free, Instruction, Kind, Load, Register, Store, check_flow

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class IntegerDot(Instruction):
    """target = sum_j weights[j] * sources[j] + bias, by integers that are the same in all slots."""

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_dot"
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    target: Register
    sources: tuple[Register, ...]
    weights: tuple[int, ...]
    bias: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_dot(operands, self),)


@dataclass(frozen=True)
class IntegerBlocks(Instruction):
    """target = the sum over sources j and blocks b of weights[j][b] times block b of sources[j], + bias: in each block.

    block: how many slots are one.
    """

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_blocks"
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    target: Register
    sources: tuple[Register, ...]
    weights: tuple[tuple[int, ...], ...]
    block: int
    bias: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_blocks(operands, self),)


@dataclass(frozen=True)
class IntegerProduct(Instruction):
    """target = a * b, relinearised."""

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_product"
    read_fields: ClassVar[tuple[str, ...]] = ("a", "b")
    target: Register
    a: Register
    b: Register
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_product(*operands),)


class ClientRequest(Instruction):
    """What the client does with the integers of some ciphertexts, all at once: a trip to it and back. It sees them.

    Its results come back freshly encrypted.
    """

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    written_fields: ClassVar[tuple[str, ...]] = ("targets",)

    @abstractmethod
    def answer(self, values: I64) -> I64:
        """Integers to encrypt, shape (targets, slots), from decrypted ones, shape (sources, slots)."""

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return tuple(machine.client_request(operands, self))


@dataclass(frozen=True)
class IntegerRefresh(ClientRequest):
    """targets[j] = what sources[j] holds, times ratio and rounded."""

    method: ClassVar[str] = "client_request"
    targets: tuple[Register, ...]
    sources: tuple[Register, ...]
    ratio: float
    node: int

    def answer(self, values: I64) -> I64:
        return rescaled(values, self.ratio)


@dataclass(frozen=True)
class IntegerBits(ClientRequest):
    """The bits of a table's index for each source, whose first block holds something.

    A register of bits has a source in each of its blocks: ``slots // block`` sources together have ``bits`` targets,
    the lowest bit first. The index is that of :func:`..rescaling.table_indices`.
    """

    method: ClassVar[str] = "client_request"
    targets: tuple[Register, ...]
    sources: tuple[Register, ...]
    ratio: float
    shift: float
    bits: int
    block: int
    node: int

    def answer(self, values: I64) -> I64:
        slots = values.shape[1]
        per = slots // self.block
        groups = -(-len(values) // per)
        indices = np.zeros((groups * per, self.block), dtype=np.int64)
        indices[: len(values)] = table_indices(values[:, : self.block], self.ratio, self.shift, self.bits)
        found = index_bits(indices.reshape(groups, slots), self.bits)
        return np.asarray(found.transpose(1, 0, 2).reshape(groups * self.bits, slots))


def check_integers(code: Sequence[Instruction], inputs: Mapping[str, int], parameters: IntegerParameters) -> None:
    """IRError for code that cannot be executed. inputs: how many ciphertexts each input has."""
    check_flow(code, Kind.INTEGERS)
    stored: set[tuple[str, int]] = set()
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({instruction.mnemonic})"
        match instruction:
            case Store(name=name, part=part):
                if (name, part) in stored:
                    raise IRError(f"{what} stores part {part} of {name!r} twice")
                stored.add((name, part))
            case Load(name=name, part=part):
                if not 0 <= part < inputs.get(name, 0):
                    raise IRError(f"{what} loads part {part} of {name!r}, which is not there")
            case IntegerDot(sources=sources, weights=weights):
                if not sources or len(weights) != len(sources):
                    raise IRError(f"{what} has {len(weights)} weights for {len(sources)} registers")
                if not any(weights):
                    raise IRError(f"{what} multiplies by nothing but zeros")
            case IntegerBlocks(sources=sources, weights=rows, block=block):
                _check_block(what, block, parameters)
                if not sources or len(rows) != len(sources) or {len(r) for r in rows} != {parameters.slots // block}:
                    raise IRError(f"{what} has not a weight for each block of its {len(sources)} registers")
                if not parameters.block:
                    raise IRError(f"{what} sums up blocks, for which there are no keys")
            case IntegerRefresh(targets=targets, sources=sources, ratio=ratio):
                if not 0 < ratio <= 1:
                    raise IRError(f"{what} multiplies by {ratio}, which is no share")
                if not sources or len(targets) != len(sources):
                    raise IRError(f"{what} makes {len(targets)} registers of {len(sources)}")
            case IntegerBits(targets=targets, sources=sources, bits=bits, block=block, ratio=ratio, shift=shift):
                if block != parameters.slots:
                    _check_block(what, block, parameters)
                if not 1 <= bits <= MOST_TABLE_BITS or not np.isfinite((ratio, shift)).all():
                    raise IRError(f"{what} takes {bits} bits of {ratio} times a value plus {shift}")
                if not sources or len(targets) != bits * -(-len(sources) * block // parameters.slots):
                    raise IRError(f"{what} makes {len(targets)} registers of bits of {len(sources)} registers")
            case IntegerProduct() | Free():
                pass
            case _:
                raise IRError(f"{what} does not work on integers in slots")


def _check_block(what: str, block: int, parameters: IntegerParameters) -> None:
    if not 1 <= block <= parameters.slots // 2 or block & (block - 1) or parameters.block not in (0, block):
        raise IRError(f"{what} has blocks of {block} slots, the program of {parameters.block}")
