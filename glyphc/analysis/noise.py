"""The noise model: predicted errors of every value, in units of its own fixed-point integers.

Three parts are kept apart because linear maps treat them differently:

white          ciphertext noise on all N coefficients: encryption, key switching, rounding to another modulus. A product
               with a weight polynomial adds it up over all of the polynomial's terms (Frobenius norm of the weights).
bootstrap      noise that the bootstrap adds to the values it refreshes; only a value's own terms matter (row norm).
               What it leaves between them gets to results that stand between, by all terms that do not meet values.
approximation  series fit and rounding to integers: deterministic errors, treated as independent.

The sizes of the elementary noises are in ``glyphc.ir.noise``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, hypot, log2, sqrt

import numpy as np

from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.matrices import Matrix
from glyphc.ir.noise import (
    DECODING_FLOOR,
    ROUNDING,
    baby_step_noise,
    bootstrap,
    external_products,
    fresh,
    giant_step_noise,
    key_switch,
)
from glyphc.ir.ops import Bootstrap, Fold, Input, Interleave, Linear, Pixels, Reshape, Switch, Unpack
from glyphc.ir.parameters import SUM_PRIME_BITS, Parameters
from glyphc.ir.series import OUTPUT_BITS, rms_slope
from glyphc.ir.stencils import stencil
from glyphc.ir.types import Scheme
from glyphc.ir.unpackings import column_parts, conjugation

# Wanted distance between white noise and one unit, in bits. Less does no harm at once: as Q = 1 (mod t), noise beyond
# half
# a unit shows as an error of so many units (see ``ValidateNoise``).
_MARGIN_BITS = 6
_MIN_BGV_BITS = 44
# OpenFHE sizes the auxiliary modulus of key switching for one prime up to this.
_MAX_BGV_BITS = 55
# Noise shows in a value where so many standard deviations of it are more than so many bits below its largest number.
DEVIATIONS, PRECISION = 6.0, 11.0
# Of sums on a single prime: what it has at least, a residue of whole bytes in files; by how much they may raise the
# error of any value.
_ONE_PRIME_BITS, _MORE = SUM_PRIME_BITS - 1, 0.02


@dataclass(frozen=True)
class Noise:
    """Standard deviations in units of the value's integers."""

    white: float = 0.0
    bootstrap: float = 0.0
    approximation: float = 0.0
    between: float = 0.0  # of coefficients that hold no value

    @property
    def total(self) -> float:
        return hypot(self.white, self.bootstrap, self.approximation)


def predict(graph: Graph, parameters: Parameters, bgv_bits: float) -> dict[int, Noise]:
    """Noise of every encrypted value of a laid-out graph, by node id, for a BGV modulus of ``bgv_bits``."""
    out: dict[int, Noise] = {}
    for node in graph:
        if node.type.scheme not in (None, Scheme.CLIENT):
            out[node.id] = _step(node, graph, parameters, 2.0**bgv_bits, out)
    return out


def bgv_bits(graph: Graph, plaintext_bits: int) -> int:
    """The BGV modulus that keeps white noise ``_MARGIN_BITS`` below one unit everywhere, in bits."""
    ring = max((n.type.layout.ring for n in graph if n.type.layout is not None), default=1)
    probe = Parameters(ring=ring, plaintext_bits=plaintext_bits, bgv_bits=_MAX_BGV_BITS)
    # nearly all of it is proportional to t/q, so it grows by as much as q falls below the largest modulus
    white = max((n.white for n in predict(graph, probe, _MAX_BGV_BITS).values()), default=1.0)
    spare = -log2(white) - _MARGIN_BITS
    return int(min(_MAX_BGV_BITS, max(_MIN_BGV_BITS, np.ceil(_MAX_BGV_BITS - spare))))


def shows(node: Node, white: float, deviations: float = DEVIATIONS, precision: float = PRECISION) -> bool:
    """Whether a value's white noise is too large: an error of some units, and within ``precision`` bits of its largest
    number."""
    fixed = node.type.fixed
    return fixed is not None and deviations * white > max(fixed.magnitude * 2.0**-precision, 0.5)


def on_one_prime(graph: Graph, parameters: Parameters) -> Parameters:
    """Parameters of a laid-out graph with bootstraps, where its BGV sums have one prime on the kernels if that adds
    little to the error of every value; keys have as few auxiliary primes as will do."""
    before = predict(graph, parameters, parameters.bgv_bits)
    for primes in (2, 3):
        made = replace(parameters, bgv_bits=_ONE_PRIME_BITS, sum_primes=primes)
        after = predict(graph, made, made.bgv_bits)
        if all(after[i].total <= (1 + _MORE) * before[i].total for i in before) and not any(
            shows(graph.node(i), noise.white) for i, noise in after.items()
        ):
            return made
    return parameters


