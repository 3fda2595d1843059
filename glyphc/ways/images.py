"""Linear maps of images: convolutions on channels that stand in ciphertexts of their own, or with those at other sites,
and what brings images whose pixels have become fewer together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from glyphc.errors import ParameterError
from glyphc.ir.graph import Node
from glyphc.ir.image_layout import Raster
from glyphc.ir.instructions import Dot, Register, Split, TransientDot
from glyphc.ir.ops import Fold, Interleave, Linear, Pixels, Unpack
from glyphc.ir.stencils import Stencil, stencil
from glyphc.ir.unpackings import column_parts, conjugation

from .lowering import Lowering, Step, Task, layout, lowers
from .weight_polynomials import crossing_polynomials, placed, stencil_polynomials


def raster(node: Node) -> Raster:
    """Where the pixels of a node's images stand; ParameterError for what are none."""
    found = layout(node).image
    if found is None:
        raise ParameterError(f"{node} is no image, though what reads or makes it is laid out as one")
    return found


def stencil_of(lowering: Lowering, node: Node, number: int) -> Stencil:
    """What a linear map does with an operand's images; ParameterError where that is not the same at every pixel."""
    assert isinstance(node.op, Linear)
    operand = lowering.graph.operands(node)[number]
    source, target = raster(operand), raster(node)
    found = stencil(lowering.graph.matrix(node.op.weights[number]), source.image, target.image)
    if found is None or any(
        size > 1 and wide * up != narrow * step
        for size, wide, narrow, step, up in zip(
            target.image[1:], target.dilation, source.dilation, found.stride, found.up, strict=True
        )
    ):
        raise ParameterError(f"{node} does not do with the images of {operand} what their layouts say")
    return found


def unpack(lowering: Lowering, task: Task, node: Node) -> None:
    """Every group of channels into the ciphertexts of its channels, or into conjugates that stand for these."""
    assert isinstance(node.op, Unpack)
    (operand,) = lowering.graph.operands(node)
    made: list[Register] = []
    steps, image = conjugation(lowering.graph, node), raster(operand)
    sources = lowering.divided(lowering.registers[Task(operand.id, task.chunk)], node.op.divided, node)
    for part, source in enumerate(sources):
        if steps is not None:
            made += lowering.conjugates(source, steps, node)
        elif node.op.parts == 1:
            made.append(source)
        else:
            targets = lowering.fresh(min(image.group, len(image.channels_of(part))))
            lowering.instructions.append(Split(targets, source, node.op.parts, layout(operand).stride, node.id))
            made += targets
    edges = [_edges(lowering, source, node, node.op) for source in sources] if node.op.edges else []
    if image.beside < image.group:
        edges = [_together(edges[at : at + image.group], image.group) for at in range(0, len(edges), image.group)]
    lowering.registers[task] = (*made, *(register for each in edges for register in each))


def _together(edges: Sequence[tuple[Register, ...]], group: int) -> tuple[Register, ...]:
    """The columns of some ciphertexts with one channel each, in the order of those of one with a group of them. Where
    there are fewer channels, others take their places, which nobody reads."""
    return tuple(edges[min(at % group, len(edges) - 1)][at - at % group] for at in range(len(edges[0])))


