"""A training step on integers in slots, as instructions: batch and units of a layer side by side in a ciphertext.

A ciphertext has a block of slots for each unit, and in it a slot for each sample. Values of a layer are *packed*: all
in one register, unit u in block u; or *apart*: a register for each, its samples in every block. Layers take turns: one
reads values apart and has packed sums, the next one reads packed values and has its sums apart. Then

    sums, packed   sum over j of  value_j * weights of j, one for each unit
    sums, apart    of output k:   the total over blocks of  values * weights of k
    sent back      the same the other way round
    gradients      totals over the slots of blocks of  value_j * errors, or of  values * error_k

and all products are slot by slot. Totals take rotations; those over slots come out in the first slot of each block
alone, and the client, which rounds the new weights anyway, repeats them for all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.client_requests import Places, Request
from glyphc.ir.instructions import (
    ClientRequest,
    Instruction,
    IntegerDot,
    IntegerProduct,
    IntegerTotal,
    Load,
    Register,
    Store,
)
from glyphc.ir.layout import next_power_of_two
from glyphc.slots.integer_lowering import PowerTree
from glyphc.slots.table_lookup import Lookup

from .formats import I64, Formats, LayerFormat, PolynomialBehind

SAMPLES, TARGETS = "samples", "targets"


@dataclass(frozen=True)
class StepLayout:
    """Where numbers of a step stand. block: slots of a unit; batch: samples of them; slots: of a ciphertext."""

    block: int
    batch: int
    slots: int

    @staticmethod
    def of(batch: int, slots: int) -> StepLayout:
        return StepLayout(next_power_of_two(batch), batch, slots)

    @property
    def blocks(self) -> int:
        """Units that there is room for."""
        return self.slots // self.block

    def places(self, units: int | None = None, summed: bool = False) -> Places:
        """Of so many units, or of all blocks."""
        return Places(self.block, self.batch, self.blocks if units is None else units, summed)

    def packed(self, values: npt.NDArray[Any]) -> I64:
        """Of shape (samples, units), or of (1, units) for what is the same for all samples; as slots."""
        units = values.shape[1]
        return self.places(units).written(np.broadcast_to(values.T, (units, self.batch)), self.slots)

    def apart(self, values: npt.NDArray[Any]) -> I64:
        """Of shape (samples,) or (1,); as slots."""
        return self.places().written(np.broadcast_to(values, (self.blocks, self.batch)), self.slots)


@dataclass(frozen=True)
class Form:
    """How the weights of a layer stand: those of a register have the same input, or the same output.

    by_input: whether what it reads is apart, and what it makes packed.
    """

    format: LayerFormat
    by_input: bool

    @property
    def width(self) -> int:
        """Units of a register."""
        layer = self.format.layer
        return layer.outputs if self.by_input else layer.inputs

    @property
    def weights(self) -> int:
        """Registers of weights."""
        layer = self.format.layer
        return layer.inputs if self.by_input else layer.outputs

    @property
    def biases(self) -> int:
        """Registers of biases."""
        layer = self.format.layer
        return 0 if layer.bias is None else 1 if self.by_input else layer.outputs

    @property
    def sums(self) -> int:
        """Registers of sums, and of errors."""
        return 1 if self.by_input else self.format.layer.outputs

    @property
    def sum_units(self) -> int | None:
        """Units of a register of sums; None where each stands in all blocks."""
        return self.format.layer.outputs if self.by_input else None

    def messages(self, state: dict[str, I64], layout: StepLayout) -> list[I64]:
        """Weights, then biases, as slots of each register."""
        layer = self.format.layer
        w = state[layer.weight]
        found = [layout.packed(row[None]) for row in (w.T if self.by_input else w)]
        if layer.bias is not None:
            b = state[layer.bias]
            found += [layout.packed(b[None])] if self.by_input else [layout.apart(v[None]) for v in b]
        return found

    def state(self, messages: Sequence[I64], layout: StepLayout) -> dict[str, I64]:
        """The inverse."""
        layer = self.format.layer
        rows = np.array([layout.places(self.width).read(m)[:, 0] for m in messages[: self.weights]])
        found = {layer.weight: rows.T if self.by_input else rows}
        if layer.bias is not None:
            rest = messages[self.weights :]
            units = layer.outputs if self.by_input else 1
            found[layer.bias] = np.concatenate([layout.places(units).read(m)[:, 0] for m in rest])
        return found


def forms_of(formats: Formats) -> tuple[Form, ...]:
    """Layers take turns."""
    return tuple(Form(format, at % 2 == 0) for at, format in enumerate(formats.layers))


def state_name(layer: int) -> str:
    """Of a layer's weights and biases, as input and output of a step."""
    return f"weights{layer}"


