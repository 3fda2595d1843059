"""What a ``.glyph`` text says, as a tree; every part knows where it stands. No meaning yet: see ``dsl_build``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Secrecy(Enum):
    """Who may know a tensor: everybody (public), or the client alone (encrypted)."""

    PUBLIC = "public"
    ENCRYPTED = "encrypted"


@dataclass(frozen=True)
class Span:
    """A stretch of the text: lines and columns from 1, the end behind its last character."""

    line: int
    column: int
    end_line: int
    end_column: int


# -- expressions --


@dataclass(frozen=True)
class Number:
    value: float
    span: Span
    integer: bool


@dataclass(frozen=True)
class Name:
    """A value of the network, a function without parameters, or a word such as ``none`` (unless it is quoted)."""

    text: str
    span: Span
    quoted: bool = False


@dataclass(frozen=True)
class Tensor:
    """A tensor of the weights file."""

    name: str
    span: Span


@dataclass(frozen=True)
class Listing:
    items: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True)
class Call:
    name: Name
    arguments: tuple[Expression, ...]
    keywords: tuple[tuple[Name, Expression], ...]
    span: Span


@dataclass(frozen=True)
class Binary:
    operator: str
    left: Expression
    right: Expression
    span: Span


@dataclass(frozen=True)
class Negation:
    operand: Expression
    span: Span


@dataclass(frozen=True)
class Step:
    """A layer with what flows into it left out, and the name of its result if it has one."""

    layer: Name | Call
    name: Name | None


@dataclass(frozen=True)
class Chain:
    """``head -> step -> step``, or a head with a name alone."""

    head: Expression
    head_name: Name | None
    steps: tuple[Step, ...]
    span: Span


Expression = Number | Name | Tensor | Listing | Call | Binary | Negation | Chain


# -- statements --


@dataclass(frozen=True)
class NetworkName:
    name: Name


@dataclass(frozen=True)
class WeightsFile:
    """transposed: matrices are stored as (in, out)."""

    path: str
    secrecy: Secrecy
    axes: tuple[Name, Name] | None
    span: Span


@dataclass(frozen=True)
class WeightsInit:
    call: Call
    secrecy: Secrecy


@dataclass(frozen=True)
class BatchSize:
    value: Number


@dataclass(frozen=True)
class InputTensor:
    name: Name
    secrecy: Secrecy
    shape: tuple[Number, ...]
    span: Span


@dataclass(frozen=True)
class OutputValue:
    value: Name
    name: Name | None


@dataclass(frozen=True)
class SecretTensors:
    secrecy: Secrecy
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Activation:
    """A function of the user's: a formula in ``variable``, a list of values, or the values of a file."""

    name: Name
    variable: Name | None
    lo: Number
    hi: Number
    points: Number | None
    formula: Expression | None
    values: Listing | None
    path: str | None
    member: str | None
    span: Span


@dataclass(frozen=True)
class Quantize:
    settings: tuple[tuple[Name, Number], ...]
    precisions: tuple[tuple[Name, Number], ...]


@dataclass(frozen=True)
class TrainingSection:
    """Calls and numbers by keyword, in the order of the text; see ``dsl_training``."""

    items: tuple[tuple[str, Call | Number | tuple[Name, ...]], ...]
    span: Span


@dataclass(frozen=True)
class Let:
    name: Name
    value: Expression
    location: str | None


Statement = (
    NetworkName
    | WeightsFile
    | WeightsInit
    | BatchSize
    | InputTensor
    | OutputValue
    | SecretTensors
    | Activation
    | Quantize
    | TrainingSection
    | Let
)


@dataclass(frozen=True)
class Source:
    """A text and where it came from; its folder is where file names in it start."""

    text: str
    label: str


@dataclass(frozen=True)
class Document:
    source: Source
    statements: tuple[Statement, ...]
