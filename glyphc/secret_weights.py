"""Which parts of a network depend on tensors that the server must not see.

Tensors are named as the model's file names them; what is encrypted are the dense maps that they become a part of. Their
way there (constants computed from constants, convolutions as matrices, normalisation folded into the next layer) is not
followed op by op: the tensors are changed a little, and whatever changes with them depends on them. So nothing that
does goes unnoticed, parameters of functions included, which cannot be encrypted.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from glyphc.errors import GlyphcError, ModelError
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph, Node, with_constants
from glyphc.ir.ops import Apply, Linear
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.passes.base import Context, Pass
from glyphc.passes.calibrate import Calibrate
from glyphc.passes.pipeline import run_pipeline
from glyphc.passes.schemes import ALL
from glyphc.sources import GLYPH, is_graph
from glyphc.storage.withheld import without_secrets

_K = TypeVar("_K", bound=Hashable)
_SHARE, _LEAST = 2.0**-7, 2.0**-12


def requested(encrypt_weights: str | Collection[str] | None) -> tuple[str, ...]:
    """Names from text (``fc1.weight,fc1.bias``, or ``all``) or a collection of them; none when nothing is asked for."""
    if encrypt_weights is None:
        return ()
    names = encrypt_weights.split(",") if isinstance(encrypt_weights, str) else list(encrypt_weights)
    found = tuple(dict.fromkeys(n.strip() for n in names if n.strip()))
    if not found:
        raise GlyphcError(f"encrypt_weights={encrypt_weights!r} names no tensor; name some, or say {ALL!r}")
    if ALL in found and len(found) > 1:
        raise GlyphcError(f"{ALL!r} stands for every linear map; leave out the other names, or {ALL!r}")
    return found


def maps_to_encrypt(
    model: Any, graph: Graph, names: tuple[str, ...], steps: Sequence[Pass], context: Context
) -> tuple[str, ...]:
    """Locations of the linear maps that depend on these tensors, or (``all``,).

    graph: what ``model`` was read to. GlyphcError for a tensor that is not there (the message lists those that are),
    ModelError, naming the node, for one that a function depends on or that no map does.
    """
    if names == (ALL,):
        return names
    known = tensors(model, graph)
    unknown = [n for n in names if n not in known]
    if unknown:
        raise GlyphcError(f"there is no tensor {unknown[0]!r} to encrypt; there are: {', '.join(known)}, or {ALL!r}")
    if graph.level is not Level.SOURCE:
        places = {n.location for n, op in graph.of(Linear) if not set(names).isdisjoint(op.constant_names())}
        return _named(places, names)
    early = _until_ranges(steps)
    folded = _fold(graph, early, context)
    places = set()
    for name in names:
        changed = _fold(_changed(model, graph, (name,)), early, context)
        places |= _depending(folded, changed, name)
    return _named(places, names)


def tensors(model: Any, graph: Graph) -> tuple[str, ...]:
    """Names of the tensors that can be asked for: the model file's, or the graph's floating-point constants."""
    if _is_onnx(model):
        from glyphc.frontends.onnx_perturb import float_tensors

        return float_tensors(model)
    if graph.level is Level.SOURCE:
        return tuple(name for name, value in graph.constants.items() if value.dtype.kind == "f")
    return tuple(dict.fromkeys(name for _, op in graph.of(Linear) for name in op.constant_names()))


def _is_onnx(model: Any) -> bool:
    if is_graph(model):
        return False
    return not isinstance(model, str | os.PathLike) or not os.fspath(model).endswith(GLYPH)


def _changed(model: Any, graph: Graph, names: tuple[str, ...]) -> Graph:
    """The source graph with these tensors changed, and constants that are copies of them."""
    if _is_onnx(model):
        from glyphc.frontends.from_onnx import read_onnx
        from glyphc.frontends.onnx_perturb import perturbed

        return read_onnx(perturbed(model, names))
    random = np.random.default_rng(0)
    values = {}
    # equal values are nobody's secret if all of them are alike, as in a bias of zeros
    telling = [graph.constant(n) for n in names if np.ptp(graph.constant(n)) > 0]
    copies = {n for n, v in graph.constants.items() if n in names or any(np.array_equal(v, of) for of in telling)}
    for name in sorted(copies):
        value = graph.constant(name).astype(np.float64)
        share = random.uniform(_SHARE / 2, _SHARE, value.shape)
        values[name] = ((value + _LEAST) * (1 + share)).astype(graph.constant(name).dtype)
    return with_constants(with_constants(graph, copies), values=values)


def _until_ranges(steps: Sequence[Pass]) -> list[Pass]:
    """The passes that bring a network into its canonical form: what comes after them only measures and rounds."""
    early: list[Pass] = []
    for step in steps:
        if isinstance(step, Calibrate):
            break
        early.append(step)
    return early


def _fold(graph: Graph, early: Sequence[Pass], context: Context) -> Graph:
    return run_pipeline(graph, early, context)


def _depending(folded: Graph, changed: Graph, name: str) -> set[str]:
    """Locations of maps that differ between two graphs; ModelError when something else does."""
    # what a graph holds is compared as a multiset: the order may have changed with the values
    functions = Counter((n.location, op.functions) for n, op in changed.of(Apply))
    for node, op in folded.of(Apply):
        if not _took(functions, (node.location, op.functions)):
            raise ModelError(
                f"tensor {name!r} cannot be encrypted: {node} depends on it, and a function's parameters are a part of "
                "the program (in its series). Encrypt other tensors, or move this one into a linear layer"
            )
    places = set()
    others = Counter((node.location, digest) for node, digest in _contents(changed))
    for node, digest in _contents(folded):
        if _took(others, (node.location, digest)):
            continue
        if not node.location:
            raise ModelError(f"{node} depends on tensor {name!r}, but has no name; give it one, or encrypt {ALL!r}")
        places.add(node.location)
    if not places:
        raise ModelError(f"no linear map depends on tensor {name!r}: there is nothing to encrypt")
    return places


def _took(counts: Counter[_K], key: _K) -> bool:
    """Take one of these out of a multiset; False when there is none left."""
    counts[key] -= 1
    return counts[key] >= 0


def _contents(graph: Graph) -> Iterator[tuple[Node, bytes]]:
    """Nodes with constants, and a digest of those."""
    for node in graph:
        names = node.op.constant_names()
        if names:
            digest = hashlib.sha256()
            for name in names:
                digest.update(np.ascontiguousarray(graph.constant(name)).data)
            yield node, digest.digest()


def _named(places: set[str], names: tuple[str, ...]) -> tuple[str, ...]:
    if "" in places:
        raise ModelError(
            f"a linear map that holds {' or '.join(names)} has no name (@ in the graph's text); give it one, or "
            f"encrypt {ALL!r}"
        )
    return tuple(sorted(places))


def check(graph: Graph, maps: tuple[str, ...]) -> None:
    """ModelError unless the final graph has all of these maps, encrypted, and can do without their values."""
    encrypted = [node for node, op in graph.of(Linear) if op.encrypted]
    kept = {part for node in encrypted for part in (node.location, *node.location.split("|"))}
    missing = [] if maps == (ALL,) and encrypted else sorted(set(maps) - kept)
    if missing:
        raise ModelError(f"the linear map {missing[0]!r} has not become one with encrypted weights")
    try:
        verify(without_secrets({"": graph})[""])
    except IRError as e:
        raise ModelError(f"weights cannot be encrypted: {e}") from None
