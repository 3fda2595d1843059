"""The client's codec: real arrays <-> fixed-point coefficients, or numbers in slots. No cryptography here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError
from glyphc.ir.encodings import Labels
from glyphc.ir.evaluate import apply_client_op, dequantize, quantize
from glyphc.ir.instructions import ClientSpec, Port
from glyphc.ir.layout import Layout
from glyphc.ir.rescaling import from_word_bits, word_bits
from glyphc.ir.types import Encoding
from glyphc.tables import as_array, is_table

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]


def check_inputs(client: ClientSpec, x: Any) -> dict[str, F64]:
    """Samples by input name, as float64 of shape (samples, *shape); DataError says what does not fit and where."""
    ports = {p.name: p for p in client.inputs}
    given = by_name(x, {p.name: p.columns for p in client.inputs}, "the table")
    if set(given) != set(ports):
        raise DataError(
            f"the program has input(s) {', '.join(sorted(ports))}; got {', '.join(sorted(given)) or 'none'}"
        )
    checked = {name: _check(ports[name], value) for name, value in given.items()}
    counts = {len(v) for v in checked.values()}
    if len(counts) > 1:
        raise DataError(f"the inputs have different numbers of samples: {sorted(counts)}")
    return checked


def by_name(x: Any, columns: Mapping[str, Sequence[str]], what: str) -> dict[str, Any]:
    """Samples by input name: of a mapping, an array for the only input, or a table.

    columns: names of the elements of each input, where they have some. A table is a row of elements for each sample,
    or has a column for each of several inputs. DataError for a table that is without some of them.
    """
    if is_table(x) and len(columns) > 1:
        return {name: as_array(x, known or (name,), what) for name, known in columns.items()}
    given = dict(x) if isinstance(x, Mapping) else {next(iter(columns)): x}
    return {n: as_array(v, columns.get(n, ()), what) if is_table(v) else v for n, v in given.items()}


def _check(port: Port, given: Any) -> F64:
    wanted = f"(samples, {', '.join(map(str, port.shape))})"
    try:
        x = np.asarray(given)
    except ValueError as e:  # e.g. lists of different lengths
        raise DataError(f"input {port.name!r} is no array of shape {wanted}: {e}") from None
    if x.dtype.kind not in "fiub":
        raise DataError(f"input {port.name!r} is of type {x.dtype}; it must be an array of numbers of shape {wanted}")
    if x.ndim != len(port.shape) + 1 or x.shape[1:] != port.shape or not len(x):
        raise DataError(f"input {port.name!r} has shape {list(x.shape)}; the network takes {wanted}")
    values = x.astype(np.float64)
    flat: F64 = values.reshape(len(values), -1)
    if not np.isfinite(flat).all():
        row, column = np.argwhere(~np.isfinite(flat))[0]
        raise DataError(
            f"input {port.name!r} has NaN or infinity, first in sample {row}, feature {column}; repair the data"
        )
    problem = port.ids.problem(values) if port.ids is not None else None
    if problem is not None:
        raise DataError(f"input {port.name!r}: {problem}. Under encryption it would give another row unnoticed")
    features: Sequence[int] = range(flat.shape[1])
    if port.ranks is not None:
        flat, features = np.array(port.ranks.of(values)), port.ranks.features
    with np.errstate(over="ignore"):  # compared as floats: far values have no int64
        steps = np.rint((flat - np.array(port.fixed.offset)) / np.array(port.fixed.scale))
    outside = (steps < port.fixed.lo) | (steps > port.fixed.hi)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        scale, offset = (v[column if len(v) > 1 else 0] for v in (port.fixed.scale, port.fixed.offset))
        raise DataError(
            f"input {port.name!r}: {int(outside.sum())} value(s) lie outside the calibrated range with its guard "
            f"band, first "
            f"{flat[row, column]:.6g} in sample {row}, feature {features[column]} (allowed: "
            f"{scale * port.fixed.lo + offset:.6g} to "
            f"{scale * port.fixed.hi + offset:.6g}). Under encryption this would give garbage unnoticed. Check "
            f"the data's units, "
            "or compile with calibration samples that cover such values"
        )
    return values


@dataclass(frozen=True, eq=False)
class Encoded(Sequence[I64 | F64]):
    """Messages of the input ciphertexts, shape (positions,) each; made when asked for, as they may take gigabytes.

    Coefficients hold integers; slots hold them divided by ``unit``, which is not 0 then.
    """

    layout: Layout
    integers: I64
    unit: int = 0

    def __len__(self) -> int:
        return self.layout.ciphertexts

    @overload
    def __getitem__(self, number: int) -> I64 | F64: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[I64 | F64]: ...

    def __getitem__(self, number: int | slice) -> I64 | F64 | Sequence[I64 | F64]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        number = range(len(self))[number]
        if not self.unit:
            return self.layout.pack_one(self.integers, number)
        return filled(self.integers[:, number] / self.unit, self.layout.ring)


def filled(numbers: F64, slots: int) -> F64:
    """The numbers of a pass, one for each sample, in so many slots: the others hold what the first one does.

    Zeros are no sample: what polynomials make of them may be large, and spoil the pass. Of copies of all samples a bad
    one would have many.
    """
    out = np.full(slots, numbers[0], dtype=np.float64)
    out[: len(numbers)] = numbers
    return out


def chunks_of(port: Port, places: I64) -> int:
    """How many chunks of a tensor hold samples that stand at these places: they are the first ones."""
    return int((places % port.layout.chunks).max()) + 1


def encode(port: Port, samples: F64, places: I64 | None = None) -> Encoded:
    """Messages of the input ciphertexts for at most a batch of checked samples.

    places: where in the batch they stand (:meth:`ClientSpec.places`); by default from its beginning on.
    """
    numbers = samples.reshape(len(samples), -1) if port.ranks is None else port.ranks.of(samples)
    integers = quantize(numbers, port.fixed)
    if port.encoding is Encoding.BITS:
        integers = word_bits(integers, port.fixed.word_bits)
    if places is not None and port.encoding is not Encoding.SLOTS:
        spread = np.zeros((port.layout.batch, port.layout.features), dtype=integers.dtype)
        spread[places] = integers
        integers = spread
    return Encoded(port.layout, integers, unit(port))


def unit(port: Port) -> int:
    """What slots hold the port's integers divided by; 0 for coefficients, which hold them as they are."""
    return max(port.fixed.magnitude, 1) if port.encoding is Encoding.SLOTS else 0


def decode(port: Port, messages: I64 | F64, samples: int, places: I64 | None = None) -> F64:
    """Real output, shape (samples, *shape), from decrypted messages of shape (parts, positions).

    places: where in the batch the samples stand; then only the ciphertexts of chunks that hold some are given.
    """
    if places is None:
        found = port.layout.unpack(messages, samples)
    else:
        found = port.layout.unpack_places(messages, places, chunks_of(port, places))
    if port.encoding is Encoding.BITS:
        found = from_word_bits(found, port.fixed.word_bits)
    value = dequantize(found * (unit(port) or 1), port.fixed).reshape(samples, *port.shape)
    for op in port.tail:
        value = np.asarray(apply_client_op(op, value), dtype=np.float64)
    return value


def with_labels(labels: Mapping[str, Labels | None], outputs: Mapping[str, F64]) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, with labels in place of the indices of those that have some."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, value in outputs.items():
        known = labels.get(name)
        found[name] = value if known is None else known.of(value)
    return found