@dataclass
class StepWriter:
    """Writes the instructions of a step. Their nodes are numbers of layers."""

    formats: Formats
    layout: StepLayout
    code: list[Instruction] = field(default_factory=list)
    count: int = 0

    def write(self) -> tuple[Instruction, ...]:
        """All of them."""
        forms = forms_of(self.formats)
        parts = [self._loaded(state_name(at), form.weights + form.biases, at) for at, form in enumerate(forms)]
        read = [self._loaded(SAMPLES, forms[0].format.layer.inputs, 0)]
        slopes: list[list[Register]] = []
        for at, form in enumerate(forms):
            sums = self._sums(form, read[-1], parts[at], at)
            values, slope = self._behind(form, sums, at)
            read.append(values)
            slopes.append(slope)
        last = len(forms) - 1
        targets = self._loaded(TARGETS, forms[-1].sums, last)
        raw = [self.dot([a, y], [1, -1], 0, last) for a, y in zip(read[-1], targets, strict=True)]
        if self.formats.chain.sloped:
            raw = self._times(raw, slopes[-1], last)
        totals: list[list[Register]] = []
        for at in reversed(range(len(forms))):
            form = forms[at]
            errors = self._refreshed(form, raw, at)
            totals.insert(0, self._updated(form, read[at], errors, parts[at], at))
            if at:
                raw = self._times(self._sent_back(form, errors, parts[at], at), slopes[at - 1], at)
        self._stored(forms, totals)
        return tuple(self.code)

    # -- parts of a step --

    def _sums(self, form: Form, values: Sequence[Register], parts: Sequence[Register], node: int) -> list[Register]:
        weights, biases = parts[: form.weights], parts[form.weights :]
        one = form.format.one
        if form.by_input:
            products = [self.product(v, w, node) for v, w in zip(values, weights, strict=True)]
            return [self.dot([*products, *biases], [*[1] * len(products), *[one] * len(biases)], 0, node)]
        (packed,) = values
        sums = [self._total(self.product(packed, w, node), False, node) for w in weights]
        if not biases:
            return sums
        return [self.dot([z, b], [1, one], 0, node) for z, b in zip(sums, biases, strict=True)]

    def _behind(self, form: Form, sums: list[Register], node: int) -> tuple[list[Register], list[Register]]:
        """Values and slopes; no slopes where there is no function."""
        behind = form.format.behind
        if behind is None:
            return sums, []
        if isinstance(behind, PolynomialBehind):
            places = (self.layout.places(form.sum_units),) * len(sums)
            x = self._asked(sums, Request(len(sums), behind.ratio, places=places), node)
            trees = [PowerTree(self, register, node) for register in x]
            values, slopes = ([t.polynomial(c) for t in trees] for c in (behind.coefficients, behind.slope))
            return values, slopes
        request = Request(len(sums), behind.ratio, behind.shift, behind.bits, self.layout.slots)
        bits = self._asked(sums, request, node)
        groups = [bits[at : at + behind.bits] for at in range(0, len(bits), behind.bits)]
        lookups = [Lookup(self, group, node) for group in groups]
        entries, slopes = ([lookup.of(table) for lookup in lookups] for table in (behind.entries, behind.slopes))
        return entries, slopes

    def _times(self, errors: list[Register], slopes: list[Register], node: int) -> list[Register]:
        if not slopes:
            return errors
        return [self.product(e, s, node) for e, s in zip(errors, slopes, strict=True)]

    def _refreshed(self, form: Form, raw: list[Register], node: int) -> list[Register]:
        places = (self.layout.places(form.sum_units),) * len(raw)
        return self._asked(raw, Request(len(raw), form.format.error_ratio, places=places), node)

    def _sent_back(
        self, form: Form, errors: Sequence[Register], parts: Sequence[Register], node: int
    ) -> list[Register]:
        weights = parts[: form.weights]
        if form.by_input:
            (packed,) = errors
            return [self._total(self.product(packed, w, node), False, node) for w in weights]
        products = [self.product(e, w, node) for e, w in zip(errors, weights, strict=True)]
        return [self.dot(products, [1] * len(products), 0, node)]

    def _updated(
        self, form: Form, read: Sequence[Register], errors: Sequence[Register], parts: Sequence[Register], node: int
    ) -> list[Register]:
        """What the client rounds to new weights, in the first slot of each block."""
        factor, gain = self.formats.weight_factor, form.format.gain
        pairs = [(r, errors[0]) for r in read] if form.by_input else [(read[0], e) for e in errors]
        found = []
        for weights, (value, error) in zip(parts[: form.weights], pairs, strict=True):
            gradient = self._total(self.product(value, error, node), True, node)
            found.append(self.dot([weights, gradient], [factor, -gain], 0, node))
        if form.biases:
            for bias, error in zip(parts[form.weights :], errors, strict=True):
                gradient = self._total(error, True, node)
                found.append(self.dot([bias, gradient], [factor, -gain * form.format.one], 0, node))
        return found

    def _stored(self, forms: Sequence[Form], totals: Sequence[Sequence[Register]]) -> None:
        """One trip for all weights."""
        places: list[Places] = []
        for form in forms:
            places += [self.layout.places(form.width, True)] * form.weights
            places += [self.layout.places(form.sum_units, True)] * form.biases
        every = [register for part in totals for register in part]
        ratio = 1 / self.formats.weight_factor
        new = iter(self._asked(every, Request(len(every), ratio, places=tuple(places)), len(forms) - 1))
        for at, part in enumerate(totals):
            for number in range(len(part)):
                self.code.append(Store(next(new), state_name(at), number, at))

    # -- single instructions --

    def _loaded(self, name: str, parts: int, node: int) -> list[Register]:
        found = []
        for part in range(parts):
            found.append(self._fresh())
            self.code.append(Load(found[-1], name, part, node))
        return found

    def dot(self, sources: Sequence[Register], weights: Sequence[int], bias: int, node: int) -> Register:
        """A weighted sum; nothing is done where that is its only operand."""
        if list(weights) == [1] and not bias:
            return sources[0]
        self.code.append(IntegerDot(self._fresh(), tuple(sources), tuple(weights), bias, node))
        return self.count - 1

    def product(self, a: Register, b: Register, node: int) -> Register:
        """A product slot by slot."""
        self.code.append(IntegerProduct(self._fresh(), a, b, node))
        return self.count - 1

    def _total(self, source: Register, inner: bool, node: int) -> Register:
        if inner and self.layout.block == 1:
            return source
        self.code.append(IntegerTotal(self._fresh(), source, inner, node))
        return self.count - 1

    def _asked(self, sources: Sequence[Register], request: Request, node: int) -> list[Register]:
        targets = [self._fresh() for _ in range(request.results(self.layout.slots))]
        self.code.append(ClientRequest(tuple(targets), tuple(sources), request, node))
        return targets

    def _fresh(self) -> Register:
        self.count += 1
        return self.count - 1
