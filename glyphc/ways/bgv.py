"""BGV on coefficients: exact products with plaintext weights, and with weights that are encrypted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from glyphc.errors import ParameterError
from glyphc.ir.graph import Node
from glyphc.ir.instructions import Dot, EncryptedMap, Load, Register, Split
from glyphc.ir.ops import Input, Linear, Reshape, Unpack
from glyphc.ir.unpackings import conjugation

from . import images
from .base import BGV, Offer, Question, Refusal, Way
from .lowering import Lowering, Step, Task, layout, lowers
from .weight_polynomials import placed, weight_polynomials


class FreshInput(Way):
    """The client encrypts in BGV."""

    name = "bgv, fresh"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Input):
            return None
        count = self._ciphertexts(node, question)
        cost, n = question.cost, question.ring
        seconds, size = count * cost.encryption(n), count * cost.fresh_bytes(n)
        reason = f"{count} ciphertexts: {seconds:.1f} s to encrypt, {size / 1e6:.1f} MB to send"
        return Offer(BGV, BGV, seconds + cost.upload_seconds(size), reason)

    @staticmethod
    def _ciphertexts(node: Node, question: Question) -> int:
        """Features stand apart by the width of the layer that reads them; at least, all fit side by side."""
        at_least = -(-node.type.size * question.batch // question.ring)
        if question.graph is None:
            return at_least
        readers = [u for u in question.graph.users(node) if isinstance(u.op, Linear)]
        return max([at_least, *(products_of(u, (node,), question) for u in readers)])


class InPlace(Way):
    """A reshape moves nothing. Behind a nonlinearity it stands behind the switch back, which serves all readers."""

    name = "in place"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return Offer(BGV, BGV, 0.0, "moves nothing") if isinstance(node.op, Reshape) else None


class PlaintextProduct(Way):
    """Ciphertexts times plaintext weights."""

    name = "bgv"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        if node.op.encrypted:
            return Refusal("the server would see the weights")
        products = products_of(node, operands, question)
        reason = f"{products} exact plaintext products, no level, no rescaling"
        return Offer(BGV, BGV, products * question.cost.product, reason)


class EncryptedProduct(Way):
    """External products with weights encrypted as key-switching keys (see docs/design.md, Encrypted weights)."""

    name = "bgv, encrypted weights"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear) or not node.op.encrypted:
            return None
        products = products_of(node, operands, question)
        reason = (
            f"{products} external products with weights encrypted as key-switching keys: no level, the noise of a "
            "plaintext product and two key switches"
        )
        return Offer(BGV, BGV, products * question.cost.encrypted_product, reason)


def products_of(node: Node, operands: Sequence[Node], question: Question) -> int:
    """Polynomial products that a linear map takes in full ciphertexts, at least one."""
    return max(1, -(-multiplications(node, operands, question) // question.ring))


def multiplications(node: Node, operands: Sequence[Node], question: Question) -> int:
    """Of a linear map on a batch, as a dense matrix."""
    return node.type.size * sum(o.type.size for o in operands) * question.batch


# -- instructions --


@lowers(Input)
def _load(lowering: Lowering, task: Task, node: Node) -> None:
    assert isinstance(node.op, Input)
    first, parts = task.chunk * layout(node).parts, lowering.parts(node, task.step)
    targets = lowering.registers[task] = lowering.fresh(len(parts))
    name = node.op.name
    lowering.instructions += [Load(r, name, first + p, node.id) for r, p in zip(targets, parts, strict=True)]


@lowers(Reshape)
def _in_place(lowering: Lowering, task: Task, node: Node) -> None:
    (source,) = lowering.same(task, node)
    lowering.registers[task] = lowering.registers[source]


def _needs_of_unpacking(lowering: Lowering, task: Task, node: Node) -> list[Task]:
    return [replace(task, step=-1)] if task.step >= 0 else lowering.same(task, node)


@lowers(Unpack, _needs_of_unpacking)
def _unpack(lowering: Lowering, task: Task, node: Node) -> None:
    """Conjugates that stand for all parts; or all parts, or the pieces that they come from, or the parts in one of
    these."""
    assert isinstance(node.op, Unpack)
    (operand,) = lowering.graph.operands(node)
    if layout(node).image is not None:
        images.unpack(lowering, task, node)
        return
    steps = conjugation(lowering.graph, node)
    if steps is not None:
        sources = lowering.divided(lowering.registers[Task(operand.id, task.chunk)], node.op.divided, node)
        lowering.registers[task] = tuple(r for source in sources for r in lowering.conjugates(source, steps, node))
        return
    groups, stride, parts = lowering.groups(node), layout(operand).stride, node.op.parts
    # each ciphertext of the operand is split into so many pieces first, if the parts come in groups
    pieces = parts if groups == 1 else groups // layout(operand).parts
    if task.step < 0:
        sources = lowering.divided(lowering.registers[Task(operand.id, task.chunk)], node.op.divided, node)
        # parts beyond the features hold nothing that anybody reads
        count = min(pieces * len(sources), node.type.size)
        lowering.registers[task] = _interleaved(lowering, sources, pieces, stride, count, node)
    else:
        piece = lowering.registers[replace(task, step=-1)][task.step]
        count = len(lowering.parts(node, task.step))
        lowering.registers[task] = _interleaved(lowering, (piece,), parts // pieces, stride * pieces, count, node)


def _interleaved(
    lowering: Lowering, sources: tuple[Register, ...], parts: int, stride: int, count: int, node: Node
) -> tuple[Register, ...]:
    """The first ``count`` parts of all sources: part r of source p is number r * len(sources) + p."""
    if parts == 1:
        return sources[:count]
    targets = lowering.fresh(count)
    for p, source in enumerate(sources[:count]):
        lowering.instructions.append(Split(targets[p :: len(sources)], source, parts, stride, node.id))
    return targets


def _needs_of_map(lowering: Lowering, task: Task, node: Node) -> list[Task]:
    steps = lowering.steps(node, task.chunk)
    if task.step < 0:
        return [replace(task, step=len(steps) - 1)]
    before = [replace(task, step=task.step - 1)] if task.step else []
    return [*before, steps[task.step].source(lowering.graph.operands(node))]


@lowers(Linear, _needs_of_map)
def _linear(lowering: Lowering, task: Task, node: Node) -> None:
    """One step: products with some parts of one chunk of one operand, added to the steps before."""
    op = node.op
    assert isinstance(op, Linear)
    steps = lowering.steps(node, task.chunk)
    if task.step < 0:
        lowering.registers[task] = lowering.registers[replace(task, step=len(steps) - 1)]
        return
    if layout(node).image is not None:
        images.convolve(lowering, task, node, steps[task.step])
        return
    step, operands, target = steps[task.step], lowering.graph.operands(node), layout(node)
    sources = lowering.registers[step.source(operands)]
    name = _weights(lowering, node, op, step)
    operand = operands[step.operand]
    total = lowering.registers[replace(task, step=task.step - 1)][0] if task.step else None
    place = step.chunk // target.chunks * target.batch_stride
    (result,) = lowering.fresh()
    if max(lowering.sources[name]) >= len(sources):  # of a graph from a file, whose layouts anybody may have written
        raise ParameterError(f"{node} reads {layout(operand).parts} parts of {operand}, which has {len(sources)}")
    chosen = tuple(sources[part] for part in lowering.sources[name])
    lowering.product(operand, result, chosen, name, None if place else total, node)
    if place:
        # narrow tensors of several chunks stand side by side in one
        (moved,) = lowering.fresh()
        lowering.instructions.append(Dot(moved, (result,), lowering.monomial(place), total, node.id))
        result = moved
    lowering.registers[task] = (result,)


def _weights(lowering: Lowering, node: Node, op: Linear, step: Step) -> str:
    """Name of the polynomials for one step, of whatever chunk; the bias goes with the first of a chunk."""
    name = f"{node.location or 'linear'}%{node.id}" + (f".{step.operand}" if step.operand else "")
    name += "" if step.group < 0 else f"/{step.group}"
    if name not in lowering.sources:
        operand = lowering.graph.operands(node)[step.operand]
        first = step.operand == 0 and step.group == lowering.groups_met(node, 0)[0]
        if op.encrypted:
            _encrypted_weights(lowering, node, op, step, name, first)
            return name
        weight, source = lowering.weight(node, step.operand), layout(operand)
        bias = lowering.graph.constant(op.bias.name).astype(np.int64) if first else None
        parts = lowering.parts(operand, step.group)
        used = [p for p in parts if weight.used(p)] or parts[:1]
        polynomials = weight_polynomials(weight, bias, source, layout(node), tuple(used))
        steps = conjugation(lowering.graph, operand)
        if steps is None:
            lowering.sources[name] = tuple(parts.index(p) for p in used)
        else:
            # part p is part p // count of the source p % count
            count = source.parts // steps.parts
            if not count or source.parts % steps.parts:  # of a graph from a file
                raise ParameterError(
                    f"{node} reads {source.parts} parts of {operand}, not {steps.parts} of each source"
                )
            places = [p % count * steps.parts + p // count for p in used]
            lowering.sources[name] = tuple(range(count * steps.babies))
            polynomials = placed(polynomials, places, count * steps.parts)
        lowering.polynomials[name] = polynomials
    return name


def _encrypted_weights(lowering: Lowering, node: Node, op: Linear, step: Step, name: str, first: bool) -> None:
    """What the client has to encrypt for one step; the polynomials themselves where the graph has the values.

    A polynomial for every part, whatever the values: what the server sees follows from shapes alone.
    """
    operand = lowering.graph.operands(node)[step.operand]
    parts = lowering.parts(operand, step.group)
    lowering.sources[name] = tuple(range(len(parts)))
    lowering.encrypted[name] = EncryptedMap(name, len(parts), first)
    if lowering.graph.withheld.isdisjoint(op.constant_names()):
        weight = lowering.weight(node, step.operand)
        bias = lowering.graph.constant(op.bias.name).astype(np.int64) if first else None
        lowering.secret[name] = weight_polynomials(weight, bias, layout(operand), layout(node), tuple(parts))
