"""Which networks are maps of images: what images its tensors are, and what its linear maps do at every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, lcm, prod

from glyphc.ir.graph import Graph, Node
from glyphc.ir.image_layout import Image, Steps
from glyphc.ir.ops import Apply, Input, Linear, Reshape, Switch
from glyphc.ir.stencils import Stencil, stencil
from glyphc.ir.types import Scheme

# Channels that a flat input of square pictures may have.
_MOST_FLAT = 4


@dataclass(frozen=True, eq=False)
class Pictures:
    """The images of an assigned graph by node id, and what its linear maps do with them, by node id and operand."""

    images: dict[int, Image]
    stencils: dict[tuple[int, int], Stencil]

    @property
    def enlarged(self) -> bool:
        """Whether any map makes larger images."""
        return any(s.up != (1, 1) for s in self.stencils.values())

    def spacing(self, graph: Graph) -> Steps:
        """How far apart an input's pixels have to stand for those that are made between them later."""
        if not self.enlarged:
            return 1, 1
        # as multiples of the distance in inputs
        distances: dict[int, tuple[Fraction, Fraction]] = {}
        for node in graph:
            distances[node.id] = distances[node.operands[0]] if node.operands else (Fraction(1), Fraction(1))
            if (node.id, 0) in self.stencils:
                own, before = self.stencils[node.id, 0], distances[node.id]
                down, right = (
                    Fraction(1) if size == 1 else d * s / u
                    for size, d, s, u in zip(own.target[1:], before, own.stride, own.up, strict=True)
                )
                distances[node.id] = down, right
        rows, columns = (lcm(*(d[axis].denominator for d in distances.values())) for axis in (0, 1))
        return rows, columns

    @staticmethod
    def of(graph: Graph) -> Pictures | str:
        """What there is, or in a sentence why there are no images; an empty one where no map makes any pixels."""
        inputs = [_images_of(node, graph) for node, _ in graph.of(Input)]
        if not all(inputs):
            return "an input is no image of channels, rows and columns"
        problem = ""
        # of inputs that do not say what they are, all in the same way: the likeliest first
        for number in range(max(map(len, inputs), default=0)):
            found = Pictures({}, {})
            trouble = found._all(graph, [images[min(number, len(images) - 1)] for images in inputs])
            if not trouble and any(prod(s.target[1:]) > 1 for s in found.stencils.values()):
                return found
            problem = problem or trouble
        return problem

    def _all(self, graph: Graph, inputs: list[Image]) -> str:
        """Why it cannot be with inputs like these, if so."""
        self.images.update({node.id: image for (node, _), image in zip(graph.of(Input), inputs, strict=True)})
        for node in graph:
            if node.type.scheme is not Scheme.CLIENT and (problem := self._take(node, graph)):
                return problem
        return ""

    def _take(self, node: Node, graph: Graph) -> str:
        match node.op:
            case Input():
                pass
            case Linear():
                return self._linear(node, node.op, graph)
            case Reshape() | Switch() | Apply():
                self.images[node.id] = self.images[node.operands[0]]
            case _:
                return f"{node} has no image layout"
        return ""

    def _linear(self, node: Node, op: Linear, graph: Graph) -> str:
        if op.encrypted:
            return f"{node} has encrypted weights, which are multiplied as a whole"
        target: Image | None = None
        # the largest operand first: what it becomes is the clearest
        order = sorted(range(len(op.weights)), key=lambda n: -prod(self.images[node.operands[n]][1:]))
        for number in order:
            source = self.images[node.operands[number]]
            found = stencil(graph.matrix(op.weights[number]), source, target)
            if found is None:
                return f"{node} does not do the same at every pixel of {graph.node(node.operands[number])}"
            self.stencils[node.id, number], target = found, found.target
        assert target is not None
        self.images[node.id] = target
        return ""


def _images_of(node: Node, graph: Graph) -> list[Image]:
    """What an input may be a picture of: channels, rows, columns. A flat one does not say: of a square, or of channels
    of one pixel."""
    assert isinstance(node.op, Input)
    shapes = [u.op.shape for u in graph.users(node) if isinstance(u.op, Reshape)]
    shape = next((s for s in (node.op.shape, *shapes) if len(s) == 3), node.op.shape)
    if node.op.ranks is not None or len(shape) not in (1, 2, 3):
        return []
    if len(shape) == 1:
        squares = [(c, isqrt(shape[0] // c)) for c in range(1, _MOST_FLAT + 1)]
        found = [(c, side, side) for c, side in squares if side > 1 and c * side * side == shape[0]]
        return [*found, (shape[0], 1, 1)]
    rows, columns = (1, *shape[1:])[-2:]
    return [(shape[0], rows, columns)]
