"""Instructions on exact integers in slots, modulo the plaintext modulus: no levels, no rescaling, no rounding.

Slots stand in two rows of N/2. A *block* is so many neighbouring slots of a row, a power of two of them: one register
may hold a feature in each block, its sample s in slot s of the block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..client_requests import Request
from ..errors import IRError
from ..integer_parameters import IntegerParameters
from .base import Free, Instruction, Kind, Load, Register, Store, check_flow


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


@dataclass(frozen=True)
class IntegerTotal(Instruction):
    """target = sums of source: over all blocks, in each of them; or, inner, of each block's slots, in its first one.

    The other slots of an inner sum hold sums across the ends of blocks, which nobody reads.
    """

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_total"
    read_fields: ClassVar[tuple[str, ...]] = ("source",)
    target: Register
    source: Register
    inner: bool
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_total(operands[0], self.inner),)


@dataclass(frozen=True)
class ClientRequest(Instruction):
    """targets = what the client makes of the integers in sources, all at once: a trip to it and back. It sees them."""

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "client_request"
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    written_fields: ClassVar[tuple[str, ...]] = ("targets",)
    targets: tuple[Register, ...]
    sources: tuple[Register, ...]
    request: Request
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return tuple(machine.client_request(operands, self.request))


def requests_of(code: Sequence[Instruction]) -> tuple[Request, ...]:
    """What the client is asked, in order."""
    return tuple(i.request for i in code if isinstance(i, ClientRequest))


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
            case ClientRequest(targets=targets, sources=sources, request=request):
                try:
                    request.check(parameters.slots)
                except IRError as e:
                    raise IRError(f"{what}: {e}") from None
                if request.bits and request.block != parameters.slots:
                    _check_block(what, request.block, parameters)
                if (len(sources), len(targets)) != (request.ciphertexts, request.results(parameters.slots)):
                    raise IRError(f"{what} makes {len(targets)} registers of {len(sources)}, which is not its request")
            case IntegerTotal(inner=inner):
                if not (parameters.inner_automorphisms if inner else parameters.automorphisms):
                    raise IRError(f"{what} sums up {'slots' if inner else 'blocks'}, for which there are no keys")
            case IntegerProduct() | Free():
                pass
            case _:
                raise IRError(f"{what} does not work on integers in slots")


def _check_block(what: str, block: int, parameters: IntegerParameters) -> None:
    if not 1 <= block <= parameters.slots // 2 or block & (block - 1) or parameters.block not in (0, block):
        raise IRError(f"{what} has blocks of {block} slots, the program of {parameters.block}")
