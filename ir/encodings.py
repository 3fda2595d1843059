"""What the client does to numbers outside encryption: how it encodes inputs, and which labels outputs stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IRError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranks:
    """An input as ranks: number i that is encrypted is how many of its knots lie below element ``features[i]``.

    counts: how many of ``knots`` (ascending, one number's behind the other's) belong to each number; 0 for the element
    itself. A network that compares inputs with constants needs no more than their ranks among these, and a rank is an
    integer: never near a threshold. Elements are rounded to single precision before, as ONNX has them, unless the model
    has them in double precision.
    """

    features: tuple[int, ...]
    counts: tuple[int, ...]
    knots: tuple[float, ...]
    double: bool = False

    def __post_init__(self) -> None:
        if not self.features or len(self.counts) != len(self.features):
            raise IRError(f"{len(self.features)} numbers to encrypt have {len(self.counts)} counts of knots")
        if min(self.counts) < 0 or sum(self.counts) != len(self.knots):
            raise IRError(f"the counts of knots do not add up to {len(self.knots)}")
        if min(self.features) < 0:
            raise IRError("an element of an input has a number of at least 0")
        if not np.isfinite(self.knots).all():
            raise IRError("a knot is not finite")
        if any(np.any(np.diff(k) <= 0) for k in self._knots):
            raise IRError("the knots of a number must ascend")

    @cached_property
    def _knots(self) -> list[F64]:
        return np.split(np.array(self.knots, dtype=np.float64), np.cumsum(self.counts)[:-1])

    def check(self, size: int) -> None:
        """IRError unless these are ranks of a tensor of so many elements."""
        if max(self.features) >= size:
            raise IRError(f"ranks of element {max(self.features)} of an input that has {size}")

    def of(self, x: npt.NDArray[Any]) -> F64:
        """The numbers to encrypt, shape (samples, len(features)), of samples of any shape."""
        flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        out = flat[:, np.array(self.features)]
        with np.errstate(over="ignore"):
            rounded = out.copy() if self.double else out.astype(np.float32).astype(np.float64)
        for column, knots in enumerate(self._knots):
            if len(knots):
                out[:, column] = np.searchsorted(knots, rounded[:, column], side="left")
        return out


@dataclass(frozen=True)
class Ids:
    """Elements of an input that name rows of tables: element ``elements[i]`` is an integer, ``lowest[i]`` at least and
    ``highest[i]`` at most. ONNX Runtime refuses others; encrypted, they would silently give a row at an end.
    """

    elements: tuple[int, ...]
    lowest: tuple[int, ...]
    highest: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.elements or not len(self.elements) == len(self.lowest) == len(self.highest):
            raise IRError(f"{len(self.elements)} ids have {len(self.lowest)} and {len(self.highest)} bounds")
        if min(self.elements) < 0:
            raise IRError("an element of an input has a number of at least 0")
        if any(low > high for low, high in zip(self.lowest, self.highest, strict=True)):
            raise IRError("an id has bounds that no number keeps to")

    def check(self, size: int) -> None:
        """IRError unless these are ids in a tensor of so many elements."""
        if max(self.elements) >= size:
            raise IRError(f"an id is element {max(self.elements)} of an input that has {size}")

    def problem(self, x: npt.NDArray[Any]) -> str | None:
        """What is wrong with the first of some samples, of any shape, that has an id outside its table; else None."""
        ids = np.asarray(x, dtype=np.float64).reshape(len(x), -1)[:, np.array(self.elements)]
        wrong = (ids != np.rint(ids)) | (ids < np.array(self.lowest)) | (ids > np.array(self.highest))
        if not wrong.any():
            return None
        row, at = (int(n) for n in np.argwhere(wrong)[0])
        bounds = f"an integer from {self.lowest[at]} to {self.highest[at]} names a row"
        return f"sample {row} has id {ids[row, at]:.10g} at element {self.elements[at]}, where {bounds} of a table"


@dataclass(frozen=True)
class Labels:
    """What the index of a class stands for: texts, or integers."""

    texts: tuple[str, ...] = ()
    integers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.texts) is bool(self.integers):
            raise IRError("labels are texts, or integers")

    def __len__(self) -> int:
        return len(self.texts) or len(self.integers)

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """All of them by index, as numpy's texts or int64."""
        return np.array(self.texts) if self.texts else np.array(self.integers, dtype=np.int64)

    def of(self, indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Labels of class indices, which may be approximate.

        What is no number has no label: an empty text, or NaN among integers, which are floats then.
        """
        unknown = np.isnan(np.asarray(indices, dtype=np.float64))
        if unknown.any():
            known = self.of(np.where(unknown, 0, indices))
            return np.where(unknown, "" if self.texts else np.nan, known)
        nearest = np.clip(np.rint(np.asarray(indices, dtype=np.float64)), 0, len(self) - 1)
        return np.asarray(self.array[nearest.astype(np.int64)])
