"""Training as Onoufriou, Mayfield and Leontidis do it ("Fully Homomorphically Encrypted Deep Learning as a Service",
2021): the forward pass on ciphertexts, the backward pass in the clear at the client.

The server has the weights in the clear and computes every layer's sums of encrypted samples, in CKKS, a sample in each
slot. The client decrypts them, computes loss, gradients and the update, and tells the server the new weights: one trip
a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.analysis.slot_cost import slot_estimate
from glyphc.analysis.slot_figures import slot_seconds
from glyphc.backends.base import execute
from glyphc.backends.slots_clear import ClearSlots
from glyphc.backends.slots_simulate import SimulatedSlots
from glyphc.ir.instructions import ClientSpec, Instruction, Port, Schedule, with_frees
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Apply
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, FixedPoint
from glyphc.knowledge import Knowledge
from glyphc.progress import Reporter
from glyphc.rounding import up
from glyphc.slots.parameters import RINGS, smallest_scale
from glyphc.slots.polynomials import leads, polynomial_depth
from glyphc.slots.writer import SlotWriter
from glyphc.train import step
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job
from glyphc.train.predict import different_batches
from glyphc.train.stages import Stage, find_stages
from glyphc.train.step import VELOCITY

from .system import Forecast, Runner, State, System, fresh_keys
from .trial import in_the_clear, require_trial

if TYPE_CHECKING:
    from glyphc.backends.openfhe.slot_client import SlotClient
    from glyphc.backends.openfhe.slot_evaluator import SlotKeys

F64 = npt.NDArray[np.floating[Any]]

# Noise of every sum, as a share of its range.
_PRECISION = 2.0**-15
# Numbers of this size and more may wrap: the last prime has four bits above the scale.
_MOST = 4.0
_SAMPLES = "samples"


@dataclass(frozen=True)
class _Hidden:
    """The polynomial behind a layer's sums: Chebyshev's coefficients on [lo, hi], in units of ``unit``."""

    lo: float
    hi: float
    coefficients: tuple[float, ...]
    unit: float

    @staticmethod
    def of(stage: Stage) -> _Hidden:
        """Of the layer that this polynomial's values are read by."""
        assert isinstance(stage.values.op, Apply)
        (function,) = stage.values.op.functions
        lo, hi, *c = function.parameters
        unit = up(max(float(np.abs(c).sum()), 2.0**-20))
        scaled = [value / unit for value in c]
        degree = len(c) - 1
        if degree >= 2 and degree & (degree - 1) == 0 and not leads(scaled):
            scaled.append(0.0)
        return _Hidden(lo, hi, tuple(scaled), unit)


