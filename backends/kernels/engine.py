"""The kernels as an engine: both roles in one process. The server alone takes :mod:`.machine`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from glyphc.ir.instructions import Schedule

from ..engine import Engine, Session, Stages
from ..errors import BackendError


class KernelsEngine(Engine):
    """Arithmetic of our own on doubles; OpenFHE makes secrets and errors, encrypts and decrypts."""

    name = "kernels"
    summary = "vectorised arithmetic of our own (fused multiply-add); OpenFHE encrypts and decrypts"
    encrypts = True

    def problem(self) -> str | None:
        try:
            from ..openfhe import library  # noqa: F401
        except BackendError as e:
            return str(e)
        from .selftest import problem

        return problem()

    @property
    def machine(self) -> type:
        from .machine import KernelsMachine

        return KernelsMachine

    @contextmanager
    def session(self, schedule: Schedule, stages: Stages) -> Iterator[Session]:
        from .client import generate_keys
        from .exchange import Exchange
        from .machine import KernelsMachine

        with stages.stage("generate keys"):
            client, keys, mould = generate_keys(schedule.parameters)
        machine = KernelsMachine(schedule, keys)
        with stages.stage("encode weights", sum(map(len, schedule.polynomials.values()))):
            machine.prepare(lambda name: stages.advance(len(schedule.polynomials[name]), name))
        exchange = Exchange(keys.shape, keys.basis, mould)
        yield Session(
            machine, lambda m: exchange.received(client.encrypt(m)), lambda c: client.decrypt(exchange.sent(c))
        )


ENGINE = KernelsEngine()
