"""The complete text form of a graph: ``parse(to_text(g)) == g`` at every level, weights included.

Attributes, types and decisions are frozen dataclasses; they are printed and read generically, guided by their field
types, so a new op needs nothing here. Constants follow the nodes as zlib-compressed base64.
"""

from __future__ import annotations

import base64
import json
import math
import types
import typing
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lark import Lark, Transformer, UnexpectedInput
from lark.exceptions import VisitError

from . import memory
from .errors import IRError, IRSyntaxError
from .graph import Decision, Graph
from .integer_parameters import ProgramParameters
from .ops import OPS, Const, Op
from .types import Level, TensorType

VERSION = 1
_LARGE = 1 << 20
_T = TypeVar("_T")
_OPS_BY_CLASS = {op.__name__: op for op in OPS.values()}


# -- printing --


def to_text(graph: Graph, known: dict[int, str] | None = None) -> str:
    """The whole graph as text. known: of constants that other graphs, which are kept, have had in theirs, by id of the
    array; it grows by this graph's."""
    known = {} if known is None else known
    lines = [f"glyph-ir {VERSION} level {graph.level.value} batch {graph.batch}"]
    if graph.parameters is not None:
        lines.append(f"parameters {_print(graph.parameters)}")
    for node in graph:
        operands = "".join(f" %{i}" for i in node.operands)
        line = f"%{node.id} = {node.op.mnemonic}{operands} ({_fields(node.op)}) : {_print(node.type)}"
        if node.location:
            line += f" @{json.dumps(node.location)}"
        lines.append(line)
        lines += [f"    decided {_print(d)}" for d in node.decisions]
    withheld = graph.withheld
    for name, value in graph.constants.items():
        shape = ", ".join(map(str, value.shape))
        if name in withheld:
            lines.append(f"const {json.dumps(name)} {value.dtype.name} [{shape}] withheld")
            continue
        if id(value) not in known:
            # the highest level takes ten times as long on the places of a sparse matrix, and gains nothing
            level = 9 if value.nbytes < _LARGE else 6
            data = base64.b64encode(zlib.compress(np.ascontiguousarray(value).tobytes(), level)).decode()
            known[id(value)] = json.dumps(data)
        lines.append(f"const {json.dumps(name)} {value.dtype.name} [{shape}] {known[id(value)]}")
    return "\n".join(lines) + "\n"


def record_text(obj: Any) -> str:
    """One frozen dataclass as text, e.g. ``Parameters(ring=65536, ...)``; :func:`parse_record` reads it."""
    return _print(obj)


def _fields(obj: Any) -> str:
    shown = (f for f in fields(obj) if f.default is MISSING or getattr(obj, f.name) != f.default)
    return ", ".join(f"{f.name}={_print(getattr(obj, f.name))}" for f in shown)


def _print(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Const):
        return "$" + json.dumps(value.name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return json.dumps(value.value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | float):
        if isinstance(value, float) and math.isnan(value):
            raise IRError("NaN has no text form")
        # numpy's scalars are floats too, but print otherwise
        return repr(float(value) if isinstance(value, float) else int(value))
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_print, value)) + "]"
    if is_dataclass(value):
        return f"{type(value).__name__}({_fields(value)})"
    raise IRError(f"{type(value).__name__} has no text form")


# -- reading --


class _Record(typing.NamedTuple):
    name: str
    fields: dict[str, Any]