class Onoufriou(System):
    """job: of the network with polynomials between its trained layers."""

    name = "onoufriou"
    exact: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        rehearsal = require_trial(job, self.name)
        self.job = job
        self._stages = find_stages(job.program)
        for stage in self._stages[1:]:
            if stage.added is not None:
                raise TrainingError(f"the strategy {self.name!r} takes chains of layers, and {stage.sums} adds to one")
            op = stage.values.op
            if not isinstance(op, Apply) or [f.name for f in op.functions] != ["polynomial"]:
                raise TrainingError(f"the strategy {self.name!r} takes polynomials between layers, not {stage.values}")
        self._hidden = tuple(map(_Hidden.of, self._stages[1:]))
        self._trained = {s.name for s in job.program.slots if s.trained}
        if job.split.frozen:
            raise TrainingError(f"the strategy {self.name!r} freezes no layer behind one that is trained")
        last = find_stages(rehearsal.program)[-1].sums.id
        largest, final = 0.0, job.program.initial()
        for before, values in in_the_clear(rehearsal):
            largest, final = max(largest, float(np.abs(values[last]).max())), before
        self._last_unit = up(max(job.margin * largest, 2.0**-10))
        self._input_unit = up(max(float(np.abs(self._samples).max(initial=0.0)), 2.0**-20))
        self.parameters = self._chosen(final.weights)

    @property
    def security(self) -> str:
        return self.parameters.security

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge(
            ("samples", "labels", "activations"),
            (),
            ("weights", "gradients, which tell of the samples", "shapes, steps, learning rates, number of samples"),
            (),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        p = self.parameters
        degrees = ", ".join(str(len(h.coefficients) - 1) for h in self._hidden)
        functions = f"polynomials of degree {degrees} between layers; " if degrees else ""
        return (
            f"CKKS, N = {p.ring}, {p.depth} levels of {p.scaling_bits} bits; {functions}"
            "backward pass and update in the clear at the client",
        )

    @cached_property
    def forecast(self) -> Forecast:
        cost = for_engine(cost_file.current(), "openfhe")
        schedule = self._schedule(self.job.program.initial().weights, self.parameters)
        found = slot_estimate(schedule, cost)
        p, steps = self.parameters, self.job.options.steps
        batches = different_batches(self.job.batches, steps)
        sent = sum(port.layout.ciphertexts for port in schedule.client.inputs)
        encryption = sent * slot_seconds(cost.slots, "encrypt", p.ring, p.limbs)
        client = found.client_seconds - encryption + encryption * batches / steps
        numbers = 8.0 * sum(s.size for s in self.initial().values())
        held = (batches - 1) * sent * 16.0 * p.ring * p.limbs
        return Forecast(
            found.seconds,
            client,
            1,
            numbers,
            found.download_bytes,
            found.upload_bytes,
            numbers,
            found.key_bytes,
            found.memory_bytes + held,
            cost.machine.text,
        )

    def initial(self) -> State:
        return _state(self.job.program.initial())

    def defined(self, state: State, number: int) -> State:
        x, y = self.job.batch(self.job.batches.number(number))
        return _state(self.job.program.run(_step_state(state, number), self.job.named(x), y)[0])

    def weights(self, state: State) -> dict[str, F64]:
        return {name: value for name, value in state.items() if not name.startswith(VELOCITY)}

    def simulated(self) -> AbstractContextManager[Runner]:
        client = SimulatedSlots(self.parameters, self.job.options.seed)
        return nullcontext(_OnSlots(self, client, lambda schedule: client))

    @contextmanager
    def encrypted(self, reporter: Reporter) -> Iterator[Runner]:
        with fresh_keys(self._keys, reporter) as (owner, keys):
            from glyphc.backends.openfhe.slot_evaluator import SlotOpenFHE

            yield _OnSlots(self, owner, lambda schedule: SlotOpenFHE(schedule, keys))

    def _keys(self) -> tuple[SlotClient, SlotKeys]:
        from glyphc.backends.openfhe.slot_client import generate_slot_keys

        return generate_slot_keys(self.parameters)

    # -- the server's program --

    def schedule(self, state: State) -> Schedule:
        """The forward pass with these weights."""
        return self._schedule(self.weights(state), self.parameters)

    def _schedule(self, weights: dict[str, F64], p: SlotParameters) -> Schedule:
        code, sizes = self._code(weights)
        batch = self.job.batches.batch
        inputs = (_port(_SAMPLES, self._stages[0].values.type.size // batch, batch, p),)
        outputs = tuple(_port(f"sums{at}", size, batch, p) for at, size in enumerate(sizes))
        return Schedule(ClientSpec(p, inputs, outputs, batch), tuple(with_frees(code)), {})

    def _code(self, weights: dict[str, F64]) -> tuple[list[Instruction], list[int]]:
        """Instructions, and how many sums each layer has."""
        writer = SlotWriter()
        first = weights[self._stages[0].weight.name].shape[1]
        values = [writer.load(_SAMPLES, part, self._depth) for part in range(first)]
        unit, sizes = self._input_unit, []
        for at, stage in enumerate(self._stages):
            w, b = weights[stage.weight.name], weights[stage.bias.name]
            hidden = self._hidden[at] if at < len(self._hidden) else None
            scale, shift = self._shown(at)
            sums = [
                writer.dot(values, [float(v) * unit * scale for v in row], float(c) * scale + shift)
                for row, c in zip(w, b, strict=True)
            ]
            sizes.append(len(sums))
            if hidden is not None:
                made = [writer.polynomial(register, hidden.coefficients) for register in sums]
                values, unit = [register for register, _ in made], hidden.unit * made[0][1]
            for part, register in enumerate(sums):
                # on one limb: less to send
                writer.store(writer.drop(register, 0), f"sums{at}", part)
        return writer.instructions, sizes

    @property
    def _depth(self) -> int:
        return 1 + sum(1 + polynomial_depth(len(h.coefficients) - 1) for h in self._hidden)

    def _shown(self, layer: int) -> tuple[float, float]:
        """Factor and shift of a layer's sums as they stand in slots: in [-1, 1] where they keep to their range."""
        if layer == len(self._hidden):
            return 1 / self._last_unit, 0.0
        h = self._hidden[layer]
        return 2 / (h.hi - h.lo), -(h.lo + h.hi) / (h.hi - h.lo)

    def _chosen(self, weights: dict[str, F64]) -> SlotParameters:
        """The smallest ring with a slot for each sample whose noise is low enough, and its smallest scale."""
        batch, given = self.job.batches.batch, self.job.options.insecure_ring
        x, _ = self.job.batch(0)
        columns = list(x.reshape(batch, -1).T / self._input_unit)
        code, _ = self._code(weights)
        exact = execute(code, ClearSlots(SlotParameters(1 << 10, self._depth, 30, 40, 1)), {_SAMPLES: columns})

        def precise(p: SlotParameters) -> bool:
            machine = SimulatedSlots(p)
            found = execute(code, machine, {_SAMPLES: [machine.encrypt(column) for column in columns]})
            off = np.concatenate([np.ravel(found[name]) - np.ravel(exact[name]) for name in exact])
            return bool(np.sqrt(np.mean(off**2)) <= _PRECISION)

        for ring in (given,) if given else RINGS:
            if batch <= ring // 2 and (sized := smallest_scale(ring, self._depth, precise, bool(given))):
                return sized[0]
        raise TrainingError(
            f"no ring holds {self._depth} levels with enough precision and {batch} samples; use polynomials of a lower "
            "degree (--degree), or smaller batches"
        )

    # -- the client --

    @property
    def _samples(self) -> F64:
        return np.stack([self.job.batch(n)[0] for n in range(self.job.batches.per_epoch)])

    def messages(self, batch: int) -> list[F64]:
        """Of a batch: a number in each slot, a message for each feature."""
        x, _ = self.job.batch(batch)
        padded = np.zeros((self.parameters.slots, x[0].size))
        padded[: len(x)] = x.reshape(len(x), -1) / self._input_unit
        return list(padded.T)

    def updated(self, state: State, number: int, shown: Sequence[F64]) -> State:
        """The backward pass and the update, from decrypted sums, shape (outputs, slots) for each layer.

        TrainingError where they have left what ciphertexts hold.
        """
        x, y = self.job.batch(self.job.batches.number(number))
        known: dict[int, F64] = {}
        for at, (stage, found) in enumerate(zip(self._stages, shown, strict=True)):
            found = found[:, : len(x)].T
            if not (np.abs(found) < _MOST).all():
                raise TrainingError(
                    f"in step {number}, the sums of trained layer {at + 1} left the range that was planned; use a "
                    "larger --margin or a smaller learning rate"
                )
            scale, shift = self._shown(at)
            known[stage.sums.id] = (found - shift) / scale
        program, before = self.job.program, _step_state(state, number)
        return _state(program.after(before, program.values(before, self.job.named(x), y, known))[0])


class _OnSlots:
    """Both sides. client: encrypts and decrypts; machine: the server's for a program."""

    def __init__(self, system: Onoufriou, client: Any, machine: Any) -> None:
        self._system, self._client, self._machine = system, client, machine
        self._batches: dict[int, list[Any]] = {}
        self._state: State = {}
        self.trips = 0
        self.client_seconds = 0.0

    def start(self, state: State) -> None:
        self._state = state

    def step(self, number: int) -> None:
        batch = self._system.job.batches.number(number)
        if batch not in self._batches:
            began = time.perf_counter()
            self._batches[batch] = [self._client.encrypt(m) for m in self._system.messages(batch)]
            self.client_seconds += time.perf_counter() - began
        schedule = self._system.schedule(self._state)
        found = execute(schedule.instructions, self._machine(schedule), {_SAMPLES: self._batches[batch]})
        began = time.perf_counter()
        shown = [np.array([self._client.decrypt(c) for c in found[f"sums{at}"]]) for at in range(len(found))]
        self._state = self._system.updated(self._state, number, shown)
        self.trips += 1
        self.client_seconds += time.perf_counter() - began

    def state(self) -> State:
        return self._state


def _port(name: str, size: int, batch: int, p: SlotParameters) -> Port:
    layout = Layout(p.slots, batch, size, size, 1, 1, 1, True)
    return Port(name, (size,), FixedPoint((1.0,), (0.0,), -1, 1), layout, (), Encoding.SLOTS)


def _state(found: step.State) -> State:
    return {**found.weights, **{VELOCITY + name: value for name, value in found.velocity.items()}}


def _step_state(state: State, number: int) -> step.State:
    weights = {name: value for name, value in state.items() if not name.startswith(VELOCITY)}
    velocity = {name.removeprefix(VELOCITY): value for name, value in state.items() if name.startswith(VELOCITY)}
    return step.State(number, weights, velocity)
