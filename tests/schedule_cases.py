"""Random networks, their schedules on plain polynomials, and what has to hold of any schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, event, reject, settings
from hypothesis import strategies as st
from strategies import shapes_like

import glyphc
from glyphc.backends.base import execute
from glyphc.backends.cleartext import CleartextMachine
from glyphc.codec import decode, encode
from glyphc.errors import ParameterError
from glyphc.ir.functions import Function
from glyphc.ir.galois import image
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ConjugateDot,
    Conjugates,
    Dot,
    Evaluate,
    Free,
    Instruction,
    Load,
    Powers,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.ops import Add, Apply, ArgMax, Concat, Const, Dense, Gather, Input, Output, Reshape, Scale, Softmax, Sub
from glyphc.ir.types import Level
from glyphc.program import Program

F64 = npt.NDArray[np.float64]
Draw = Callable[[st.SearchStrategy[Any]], Any]

FUNCTIONS = (
    (Function("relu"),),
    (Function("leaky_relu", (0.1,)),),
    (Function("sigmoid"),),
    (Function("tanh"),),
    (Function("affine", (-2.0, 0.5)), Function("relu")),
    (Function("sign"),),
    (Function("gelu"), Function("clip", (-0.1, 0.5))),
)


@dataclass(frozen=True)
class Case:
    """A network, samples for calibration by input, the batch that is asked for, the ring, ciphertexts of a tensor."""

    graph: Graph
    samples: dict[str, F64]
    batch: int
    ring: int
    max_chunks: int = 16

    def compile(self) -> Program:
        # the budget of the series is no matter here; a small degree is found faster
        passes = PASSES.replace("assign-layout", f"assign-layout{{max_chunks={self.max_chunks}}}")
        try:
            return glyphc.compile(self.graph, self.samples, self.batch, passes=passes, insecure_ring=self.ring)
        except ParameterError as e:
            # a layer whose values differ by no more than the rounding or the noise of its inputs: rightly refused
            if not any(advice in str(e) for advice in ("use a larger margin", "quantize with fewer bits")):
                raise
            event("refused")
            reject()


PASSES = (
    "fold,calibrate,quantize,validate-range,assign-scheme{strategy=glyph},insert-switches,assign-layout,validate-layout,"
    "select-parameters{max_error=3.0,rms_error=3.0},validate-noise,validate-security"
)


class _Network:
    """Grows a source graph; structure is drawn, numbers come from a seeded generator."""

    def __init__(self, draw: Draw, rng: np.random.Generator) -> None:
        self.draw, self.rng = draw, rng
        self.graph = Graph(Level.SOURCE, 1)
        self.outputs = 0

    def _constant(self, value: npt.NDArray[Any]) -> Const:
        return Const(self.graph.add_constant("c", value))

    def _weights(self, *shape: int) -> F64:
        values = self.rng.normal(size=shape)
        kind = self.draw(st.sampled_from(["normal", "normal", "sparse", "scaled"]))
        if kind == "sparse":
            values *= self.rng.random(shape) < 0.3
        elif kind == "scaled":
            values *= 10.0 ** self.rng.integers(-2, 3)
        return values

    def input(self, name: str, shape: tuple[int, ...]) -> Node:
        return self.graph.add(Input(name, shape), location=name)

    def reshape(self, x: Node, shape: tuple[int, ...]) -> Node:
        return self.graph.add(Reshape(shape), (x,), location=f"reshape{len(self.graph)}")

    def dense(self, x: Node, width: int) -> Node:
        if len(x.type.shape) != 1:
            x = self.reshape(x, (x.type.size,))
        weight = self._constant(self._weights(width, x.type.size) / np.sqrt(x.type.size))
        bias = self._constant(self._weights(width))
        return self.graph.add(Dense((weight,), bias), (x,), location=f"dense{len(self.graph)}")

    def flat(self, x: Node) -> Node:
        return x if len(x.type.shape) == 1 else self.reshape(x, (x.type.size,))

    def joined(self, values: Sequence[Node]) -> Node:
        """An affine map of several values: two of them added, all in a row, or some of their elements."""
        operands = [self.flat(v) for v in values]
        location = f"join{len(self.graph)}"
        together = self.graph.add(Concat(), tuple(operands), location=location)
        if self.draw(st.booleans()):
            indices = self.rng.integers(0, together.type.size, self.draw(st.integers(1, 40)))
            return self.graph.add(Gather(self._constant(np.asarray(indices))), (together,), location=location)
        if len(operands) == 2 and operands[0].type.shape == operands[1].type.shape:
            kind = self.draw(st.sampled_from([Add, Sub]))
            return self.graph.add(kind(), tuple(operands), location=location)
        return together

    def scale(self, x: Node) -> Node:
        shape = self.draw(st.sampled_from([x.type.shape, x.type.shape[-1:], ()]))
        # no factor of zero: nothing of the network may vanish
        factor = self._constant(self.rng.uniform(0.5, 1.5, shape) * self.rng.choice([-1.0, 1.0], shape))
        shift = self._constant(np.asarray(self.rng.normal(size=shape)))
        return self.graph.add(Scale(factor, shift), (x,), location=f"scale{len(self.graph)}")

    def nonlinearity(self, x: Node) -> Node:
        functions = self.draw(st.sampled_from(FUNCTIONS))
        return self.graph.add(Apply(functions), (x,), location=f"apply{len(self.graph)}")

    def layers(self, x: Node, count: int) -> list[Node]:
        """The values after each of ``count`` blocks of a dense layer and what may surround it."""
        values = [x]
        for _ in range(count):
            if self.draw(st.sampled_from([False, len(values) > 1])):  # branches meet again
                x = self.joined([x, *self.draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))])
            if self.draw(st.integers(0, 4)) == 0:
                x = self.scale(x)
            x = self.dense(x, self.draw(st.integers(1, 40)))
            if self.draw(st.integers(0, 4)) == 0:
                x = self.scale(x)
            for _ in range(self.draw(st.sampled_from([1, 1, 1, 1, 0, 0, 2]))):
                x = self.nonlinearity(x)
            values.append(x)
        return values[1:]

    def output(self, x: Node) -> None:
        tails = [(), ("softmax",), ("log",), ("argmax",), ("shape", "softmax"), ("shape",)]
        for kind in self.draw(st.sampled_from(tails)):
            if kind == "shape":
                x = self.reshape(x, self.draw(shapes_like(x.type.size)) or (1,))
            elif kind == "argmax":
                x = self.graph.add(ArgMax(self.draw(st.booleans())), (x,))
            else:
                x = self.graph.add(Softmax(kind == "log"), (x,))
        self.graph.add(Output(f"y{self.outputs}"), (x,), location=f"y{self.outputs}")
        self.outputs += 1


def _samples(draw: Draw, rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> F64:
    x = rng.normal(size=(count, prod(shape)))
    match draw(st.sampled_from(["normal", "pixels", "scales", "constants", "zero"])):
        case "pixels":
            x = rng.integers(0, 17, x.shape).astype(np.float64)
        case "scales":
            x = x * 10.0 ** rng.integers(-3, 4, x.shape[1]) + rng.normal(size=x.shape[1])
        case "constants":
            x[:, rng.random(x.shape[1]) < 0.5] = 0.75
        case "zero":
            x = x * 0
    return x.reshape(count, *shape)


def _input_shape(draw: Draw) -> tuple[int, ...]:
    shape = draw(shapes_like(draw(st.integers(1, 40))) | st.integers(1, 40).map(lambda n: (n,)))
    return tuple(shape) or (1,)


@st.composite
def cases(draw: Draw, hidden_outputs: bool = False) -> Case:
    """``hidden_outputs``: nonlinearities that further layers read may be outputs too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    network = _Network(draw, rng)
    count = draw(st.sampled_from([1, 3, 24, 150]))
    samples: dict[str, F64] = {}
    for number in range(draw(st.sampled_from([1, 1, 1, 2]))):
        shape = _input_shape(draw)
        name = f"x{number}"
        x = network.input(name, shape)
        samples[name] = _samples(draw, rng, count, shape)
        if draw(st.integers(0, 5)) == 0:
            x = network.scale(x)
        if draw(st.integers(0, 5)) == 0:
            x = network.nonlinearity(x)
        values = network.layers(x, draw(st.integers(1, 4)))
        network.output(values[-1])
        if draw(st.booleans()):  # a second head on any value, the input included
            network.output(network.layers(draw(st.sampled_from([x, *values[:-1]])), draw(st.integers(1, 2)))[-1])
        if draw(st.integers(0, 3)) == 0:  # the same value twice
            network.output(values[-1])
        if hidden_outputs:
            network.output(draw(st.sampled_from(values)))
    batch = draw(st.integers(1, 64) | st.integers(1, 200))
    max_chunks = draw(st.sampled_from([1, 2, 3, 16]))
    return Case(network.graph, samples, batch, draw(st.sampled_from([1024, 2048])), max_chunks)


