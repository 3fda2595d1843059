"""Expressions of ``.glyph`` files: names are looked up, layers and operators become nodes of the IR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from glyphc.ir import memory
from glyphc.ir.errors import FILE_FAULTS, IRError
from glyphc.ir.functions import NAMES, Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Const, Op, Scale
from glyphc.ir.types import Level

from .custom_activations import registered
from .dsl_arithmetic import binary
from .dsl_ast import Binary, Call, Chain, Expression, Listing, Name, Negation, Number, Span, Tensor
from .dsl_errors import MistakeError, similar
from .dsl_functions import ALIASES, function, known_function
from .dsl_layers import GENERIC, LAYERS, SYNONYMS, generic, generic_parameters
from .dsl_rules import Layer
from .dsl_values import F64, Argument, Arguments, Constant, Fresh, Many, Value, Word, bind, span_of
from .dsl_weights import INITIALISERS, Weights, initialiser

# Words that stand for themselves where a value could.
WORDS = frozenset({"none", "true", "false", "same"})


class Evaluator:
    """Builds a graph from expressions, in order. values: what has a name; layers: those with tensors of their own.

    location: of the nodes that are made, where it is not their label.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.graph = Graph(Level.SOURCE, batch=1)
        self.values: dict[str, Node] = {}
        self.activations: dict[str, Function] = {}
        self.layers: dict[str, Span] = {}
        self._takers: dict[str, Span] = {}  # of the tensors that a name stands for
        self.location: str | None = None
        self._defined: dict[str, int] = {}
        self._stored: dict[str, npt.NDArray[np.generic]] = {}

    def define(self, name: Name, node: Node) -> None:
        if name.text in WORDS and not name.quoted:
            hint = f"choose another name, or quote it: `{name.text}`"
            raise MistakeError(name.span, f"{name.text!r} is a word of the language", hint)
        known = self.values.get(name.text)
        if known is not None and known is not node:
            line = self._defined[name.text]
            raise MistakeError(name.span, f"{name.text!r} is defined already, in line {line}", "choose another name")
        self.values[name.text] = node
        self._defined.setdefault(name.text, name.span.line)

    def evaluate(self, expression: Expression, label: str) -> Argument:
        """What an expression stands for; nodes that it makes belong to ``label``."""
        match expression:
            case Number(value=value, span=span):
                return Constant(np.array(value), "", span)
            case Tensor(name=name, span=span):
                return Constant(self.weights.tensor(name, span), name, span, self.weights.integer(name))
            case Name(text=text, span=span, quoted=quoted):
                known = text in self.values and (quoted or text not in WORDS)
                return Value(self.values[text], span) if known else Word(expression)
            case Listing(items=items, span=span):
                return _listing(tuple(self.evaluate(i, label) for i in items), span)
            case Negation(operand=operand, span=span):
                return self._binary("*", Constant(np.array(-1.0), "", span), self.evaluate(operand, label), span, label)
            case Binary(operator=operator, left=left, right=right, span=span):
                return self._binary(operator, self.evaluate(left, label), self.evaluate(right, label), span, label)
            case Chain():
                return self._chain(expression, label)
            case Call():
                return self._call(expression.name, (), expression, label)
        raise AssertionError(expression)

    def _chain(self, chain: Chain, label: str) -> Argument:
        value = self.evaluate(chain.head, chain.head_name.text if chain.head_name else label)
        if chain.head_name is not None:
            self._bind(chain.head_name, value)
        for step in chain.steps:
            at = step.name.text if step.name else label
            call = step.layer if isinstance(step.layer, Call) else None
            name = step.layer.name if isinstance(step.layer, Call) else step.layer
            if isinstance(value, Word):
                value = Value(self.value(value.name), value.name.span)
            value = self._call(name, (value,), call, at)
            if step.name is not None:
                self._bind(step.name, value)
        return value

    def _bind(self, name: Name, value: Argument) -> None:
        if not isinstance(value, Value):
            raise MistakeError(name.span, f"{name.text!r} would be no value of the network", "name a layer's result")
        self.define(name, value.node)

    def value(self, name: Name) -> Node:
        if name.text in self.values:
            return self.values[name.text]
        if name.text in LAYERS or known_function(name.text):
            hint = f"to apply it, write x -> {name.text} or {name.text}(x)"
        else:
            hint = f"{similar(name.text, self.values)}values so far: {', '.join(self.values) or 'none'}"
        raise MistakeError(name.span, f"there is no value {name.text!r}", hint)

    def _call(self, name: Name, flowing: tuple[Argument, ...], call: Call | None, label: str) -> Argument:
        span = call.span if call is not None else name.span
        if name.text == "apply":
            return self._apply(flowing, call, span, label)
        positional = (*flowing, *(self.evaluate(a, label) for a in (call.arguments if call else ())))
        keywords = tuple((key, self.evaluate(v, label)) for key, v in (call.keywords if call else ()))
        text = name.text
        if text in INITIALISERS and call is not None and not flowing:
            return Fresh(initialiser(call), span)
        if text == "transpose" and positional and all(isinstance(p, Constant) for p in positional):
            (constant,) = positional
            assert isinstance(constant, Constant)
            return Constant(constant.value.T, constant.name, span)
        if text in LAYERS:
            return self._layer(name, LAYERS[text], positional, keywords, span, label)
        if text in GENERIC:
            op = GENERIC[text]
            arguments = bind(name, label, span, generic_parameters(op), self._resolved(positional), keywords)
            with self._at(span):
                return Value(generic(self, arguments, op), span)
        if self._activation(text) is not None or known_function(text):
            if keywords:
                span = keywords[0][0].span
                raise MistakeError(span, f"{text!r} takes its parameters in order", f"write {text}(x, ...)")
            operands = self._resolved(positional)
            if not operands or not isinstance(operands[0], Value):
                hint = f"write x -> {text} or {text}(x)"
                raise MistakeError(span, f"{text!r} is applied to a value of the network", hint)
            return self._functions((self._function(name, operands[1:], span),), operands[0], span, label)
        raise self._unknown_layer(name)

    def _activation(self, name: str) -> Function | None:
        """A function of the user's own: of the file, or registered with ``glyphc.register_activation``."""
        return self.activations.get(name) or registered(name)

    def _unknown_layer(self, name: Name) -> MistakeError:
        meant = SYNONYMS.get(name.text.lower())
        known = [*LAYERS, *GENERIC, *NAMES, *ALIASES, *self.activations]
        close = f"this layer is called {meant!r} here" if meant else similar(name.text, known).strip()
        if name.text in self.values:
            return MistakeError(name.span, f"{name.text!r} is a value, no layer", "a step is a layer, e.g. 'x -> relu'")
        return MistakeError(
            name.span,
            f"unknown layer {name.text!r}",
            close or f"layers: {', '.join([*LAYERS, *GENERIC])}; functions: {', '.join(sorted(NAMES))}",
        )

    def _resolved(self, arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """Names that stand for nothing known are mistakes, but for the words of the language."""
        for argument in arguments:
            if isinstance(argument, Word) and argument.name.text not in WORDS:
                self.value(argument.name)
        return arguments

    def _layer(
        self,
        name: Name,
        layer: Layer,
        positional: tuple[Argument, ...],
        keywords: tuple[tuple[Name, Argument], ...],
        span: Span,
        label: str,
    ) -> Value:
        self._resolved(tuple(value for _, value in keywords))
        arguments = bind(name, label, span, layer.parameters, self._resolved(positional), keywords)
        least, most = layer.tensors
        if not least <= len(arguments.tensors) <= most:
            wanted = "one value" if most == 1 else "values of the network"
            hint = f"write x -> {name.text}(...), or {name.text}(x, ...)"
            raise MistakeError(span, f"{name.text!r} reads {wanted}, not {len(arguments.tensors)}", hint)
        with self._at(span):
            return Value(layer.rule(self, arguments), span)

    def _apply(self, flowing: tuple[Argument, ...], call: Call | None, span: Span, label: str) -> Value:
        """Several functions in a row as one: apply(x, f, g) is g(f(x))."""
        given = list(call.arguments) if call is not None else []
        operand = flowing[0] if flowing else self.evaluate(given.pop(0), label) if given else None
        if not isinstance(operand, Value):
            raise MistakeError(span, "'apply' reads a value of the network", "write apply(x, relu, affine(2, 1))")
        functions = []
        for item in given:
            if not isinstance(item, Name | Call):
                raise MistakeError(item.span, "this is no function", "write e.g. relu or affine(2, 1)")
            parameters = tuple(self.evaluate(a, label) for a in item.arguments) if isinstance(item, Call) else ()
            name = item.name if isinstance(item, Call) else item
            functions.append(self._function(name, parameters, item.span))
        return self._functions(tuple(functions), operand, span, label)

    def _function(self, name: Name, parameters: tuple[Argument, ...], span: Span) -> Function:
        numbers = []
        for argument in parameters:
            if not isinstance(argument, Constant) or argument.value.ndim:
                hint = f"write e.g. x -> {name.text}(0.1)"
                raise MistakeError(span_of(argument), f"the parameters of {name.text!r} are numbers", hint)
            numbers.append(float(argument.value))
        own = self._activation(name.text)
        if own is not None and not numbers:
            return own
        if not known_function(name.text):
            hint = similar(name.text, NAMES).strip() or f"functions: {', '.join(sorted(NAMES))}"
            raise MistakeError(name.span, f"there is no function {name.text!r}", hint)
        return function(name, tuple(numbers), span)

    def _functions(self, functions: tuple[Function, ...], x: Value, span: Span, label: str) -> Value:
        with self._at(span):
            return Value(self.emit(Apply(functions), (x.node,), label), span)

    def _binary(self, operator: str, left: Argument, right: Argument, span: Span, label: str) -> Argument:
        for argument in (left, right):
            if isinstance(argument, Word):
                self.value(argument.name)  # raises
        with self._at(span):
            return binary(_Emitter(self, label), operator, left, right, span)

    # -- what layers ask for --

    @contextmanager
    def _at(self, span: Span) -> Iterator[None]:
        try:
            yield
        except IRError as e:
            # behind the name of the node, which the reader sees underlined
            what = str(e).partition(": ")[2] or str(e)
            raise MistakeError(span, what, "check the shapes of what goes in, and the parameters") from None
        except FILE_FAULTS as e:
            what = f"the shapes and parameters do not fit one another ({type(e).__name__}: {e})"
            raise MistakeError(span, what, "check the shapes of what goes in, and the parameters") from e

    def emit(self, op: Op, operands: tuple[Node, ...], label: str) -> Node:
        return self.graph.add(op, operands, location=label if self.location is None else self.location)

    def add(self, arguments: Arguments, op: Op, *operands: Node) -> Node:
        return self.emit(op, operands, arguments.label)

    def constant(self, arguments: Arguments, name: str, value: npt.NDArray[np.generic]) -> Const:
        return self.store(name, value)

    def store(self, name: str, value: npt.NDArray[np.generic]) -> Const:
        known = self._stored.get(name)
        if known is not None and known.dtype == value.dtype and np.array_equal(known, value):
            return Const(name)
        stored = self.graph.add_constant(name, value)
        self._stored[stored] = value
        return Const(stored)

    def tensor(
        self, arguments: Arguments, role: str, shape: tuple[int, ...] | None, matrix: bool = False
    ) -> tuple[str, F64]:
        name = f"{arguments.label}.{role}"
        given = arguments.given.get(role)
        if arguments.label:
            self.layers.setdefault(arguments.label, arguments.span)
        if isinstance(given, Constant):
            value = given.value.T if matrix and given.name and self.weights.transposed else given.value
            return given.name or name, self._checked(value, given.name or name, shape, given.span)
        if isinstance(given, Fresh):
            return name, self.weights.draw(name, given.initialiser, self._known(shape, arguments))
        if arguments.is_none(role):
            if role not in ("bias", "shift"):
                place = span_of(arguments.given[role])
                raise MistakeError(place, f"a layer needs its {role}", "only a bias may be none")
            return name, np.zeros(self._known(shape, arguments))
        if given is not None:
            hint = 'write a name of the weights file, e.g. fc1.weight or "fc1/W", or none'
            raise MistakeError(span_of(given), f"{role} is a tensor", hint)
        return name, self._of_layer(arguments, name, role, shape, matrix)

    def _of_layer(self, arguments: Arguments, name: str, role: str, shape: tuple[int, ...] | None, matrix: bool) -> F64:
        """The tensor that the layer's name stands for."""
        label, span = arguments.label, arguments.span
        if self._takers.setdefault(label, span) != span:
            raise MistakeError(
                span,
                f"two layers would take their tensors from {label!r}",
                f"name this one: {arguments.layer.text}(...) as NAME takes NAME.weight and NAME.bias",
            )
        if self.weights.default is not None:
            known = self._known(shape, arguments)
            fills = {"bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
            if role in fills or len(known) == 1:
                self.weights.used.add(name)
                return np.full(known, fills.get(role, 1.0))
            return self.weights.draw(name, self.weights.default, known)
        if role == "bias" and name not in self.weights and self.weights.label:
            hint = f"write {arguments.layer.text}(..., bias=none), or give its name: bias=NAME"
            raise MistakeError(span, f"{self.weights.label} has no tensor {name!r}", hint)
        value = self.weights.matrix(name, span) if matrix else self.weights.tensor(name, span)
        return self._checked(value, name, shape, span)

    def _known(self, shape: tuple[int, ...] | None, arguments: Arguments) -> tuple[int, ...]:
        if shape is None or 0 in shape:
            example = "conv(16, 3)" if arguments.layer.text == "conv" else f"{arguments.layer.text}(32)"
            raise MistakeError(
                arguments.span, "the size of fresh weights is not known", f"give its sizes, e.g. {example}"
            )
        memory.require(3 * 8 * prod(shape), f"weights of shape {list(shape)}: drawing them")
        return shape

    def _checked(self, value: F64, name: str, shape: tuple[int, ...] | None, span: Span) -> F64:
        """The tensor if its shape is right; 0 in ``shape`` takes any size."""
        if shape is None:
            return value
        fits = value.ndim == len(shape) and all(w in (0, g) for g, w in zip(value.shape, shape, strict=True))
        if fits:
            return value
        wanted = [n or "any" for n in shape]
        turned = value.T
        if value.ndim == 2 and all(w in (0, g) for g, w in zip(turned.shape, shape, strict=False)):
            other = "(out, in)" if self.weights.transposed else "(in, out)"
            hint = f"it is transposed: write 'weights \"FILE\" stored as {other}', or transpose({name})"
        else:
            hint = "check the number of units, and what flows into the layer"
        raise MistakeError(span, f"tensor {name!r} has shape {list(value.shape)}, wanted is {wanted}", hint)


@dataclass(frozen=True)
class _Emitter:
    """Makes nodes at one label."""

    evaluator: Evaluator
    label: str

    def node(self, op: Op, *operands: Node) -> Node:
        return self.evaluator.emit(op, operands, self.label)

    def affine(self, x: Node, factor: Constant | float, shift: Constant | float) -> Node:
        constants = []
        for role, given in (("factor", factor), ("shift", shift)):
            value = given.value if isinstance(given, Constant) else np.array(given)
            name = given.name if isinstance(given, Constant) and given.name else f"{self.label}.{role}"
            constants.append(self.evaluator.store(name, value))
        return self.node(Scale(constants[0], constants[1]), x)


def _listing(items: tuple[Argument, ...], span: Span) -> Argument:
    """A list of numbers is a tensor; other lists stay lists."""
    plain = [i.value for i in items if isinstance(i, Constant) and not i.name]
    if items and len(plain) == len(items) and len({v.shape for v in plain}) == 1:
        return Constant(np.stack(plain), "", span)
    return Many(items, span)
