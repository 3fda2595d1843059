"""LSTM, GRU and RNN, unrolled: a few products and functions for each step, in one direction or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .onnx_compositions import Composition, Parts
from .onnx_constants import UnsupportedError

Array = npt.NDArray[Any]

# Functions of gates with their parameters (attribute and default) in ONNX.
_ACTIVATIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "Affine": (("alpha", 1.0), ("beta", 0.0)),
    "Elu": (("alpha", 1.0),),
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
    "LeakyRelu": (("alpha", 0.01),),
    "Relu": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": (("alpha", 1.0),),
}


@dataclass(frozen=True, eq=False)
class _Activations:
    """The functions of one direction, in ONNX's order."""

    parts: Parts
    chosen: tuple[tuple[str, dict[str, Any]], ...]

    def of(self, number: int, x: str) -> str:
        name, parameters = self.chosen[number]
        if name == "Affine":
            scaled = self.parts.scaled(x, parameters["alpha"])
            return self.parts.add("Add", scaled, self.parts.constant(np.float32(parameters["beta"])))
        return self.parts.add(name, x, **parameters)


@dataclass(frozen=True, eq=False)
class _Direction:
    """One direction of a layer. projected: W x + its bias of all steps, (steps, samples, gates * hidden); r: (gates,
    hidden, hidden); rb: bias behind the product with the last state, (gates, hidden)."""

    parts: Parts
    number: int
    hidden: int
    projected: str
    r: Array
    rb: Array
    f: _Activations

    def gate(self, x: str, number: int) -> str:
        """One gate's part of the last axis."""
        ends = [self.parts.constant(np.array([v * self.hidden], dtype=np.int64)) for v in (number, number + 1)]
        return self.parts.add("Slice", x, *ends, self.parts.constant(np.array([-1], dtype=np.int64)))

    def recurrent(self, h: str, gates: slice) -> str:
        """R h of some gates, side by side."""
        matrix = self.r[gates].reshape(-1, self.hidden).T
        return self.parts.add("MatMul", h, self.parts.constant(matrix))

    def bias(self, x: str, gates: slice) -> str:
        value = self.rb[gates].reshape(-1)
        return self.parts.add("Add", x, self.parts.constant(value)) if value.any() else x


# A step: (direction, projected input of the step, hidden state, cell state) -> both states; "" for zeros.
_Step = Callable[[_Direction, str, str, str], tuple[str, str]]


def _plain(parts: Parts, op: str, *operands: str) -> str:
    """A sum or product of what is there: "" is zero."""
    present = [o for o in operands if o]
    if op == "Mul" and len(present) < len(operands):
        return ""
    return present[0] if len(present) == 1 else parts.add(op, *present)


def _rnn_step(d: _Direction, x: str, h: str, c: str) -> tuple[str, str]:
    everything = slice(0, 1)
    total = _plain(d.parts, "Add", d.bias(x, everything), d.recurrent(h, everything) if h else "")
    return d.f.of(0, total), ""


def _gru_step(before: bool) -> _Step:
    """Gates z (update), r (reset), h. before: whether the product with the state comes before the reset."""

    def step(d: _Direction, x: str, h: str, c: str) -> tuple[str, str]:
        p, zr = d.parts, slice(0, 2)
        x_zr = p.concatenated([d.gate(x, 0), d.gate(x, 1)], -1)
        gates = d.f.of(0, _plain(p, "Add", d.bias(x_zr, zr), d.recurrent(h, zr) if h else ""))
        z, r = d.gate(gates, 0), d.gate(gates, 1)
        candidate = d.gate(x, 2)
        last = slice(2, 3)
        if before:
            inner = d.recurrent(h, last) if h else ""
            bias = d.rb[2]
            if bias.any() and inner:
                inner = p.add("Add", inner, p.constant(bias))
            elif bias.any():
                inner = p.add("Mul", r, p.constant(bias))
            reset = _plain(p, "Mul", r, inner) if h else inner
        else:
            candidate = d.bias(candidate, last)
            reset = d.recurrent(p.add("Mul", r, h), last) if h else ""
        new = d.f.of(1, _plain(p, "Add", candidate, reset))
        if not h:  # (1 - z) n
            return p.add("Sub", new, p.add("Mul", z, new)), ""
        return p.add("Add", new, p.add("Mul", z, p.add("Sub", h, new))), ""

    return step


def _lstm_step(peepholes: Array | None) -> _Step:
    """Gates i, o, f, c. peepholes: what i, o, f see of the cell, (3, hidden)."""

    def step(d: _Direction, x: str, h: str, c: str) -> tuple[str, str]:
        p, everything = d.parts, slice(0, 4)
        total = _plain(p, "Add", d.bias(x, everything), d.recurrent(h, everything) if h else "")
        if peepholes is None:
            first = p.concatenated([d.gate(total, g) for g in (0, 1, 2)], -1)
            gates = d.f.of(0, first)
            i, o, f = (d.gate(gates, g) for g in range(3))
        else:
            seen = [p.add("Mul", c, p.constant(v)) if c else "" for v in peepholes]
            i, f = (d.f.of(0, _plain(p, "Add", d.gate(total, g), seen[g])) for g in (0, 2))
            o = ""
        new = d.f.of(1, d.gate(total, 3))
        cell = _plain(p, "Add", p.add("Mul", i, new), _plain(p, "Mul", f, c))
        if peepholes is not None:
            o = d.f.of(0, p.add("Add", d.gate(total, 1), p.add("Mul", cell, p.constant(peepholes[1]))))
        return p.add("Mul", o, d.f.of(2, cell)), cell

    return step


