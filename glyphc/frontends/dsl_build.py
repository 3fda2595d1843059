"""From the tree of a ``.glyph`` text to a network, statement by statement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from glyphc.ir.errors import IRError
from glyphc.ir.ops import Input, Output
from glyphc.ir.verify import verify

from .dsl_ast import (
    Activation,
    BatchSize,
    Document,
    InputTensor,
    Let,
    NetworkName,
    Number,
    OutputValue,
    Quantize,
    Secrecy,
    SecretTensors,
    Span,
    Statement,
    TrainingSection,
    WeightsFile,
    WeightsInit,
)
from .dsl_errors import MistakeError, similar
from .dsl_expressions import Evaluator
from .dsl_functions import known_function, user_activation
from .dsl_hints import read_hints
from .dsl_layers import GENERIC, LAYERS
from .dsl_network import Network, TensorSecrecy
from .dsl_training import read_training
from .dsl_values import Value, Word
from .dsl_weights import read_weights

_S = TypeVar("_S", bound=Statement)


def build(document: Document, folder: Path) -> Network:
    """The network of a document; file names in it start at ``folder``. DslError names the mistake and its place."""
    try:
        return _Builder(document, folder).network()
    except MistakeError as e:
        raise e.shown(document.source) from None


class _Builder:
    def __init__(self, document: Document, folder: Path) -> None:
        self.document = document
        self.folder = folder
        statements: list[WeightsFile | WeightsInit] = [*self._all(WeightsFile), *self._all(WeightsInit)]
        given = _single("weights", statements)
        self.weights = read_weights(given, folder)
        self.weights_secrecy = Secrecy.PUBLIC if given is None else given.secrecy
        self.evaluator = Evaluator(self.weights)

    def _all(self, kind: type[_S]) -> list[_S]:
        return [s for s in self.document.statements if isinstance(s, kind)]

    def network(self) -> Network:
        for statement in self.document.statements:
            match statement:
                case InputTensor():
                    self._input(statement)
                case Let():
                    self._let(statement)
                case Activation():
                    self._activation(statement)
        self._outputs(self._all(OutputValue))
        name, batch = _single("network", self._all(NetworkName)), _single("batch", self._all(BatchSize))
        training = _single("training", self._all(TrainingSection))
        values = self.evaluator.values
        # by name, or by the place that nodes are said to come from
        places = (n.location for n in self.evaluator.graph if n.op.constant_names() and n.location)
        layers = dict.fromkeys([*self.evaluator.layers, *places])
        return Network(
            Path(self.document.source.label).stem if name is None else name.name.text,
            self.evaluator.graph,
            None if batch is None else _batch(batch.value),
            read_hints(self._all(Quantize), values),
            self._secrecy(),
            tuple(s.name.text for s in self._all(InputTensor) if s.secrecy is Secrecy.PUBLIC),
            None if training is None else read_training(training, values, layers),
            self._notes(),
            {name: node.id for name, node in values.items()},
        )

    def _input(self, statement: InputTensor) -> None:
        sizes = []
        for number in statement.shape:
            if not number.integer or number.value < 1:
                raise MistakeError(number.span, "a size is a whole number of at least 1", "write e.g. [64]")
            sizes.append(int(number.value))
        try:
            node = self.evaluator.graph.add(Input(statement.name.text, tuple(sizes)))
        except IRError as e:
            raise MistakeError(statement.name.span, str(e), "write smaller sizes, e.g. [64]") from None
        self.evaluator.define(statement.name, node)

    def _let(self, statement: Let) -> None:
        name = statement.name
        self.evaluator.location = statement.location
        try:
            result = self.evaluator.evaluate(statement.value, name.text)
        except RecursionError:
            hint = "give parts of the expression names of their own"
            raise MistakeError(name.span, "this expression nests too deeply", hint) from None
        self.evaluator.location = None
        if isinstance(result, Word):
            self.evaluator.value(result.name)
        if not isinstance(result, Value):
            raise MistakeError(
                statement.value.span,
                f"{name.text!r} would be no value of the network",
                "a statement computes something from an input, e.g. 'hidden = x -> dense(32) -> relu'",
            )
        self.evaluator.define(name, result.node)

    def _activation(self, statement: Activation) -> None:
        name, known = statement.name, self.evaluator.activations
        if name.text in LAYERS or name.text in GENERIC or name.text in known or known_function(name.text):
            raise MistakeError(name.span, f"there is a layer or function {name.text!r} already", "choose another name")
        known[name.text] = user_activation(statement, self.folder)

    def _outputs(self, outputs: list[OutputValue]) -> None:
        graph = self.evaluator.graph
        if not graph.inputs:
            raise MistakeError(Span(1, 1, 1, 2), "the network has no input", "add e.g. 'input x: encrypted [64]'")
        if not outputs:
            newest = list(self.evaluator.values)[-1]
            raise MistakeError(self._last_line(), "the network has no output", f"add e.g. 'output {newest}'")
        names: set[str] = set()
        for output in outputs:
            node = self.evaluator.value(output.value)
            name = output.name or output.value
            if name.text in names:
                raise MistakeError(name.span, f"there are two outputs {name.text!r}", "write 'output y as NAME'")
            names.add(name.text)
            graph.add(Output(name.text), (node,))
        try:
            verify(graph)
        except IRError as e:
            raise MistakeError(self._last_line(), str(e), "see docs/dsl.md") from None

    def _last_line(self) -> Span:
        lines = self.document.source.text.splitlines() or [""]
        number = max((i for i, line in enumerate(lines, 1) if line.strip()), default=1)
        return Span(number, 1, number, len(lines[number - 1]) + 1)

    def _secrecy(self) -> tuple[TensorSecrecy, ...]:
        known = self.weights.used | set(self.weights.drawn)
        said: dict[str, Secrecy] = {}
        if self.weights_secrecy is Secrecy.ENCRYPTED:
            said = dict.fromkeys(sorted(known), Secrecy.ENCRYPTED)
        for statement in self._all(SecretTensors):
            for tensor in statement.tensors:
                if tensor.name not in known:
                    hint = f"{similar(tensor.name, known)}it uses: {', '.join(sorted(known)) or 'none'}"
                    raise MistakeError(tensor.span, f"the network uses no tensor {tensor.name!r}", hint)
                said[tensor.name] = statement.secrecy
        return tuple(TensorSecrecy(name, secrecy) for name, secrecy in said.items())

    def _notes(self) -> tuple[str, ...]:
        drawn = self.weights.drawn
        if not drawn:
            return ()
        makers = ", ".join(dict.fromkeys(str(m) for m in drawn.values()))
        return (f"{len(drawn)} tensor(s) are drawn at random, not trained ({makers}): {', '.join(drawn)}",)


def _single(what: str, found: Sequence[_S]) -> _S | None:
    """The one statement of a kind, wherever it stands."""
    if len(found) > 1:
        raise MistakeError(_place(found[1]), f"there are two {what} statements", "keep one of them")
    return found[0] if found else None


def _batch(number: Number) -> int:
    if not number.integer or number.value < 1:
        raise MistakeError(number.span, "the batch is a whole number of at least 1", "write e.g. 'batch 512'")
    return int(number.value)


def _place(statement: Statement) -> Span:
    match statement:
        case NetworkName(name=name):
            return name.span
        case BatchSize(value=value):
            return value.span
        case WeightsInit(call=call):
            return call.span
        case WeightsFile(span=span) | TrainingSection(span=span):
            return span
    raise AssertionError(statement)