def describe(graph: Graph) -> str:
    return "\n".join(f"{n} {list(n.type.shape)} of {list(n.operands)} {n.op}" for n in graph)


class CheckedMachine(CleartextMachine):
    """Plain execution that insists on what the instructions' definitions promise to the backends."""

    def dot(self, sources: Sequence[F64], weights: str, total: F64 | None = None) -> F64:
        self.product = super().dot(sources, weights, total)
        return self.product

    def conjugate_dot(self, sources: Sequence[F64], instruction: ConjugateDot, total: F64 | None = None) -> F64:
        steps = instruction.steps(self._ring)
        for at in range(0, len(sources), steps.babies):
            for g, found in zip(steps.baby_elements, sources[at + 1 : at + steps.babies], strict=True):
                np.testing.assert_array_equal(found, image(sources[at], g))
        self.product = super().conjugate_dot(sources, instruction, total)
        return self.product

    def conjugates(self, source: F64, instruction: Conjugates) -> list[F64]:
        check_stands_on(source, instruction.stride)
        return super().conjugates(source, instruction)

    def split(self, source: F64, parts: int, stride: int, count: int) -> list[F64]:
        check_stands_on(source, stride)
        assert parts & (parts - 1) == 0
        assert count <= parts
        return super().split(source, parts, stride, count)