def _layer(gates: int, functions: tuple[str, ...], cell: bool = False) -> Callable[[Parts], None]:
    """A recurrent layer with so many gates and, by default, these functions."""

    def build(parts: Parts) -> None:
        call = parts.call
        directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        reverse = directions.get(call.text("direction", "forward"))
        if reverse is None:
            raise UnsupportedError(f"direction={call.text('direction', '')!r} is not known")
        if call.real("clip", 0.0) or call.integer("input_forget", 0):
            raise UnsupportedError("clip and input_forget are not supported")
        batch_first = call.integer("layout", 0) != 0
        x = parts.add("Transpose", parts.input(0), perm=[1, 0, 2]) if batch_first else parts.input(0)
        shape = parts.shape(0)
        if len(shape) != 3:
            raise UnsupportedError(f"takes tensors of three axes, not of {len(shape)}")
        steps = shape[1 if batch_first else 0]
        if parts.input(4) and set(call.integers(4, "sequence_lens")) != {steps}:
            raise UnsupportedError("sequences that are shorter than others (sequence_lens) are not supported")
        w, r = (call.constant(i, role).value.astype(np.float32) for i, role in ((1, "W"), (2, "R")))
        hidden = r.shape[-1]
        bias = call.constant(3, "B").value if parts.input(3) else np.zeros((len(w), 2 * gates * hidden))
        peepholes = call.constant(7, "P").value.astype(np.float32) if cell and not parts.zeros(7) else None
        hs, lasts, cells = [], [], []
        for number, backwards in enumerate(reverse):
            wb, rb = bias[number].astype(np.float32).reshape(2, gates, hidden)
            before = gates == 3 and call.integer("linear_before_reset", 0) != 0
            if not before:
                wb, rb = wb + rb, np.zeros_like(rb)
            else:
                # only the candidate's second bias stands behind a product
                wb, rb = wb + rb * np.array([[1], [1], [0]]), rb * np.array([[0], [0], [1]], dtype=np.float32)
            product = parts.add("MatMul", x, parts.constant(w[number].T))
            projected = parts.add("Add", product, parts.constant(wb.reshape(-1).astype(np.float32)))
            f = _Activations(parts, _chosen(parts, functions, number))
            direction = _Direction(parts, number, hidden, projected, r[number].reshape(gates, hidden, hidden), rb, f)
            h, c = (_initial(parts, index, number, batch_first) for index in (5, 6))
            c = c if cell else ""
            step = {
                1: _rnn_step, 3: _gru_step(before),
                4: _lstm_step(None if peepholes is None else peepholes[number].reshape(3, hidden)),
            }[gates]  # fmt: skip
            states = []
            for at in reversed(range(steps)) if backwards else range(steps):
                h, c = step(direction, parts.take(projected, at, 0), h, c)
                states.append(h)
            hs.append(states[::-1] if backwards else states)
            lasts.append(h)
            cells.append(c)
        _results(parts, hs, lasts, cells if cell else [], batch_first)

    return build


def _initial(parts: Parts, index: int, number: int, batch_first: bool) -> str:
    """The state before the first step; "" for zeros."""
    return "" if parts.zeros(index) else parts.take(parts.input(index), number, 1 if batch_first else 0)


def _chosen(parts: Parts, functions: tuple[str, ...], number: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Functions of a direction with their parameters."""
    given = parts.call.texts("activations") or functions * 2
    alphas, betas = list(parts.call.reals("activation_alpha")), list(parts.call.reals("activation_beta"))
    found = []
    for name in given:
        known = {n.lower(): n for n in _ACTIVATIONS}.get(name.lower())
        if known is None:
            raise UnsupportedError(f"the activation {name} is not supported")
        parameters = {}
        for key, default in _ACTIVATIONS[known]:
            queue = alphas if key == "alpha" else betas
            parameters[key] = queue.pop(0) if queue else default
        found.append((known, parameters))
    count = len(functions)
    if len(found) < (number + 1) * count:
        raise UnsupportedError(f"has {len(found)} activations; {count} for each direction are needed")
    return tuple(found[number * count : (number + 1) * count])


def _results(parts: Parts, hs: list[list[str]], lasts: list[str], cells: list[str], batch_first: bool) -> None:
    """Y (steps, directions, samples, hidden), and the last states (directions, samples, hidden); or samples first."""
    if parts.output(0):
        axes = (1, 1) if batch_first else (0, 0)
        steps = [
            parts.concatenated([parts.unsqueezed(h, axes[0]) for h in states], axes[0])
            for states in zip(*hs, strict=True)
        ]
        parts.concatenated([parts.unsqueezed(s, axes[1]) for s in steps], axes[1], to=parts.output(0))
    for index, states in ((1, lasts), (2, cells)):
        if parts.output(index) and states:
            axis = 1 if batch_first else 0
            parts.concatenated([parts.unsqueezed(s, axis) for s in states], axis, to=parts.output(index))


_COMMON = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout")

COMPOSITIONS: dict[tuple[str, str], Composition] = {
    ("", "GRU"): Composition(_layer(3, ("Sigmoid", "Tanh")), (*_COMMON, "linear_before_reset")),
    ("", "LSTM"): Composition(_layer(4, ("Sigmoid", "Tanh", "Tanh"), cell=True), (*_COMMON, "input_forget")),
    ("", "RNN"): Composition(_layer(1, ("Tanh",)), _COMMON),
}
