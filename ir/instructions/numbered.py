"""Schedules without names: inputs, outputs, weights, columns and classes by number: no name of a model's travels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ..encodings import Labels
from ..errors import IRError
from .base import Instruction, Load, Store
from .coefficients import DotProduct
from .program import ClientSpec, Port, Schedule


@dataclass(frozen=True)
class PortNames:
    """What a model calls an input or output. columns: of an input's elements; labels: of an output's classes."""

    name: str
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """Of all inputs and outputs, in the order of their numbers."""

    inputs: tuple[PortNames, ...]
    outputs: tuple[PortNames, ...]

    @staticmethod
    def of(client: ClientSpec) -> Names:
        return Names(tuple(map(_names, client.inputs)), tuple(map(_names, client.outputs)))


def numbered(schedule: Schedule) -> Schedule:
    """The same program, with numbers for names: inputs in0, in1, ..., outputs out0, ..., weights w0, ...

    Labels that are texts become the numbers of their classes, columns have no names. Nodes keep their numbers, by which
    whoever has the graph finds them again.
    """
    client = schedule.client
    inputs = {port.name: f"in{number}" for number, port in enumerate(client.inputs)}
    outputs = {port.name: f"out{number}" for number, port in enumerate(client.outputs)}
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

    return Schedule(
        replace(
            client,
            inputs=tuple(replace(port, name=inputs[port.name], columns=()) for port in client.inputs),
            outputs=tuple(replace(p, name=outputs[p.name], labels=_without_texts(p.labels)) for p in client.outputs),
            encrypted=tuple(replace(m, name=weights[m.name]) for m in client.encrypted),
        ),
        tuple(map(renamed, schedule.instructions)),
        {weights[name]: polynomials for name, polynomials in schedule.polynomials.items() if name in weights},
        {weights[name]: polynomials for name, polynomials in schedule.secret.items()},
    )


def with_names(client: ClientSpec, names: Names) -> ClientSpec:
    """The inverse for a specification; IRError when the names are not as many as there are things to name."""
    return replace(client, inputs=_called(client.inputs, names.inputs), outputs=_called(client.outputs, names.outputs))


def _names(port: Port) -> PortNames:
    return PortNames(port.name, port.columns, port.labels.texts if port.labels is not None else ())


def _without_texts(labels: Labels | None) -> Labels | None:
    return labels if labels is None or labels.integers else Labels(integers=tuple(range(len(labels))))


def _called(ports: tuple[Port, ...], names: tuple[PortNames, ...]) -> tuple[Port, ...]:
    if len(ports) != len(names) or len({n.name for n in names}) != len(names):
        raise IRError(f"{len(ports)} tensors cannot have the names {', '.join(n.name for n in names)}")
    return tuple(_with_name(port, n) for port, n in zip(ports, names, strict=True))


def _with_name(port: Port, names: PortNames) -> Port:
    if len(names.columns) not in (0, prod(port.shape)):
        raise IRError(f"{len(names.columns)} columns of {names.name!r} do not go with its shape {list(port.shape)}")
    if names.labels and (port.labels is None or len(names.labels) != len(port.labels)):
        raise IRError(f"{len(names.labels)} labels of {names.name!r} are not as many as its classes")
    labels = Labels(texts=names.labels) if names.labels else port.labels
    return replace(port, name=names.name, columns=names.columns, labels=labels)