def check_stands_on(source: F64, stride: int) -> None:
    """What stands elsewhere is nobody's value, but automorphisms would mix it with the others."""
    off = np.ones(len(source), dtype=bool)
    off[::stride] = False
    assert np.abs(source[off]).max(initial=0.0) == 0.0


def run_schedule(program: Program, samples: dict[str, F64]) -> dict[str, F64]:
    """Encode, encrypt, execute, decrypt, decode; all on plain polynomials."""
    schedule = program.schedule
    machine = CheckedMachine(schedule)
    ciphertexts = {}
    for port in schedule.client.inputs:
        coefficients = np.array(encode(port, samples[port.name]))
        assert coefficients.shape == (port.layout.ciphertexts, schedule.parameters.ring)
        ciphertexts[port.name] = [machine.encrypt(c) for c in coefficients]

    def observe(instruction: Instruction, seconds: float) -> None:
        layout = program.graph.node(instruction.node).type.layout
        if isinstance(instruction, Dot | ConjugateDot) and layout is not None:
            # garbage stands where the layout says that it may
            off = np.ones(layout.ring, dtype=bool)
            off[:: layout.grid] = False
            assert np.abs(machine.product[off]).max(initial=0.0) < 0.5, instruction

    results = execute(schedule.instructions, machine, ciphertexts, observe)
    assert set(results) == {p.name for p in schedule.client.outputs}
    count = len(next(iter(samples.values())))
    return {
        port.name: decode(port, np.array([machine.decrypt(c) for c in results[port.name]]), count)
        for port in schedule.client.outputs
    }


def run_clear(program: Program, samples: dict[str, F64]) -> dict[str, F64]:
    result = program.run(samples, mode="clear")
    return result if isinstance(result, dict) else {program.client.outputs[0].name: result}


def assert_exact(program: Program, samples: dict[str, F64]) -> None:
    wanted, got = run_clear(program, samples), run_schedule(program, samples)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def _reads_and_writes(instruction: Any) -> tuple[Sequence[int], Sequence[int]]:
    match instruction:
        case Load():
            return (), (instruction.target,)
        case Dot() | ConjugateDot():
            total = () if instruction.total is None else (instruction.total,)
            return (*instruction.sources, *total), (instruction.target,)
        case Split() | Conjugates():
            return (instruction.source,), instruction.targets
        case Evaluate():
            return (instruction.powers,), (instruction.target,)
        case Store():
            return (instruction.source,), ()
        case Free():
            return instruction.registers, ()
        case _:
            return (instruction.source,), (instruction.target,)


