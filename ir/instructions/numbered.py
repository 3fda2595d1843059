"""Schedules without names: inputs, outputs and weights by number, so that none of a model's names reaches a server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import IRError
from .base import Instruction, Load, Store
from .coefficients import DotProduct
from .program import ClientSpec, Port, Schedule


@dataclass(frozen=True)
class Names:
    """What a model calls its inputs and outputs, in the order of their numbers."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @staticmethod
    def of(client: ClientSpec) -> Names:
        return Names(_names(client.inputs), _names(client.outputs))


def numbered(schedule: Schedule) -> Schedule:
    """The same program, with numbers for names: inputs in0, in1, ..., outputs out0, ..., weights w0, ...

    Nodes keep their numbers, by which whoever has the graph finds them again.
    """
    client = schedule.client
    inputs = {name: f"in{number}" for number, name in enumerate(_names(client.inputs))}
    outputs = {name: f"out{number}" for number, name in enumerate(_names(client.outputs))}
    used = dict.fromkeys(i.weights for i in schedule.instructions if isinstance(i, DotProduct))
    weights = {name: f"w{number}" for number, name in enumerate(used)}

    def renamed(instruction: Instruction) -> Instruction:
        match instruction:
            case Load(name=name):
                return replace(instruction, name=inputs[name])
            case Store(name=name):
                return replace(instruction, name=outputs[name])
            case DotProduct(weights=name):
                return replace(instruction, weights=weights[name])
        return instruction

    encrypted = tuple(replace(m, name=weights[m.name]) for m in client.encrypted)
    return Schedule(
        replace(with_names(client, Names(tuple(inputs.values()), tuple(outputs.values()))), encrypted=encrypted),
        tuple(map(renamed, schedule.instructions)),
        {weights[name]: polynomials for name, polynomials in schedule.polynomials.items() if name in weights},
        {weights[name]: polynomials for name, polynomials in schedule.secret.items()},
    )


def with_names(client: ClientSpec, names: Names) -> ClientSpec:
    """A specification whose inputs and outputs are called so; IRError when there are not as many, or two of a name."""
    return replace(client, inputs=_called(client.inputs, names.inputs), outputs=_called(client.outputs, names.outputs))


def _called(ports: tuple[Port, ...], names: tuple[str, ...]) -> tuple[Port, ...]:
    if len(ports) != len(names) or len(set(names)) != len(names):
        raise IRError(f"{len(ports)} tensors cannot have the names {', '.join(names)}")
    return tuple(replace(port, name=name) for port, name in zip(ports, names, strict=True))


def _names(ports: Iterable[Port]) -> tuple[str, ...]:
    return tuple(port.name for port in ports)