def _step(node: Node, graph: Graph, parameters: Parameters, q: float, known: dict[int, Noise]) -> Noise:
    t = float(parameters.plaintext_modulus)
    switch = key_switch(parameters.ring, log2(q), parameters.sum_auxiliary_bits) * t / q
    op = node.op
    if isinstance(op, Input):
        return Noise(white=fresh(parameters) * t / q, approximation=sqrt(1 / 12))
    if isinstance(op, Linear):
        noise = _linear(node, op, graph, known)
        if op.encrypted:
            products = sum(_polynomials(o) * _merged(o, node) for o in graph.operands(node))
            added = external_products(parameters.ring, log2(q), products) * t / q
            noise = replace(noise, white=hypot(noise.white, added))
        for operand in graph.operands(node):
            steps = conjugation(graph, operand)
            if steps is not None:
                giants = giant_step_noise(switch, steps)
                noise = replace(noise, white=hypot(noise.white, giants * sqrt(_merged(operand, node))))
        crossing = _crossing(node, op, graph) * switch
        return replace(noise, white=hypot(noise.white, crossing))
    (operand,) = graph.operands(node)
    source = known[operand.id]
    if isinstance(op, Unpack):
        steps = conjugation(graph, node)
        # every level of a split doubles what is there and adds one key switch; what baby steps bring to a sum counts as
        # if it came with the parts
        split = op.parts * switch / sqrt(3) if op.parts > 1 else 0.0
        added = split if steps is None else baby_step_noise(switch, steps)
        # automorphisms add up what stands between, they do not double it
        between = sqrt(op.parts) * source.between
        return replace(source, white=hypot(op.gain * source.white, added), between=between)
    if isinstance(op, Interleave):
        # what is cleared of the others has their noise
        shares = sqrt(_merged(operand, node))
        white, strong, between = (shares * part for part in (source.white, source.bootstrap, source.between))
        return replace(source, white=white, bootstrap=strong, between=between)
    if isinstance(op, Switch) and op.target is Scheme.TORUS:
        return replace(source, white=hypot(source.white, ROUNDING * t / 2.0**parameters.scaling_bits))
    if isinstance(op, Switch):
        return replace(source, white=hypot(source.white, t / q))
    if isinstance(op, Bootstrap):
        return _bootstrap(node, operand, op, source, parameters)
    if node.op.mnemonic == "apply":
        return Noise()  # parameters are not chosen yet: a refresh
    return source


def _linear(node: Node, op: Linear, graph: Graph, known: dict[int, Noise]) -> Noise:
    parts = []
    for number, operand in enumerate(graph.operands(node)):
        source = known[operand.id]
        if op.encrypted:  # the same for all who have the graph, whether they have the weights or not
            row, terms = op.norms[number], float(operand.type.size)
        else:
            weight = graph.matrix(op.weights[number])
            row, terms = _row_norm(weight), weight.count / weight.shape[0]
        frobenius = row * sqrt(_terms(node))
        # weights were rounded to integers: an independent error of variance 1/12 for every term
        rounding = _rms(operand) * sqrt(terms / 12)
        merged = sqrt(_merged(operand, node))
        white = frobenius * source.white * merged
        between = frobenius * source.between * merged * sqrt(_standing_between(operand, node))
        strong = hypot(row * source.bootstrap, between)
        parts.append(Noise(white, strong, hypot(row * source.approximation, rounding)))
    return Noise(
        hypot(*(p.white for p in parts)), hypot(*(p.bootstrap for p in parts)), hypot(*(p.approximation for p in parts))
    )


def _crossing(node: Node, op: Linear, graph: Graph) -> float:
    """What taking back what crosses the ends of rows adds, in key switches: every level of the split into columns
    doubles what is there and adds one."""
    squares = 0.0
    for operand, weight in zip(graph.operands(node), op.weights, strict=True):
        source, target = operand.type.layout, node.type.layout
        if isinstance(operand.op, Unpack) and operand.op.edges and source and source.image and target and target.image:
            own = stencil(graph.matrix(weight), source.image.image, target.image.image)
            assert own is not None
            taps = sum(own.crossing(k, before).astype(int) for k in range(operand.op.edges) for before in (True, False))
            energy = (own.kernel.astype(np.float64) ** 2).sum(axis=2).mean(axis=1) @ taps
            squares += energy * _terms(node) * column_parts(source) ** 2 / 3
    return sqrt(squares)


