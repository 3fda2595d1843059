"""The last pass on a step program: from its graph, with ways, series and parameters chosen, to instructions.

What the new weights need is written depth first. A value has up to three forms: phases, which bootstraps read; slots,
which they leave; and coefficients, which products take. Each op has a rule for the forms that it comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import Register, with_frees
from glyphc.ir.instructions.ckks import LOGITS, STATISTIC, Code, check
from glyphc.ir.ops import Add, Apply, MatMul, Mul, Reshape, Scale, Scatter, Sub
from glyphc.ir.parameters import Parameters

from .heads import Approximated, Head, Softmax, label_data, label_name
from .stages import Stage, moved_from
from .units import F64, I64, Units, blocks_to_move, groups_to_move
from .ways.layers import GRADIENT_LIMBS, ONES, REVERSED_ONES, STATE_LIMBS, Layer, ones_data, state_names
from .writer import Writer, data_name


@dataclass(frozen=True, eq=False)
class AssignedStep:
    """A step program with everything chosen. layers: in their ways, one for each stage; head: of the loss.

    series: of nodes that are functions of what a bootstrap reads, and of errors that are sent back, by id. masked:
    errors have nothing beside them. watched: a step stores ``STATISTIC``, too. What the server needs of it are
    ``parameters``, ``periods``, the limbs of the ciphertexts, and ``code``.

    A batch that is larger than what there is room for comes in micro-batches, whose gradients a step adds.
    """

    graph: Graph
    stages: tuple[Stage, ...]
    layers: tuple[Layer, ...]
    series: dict[int, Approximated]
    head: Head
    masked: bool
    parameters: Parameters
    watched: bool = False

    @property
    def periods(self) -> tuple[int, ...]:
        """Of packing and unpacking, whose keys the server needs."""
        statistic = {self.parameters.ring} if self.watched else set()
        return tuple(sorted({p for layer in self.layers for p in layer.periods} | statistic))

    @property
    def statistic_limbs(self) -> int:
        """Of the ciphertext that a step stores for the client to watch; 0 where there is none."""
        return STATE_LIMBS if self.watched else 0

    @property
    def micros(self) -> int:
        """Micro-batches of a step."""
        return self.layers[0].trained.micros

    @property
    def micro_batch(self) -> int:
        """Samples of one."""
        return self.head.units.batch

    @cached_property
    def data_limbs(self) -> dict[str, int]:
        """Limbs of a batch's fresh ciphertexts, by name."""
        own, shared = self._micro_limbs, (ONES, REVERSED_ONES)
        more = range(1, self.micros)
        return own | {data_name(name, m): n for m in more for name, n in own.items() if name not in shared}

    @cached_property
    def _micro_limbs(self) -> dict[str, int]:
        limbs = {label_name(h): self.parameters.decoded_limbs for h in range(self.head.units.used_groups)}
        if any(part.name == "bias" for layer in self.layers for part in layer.parts):
            limbs |= {ONES: STATE_LIMBS + 1, REVERSED_ONES: GRADIENT_LIMBS}
        for layer in self.layers:
            limbs |= layer.data_limbs
        return limbs

    def data(self, features: F64, targets: F64) -> dict[str, F64]:
        """Messages of a micro-batch, by the names that a whole batch's have."""
        patches = self.stages[0].patches
        read = features if patches is None else patches.of(features)
        out = self.layers[0].data(read) | label_data(self.head, targets)
        if ONES in self._micro_limbs:
            out |= ones_data(self.layers[0].target)
        return out

    @property
    def kept_names(self) -> tuple[str, ...]:
        """Of the state's ciphertexts those of layers that are frozen, with all before them."""
        pairs = zip(self.stages, self.layers, strict=True)
        return tuple(name for stage, layer in pairs if stage.errors is None for name in state_names(layer))

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
        w = Writer(self.micros)
        squares: list[tuple[Register, int]] = []
        for w.micro in range(self.micros):
            lowering = _Lowering(self, w, step)
            for stage, layer in zip(self.stages, self.layers, strict=True):
                if stage.errors is None:
                    lowering.keep(layer)
                else:
                    lowering.update(stage, layer, stage.errors)
            if self.watched:
                squares.append((lowering.squares(), 1))
        expected = dict.fromkeys(self.state_names, STATE_LIMBS)
        if squares:
            # whoever decrypts it learns this one number, no products of errors
            w.store(w.pack([w.sum(*squares)], 1, self.parameters.ring), STATISTIC)
            expected[STATISTIC] = self.statistic_limbs
        code = tuple(with_frees(w.code))
        limbs = self.data_limbs | dict.fromkeys(self.state_names, STATE_LIMBS)
        stored = check(code, limbs, self.parameters.decoded_limbs - 1, self.parameters.slot_levels)
        assert stored == expected, stored
        return code

    def inference(self, step: int) -> Code:
        """The instructions of a forward pass with the state before ``step``, from samples of a micro-batch to
        ``LOGITS``."""
        lowering = _Lowering(self, Writer(), step, forward=True)
        lowering.logits(self.stages[-1])
        code = tuple(with_frees(lowering.w.code))
        limbs = self.data_limbs | dict.fromkeys(self.state_names, STATE_LIMBS)
        stored = check(code, limbs, self.parameters.decoded_limbs - 1, self.parameters.slot_levels)
        assert stored == {LOGITS: 1}, stored
        return code


