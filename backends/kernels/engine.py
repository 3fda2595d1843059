"""The kernels as an engine: both roles in one process. The server alone takes :mod:`.machine`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from glyphc.ir.instructions import Schedule, weighted
from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters

from ..engine import Engine, Session, Stages
from ..errors import BackendError


class KernelsEngine(Engine):
    """Arithmetic of our own on doubles; OpenFHE makes the secret and decrypts."""

    name = "kernels"
    summary = "vectorised arithmetic of our own (fused multiply-add); OpenFHE makes secrets and decrypts"
    encrypts = True

    def problem(self) -> str | None:
        try:
            from ..openfhe import library  # noqa: F401
        except BackendError as e:
            return str(e)
        from .selftest import problem

        return problem()

    def processor_problem(self) -> str | None:
        from .selftest import processor_problem

        return processor_problem()

    @property
    def machine(self) -> type:
        from .machine import KernelsMachine

        return KernelsMachine

    @property
    def slot_machine(self) -> type:
        from .slot_machine import SlotKernels

        return SlotKernels

    def refusal(self, parameters: ProgramParameters) -> str | None:
        from .shape import parameters_problem
        from .slot_shape import slots_problem

        if isinstance(parameters, SlotParameters):
            return slots_problem(parameters)
        if not isinstance(parameters, Parameters):
            return (
                "it has no gates" if isinstance(parameters, WordParameters) else "it computes with no integers in slots"
            )
        return parameters_problem(parameters)

    @contextmanager
    def session(self, schedule: Schedule, stages: Stages) -> Iterator[Session]:
        from ..openfhe.keys import key_tables, release_all_keys
        from .client import generate_keys
        from .machine import KernelsMachine
        from .shape import refuse
        from .warm import exercise, stage_name

        parameters = schedule.parameters
        refuse(self.refusal(parameters))
        # another run that ends would release contexts of OpenFHE's that this one encrypts with
        with key_tables(wait=True):
            with stages.stage(stage_name()):
                exercise()
            if isinstance(parameters, SlotParameters):
                try:
                    yield self._slots(schedule, parameters, stages)
                finally:
                    # OpenFHE would take this context for one that differs in its digits alone
                    release_all_keys()
                return
            assert isinstance(parameters, Parameters)
            with stages.stage("generate keys"):
                party = generate_keys(parameters)
            encrypted = schedule.client.encrypted
            if encrypted:
                with stages.stage("encrypt weights", sum(m.products for m in encrypted)):
                    party = party.with_weights(encrypted, schedule.secret, lambda name: stages.advance(1, name))
            machine = KernelsMachine(schedule, party.server)
            with stages.stage(
                "encode weights", sum(len(schedule.polynomials[name]) for name in weighted(schedule.instructions))
            ):
                machine.prepare(lambda name: stages.advance(len(schedule.polynomials[name]), name))
            yield Session(machine, party.encrypt, party.decrypt)

    def _slots(self, schedule: Schedule, parameters: SlotParameters, stages: Stages) -> Session:
        from .slot_client import generate_slot_keys
        from .slot_machine import SlotKernels

        with stages.stage("generate keys"):
            client, keys = generate_slot_keys(parameters)
        machine = SlotKernels(schedule, keys)
        wire = machine.wire
        return Session(machine, lambda x: wire.received(client.encrypt(x)), lambda c: client.decrypt(wire.sent(c)))


ENGINE = KernelsEngine()
