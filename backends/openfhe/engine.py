"""OpenFHE as an engine: both roles in one process. The server alone takes :mod:`.evaluator`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from glyphc.ir.instructions import Schedule, weighted
from glyphc.ir.integer_parameters import IntegerParameters, ProgramParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters

from ..engine import Engine, Session, Stages, encrypted_bits
from ..errors import BackendError


class OpenFHEEngine(Engine):
    """Contexts, keys and arithmetic of the openfhe package."""

    name = "openfhe"
    summary = "OpenFHE's wheel: contexts, keys and all arithmetic"
    encrypts = True

    def problem(self) -> str | None:
        try:
            from . import library  # noqa: F401
        except BackendError as e:
            return str(e)
        return None

    @property
    def machine(self) -> type:
        from .evaluator import OpenFHEMachine

        return OpenFHEMachine

    @property
    def slot_machine(self) -> type:
        from .slot_evaluator import SlotOpenFHE

        return SlotOpenFHE

    @property
    def integer_machine(self) -> type:
        from .integer_evaluator import IntegerOpenFHE

        return IntegerOpenFHE

    @property
    def bit_machine(self) -> type:
        from .gates import GateEvaluator

        return GateEvaluator

    def refusal(self, parameters: ProgramParameters) -> str | None:
        if isinstance(parameters, Parameters) and parameters.table_bits:
            return "it has no products of values in the middle of a bootstrap, which look tables up"
        return None

    @contextmanager
    def session(self, schedule: Schedule, stages: Stages) -> Iterator[Session]:
        from .client import generate_keys
        from .evaluator import OpenFHEMachine
        from .gates import gate_session
        from .integer_client import generate_integer_keys
        from .integer_evaluator import IntegerOpenFHE
        from .keys import key_tables, release_all_keys
        from .slot_client import generate_slot_keys
        from .slot_evaluator import SlotOpenFHE
        from .weight_keys import encrypt_weights

        if reason := self.refusal(schedule.parameters):
            raise BackendError(f"the engine 'openfhe' does not take this program: {reason}; use --engine kernels")
        if isinstance(schedule.parameters, WordParameters):
            # these keys lie in their context, not in tables that all contexts share
            with ExitStack() as stack:
                with stages.stage("generate keys"):
                    owner, gates = stack.enter_context(gate_session(schedule.parameters.secure))
                with stages.stage("encrypt weights"):
                    weights_in_bits = encrypted_bits(schedule, owner.encrypt)
                yield Session(gates, owner.encrypt, owner.decrypt, weights_in_bits)
            return
        with key_tables(wait=True):
            try:
                if isinstance(schedule.parameters, SlotParameters):
                    with stages.stage("generate keys"):
                        client, keys_in_slots = generate_slot_keys(schedule.parameters)
                    yield Session(SlotOpenFHE(schedule, keys_in_slots), client.encrypt, client.decrypt)
                    return
                if isinstance(schedule.parameters, IntegerParameters):
                    with stages.stage("generate keys"):
                        on_integers = generate_integer_keys(schedule.parameters)
                    yield Session(
                        IntegerOpenFHE(on_integers.contexts, on_integers.answer),
                        on_integers.encrypt,
                        on_integers.decrypt,
                    )
                    return
                with stages.stage("generate keys"):
                    keys, evaluation_keys = generate_keys(schedule.parameters)
                encrypted = schedule.client.encrypted
                if encrypted:
                    with stages.stage("encrypt weights", sum(m.products for m in encrypted)):
                        weights = encrypt_weights(
                            keys, encrypted, schedule.secret, lambda name: stages.advance(1, name)
                        )
                    evaluation_keys = replace(evaluation_keys, weights=weights)
                machine = OpenFHEMachine(schedule, evaluation_keys)
                with stages.stage(
                    "encode weights", sum(len(schedule.polynomials[name]) for name in weighted(schedule.instructions))
                ):
                    machine.prepare(lambda name: stages.advance(len(schedule.polynomials[name]), name))
                yield Session(machine, keys.encrypt, keys.decrypt)
            finally:
                release_all_keys()


ENGINE = OpenFHEEngine()