def _standing_between(operand: Node, node: Node) -> float:
    """Share of a weight polynomial's terms that lead to a result from coefficients between the operand's values."""
    source, target = operand.type.layout, node.type.layout
    return max(0.0, 1 - target.stride / source.grid) if source is not None and target is not None else 0.0


def _terms(node: Node) -> int:
    """Results of a linear map that a weight polynomial has terms for: of images, those of one pixel in one part."""
    image = node.type.layout.image if node.type.layout is not None else None
    return node.type.size if image is None else len(image.channels_of(0))


def public_norm(weight: Matrix) -> float:
    """The rms norm of the rows of a weight, rounded up to a quarter of a power of two: what ``Linear.norms`` tells."""
    norm = max(1.0, _row_norm(weight))
    return float(2.0 ** (ceil(4 * log2(norm)) / 4))


def _row_norm(weight: Matrix) -> float:
    return float(np.sqrt(weight.energies().mean()))


def _polynomials(operand: Node) -> int:
    """Weight polynomials that one chunk of an operand meets."""
    layout = operand.type.layout
    return min(layout.parts, layout.features) if layout is not None else 1


def _merged(operand: Node, node: Node) -> float:
    """Chunks of the operand whose results add up in one of the node's."""
    source, target = operand.type.layout, node.type.layout
    return source.chunks / target.chunks if source is not None and target is not None else 1.0


def _bootstrap(node: Node, operand: Node, op: Bootstrap, source: Noise, parameters: Parameters) -> Noise:
    """Noise of the undivided result; the unpacking that follows undoes the divisor."""
    assert node.type.fixed is not None
    unit = parameters.plaintext_modulus * op.divisor / 2.0**OUTPUT_BITS  # integers per unit of the series
    floor = DECODING_FLOOR * parameters.plaintext_modulus * op.divisor
    refreshed = bootstrap(parameters.ring, rms_slope(op.series)) * unit
    span = node.type.fixed.hi - node.type.fixed.lo
    passed = source.total * _slope(node, operand, op)
    fit = op.series.rms_error * span
    between = DECODING_FLOOR * parameters.plaintext_modulus
    return Noise(0.0, hypot(refreshed, floor), hypot(passed, fit, sqrt(1 / 12)), between)


def _slope(node: Node, operand: Node, op: Bootstrap) -> float:
    """Rms slope of the function in integers per integer, where calibration saw values."""
    source, target, calibration = operand.type.fixed, node.type.fixed, operand.type.calibration
    assert source is not None and target is not None
    lo, hi = (calibration.lo, calibration.hi) if calibration else (source.real_lo, source.real_hi)
    x = np.linspace(lo, max(hi, lo + source.scale[0]), 4097)
    y = compose(op.functions, x)
    slope = np.diff(y) / np.diff(x) * source.scale[0] / target.scale[0]
    weights = None
    if calibration is not None and calibration.histogram:
        counts = np.array(calibration.histogram, dtype=np.float64) + 1e-9
        weights = counts[np.arange(len(slope)) * len(counts) // len(slope)]
    return float(np.sqrt(np.average(slope**2, weights=weights)))


def divisor(graph: Graph, node: Node) -> int:
    """The factor by which the unpacking of a nonlinearity's result will multiply it: the bootstrap divides by it."""
    return max((u.op.gain for u in _readers(graph, node) if isinstance(u.op, Unpack)), default=1)


def _readers(graph: Graph, node: Node) -> list[Node]:
    """What reads a value, through whatever leaves it as it is."""
    readers: list[Node] = []
    for user in graph.users(node):
        through = isinstance(user.op, Switch | Reshape | Pixels | Interleave | Fold)
        readers += _readers(graph, user) if through else [user]
    return readers


def _rms(node: Node) -> float:
    """Rms of a value in its integers, from what calibration saw."""
    fixed, calibration = node.type.fixed, node.type.calibration
    assert fixed is not None
    if calibration is None or not calibration.histogram or not fixed.uniform:
        return fixed.magnitude / 4
    edges = np.linspace(calibration.lo, calibration.hi, len(calibration.histogram) + 1)
    centres = ((edges[1:] + edges[:-1]) / 2 - fixed.offset[0]) / fixed.scale[0]
    return float(np.sqrt(np.average(centres**2, weights=calibration.histogram)))
