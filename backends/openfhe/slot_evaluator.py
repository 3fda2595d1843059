"""The server's side of slot programs: evaluates on ciphertexts with a relinearisation key. No secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphc.ir.instructions import Register, Schedule, SlotDot, SlotProduct

from .slot_contexts import SlotContext, drifts, levels_of
from .slot_wire import SlotMoulds


@dataclass(frozen=True, eq=False)
class SlotKeys:
    """What a server needs of one client. The relinearisation key lies in OpenFHE's table, under ``tag``.

    mould: any fresh ciphertext, e.g. an encryption of zero: it gives others their form. public: the client's public
    key, where outputs may have to be re-randomised.
    """

    context: SlotContext
    tag: str
    mould: Any
    public: Any = None


class SlotOpenFHE:
    """Executes a slot program. Registers are OpenFHE's ciphertexts."""

    def __init__(self, schedule: Schedule, keys: SlotKeys) -> None:
        self._keys = keys
        self._context = keys.context.context
        code = schedule.instructions
        parts = {port.name: port.layout.ciphertexts for port in schedule.client.inputs}
        self._levels = levels_of(code, parts, keys.context.parameters.depth)
        self._drifts = drifts(code, keys.context, self._levels)
        self.moulds = SlotMoulds(keys.context, keys.mould)

    def write(self, ciphertext: Any) -> bytes:
        """A live ciphertext as bytes, to go on with it in another process."""
        return self.moulds.write(ciphertext)

    def read(self, data: bytes, register: Register) -> Any:
        """The inverse of :meth:`write`; ResidueError when the bytes are none that this register can hold."""
        return self.moulds.read(data, self._levels[register] + 1)

    def slot_dot(self, sources: Sequence[Any], instruction: SlotDot) -> Any:
        total = self._weighted(None, sources, instruction)
        return self._finished(total, instruction)

    def slot_product(self, pairs: Sequence[tuple[Any, Any]], sources: Sequence[Any], instruction: SlotProduct) -> Any:
        context = self._context
        total = None
        times: dict[tuple[int, int], int] = {}
        for pair in instruction.pairs:
            times[pair] = times.get(pair, 0) + 1
        for names, (a, b) in zip(instruction.pairs, pairs, strict=True):
            if names not in times:
                continue
            product = context.EvalMultNoRelin(a, b)
            count = times.pop(names)
            term = product
            for _ in range(count - 1):
                term = context.EvalAdd(term, product)
            total = term if total is None else context.EvalAdd(total, term)
        total = context.Relinearize(total)
        return self._finished(self._weighted(total, sources, instruction), instruction)

    def drop(self, source: Any, levels: int) -> Any:
        depth = self._keys.context.parameters.depth
        return self._context.LevelReduce(source, None, depth - source.GetLevel() - levels)

    def _weighted(self, total: Any, sources: Sequence[Any], instruction: SlotDot | SlotProduct) -> Any:
        """Add a weighted sum, with weights that bring every operand to the result's drift."""
        scale = self._scale(instruction)
        for source, name, weight in zip(sources, instruction.sources, instruction.weights, strict=True):
            term = self._context.EvalMult(source, weight * scale / self._drifts[name])
            if total is None:
                total = term
            else:
                self._context.EvalAddInPlace(total, term)
        return total

    def _finished(self, total: Any, instruction: SlotDot | SlotProduct) -> Any:
        result = self._context.Rescale(total)
        if instruction.bias:
            # afterwards: what OpenFHE takes for the scale before a rescaling is not the square of the one here
            self._context.EvalAddInPlace(result, instruction.bias * self._drifts[instruction.target])
        return result

    def _scale(self, instruction: SlotDot | SlotProduct) -> float:
        """Of a term without drift before the rescaling."""
        levels = self._levels[instruction.target] + 1
        return self._drifts[instruction.target] / self._keys.context.drift(levels)