def _edges(lowering: Lowering, source: Register, node: Node, op: Unpack) -> tuple[Register, ...]:
    """The columns at the ends of rows, of every channel of a group: the last ones of a row, moved behind it, are the
    first ones of the next row then, and those that were the first ones follow.

    They are multiplied by no more than the channels are: what a split into all columns multiplies them by besides is
    undone before, which is exact.
    """
    image, parts = raster(node), column_parts(layout(node))
    (divided,) = lowering.divided((source,), parts // op.parts, node)
    (moved,) = lowering.fresh()
    name = lowering.monomial(image.steps(0, op.edges))
    lowering.instructions.append(Dot(moved, (divided,), name, None, node.id))
    targets = lowering.fresh(image.steps(0, 2 * op.edges))
    lowering.instructions.append(Split(targets, moved, parts, layout(node).stride, node.id))
    return targets


def convolve(lowering: Lowering, task: Task, node: Node, step: Step) -> None:
    """What one operand adds to a chunk: a sum of products for every group of the result's channels."""
    operands = lowering.graph.operands(node)
    operand, sources = operands[step.operand], lowering.registers[step.source(operands)]
    channels, ends = _registers(lowering, operand), _unpacked_edges(operand)
    if len(sources) < channels or (len(sources) > channels) != (ends > 0):
        raise ParameterError(f"{node} reads the channels of {operand}, which are not unpacked")
    totals = lowering.registers[replace(task, step=task.step - 1)] if task.step else ()
    results: list[Register] = []
    for part in range(raster(node).parts):
        name, (result,) = _weights(lowering, node, step.operand, part), lowering.fresh()
        chosen = tuple(sources[channel] for channel in lowering.sources[name])
        lowering.product(operand, result, chosen, name, totals[part] if totals else None, node)
        if ends and lowering.stencils[node.id, step.operand].overhang:
            name, total, (result,) = _crossing_weights(lowering, node, step.operand, part), result, lowering.fresh()
            chosen = tuple(sources[channels + edge] for edge in lowering.sources[name])
            lowering.instructions.append(TransientDot(result, chosen, name, total, node.id))
        results.append(result)
    lowering.registers[task] = tuple(results)


def _unpacked_edges(node: Node) -> int:
    return node.op.edges if isinstance(node.op, Unpack) else 0


def _crossing_weights(lowering: Lowering, node: Node, number: int, part: int) -> str:
    """Name of the polynomials that take back what products of one operand carry from one row to others."""
    name = f"{node.location or 'linear'}%{node.id}.{number}:{part}|"
    if name not in lowering.sources:
        operand = lowering.graph.operands(node)[number]
        own, ends = lowering.stencils[node.id, number], _unpacked_edges(operand)
        polynomials, used = crossing_polynomials(own, ends, layout(operand), layout(node), part)
        lowering.polynomials[name], lowering.sources[name] = polynomials, used
    return name


def _registers(lowering: Lowering, operand: Node) -> int:
    """How many a map reads of an image: one for each channel, or the conjugates of each group of channels."""
    steps, image = conjugation(lowering.graph, operand), raster(operand)
    return image.parts if steps is None else -(-image.parts // steps.parts) * steps.babies


def _weights(lowering: Lowering, node: Node, number: int, part: int) -> str:
    """Name of the polynomials of one operand for one part of the result, in every chunk; the bias goes with the first
    operand."""
    name = f"{node.location or 'linear'}%{node.id}.{number}:{part}"
    if name not in lowering.sources:
        assert isinstance(node.op, Linear)
        key = (node.id, number)
        if key not in lowering.stencils:
            lowering.stencils[key] = stencil_of(lowering, node, number)
        found, channels = lowering.stencils[key], raster(node).channels_of(part)
        bias = lowering.graph.constant(node.op.bias.name).astype(np.int64) if number == 0 else None
        reads = np.asarray(found.kernel[:, channels.start : channels.stop].any(axis=(0, 1)))
        source = layout(lowering.graph.operands(node)[number])
        read = raster(lowering.graph.operands(node)[number])
        used = tuple(r for r in range(read.parts) if reads[list(read.channels_of(r))].any()) or (0,)
        polynomials = stencil_polynomials(found, bias, source, layout(node), part, used)
        operand = lowering.graph.operands(node)[number]
        steps = conjugation(lowering.graph, operand)
        if steps is None:
            lowering.sources[name] = used
        else:
            # the channels of one group after those of another, as the registers of parts are
            registers = _registers(lowering, operand)
            lowering.sources[name] = tuple(range(registers))
            polynomials = placed(polynomials, used, registers // steps.babies * steps.parts)
        lowering.polynomials[name] = polynomials
    return name


@lowers(Pixels)
@lowers(Fold)
def _pixels(lowering: Lowering, task: Task, node: Node) -> None:
    (source,) = lowering.same(task, node)
    lowering.registers[task] = lowering.registers[source]


def _needs_of_interleaving(lowering: Lowering, task: Task, node: Node) -> list[Task]:
    (operand,) = lowering.graph.operands(node)
    return [Task(operand.id, chunk) for chunk in range(task.chunk, layout(operand).chunks, layout(node).chunks)]


@lowers(Interleave, _needs_of_interleaving)
def _interleave(lowering: Lowering, task: Task, node: Node) -> None:
    """The images of each chunk are moved to their places, and all are added up."""
    (operand,) = lowering.graph.operands(node)
    before, after = raster(operand), raster(node)
    totals: tuple[Register | None, ...] = (None,) * before.parts
    for number, source in enumerate(_needs_of_interleaving(lowering, task, node)):
        # the bits of a sample below those of its old chunk are the number of that chunk
        rows, columns = (
            sum(level[axis] for bit, level in enumerate(after.levels) if number >> bit & 1) - before.origin[axis]
            for axis in (0, 1)
        )
        name = lowering.monomial(after.steps(rows, columns) * layout(node).stride)
        results = lowering.fresh(before.parts)
        for result, register, total in zip(results, lowering.registers[source], totals, strict=True):
            lowering.instructions.append(Dot(result, (register,), name, total, node.id))
        totals = results
    lowering.registers[task] = tuple(r for r in totals if r is not None)
