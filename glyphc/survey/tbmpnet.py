"""Training as Yoo and Yoon's t-BMPNet (2021): every number a word of encrypted bits, every gate a bootstrap.

The server computes forward pass, backward pass and update by gates alone, and never asks: the weights of one step are
those that the next one reads. It takes minutes for networks of a few weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from glyphc.analysis.cost import SHIPPED_MACHINE
from glyphc.analysis.word_cost import gates_of, word_estimate
from glyphc.analysis.word_figures import gate_seconds
from glyphc.backends.base import execute
from glyphc.backends.errors import BackendError
from glyphc.backends.words_clear import ClearBits
from glyphc.errors import EnvironmentSetupError
from glyphc.gates.circuit import Bit, Circuit
from glyphc.gates.lowering import MOST_GATES, circuit_code
from glyphc.gates.words import Word, Words, extended
from glyphc.ir.instructions import ClientSpec, Port, Schedule, with_frees
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.layout import Layout
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.ir.rescaling import from_word_bits, word_bits
from glyphc.ir.types import Encoding, FixedPoint
from glyphc.ir.word_parameters import WordParameters
from glyphc.knowledge import Knowledge
from glyphc.progress import Reporter, duration
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job
from glyphc.train.predict import different_batches

from .formats import F64, I64
from .system import Forecast, Runner, State, System
from .word_formats import WordFormats, WordLayer, word_formats_of

_SAMPLES, _TARGETS = "samples", "targets"
Matrix = list[list[Word]]


@dataclass
class StepCircuit:
    """The gates of a step. wires: (name, bit) of each input; outputs: bits of new weights and biases, by name."""

    formats: WordFormats
    batch: int
    circuit: Circuit = field(default_factory=Circuit)
    wires: list[tuple[str, int]] = field(default_factory=list)
    outputs: dict[str, list[Bit]] = field(default_factory=dict)

    @staticmethod
    def of(formats: WordFormats, batch: int) -> StepCircuit:
        """All of it; TrainingError for one of too many gates, before it is made."""
        made = StepCircuit(formats, batch)
        most = made.most_gates
        if most > MOST_GATES:
            seconds = most * gate_seconds(WordParameters(formats.bits))
            raise TrainingError(
                f"a step takes up to {most:,} gates, {duration(seconds)}; circuits of up to {MOST_GATES:,} gates can "
                "be planned: this strategy is for networks of a few weights and samples"
            )
        made._build()
        return made

    @property
    def most_gates(self) -> int:
        """A bound: a product of words takes at most four gates for each bit of its result and each of one factor."""
        bits, total = self.formats.bits, 0
        for f in self.formats.layers:
            weights = f.layer.inputs * f.layer.outputs
            wide = 3 * bits + self.batch.bit_length() + f.layer.inputs.bit_length()
            total += self.batch * (3 * weights * 4 * bits + 8 * bits * f.layer.outputs) * wide
            total += self.batch * f.layer.outputs * 6 * (bits << bits)
        return total

    def _build(self) -> None:
        bits, layers = self.formats.bits, self.formats.layers
        words = Words(self.circuit)
        x = self._given(_SAMPLES, self.batch, layers[0].layer.inputs)
        y = self._given(_TARGETS, self.batch, layers[-1].layer.outputs)
        weights = {f.layer.weight: self._given(f.layer.weight, f.layer.outputs, f.layer.inputs) for f in layers}
        biases = {f.layer.bias: self._given(f.layer.bias, 1, f.layer.outputs)[0] for f in layers if f.layer.bias}
        read: list[Matrix] = [x]
        slopes: list[Matrix] = []
        for at, f in enumerate(layers):
            self.circuit.node = at
            z = [
                [self._sum(words, f, row, unit, weights, biases) for unit in range(f.layer.outputs)] for row in read[-1]
            ]
            read.append([[words.lookup(w, f.table, bits) for w in row] for row in z] if f.table else z)
            slopes.append([[words.lookup(w, f.slopes, bits) for w in row] for row in z] if f.slopes else [])
        raw = [
            [words.subtract(a, b, bits + 1) for a, b in zip(row, wanted, strict=True)]
            for row, wanted in zip(read[-1], y, strict=True)
        ]
        if self.formats.chain.sloped:
            raw = _times(words, raw, slopes[-1])
        for at in reversed(range(len(layers))):
            f = layers[at]
            self.circuit.node = at
            errors = [[self._shortened(words, e, f.error_shift) for e in row] for row in raw]
            self._update(words, f, read[at], errors, weights[f.layer.weight], biases)
            if at:
                sent = [
                    [_dot(words, row, [line[j] for line in weights[f.layer.weight]]) for j in range(f.layer.inputs)]
                    for row in errors
                ]
                raw = _times(words, sent, slopes[at - 1])

    def _given(self, name: str, rows: int, columns: int) -> Matrix:
        width = self.formats.bits
        self.wires += [(name, bit) for bit in range(rows * columns * width)]
        return [[self.circuit.word(width) for _ in range(columns)] for _ in range(rows)]

    def _sum(
        self,
        words: Words,
        f: WordLayer,
        values: Sequence[Word],
        unit: int,
        weights: Mapping[str, Matrix],
        biases: Mapping[str, list[Word]],
    ) -> Word:
        total = _dot(words, values, weights[f.layer.weight][unit])
        if f.layer.bias is not None:
            total = _sum(words, total, _shifted(biases[f.layer.bias][unit], f.one))
        return self._shortened(words, total, f.sum_shift)

    def _update(
        self,
        words: Words,
        f: WordLayer,
        read: Matrix,
        errors: Matrix,
        weights: Matrix,
        biases: Mapping[str, list[Word]],
    ) -> None:
        new: list[Word] = []
        for unit, row in enumerate(weights):
            column = [line[unit] for line in errors]
            for at, weight in enumerate(row):
                gradient = _dot(words, [line[at] for line in read], column)
                new.append(self._new(words, f, weight, gradient))
        self.outputs[f.layer.weight] = [bit for word in new for bit in word]
        if f.layer.bias is not None:
            found = []
            for unit, bias in enumerate(biases[f.layer.bias]):
                gradient = errors[0][unit]
                for line in errors[1:]:
                    gradient = _sum(words, gradient, line[unit])
                found.append(self._new(words, f, bias, _shifted(gradient, f.one)))
            self.outputs[f.layer.bias] = [bit for word in found for bit in word]

    def _new(self, words: Words, f: WordLayer, weight: Word, gradient: Word) -> Word:
        shift = f.update_shift(self.formats.rate)
        kept, taken = _shifted(weight, max(shift, 0)), _shifted(gradient, max(-shift, 0))
        total = words.subtract(kept, taken, max(len(kept), len(taken)) + 1)
        return self._shortened(words, total, max(shift, 0))

    def _shortened(self, words: Words, word: Word, shift: int) -> Word:
        """The nearest word without the lowest bits; it saturates."""
        bits = self.formats.bits
        if shift:
            half = (*[False] * (shift - 1), True, False)
            word = words.add(word, half, max(len(word), len(half)) + 1)[shift:]
        return words.saturate(extended(word, max(len(word), bits)), bits)


def _dot(words: Words, a: Sequence[Word], b: Sequence[Word]) -> Word:
    """The sum of products, exactly."""
    products = [words.multiply(x, y, len(x) + len(y)) for x, y in zip(a, b, strict=True)]
    width = max(map(len, products)) + (len(products) - 1).bit_length()
    total = products[0]
    for product in products[1:]:
        total = words.add(total, product, width)
    return total


def _sum(words: Words, a: Word, b: Word) -> Word:
    return words.add(a, b, max(len(a), len(b)) + 1)


def _shifted(word: Word, bits: int) -> Word:
    return (*[False] * bits, *word)


def _times(words: Words, errors: Matrix, slopes: Matrix) -> Matrix:
    if not slopes:
        return errors
    return [
        [words.multiply(e, s, len(e) + len(s)) for e, s in zip(row, line, strict=True)]
        for row, line in zip(errors, slopes, strict=True)
    ]


class TBMPNet(System):
    """bits: of words."""

    name = "tbmpnet"
    exact: ClassVar[bool] = True

    def __init__(self, job: Job, bits: int) -> None:
        self.job = job
        self.formats = word_formats_of(job, self.name, bits)
        self.parameters = WordParameters(bits, INSECURE if job.options.insecure_ring else SECURE)
        self._made = StepCircuit.of(self.formats, job.batches.batch)

    @property
    def security(self) -> str:
        return self.parameters.security

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge(
            ("samples", "labels", "weights"),
            (),
            ("shapes and number formats of all values", "learning rate, steps, number of samples"),
            ("activations", "gradients"),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        p = self.parameters
        return (
            f"FHEW with GINX bootstrapping, n = {p.dimension}, ring {p.ring}; words of {p.bits} bits",
            f"{gates_of(self.schedule):,} gates a step, one after another, each a bootstrap; no trip to the client",
        )

    @cached_property
    def schedule(self) -> Schedule:
        """A step: bits of samples, targets and weights to those of new weights."""
        made = self._made
        nodes = dict.fromkeys(made.outputs, 0)
        code = circuit_code(made.circuit, made.wires, made.outputs, nodes)
        sizes: dict[str, int] = {}
        for name, _ in made.wires:
            sizes[name] = sizes.get(name, 0) + 1
        inputs = tuple(_port(name, size) for name, size in sizes.items())
        outputs = tuple(_port(name, len(bits)) for name, bits in made.outputs.items())
        found = Schedule(ClientSpec(self.parameters, inputs, outputs, 1), tuple(with_frees(code)), {})
        check_schedule(found)
        return found

    @cached_property
    def forecast(self) -> Forecast:
        found = word_estimate(self.schedule)
        p, steps = self.parameters, self.job.options.steps
        state = sum(map(len, self._made.outputs.values())) * p.fresh_bytes
        batches = different_batches(self.job.batches, steps)
        batch = found.upload_bytes - state
        share = batches / steps * batch / (found.upload_bytes + found.download_bytes)
        return Forecast(
            found.seconds,
            found.client_seconds * share,
            0,
            0.0,
            0.0,
            batch,
            float(state),
            found.key_bytes,
            found.memory_bytes,
            SHIPPED_MACHINE.text,
        )

    def initial(self) -> State:
        return self.formats.integers(self.job.program.initial().weights)

    def defined(self, state: State, number: int) -> State:
        return self.formats.after(state, *self._batch(self.job.batches.number(number)))

    def weights(self, state: State) -> dict[str, F64]:
        """Those that are not trained have the numbers that they had."""
        return {**self.job.program.initial().weights, **self.formats.real(state)}

    def simulated(self) -> AbstractContextManager[Runner]:
        return nullcontext(_OnBits(self, ClearBits(), ClearBits()))

    @contextmanager
    def encrypted(self, reporter: Reporter) -> Iterator[Runner]:
        try:
            from glyphc.backends.openfhe.gates import gate_session
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None
        reporter.stage("generate keys", 8.0)
        with gate_session(self.parameters.secure) as (owner, gates):
            yield _OnBits(self, owner, gates)

    def messages(self, values: Mapping[str, I64]) -> dict[str, list[I64]]:
        """Words as bits, a message for each."""
        width = self.formats.bits
        return {n: [b[None] for b in word_bits(v.reshape(1, -1), width)[0]] for n, v in values.items()}

    def batch(self, number: int) -> dict[str, list[I64]]:
        """Samples and targets of a batch, as bits."""
        x, y = self._batch(number)
        return self.messages({_SAMPLES: x, _TARGETS: y})

    def state_of(self, messages: Mapping[str, list[I64]]) -> State:
        """The inverse of ``messages``, of weights."""
        initial = self.initial()
        found = {}
        for name, bits in messages.items():
            words = from_word_bits(np.array([b[0] for b in bits])[None], self.formats.bits)
            found[name] = words.reshape(initial[name].shape)
        return found

    def _batch(self, number: int) -> tuple[I64, I64]:
        x, y = self.job.batch(number)
        return self.formats.samples(x.reshape(len(x), -1)), self.formats.targets(y)


class _OnBits:
    """Both sides. client: encrypts and decrypts; machine: the server's."""

    trips = 0

    def __init__(self, system: TBMPNet, client: Any, machine: Any) -> None:
        self._system, self._client, self._machine = system, client, machine
        self._batches: dict[int, dict[str, list[Any]]] = {}
        self._state: dict[str, list[Any]] = {}
        self.client_seconds = 0.0

    def start(self, state: State) -> None:
        self._state = self._encrypted(self._system.messages(state))

    def step(self, number: int) -> None:
        batch = self._system.job.batches.number(number)
        if batch not in self._batches:
            self._batches[batch] = self._encrypted(self._system.batch(batch))
        inputs = {**self._batches[batch], **self._state}
        self._state = execute(self._system.schedule.instructions, self._machine, inputs)

    def state(self) -> State:
        return self._system.state_of({n: [self._client.decrypt(c) for c in bits] for n, bits in self._state.items()})

    def _encrypted(self, messages: Mapping[str, list[I64]]) -> dict[str, list[Any]]:
        return {name: [self._client.encrypt(m) for m in parts] for name, parts in messages.items()}


def _port(name: str, bits: int) -> Port:
    return Port(
        name, (bits,), FixedPoint((1.0,), (0.0,), 0, 1), Layout(1, 1, bits, bits, 1, 1, 1, True), (), Encoding.BITS
    )
