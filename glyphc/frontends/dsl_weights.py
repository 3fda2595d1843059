"""Where the tensors of a ``.glyph`` file come from: an ``.npz``, an ``.onnx``, or initialisers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .dsl_ast import Call, Number, Span, WeightsFile, WeightsInit
from .dsl_errors import MistakeError, similar

F64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Initialiser:
    """How fresh weights are drawn. parameters: in the order of ``INITIALISERS``; seed: of a generator of their own."""

    name: str
    parameters: tuple[float, ...]
    seed: int

    def __call__(self, shape: Shape, salt: str) -> F64:
        """Weights of shape (out, in, ...), (out,) for biases. ``salt``: the tensor's name, so that no two are alike."""
        random = np.random.default_rng([self.seed, zlib.crc32(salt.encode("utf-8", "surrogatepass"))])
        return np.asarray(_DRAW[self.name](random, shape, *self.parameters), dtype=np.float64)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{p:g}' for p in self.parameters)}), seed {self.seed}"


def _fans(shape: Shape) -> tuple[int, int]:
    """(in, out): how many values a weight tensor (out, in, *window) reads and feeds."""
    window = int(np.prod(shape[2:]))
    return (shape[1] if len(shape) > 1 else shape[0]) * window, shape[0] * window


_Draw = Callable[..., F64]
# Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015.
_DRAW: Mapping[str, _Draw] = {
    "zeros": lambda random, shape: np.zeros(shape),
    "ones": lambda random, shape: np.ones(shape),
    "constant": lambda random, shape, value: np.full(shape, value),
    "uniform": lambda random, shape, lo, hi: random.uniform(lo, hi, shape),
    "normal": lambda random, shape, mean, std: random.normal(mean, std, shape),
    "glorot_uniform": lambda random, shape: random.uniform(-1, 1, shape) * sqrt(6 / sum(_fans(shape))),
    "glorot_normal": lambda random, shape: random.normal(0, sqrt(2 / sum(_fans(shape))), shape),
    "he_uniform": lambda random, shape: random.uniform(-1, 1, shape) * sqrt(6 / _fans(shape)[0]),
    "he_normal": lambda random, shape: random.normal(0, sqrt(2 / _fans(shape)[0]), shape),
}
# Their parameters, all numbers, besides ``seed``.
INITIALISERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_DRAW, ()),
    "constant": ("value",),
    "uniform": ("lo", "hi"),
    "normal": ("mean", "std"),
}


def initialiser(call: Call) -> Initialiser:
    """From e.g. ``normal(0, 0.1, seed=3)``; MistakeError for anything else."""
    name = call.name.text
    if name not in INITIALISERS:
        hint = f"{similar(name, INITIALISERS)}known: {', '.join(sorted(INITIALISERS))}"
        raise MistakeError(call.name.span, f"{name!r} is no initialiser", hint)
    wanted = INITIALISERS[name]
    example = f"write {name}({', '.join([*wanted, 'seed=0'])})"
    given: dict[str, float] = {}
    named = [(key.text, key.span, value) for key, value in call.keywords]
    positional = [(wanted[i] if i < len(wanted) else "", a.span, a) for i, a in enumerate(call.arguments)]
    for key, span, value in (*positional, *named):
        if key not in (*wanted, "seed") or key in given:
            raise MistakeError(span, f"{name!r} has no place for this argument", example)
        if not isinstance(value, Number) or (key == "seed" and (not value.integer or value.value < 0)):
            raise MistakeError(value.span, f"the {key} of an initialiser is a number", example)
        given[key] = value.value
    missing = [p for p in wanted if p not in given]
    if missing:
        raise MistakeError(call.span, f"initialiser {name!r} needs its {missing[0]}", example)
    if name == "normal" and given["std"] < 0:
        raise MistakeError(call.span, "a standard deviation is not negative", example)
    return Initialiser(name, tuple(given[p] for p in wanted), int(given.get("seed", 0)))


@dataclass
class Weights:
    """The tensors that a network may name. used: those that it has named; drawn: names and makers of fresh ones."""

    tensors: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    transposed: bool = False
    label: str = ""
    default: Initialiser | None = None
    used: set[str] = field(default_factory=set)
    drawn: dict[str, Initialiser] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def tensor(self, name: str, span: Span) -> F64:
        """A tensor of the file as float64, as it is stored; MistakeError if there is none or it has no real numbers."""
        if name not in self.tensors:
            if not self.label:
                raise MistakeError(
                    span,
                    f"tensor {name!r} is wanted, but there is no weights file",
                    "add a statement 'weights \"model.npz\"', or draw fresh ones with 'weights he_normal(seed=0)'",
                )
            listing = ", ".join(sorted(self.tensors)[:12]) + (", ..." if len(self.tensors) > 12 else "")
            raise MistakeError(
                span,
                f"{self.label} has no tensor {name!r}",
                f"{similar(name, self.tensors)}it has: {listing or 'nothing'}",
            )
        self.used.add(name)
        value = self.tensors[name]
        if value.dtype.kind not in "fiub":
            raise MistakeError(span, f"tensor {name!r} holds {value.dtype}", "store real numbers under that name")
        numbers = value.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise MistakeError(span, f"tensor {name!r} holds NaN or infinity", "check how the network was trained")
        return numbers

    def integer(self, name: str) -> bool:
        """Whether the file keeps a tensor as integers."""
        return self.tensors[name].dtype.kind in "iu"

    def matrix(self, name: str, span: Span) -> F64:
        """A tensor as (out, in), whatever its order in the file."""
        value = self.tensor(name, span)
        return value.T if self.transposed and value.ndim == 2 else value

    def draw(self, name: str, maker: Initialiser, shape: Shape) -> F64:
        self.drawn[name] = maker
        return maker(shape, name)


def read_weights(statement: WeightsFile | WeightsInit | None, folder: Path) -> Weights:
    """What a ``weights`` statement says; file names start at ``folder``."""
    if statement is None:
        return Weights()
    if isinstance(statement, WeightsInit):
        return Weights(default=initialiser(statement.call))
    axes = None if statement.axes is None else tuple(a.text for a in statement.axes)
    if axes not in (None, ("out", "in"), ("in", "out")):
        assert statement.axes is not None
        place = statement.axes[0].span
        raise MistakeError(place, "matrices are stored as (out, in) or as (in, out)", "write one of these")
    tensors = read_tensors(folder / statement.path, statement.span)
    return Weights(tensors, axes == ("in", "out"), Path(statement.path).name)


def read_tensors(path: Path, span: Span) -> Mapping[str, npt.NDArray[np.generic]]:
    """All tensors of an .npz or .onnx file, by name; MistakeError at ``span`` when it cannot be read."""
    if path.suffix not in (".npz", ".onnx"):
        raise MistakeError(span, f"{path.name!r} is no file of tensors", "give an .npz (numpy.savez) or an .onnx file")
    if not path.is_file():
        raise MistakeError(
            span, f"there is no file {str(path)!r}", "paths start at the folder of the .glyph file; check the name"
        )
    if path.suffix == ".onnx":
        from glyphc.errors import ModelError

        from .onnx_weights import initializers

        try:
            return initializers(path)
        except ModelError as e:
            raise MistakeError(span, f"{path.name!r} cannot be read: {e}", "export it again") from None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as e:  # numpy, zipfile and zlib raise a dozen classes on damaged files, with no common base
        reason = " ".join(str(e).split()) or type(e).__name__
        hint = "write it with numpy.savez"
        raise MistakeError(span, f"{path.name!r} is no whole .npz file ({reason})", hint) from None
