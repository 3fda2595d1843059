"""The verifier: which facts must stand in a graph at each level. It shares no code with the passes it checks."""

from __future__ import annotations

from dataclasses import replace

from .errors import IRError
from .graph import Graph, Node
from .image_layout import Raster
from .layout import Layout
from .masks import Mask
from .ops import (
    Apply,
    ArgMax,
    Bootstrap,
    ClientBits,
    ClientRefresh,
    Fold,
    Input,
    IntegerPolynomial,
    Interleave,
    Linear,
    Output,
    Pixels,
    Polynomial,
    Reshape,
    Shorten,
    Softmax,
    Sparse,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)
from .parameters import Parameters
from .series import series_problem
from .types import Encoding, Level, Scheme
from .unpackings import column_parts, column_strides, conjugation

# Schemes that go with one encoding, and what their values do, in words.
_HELD = (
    (Scheme.CKKS, Encoding.SLOTS, "have their numbers in slots"),
    (Scheme.BFV, Encoding.INTEGERS, "have their integers in slots"),
    (Scheme.FHEW, Encoding.BITS, "have a ciphertext for each bit"),
)


def verify(graph: Graph) -> None:
    """Raise IRError, naming the node, when a rule of the graph's level is broken."""
    if graph.batch < 1:
        raise IRError(f"the batch must be at least 1, not {graph.batch}")
    if not graph.outputs:
        raise IRError("the graph has no output")
    _names("inputs", [op.name for _, op in graph.of(Input)])
    _names("outputs", [op.name for _, op in graph.of(Output)])
    for node in graph:
        _structure(graph, node)
        if graph.level >= Level.QUANTIZED and not _on_client(graph, node):
            _quantized(graph, node)
        if graph.level >= Level.ASSIGNED:
            _assigned(graph, node)
        if graph.level >= Level.LAIDOUT and not _on_client(graph, node):
            _laid_out(graph, node)