class _Lowering:
    """Of one micro-batch. forward: nothing is sent back, so that bootstraps compute values alone, no slopes."""

    def __init__(self, step: AssignedStep, w: Writer, number: int, forward: bool = False) -> None:
        self.w = w
        self._step = step
        self._forward = forward
        self._number = number
        pairs = list(zip(step.stages, step.layers, strict=True))
        self._sums = {stage.sums.id: (stage, layer) for stage, layer in pairs}
        self._back = {stage.back.id: (stage, layer) for stage, layer in pairs if stage.back is not None}
        self._readers = {stage.values.id: (stage, layer) for stage, layer in pairs if stage.before is not None}
        self._slots: dict[int, Register] = {}
        self._values: dict[int, Register] = {}
        self._blocks: dict[int, list[tuple[Register, I64]]] = {}
        self._errors: dict[int, list[Register]] = {}

    def update(self, stage: Stage, layer: Layer, errors: Node) -> None:
        """A layer's new weights."""
        values = self._read(stage)
        layer.update(self.w, values, self._gradient(errors), self._number)

    def keep(self, layer: Layer) -> None:
        """Weights that stay as they are."""
        for name in state_names(layer):
            self.w.move(self.w.moved(name), name)

    def squares(self) -> Register:
        """The sum of squares of the last errors at X^0: they have nothing beside them. Elsewhere stands garbage."""
        errors = self._step.stages[-1].errors
        assert errors is not None
        groups = self._gradient(errors)
        whole = self.w.total(groups)
        return self.w.reduced(self.w.product((whole, self.w.reverse(whole))), STATE_LIMBS)

    def logits(self, stage: Stage) -> None:
        """Store the sums of the last layer, moved to where they fit on the torus."""
        sums, head = self._phases(stage.sums), self._step.head
        self.w.store(self.w.raised(sums, -head.offset) if isinstance(head, Softmax) else sums, LOGITS)

    def _read(self, stage: Stage) -> Register | None:
        """What a layer reads, in coefficients with nothing beside it; None where that is the client's data."""
        if stage.before is None:
            return None
        node = stage.values
        if node.id not in self._values:
            self._values[node.id] = self.w.total([block for block, _ in self._in_blocks(stage)])
        return self._values[node.id]

    def _in_blocks(self, stage: Stage) -> list[tuple[Register, I64]]:
        """What a layer reads of another one, in blocks that can be moved to wherever connections add them, with the
        numbers of their units."""
        node = stage.values
        if node.id not in self._blocks:
            assert stage.before is not None
            units, in_slots = self._sums[stage.before.id][1].target, self._in_slots(node)
            blocks = blocks_to_move(units, [layer.target for other, layer in self._sums.values() if other.adds(stage)])
            kept = [units.kept(block=(int(numbers[0]), int(numbers[-1]) + 1)) for numbers in blocks]
            found = [self.w.decode(self.w.masked(in_slots, *conditions)) for conditions in kept]
            self._blocks[node.id] = list(zip(found, blocks, strict=True))
        return self._blocks[node.id]

    def _phases(self, node: Node) -> Register:
        """Sums of a layer, or errors that it sends back; with what connections add that skip layers."""
        if node.id in self._sums:
            stage, layer = self._sums[node.id]
            found = layer.forward(self.w, self._read(stage), self._number)
            if stage.added is None:
                return found
            reader, read = self._readers[stage.added.id]
            assert read.source is not None
            factor = layer.scales.phase / read.scales.values
            return self.w.sum((found, 1), (self._moved(self._in_blocks(reader), read.source, layer.target, factor), 1))
        stage, layer = self._back[node.id]
        assert stage.errors is not None
        terms = [layer.sent_back(self.w, self._gradient(stage.errors), self._number)]
        for other, added_to in self._sums.values():
            if other.adds(stage):
                assert other.errors is not None
                assert layer.source is not None
                groups = self._gradient(other.errors)
                numbers = groups_to_move(added_to.target, layer.source, len(groups))
                assert numbers is not None
                parts = groups if len(numbers) == len(groups) else [self.w.total(groups)]
                factor = layer.scales.back / added_to.scales.errors
                moved = list(zip(parts, numbers, strict=True))
                terms.append(self._moved(moved, added_to.target, layer.source, factor))
        return self.w.total(terms)

    def _moved(self, parts: list[tuple[Register, I64]], units: Units, target: Units, factor: float) -> Register:
        """Values or errors of units, by their numbers, at the places of others; elsewhere may stand garbage
        (``can_move``)."""
        if units.period == target.period:
            return self.w.rescaled(self.w.total([source for source, _ in parts]), factor)
        exponents = target.units - units.units
        moved = [self.w.convolved(source, tuple(map(int, exponents[numbers])), 1) for source, numbers in parts]
        return self.w.rescaled(self.w.total(moved), factor)

    def _in_slots(self, node: Node) -> Register:
        if node.id in self._slots:
            return self._slots[node.id]
        graph, series = self._step.graph, self._step.series
        match node.op:
            case Mul():
                a, b = (moved_from(graph, operand) for operand in graph.operands(node))
                found = {node.id: self.w.slot_product(self._in_slots(a), self._in_slots(b))}
            case MatMul() | Add():
                found = {node.id: self.w.bootstrap(self._phases(node), series[node.id])[0]}
            case Apply():
                # all functions of a value share one bootstrap
                (source,) = graph.operands(node)
                users = [node] if self._forward else graph.users(source)
                wanted = [user.id for user in users if user.id in series]
                sums = moved_from(graph, source)
                registers = self.w.bootstrap(self._phases(sums), *(series[n] for n in wanted))
                found = dict(zip(wanted, registers, strict=True))
            case _:
                raise AssertionError(f"{node} has no form in slots")
        self._slots |= found
        return self._slots[node.id]

    def _gradient(self, node: Node) -> list[Register]:
        """The gradient by a layer's sums in coefficients, a register for each group of units."""
        if node.id not in self._errors:
            self._errors[node.id] = self._new_gradient(node)
        return self._errors[node.id]

    def _new_gradient(self, node: Node) -> list[Register]:
        graph = self._step.graph
        match node.op:
            case Scale() | Scatter() | Reshape():  # the mean over the batch: layers count it in; and other orders
                return self._gradient(graph.operands(node)[0])
            case Sub():
                return self._step.head.errors(self.w, self._phases(self._step.stages[-1].sums))
            case Mul():
                in_slots = self._in_slots(node)
                if not self._step.masked:
                    # what stands beside the useful places, packing removes from the gradients
                    return [self.w.decode(in_slots)]
                sums = moved_from(graph, graph.operands(graph.operands(node)[1])[0])
                units = self._sums[sums.id][1].target
                groups = range(units.used_groups)
                return [self.w.decode(self.w.masked(in_slots, *units.kept(h))) for h in groups]
            case _:
                raise AssertionError(f"{node} is no gradient that a layer takes")
