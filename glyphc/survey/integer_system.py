"""Training on exact integers in slots: Hesamifard and others by polynomials, Nandakumar and others by tables.

Weights, samples and labels are encrypted; the server computes forward pass, backward pass and update. The client makes
room where noise would pass its limit: it decrypts, rounds and encrypts again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphc.analysis.cost import SHIPPED_MACHINE
from glyphc.analysis.integer_cost import client_figures, integer_estimate
from glyphc.analysis.security import MAX_LOG_QP_SLOTS
from glyphc.backends.base import execute
from glyphc.backends.integers_clear import ClearIntegers
from glyphc.ir.client_requests import Places, Request
from glyphc.ir.instructions import ClientSpec, Code, IntegerTotal, Port, Schedule, requests_of, with_frees
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.integer_parameters import PRIME_BITS, IntegerStepParameters
from glyphc.ir.layout import Layout
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.ir.types import Encoding, FixedPoint
from glyphc.knowledge import Knowledge
from glyphc.progress import Reporter
from glyphc.slots.integer_noise import limbs_for
from glyphc.slots.integers import plaintext_primes
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job
from glyphc.train.predict import different_batches

from .formats import F64, I64, Precision, TableBehind, formats_of
from .integer_code import SAMPLES, TARGETS, StepLayout, StepWriter, forms_of, state_name
from .system import Forecast, Runner, State, System, fresh_keys

if TYPE_CHECKING:
    from glyphc.backends.openfhe.integer_client import IntegerClient

# Primes of 60 bits that insecure rings may have.
_MOST_LIMBS = 16
# Of the largest integer that is planned for, so that what leaves its range is seen.
_GUARD_BITS = 1.0


class IntegerSystem(System):
    """name: of the strategy. precision: of its integers."""

    exact = True

    def __init__(self, name: str, job: Job, precision: Precision) -> None:
        self.name = name  # type: ignore[misc]
        self.job = job
        self.precision = precision
        self.formats = formats_of(job, name, precision)
        self._forms = forms_of(self.formats)
        self.parameters, self._code = self._chosen()
        self.layout = StepLayout.of(job.batches.batch, self.parameters.slots)

    @property
    def security(self) -> str:
        return self.parameters.security

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge(
            ("samples", "labels", "weights", "activations", "gradients"),
            (),
            ("shapes and number formats of all values", "learning rate, steps, number of samples"),
            (),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        p, q = self.parameters, self.precision
        primes = " and ".join(f"{t.bit_length()} bits" for t in p.moduli)
        functions = ""
        if any(isinstance(f.behind, TableBehind) for f in self.formats.layers):
            functions = f", tables of {q.entries} bits with an index of {q.index}"
        elif any(f.behind is not None for f in self.formats.layers):
            functions = f", polynomials of {q.refreshed} bits"
        trips = len(requests_of(self._code))
        return (
            f"BFV, N = {p.ring}, t of {primes}, moduli of {p.modulus_bits} bits",
            f"integers: samples of {q.inputs} bits, weights of {q.weights}, errors of {q.errors}{functions}",
            f"{trips} trips a step: the client rounds what functions read, errors, and the weights; it sees them",
        )

    @cached_property
    def schedule(self) -> Schedule:
        """A step: samples, targets and weights to new weights."""
        p, batch = self.parameters, self.job.batches.batch
        forms = self._forms
        states = tuple(
            _port(state_name(at), form.weights + form.biases, batch, p.slots) for at, form in enumerate(forms)
        )
        data = (
            _port(SAMPLES, forms[0].format.layer.inputs, batch, p.slots),
            _port(TARGETS, forms[-1].sums, batch, p.slots),
        )
        client = ClientSpec(p, (*data, *states), states, batch, requests=requests_of(self._code))
        found = Schedule(client, tuple(with_frees(self._code)), {})
        check_schedule(found)
        return found

    @cached_property
    def forecast(self) -> Forecast:
        # the weights before the step and the batch stay, the one until there are new ones, the other for the next epoch
        found = integer_estimate(self.schedule, inputs_stay=True)
        client, p, steps = self.schedule.client, self.parameters, self.job.options.steps
        batches = different_batches(self.job.batches, steps)
        ciphertexts = {port.name: port.layout.ciphertexts for port in client.inputs}
        data = ciphertexts[SAMPLES] + ciphertexts[TARGETS]
        state = sum(ciphertexts.values()) - data
        answers = sum(request.results(p.slots) for request in client.requests)
        asked = sum(request.ciphertexts for request in client.requests)
        # the first weights are encrypted once a run, data once a batch; new weights are decrypted in their trip
        encrypt, decrypt = client_figures(p)
        held = (batches - 1) * data * 2.0 * p.fresh_bytes
        return Forecast(
            found.seconds,
            (answers + data * batches / steps) * encrypt + asked * decrypt,
            len(client.requests),
            answers * p.fresh_bytes,
            asked * p.output_bytes,
            data * p.fresh_bytes,
            state * p.fresh_bytes,
            found.key_bytes,
            found.memory_bytes + held,
            SHIPPED_MACHINE.text,
        )

    def initial(self) -> State:
        return self.formats.integers(self.job.program.initial().weights)

    def defined(self, state: State, number: int) -> State:
        x, y = self.job.batch(self.job.batches.number(number))
        return self.formats.after(state, self.formats.samples(x.reshape(len(x), -1)), self.formats.targets(y))

    def weights(self, state: State) -> dict[str, F64]:
        """Those that are not trained have the numbers that they had."""
        return {**self.job.program.initial().weights, **self.formats.real(state)}

    def simulated(self) -> AbstractContextManager[Runner]:
        return nullcontext(_OnIntegers(self, ClearIntegers(self.parameters), ClearIntegers(self.parameters)))

    @contextmanager
    def encrypted(self, reporter: Reporter) -> Iterator[Runner]:
        with fresh_keys(self._keys, reporter) as owner:
            from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE

            yield _OnIntegers(self, owner, IntegerOpenFHE(owner.contexts))

    def _keys(self) -> IntegerClient:
        from glyphc.backends.openfhe.integer_client import generate_integer_keys

        return generate_integer_keys(self.parameters)

    # -- what is encrypted --

    def batch_messages(self, number: int) -> dict[str, list[I64]]:
        """Samples and targets of a batch, as slots."""
        x, y = self.job.batch(number)
        integers, targets = self.formats.samples(x.reshape(len(x), -1)), self.formats.targets(y)
        samples = [self.layout.apart(column) for column in integers.T]
        if self._forms[-1].by_input:
            return {SAMPLES: samples, TARGETS: [self.layout.packed(targets)]}
        return {SAMPLES: samples, TARGETS: [self.layout.apart(column) for column in targets.T]}

    def state_messages(self, state: State) -> dict[str, list[I64]]:
        """Weights, as slots."""
        return {state_name(at): form.messages(dict(state), self.layout) for at, form in enumerate(self._forms)}

    def state_of(self, messages: dict[str, list[I64]]) -> State:
        """The inverse."""
        found: dict[str, I64] = {}
        for at, form in enumerate(self._forms):
            found |= form.state(messages[state_name(at)], self.layout)
        return found

    def check_shown(self, number: int, values: I64) -> None:
        """TrainingError where what the client decrypts has left its range. number: of the request."""
        limit, everywhere = self._shown[number]
        each = self.schedule.client.requests[number].places or (everywhere,) * len(values)
        for places, row in zip(each, values, strict=True):
            if int(np.abs(places.read(row)).max()) > limit:
                raise TrainingError(
                    "what the client decrypts left the range that was planned; use a larger --margin or a smaller "
                    "learning rate"
                )

    @cached_property
    def _shown(self) -> list[tuple[int, Places]]:
        """Of each request, the largest magnitude that is planned for, and where its ciphertexts hold something."""
        forms, layout = self._forms, self.layout
        found = [(f.format.sum_limit, layout.places(f.sum_units)) for f in forms if f.format.behind is not None]
        found += [(f.format.error_limit, layout.places(f.sum_units)) for f in reversed(forms)]
        return [*found, (max(f.format.total_limit for f in forms), layout.places(1, True))]

    # -- parameters --

    def _chosen(self) -> tuple[IntegerStepParameters, Code]:
        """The smallest ring that has room for units, noise and integers."""
        batch, given = self.job.batches.batch, self.job.options.insecure_ring
        width = max(max(form.width, form.sum_units or 1) for form in self._forms)
        bits = self.formats.bits + _GUARD_BITS
        problem = ""
        for ring in (given,) if given else tuple(MAX_LOG_QP_SLOTS):
            layout = StepLayout.of(batch, ring)
            if layout.block > ring // 2 or width > layout.blocks:
                problem = f"{width} units of {layout.block} samples are more than the {ring} slots of a ciphertext"
                continue
            code = StepWriter(self.formats, layout).write()
            moduli = plaintext_primes(ring, bits)
            most = _MOST_LIMBS if given else MAX_LOG_QP_SLOTS[ring] // PRIME_BITS
            limbs = limbs_for(code, ring, max(moduli), most, layout.block)
            if limbs > most:
                problem = f"noise takes more than the {most} primes that are secure"
                continue
            blocks = any(isinstance(i, IntegerTotal) and not i.inner for i in code)
            security = INSECURE if given else SECURE
            block = layout.block if blocks else 0
            return IntegerStepParameters(ring, moduli, limbs, True, security, block, within=layout.block), code
        raise TrainingError(f"the strategy {self.name!r} has no ring for this: {problem}; use smaller batches")


class _OnIntegers:
    """Both sides. client: encrypts and decrypts; machine: the server's."""

    def __init__(self, system: IntegerSystem, client: Any, machine: Any) -> None:
        self._system, self._client = system, client
        self._machine = _Asking(machine, self._answer)
        self._batches: dict[int, dict[str, list[Any]]] = {}
        self._state: dict[str, list[Any]] = {}
        self._number = 0
        self.trips = 0
        self.client_seconds = 0.0

    def start(self, state: State) -> None:
        self._state = self._encrypted(self._system.state_messages(state))

    def step(self, number: int) -> None:
        batch = self._system.job.batches.number(number)
        if batch not in self._batches:
            began = time.perf_counter()
            self._batches[batch] = self._encrypted(self._system.batch_messages(batch))
            self.client_seconds += time.perf_counter() - began
        self._number = 0
        inputs = {**self._batches[batch], **self._state}
        self._state = execute(self._system.schedule.instructions, self._machine, inputs)

    def state(self) -> State:
        return self._system.state_of(
            {name: [self._client.decrypt(c) for c in parts] for name, parts in self._state.items()}
        )

    def _encrypted(self, messages: dict[str, list[I64]]) -> dict[str, list[Any]]:
        return {name: [self._client.encrypt(m) for m in parts] for name, parts in messages.items()}

    def _answer(self, sources: Sequence[Any], request: Request) -> list[Any]:
        """The client's part of a trip."""
        began = time.perf_counter()
        values = np.array([self._client.decrypt(c) for c in sources])
        self._system.check_shown(self._number, values)
        found = [self._client.encrypt(integers) for integers in request.answer(values)]
        self._number += 1
        self.trips += 1
        self.client_seconds += time.perf_counter() - began
        return found


class _Asking:
    """A machine whose requests somebody answers."""

    def __init__(self, machine: Any, answer: Any) -> None:
        self._machine = machine
        self.client_request = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)


def _port(name: str, size: int, batch: int, slots: int) -> Port:
    layout = Layout(slots, batch, size, size, 1, 1, 1, True)
    return Port(name, (size,), FixedPoint((1.0,), (0.0,), -1, 1), layout, (), Encoding.INTEGERS)