class _Values(Transformer[Any, Any]):
    """What is parsed -> plain values; records stay untyped until their field says what they are."""

    def sequence(self, items: list[Any]) -> tuple[Any, ...]:
        return () if items == [None] else tuple(items)

    def number(self, items: list[Any]) -> int | float:
        return _number(str(items[0]))

    def numbers(self, items: list[Any]) -> tuple[int | float, ...]:
        return tuple(map(_number, str(items[0])[1:-1].split(", ")))

    def string(self, items: list[Any]) -> str:
        return _string(items[0])

    def const(self, items: list[Any]) -> Const:
        return Const(_string(items[0]))

    def true(self, items: list[Any]) -> bool:
        return True

    def false(self, items: list[Any]) -> bool:
        return False

    def none(self, items: list[Any]) -> None:
        return None

    def field(self, items: list[Any]) -> tuple[str, Any]:
        return str(items[0]), items[1]

    def record(self, items: list[Any]) -> _Record:
        return _Record(str(items[0]), _unique(i for i in items[1:] if i is not None))


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _string(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError as e:
        raise IRSyntaxError(f"unreadable string {token} ({e})") from None


def _unique(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields:
        if name in found:
            raise IRSyntaxError(f"field {name!r} is given twice")
        found[name] = value
    return found


@lru_cache(maxsize=2)
def _parser(places: bool) -> Lark:
    """Of values, or of trees that know their places in the text, which takes twice as long."""
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    options: dict[str, Any] = {"propagate_positions": True} if places else {"transformer": _Values()}
    return Lark(grammar, parser="lalr", start=["start", "record"], maybe_placeholders=True, **options)


@contextmanager
def _at(meta: Any, text: str) -> Iterator[None]:
    """Errors from within get the line and column of ``meta`` (of a parse tree), and that line of the text."""
    try:
        yield
    except IRError as e:
        if meta.empty:
            raise
        line = text.split("\n")[meta.line - 1]
        raise type(e)(f"line {meta.line}, column {meta.column}: {e}\n{line[:160]}") from None


def parse(text: str) -> Graph:
    """Read a graph; IRSyntaxError for text that isn't one, IRError for one that breaks the IR's rules."""
    return _placed(_read_graph, text)


def _placed(read: Callable[[str, bool], _T], text: str) -> _T:
    """What ``read`` makes of a text; where it fails, it is done anew with places, for the error to name one."""
    try:
        return read(text, False)
    except Exception:
        return read(text, True)


def _read_graph(text: str, places: bool) -> Graph:
    tree = _read(text, "start", places)
    with _at(tree.children[0].meta, text):
        graph = _read_header(*tree.children[0].children)
    # constants stand last, but the nodes' shapes depend on them
    readers = {"parameters": _read_parameters, "constant": _read_constant, "node": _read_node}
    for kind, read in readers.items():
        for item in tree.children[1:]:
            if item.data == kind:
                with _at(item.meta, text):
                    read(graph, item.children)
    return graph


def parse_record(text: str, cls: type[_T]) -> _T:
    """Read a dataclass that :func:`record_text` wrote; IRSyntaxError for any other text, or values out of place."""
    built: _T = _build(_placed(_read_record, text), cls, cls.__name__)
    return built


def parse_parameters(text: str) -> ProgramParameters:
    """Read parameters of either kind, as :func:`parse_record` does."""
    found: ProgramParameters = coerce(_placed(_read_record, text), ProgramParameters, "parameters")
    return found


def _read_record(text: str, places: bool) -> Any:
    return _read(text, "record", places)


def _read(text: str, start: str, places: bool) -> Any:
    try:
        parsed = _parser(places).parse(text, start=start)
        return _Values().transform(parsed) if places else parsed
    except UnexpectedInput as e:
        raise IRSyntaxError(f"line {e.line}, column {e.column}: unexpected text\n{e.get_context(text)}") from None
    except VisitError as e:
        with _at(getattr(e.obj, "meta", e.obj), text):  # a token carries its own position
            raise IRSyntaxError(str(e.orig_exc)) from None
    except RecursionError:
        raise IRSyntaxError("line 1, column 1: the text nests values too deeply") from None


def _read_header(version: str, level: str, batch: str) -> Graph:
    if int(version) != VERSION:
        raise IRSyntaxError(f"this is IR version {version}; this glyphc reads version {VERSION}")
    if level not in (v.value for v in Level):
        raise IRSyntaxError(f"unknown level {str(level)!r}; known: {', '.join(v.value for v in Level)}")
    return Graph(Level(str(level)), int(batch))


def _read_parameters(graph: Graph, items: list[Any]) -> None:
    parameters: ProgramParameters = coerce(items[0], ProgramParameters, "parameters")
    try:
        parameters.check_powers()
    except ValueError as e:
        raise IRSyntaxError(f"parameters: {e}") from None
    graph.parameters = parameters


def _read_constant(graph: Graph, items: list[Any]) -> None:
    name, dtype, *shape, data = items
    dims = tuple(int(s) for s in shape if s is not None)
    if _string(name) in graph.constants:
        raise IRSyntaxError(f"constant {name} is given twice")
    if data.type == "WITHHELD":
        try:
            kind = np.dtype(str(dtype))
            memory.require(math.prod(dims) * kind.itemsize, f"constant {name}")
            graph.withhold(_string(name), kind.name, dims)
        except (TypeError, ValueError) as e:
            raise IRSyntaxError(f"constant {name}: {e}") from None
        return
    try:
        kind = np.dtype(str(dtype))
        if kind.kind not in "fiub":
            raise ValueError(f"{kind} are no numbers")
        memory.require(math.prod(dims) * kind.itemsize, f"constant {name}")
        size = math.prod(dims) * kind.itemsize
        raw = memory.inflated(base64.b64decode(json.loads(data), validate=True), size)
        if len(raw) != size:
            raise ValueError(f"{len(raw)} bytes, not the {size} bytes of its shape")
        array = np.frombuffer(raw, dtype=kind).reshape(dims)
    except (ValueError, TypeError) as e:
        raise IRSyntaxError(f"constant {name}: unreadable data ({e})") from None
    graph.add_constant(_string(name), array)


def _read_node(graph: Graph, items: list[Any]) -> None:
    number, mnemonic = int(items[0]), str(items[1])
    if number != len(graph):
        raise IRSyntaxError(f"node %{number} is out of order; %{len(graph)} comes next")
    if mnemonic not in OPS:
        raise IRSyntaxError(f"%{number}: unknown op {mnemonic!r}; known: {', '.join(OPS)}")
    attributes: list[tuple[str, Any]] = []
    operands, decisions, location, type = [], [], "", None
    for item in items[2:]:
        if isinstance(item, tuple) and not isinstance(item, _Record):
            attributes.append(item)
        elif isinstance(item, _Record):
            type = _build(item, TensorType, f"%{number}")
        elif item is not None and item.data == "operand":
            operands.append(int(item.children[0]))
        elif item is not None and item.data == "location" and item.children[0] is not None:
            location = _string(item.children[0])
        elif item is not None and item.data == "decision":
            decisions.append(_build(item.children[0], Decision, f"%{number}"))
    if any(i >= number for i in operands):
        raise IRSyntaxError(f"%{number} uses a node that is not defined before it")
    op = _build(_Record(OPS[mnemonic].__name__, _unique(attributes)), OPS[mnemonic], f"%{number}")
    graph.add(op, tuple(graph.node(i) for i in operands), type, location, tuple(decisions))


@lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(record: _Record, cls: Callable[..., Any], where: str) -> Any:
    """A dataclass from its record, field by field, each coerced to the declared type."""
    hints = _hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(record.fields) - known)
    if record.name != cls.__name__ or unknown:
        raise IRSyntaxError(
            f"{where}: expected {cls.__name__}({', '.join(sorted(known))}), found {record.name}"
            + (f" with unknown field(s) {', '.join(unknown)}" if unknown else "")
        )
    try:
        return cls(**{k: coerce(v, hints[k], f"{where}: {k}") for k, v in record.fields.items()})
    except (TypeError, ValueError, OverflowError, IRError) as e:
        raise IRSyntaxError(str(e) if isinstance(e, IRSyntaxError) else f"{where}: {e}") from None


def coerce(value: Any, hint: Any, where: str) -> Any:
    """``value`` (numbers, texts, tuples, records) as the type ``hint``; IRSyntaxError, beginning with ``where``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        hints = [a for a in arguments if a is not type(None)]
        # of several records, the one of that name
        named = (a for a in hints if isinstance(value, _Record) and a.__name__ == value.name)
        return coerce(value, next(named, hints[0]), where)
    if origin is tuple and isinstance(value, tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(coerce(v, arguments[0], where) for v in value)
        if len(value) == len(arguments):
            return tuple(coerce(v, a, where) for v, a in zip(value, arguments, strict=True))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    elif isinstance(value, _Record) and hint is Op and value.name in _OPS_BY_CLASS:
        return _build(value, _OPS_BY_CLASS[value.name], where)
    elif isinstance(value, _Record) and is_dataclass(hint):
        return _build(value, hint, where)  # type: ignore[arg-type]
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    raise IRSyntaxError(f"{where}: {value!r} is not a {hint}")