def check_registers(schedule: Schedule) -> None:
    """Written once, read only while alive, freed once and as soon as possible."""
    alive: set[int] = set()
    written: set[int] = set()
    touched: set[int] = set()
    for at, instruction in enumerate(schedule.instructions):
        reads, writes = _reads_and_writes(instruction)
        assert set(reads) <= alive, f"instruction {at} reads a register that is not alive: {instruction}"
        assert not set(writes) & written, f"instruction {at} writes a register again: {instruction}"
        assert len(set(writes)) == len(writes)
        if isinstance(instruction, Free):
            assert len(set(reads)) == len(reads) > 0
            assert set(reads) <= touched, f"instruction {at} frees later than necessary: {instruction}"
            alive -= set(reads)
        touched = {*reads, *writes}
        alive |= set(writes)
        written |= set(writes)
    assert not alive, f"never freed: {sorted(alive)}"


def check_bootstraps(schedule: Schedule) -> None:
    """All functions of a value follow its precomputation at once, before anything else can need memory."""
    current = -1
    for instruction in schedule.instructions:
        match instruction:
            case Powers(target=target):
                current = target
            case Evaluate(powers=powers):
                assert powers == current, f"{instruction} comes late"
            case Free():
                pass
            case _:
                current = -1


def check_ports(program: Program) -> None:
    """Every part of every input is loaded once; every part of every output is stored once, in order."""
    source, client = program.stages["source"], program.client
    loads = Counter((i.name, i.part) for i in program.schedule.instructions if isinstance(i, Load))
    assert loads == Counter((p.name, part) for p in client.inputs for part in range(p.layout.ciphertexts))
    for port in client.outputs:
        stored = [i.part for i in program.schedule.instructions if isinstance(i, Store) and i.name == port.name]
        # parts beyond the features hold nothing
        assert stored == list(range(port.layout.chunks * min(port.layout.parts, port.layout.features)))
    assert [(p.name, p.shape) for p in client.inputs] == [(n.op.name, n.op.shape) for n, _ in source.of(Input)]
    assert [p.name for p in client.outputs] == [op.name for _, op in source.of(Output)]
    assert client.batch == program.graph.batch
    assert all(i.node in range(len(program.graph)) for i in program.schedule.instructions)


def check_parameters(schedule: Schedule) -> None:
    """The backend's keys and contexts, made from the parameters alone, serve every instruction."""
    parameters, dots, degrees = schedule.parameters, [], {}
    for instruction in schedule.instructions:
        match instruction:
            case Split(parts=parts, stride=stride):
                needed = {stride << level for level in range(parts.bit_length() - 1)}
                assert needed <= set(parameters.unpack_strides)
            case Conjugates():
                assert set(instruction.steps(parameters.ring).baby_elements) <= set(parameters.conjugates)
            case ConjugateDot(sources=sources, weights=weights, parts=parts, babies=babies):
                assert set(instruction.steps(parameters.ring).giant_elements) <= set(parameters.conjugates)
                dots.append(weights)
                rows = len(sources) // babies * parts
                assert len(schedule.polynomials[weights]) in (rows, rows + 1)
            case Powers(target=target, slots=slots, degree=degree):
                assert slots == parameters.slots
                assert degree <= parameters.degree
                degrees[target] = degree
            case Evaluate(powers=powers, series=series):
                assert series.degree == degrees[powers]
            case ToTorus(slots=slots):
                assert slots == parameters.slots
            case Dot(sources=sources, weights=weights):
                polynomials = schedule.polynomials[weights]
                dots.append(weights)
                assert len(polynomials) in (len(sources), len(sources) + 1)
                assert np.all((polynomials.exponents >= 0) & (polynomials.exponents < parameters.ring))
                assert polynomials.offsets[0] == 0
                assert polynomials.offsets[-1] == len(polynomials.values) == len(polynomials.exponents)
    assert set(dots) == set(schedule.polynomials)