def _names(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise IRError(f"two {what} have the same name: {sorted(names)}")


def _on_client(graph: Graph, node: Node) -> bool:
    """Whether the client computes ``node`` in the clear: a reshape is computed where its operand was."""
    if isinstance(node.op, Softmax | ArgMax | Output) or node.type.scheme is Scheme.CLIENT:
        return True
    return isinstance(node.op, Reshape) and _on_client(graph, graph.operands(node)[0])


def _structure(graph: Graph, node: Node) -> None:
    if graph.level not in node.op.levels:
        raise IRError(f"{node} is not allowed at level {graph.level.value}")
    if isinstance(node.op, Apply) and node.op.mask is not None and graph.level is not Level.LAIDOUT:
        raise IRError(f"{node} has a mask, but no layout yet")
    if not (node.operands if node.op.arity is None else len(node.operands) == node.op.arity):
        raise IRError(f"{node} takes {node.op.arity} operand(s), has {len(node.operands)}")
    if not all(0 <= i < node.id for i in node.operands):
        raise IRError(f"{node} uses a node that does not come before it")
    operands = graph.operands(node)
    try:
        shape = node.op.result_shape(tuple(o.type.shape for o in operands), graph.constants)
    except IRError as e:
        raise IRError(f"{node}: {e}") from None
    if shape != node.type.shape:
        raise IRError(f"{node} is typed {list(node.type.shape)}, but its op gives {list(shape)}")
    if min(shape, default=1) < 1:
        raise IRError(f"{node} has an empty or negative axis: {list(shape)}")
    if isinstance(node.op, Output) and graph.users(node):
        raise IRError(f"{node} is an output and cannot be used further")


def _quantized(graph: Graph, node: Node) -> None:
    if node.type.fixed is None:
        raise IRError(f"{node} has no fixed-point format")
    if len(node.type.fixed.scale) not in (1, node.type.size):
        raise IRError(f"{node} has {len(node.type.fixed.scale)} scales for {node.type.size} elements")
    if any(_on_client(graph, o) for o in graph.operands(node)):
        raise IRError(f"{node} is encrypted, but computed from what the client makes after decryption")
    kept = Reshape | Switch | Unpack | Pixels | Interleave | Fold
    if isinstance(node.op, kept) and node.type.fixed != graph.operands(node)[0].type.fixed:
        raise IRError(f"{node} keeps the integers as they are, so it cannot change their fixed-point format")
    if isinstance(node.op, Fold) and not node.type.fixed.uniform:
        raise IRError(f"{node} moves elements, which have scales of their own")
    if isinstance(node.op, Linear):
        constants = graph.constants
        for name in (*(w.name for w in node.op.weights), node.op.bias.name):
            if constants[name].dtype != "int64":
                raise IRError(f"{node}: constant {name!r} is {constants[name].dtype}, not int64")
        if node.op.encrypted and any(isinstance(w, Sparse) for w in node.op.weights):
            raise IRError(f"{node} has encrypted weights that show where their zeros are")
        if len(node.op.norms) not in (0, len(node.op.weights)) or not all(0 < n < float("inf") for n in node.op.norms):
            raise IRError(f"{node} has {len(node.op.norms)} norms for {len(node.op.weights)} encrypted weights")


def _assigned(graph: Graph, node: Node) -> None:
    type, operands = node.type, graph.operands(node)
    if type.scheme is None:
        raise IRError(f"{node} has no scheme")
    if type.scheme is Scheme.CLIENT and not isinstance(node.op, Softmax | ArgMax | Output | Reshape):
        raise IRError(f"{node} is assigned to the client, which computes softmax, argmax and reshape only")
    if isinstance(node.op, Switch):
        source = operands[0].type
        if (source.scheme, type.scheme, type.encoding) != (node.op.source, node.op.target, node.op.encoding):
            raise IRError(f"{node} switches {node.op.source.value} to {node.op.target.value}, its types say otherwise")
    elif isinstance(node.op, Softmax | ArgMax | Output):
        if type.scheme is not Scheme.CLIENT:
            raise IRError(f"{node} is computed by the client, but assigned to {type.scheme.value}")
        others = (Encoding.SLOTS, Encoding.INTEGERS, Encoding.BITS)
        if operands[0].type.scheme not in (Scheme.CLIENT, Scheme.BGV) and operands[0].type.encoding not in others:
            raise IRError(f"{node}: the client decrypts bgv values, what is in slots, and bits")
    elif any(o.type.scheme != type.scheme for o in operands):
        raise IRError(f"{node} is {type.scheme.value}, an operand is not; a switch is missing")
    if type.scheme is Scheme.BGV and type.encoding is not Encoding.LSB:
        raise IRError(f"{node}: a bgv value has its message in the least significant bits")
    for scheme, encoding, what in _HELD:
        if (type.scheme is scheme) is not (type.encoding is encoding):
            raise IRError(f"{node}: {scheme.value} values, and only these, {what}")
    exact = IntegerPolynomial | TableLookup | ClientRefresh | ClientBits
    if isinstance(node.op, exact) and type.encoding is not Encoding.INTEGERS:
        raise IRError(f"{node}: is for integers in slots")
    if isinstance(node.op, Shorten | WordTable) and type.encoding is not Encoding.BITS:
        raise IRError(f"{node}: is for integers in bits")
    if isinstance(node.op, Polynomial) and type.encoding is not Encoding.SLOTS:
        raise IRError(f"{node}: a polynomial is evaluated on numbers in slots")
    replaced = type.encoding in (Encoding.SLOTS, Encoding.INTEGERS, Encoding.BITS)
    if isinstance(node.op, Apply) and replaced and graph.level is Level.LAIDOUT:
        raise IRError(f"{node}: in slots there are polynomials, in bits tables, no functions")
    if type.scheme is Scheme.TORUS and type.encoding is not Encoding.MSB:
        raise IRError(f"{node}: a torus value has its message in the most significant bits")


def _laid_out(graph: Graph, node: Node) -> None:
    layout = node.type.layout
    if layout is None:
        raise IRError(f"{node} has no layout")
    if layout.features != node.type.size or layout.batch < graph.batch:
        raise IRError(f"{node} has {node.type.size} features and batch {graph.batch}; its layout does not: {layout}")
    operands = graph.operands(node)
    if isinstance(node.op, Linear) and not node.op.encrypted:
        missing = graph.withheld.intersection(node.op.constant_names())
        if missing:
            raise IRError(f"{node} is computed with plaintext weights, but those are withheld: {sorted(missing)}")
    if isinstance(node.op, Bootstrap):
        slots = node.op.slots
        if slots < 1 or layout.ring % (2 * slots) or layout.grid % (layout.ring // (2 * slots)):
            raise IRError(f"{node}: {node.op.slots} slots do not read all positions on a grid of {layout.grid}")
        if problem := series_problem(node.op.series):
            raise IRError(f"{node} has {problem}")
    if isinstance(node.op, Apply | Bootstrap) and node.op.mask is not None:
        _masked(node, node.op.mask, layout)
    if isinstance(node.op, Unpack) and not _unpacks(node.op, operands[0].type.layout, layout):
        raise IRError(f"{node}: unpacks {node.op.parts} parts, the layouts say otherwise")
    if isinstance(node.op, Unpack):
        _halved(node, node.op, operands[0].type.layout)
        _keyed(graph, node)
    if isinstance(node.op, Unpack) and node.op.divided != 1:
        _divided(node, node.op, operands[0].type.layout)
    if isinstance(node.op, Pixels | Interleave | Fold) and not _moved(node.op, operands[0].type.layout, layout):
        raise IRError(f"{node}: its pixels stand elsewhere than those of its operand")


def _unpacks(op: Unpack, source: Layout | None, target: Layout) -> bool:
    if source is None:
        return False
    if source.image is None or target.image is None:
        return not op.edges and source.parts * op.parts == target.parts
    image = source.image
    if op.edges and not _has_edges(op.edges, source, image):
        return False
    return image.beside == op.parts and target == source.with_images(replace(image, beside=1))


def _has_edges(edges: int, source: Layout, image: Raster) -> bool:
    """Whether columns at the ends of rows can be unpacked: all exponents of a ciphertext are taken apart for that."""
    whole = source.stride == 1 and image.seamless and image.dilation[1] == 1 and image.sites == 1
    parts = column_parts(source)
    return whole and not parts & (parts - 1) and parts <= source.ring and 0 < edges <= image.width // 2


def _halved(node: Node, op: Unpack, source: Layout | None) -> None:
    """Automorphisms take a ciphertext apart by halves, as long as there are exponents between two parts."""
    if source is None or op.parts == 1:
        return
    what = f"{op.parts} parts at stride {source.stride} of {source.ring} coefficients"
    if any(size & (size - 1) for size in (op.parts, source.stride, source.ring)):
        raise IRError(f"{node}: {what} are not all powers of two, so they cannot be split")
    if op.parts * source.stride > source.ring:
        raise IRError(f"{node}: {what} are more than there are")


def _keyed(graph: Graph, node: Node) -> None:
    """Sums over conjugates are possible, and the parameters ask for their keys and those of splits into columns, once
    there are some."""
    steps, known, op = conjugation(graph, node), graph.parameters, node.op
    if isinstance(known, Parameters) and isinstance(op, Unpack) and op.edges:
        layout = graph.operands(node)[0].type.layout
        if layout is not None and not set(column_strides(layout)) <= set(known.unpack_strides):
            raise IRError(f"{node}: its columns are split at strides for which the parameters ask no keys")
    if steps is not None and isinstance(known, Parameters) and not set(steps.elements) <= set(known.conjugates):
        what = f"{steps.parts} conjugates, {steps.babies} baby steps"
        raise IRError(f"{node}: its sums go over {what}, for which the parameters ask no keys")


def _divided(node: Node, op: Unpack, source: Layout | None) -> None:
    if op.divided < 1 or op.parts % op.divided:
        raise IRError(f"{node}: what is split into {op.parts} parts cannot be divided by {op.divided}")
    if source is None or source.stride > 1:
        # noise in between would be divided, and not be multiplied again
        raise IRError(f"{node}: only what stands side by side can be divided before it is split")


def _moved(op: Pixels | Interleave | Fold, source: Layout | None, target: Layout) -> bool:
    """Whether an image's pixels stand where they were, some of them as channels perhaps, or the images of several
    chunks side by side."""
    if source is None or source.image is None or target.image is None:
        return False
    if isinstance(op, Pixels):
        return op.image == source.image.image and target == source.with_images(source.image.window(op.first, op.step))
    if isinstance(op, Fold):
        same = (op.image, op.group) == (source.image.image, source.image.group)
        return same and target == source.with_images(source.image.folded(op.by))
    merged = target.image.levels[: len(target.image.levels) - len(source.image.levels)]
    image = replace(source.image, origin=(0, 0), levels=merged + source.image.levels)
    return source.chunks == target.chunks << len(merged) and target == source.with_images(image, target.chunks)


def _masked(node: Node, mask: Mask, layout: Layout) -> None:
    """A mask keeps coefficients of the grid, all values of the node among them."""
    if problem := mask.problem(layout.ring, layout.grid):
        raise IRError(f"{node}: its mask {problem}")
    cleared = ~mask.kept(layout.ring, 1)
    if cleared[layout.positions(0)].any():
        raise IRError(f"{node}: its mask clears positions where its values stand")
