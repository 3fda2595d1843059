"""Frozen dataclasses as JSON and back, guided by the types of their fields: exact, and nothing but data.

Fields may be bool, int, float, str, enums, tuples, other dataclasses or one of several of these, each of them or None.
Floats keep every bit; infinities and NaN have no form. What is read has exactly the declared types and nothing else is
ever made from it.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from .errors import IRError, IRSyntaxError

_LARGEST_INT = 1 << 63


class _Codec(NamedTuple):
    """Of one type: to what JSON has, and back."""

    plain: Callable[[Any], Any]
    typed: Callable[[Any], Any]


class TypedJSON:
    """A reader and writer. ``variants``: classes behind a type that is not one dataclass, by name.

    Such a value is written as an object with one field, the name of its class. brief: fields with their defaults are
    left out.
    """

    def __init__(self, variants: Mapping[Any, Mapping[str, type]] | None = None, brief: bool = False) -> None:
        self._variants = variants or {}
        self._brief = brief
        self._known: dict[Any, _Codec] = {}

    def text(self, value: Any, hint: Any) -> str:
        """A value of the type ``hint`` as JSON on one line; IRError for values of other types."""
        return json.dumps(self._codec(hint).plain(value), separators=(",", ":"), allow_nan=False)

    def read(self, text: str, hint: Any) -> Any:
        """The inverse of :meth:`text`; IRSyntaxError for any other text, or for values that a class refuses."""
        try:
            data = json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
            return self._codec(hint).typed(data)
        except RecursionError:
            raise IRSyntaxError("the text nests values too deeply") from None
        except (ValueError, TypeError, OverflowError, ArithmeticError, IRError) as e:
            raise e if isinstance(e, IRSyntaxError) else IRSyntaxError(_short(e)) from None

    def _codec(self, hint: Any) -> _Codec:
        if hint not in self._known:
            self._known[hint] = self._make(hint)
        return self._known[hint]

    def _make(self, hint: Any) -> _Codec:
        if hint in self._variants:
            return self._variant(self._variants[hint])
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            others = [a for a in arguments if a is not type(None)]
            if len(others) == 1:
                return _optional(self._codec(others[0]))
            if len(others) == len(arguments) and all(map(is_dataclass, others)):
                return self._either(others)
        elif origin is tuple:
            return self._tuple(arguments)
        elif hint in _SCALARS:
            return _SCALARS[hint]
        elif isinstance(hint, type) and issubclass(hint, Enum):
            return _Codec(lambda v: _exactly(v, hint).value, hint)
        elif isinstance(hint, type) and is_dataclass(hint):
            return self._record(hint)
        raise TypeError(f"{hint} has no form in JSON")

    def _tuple(self, arguments: tuple[Any, ...]) -> _Codec:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            each = self._codec(arguments[0])
            return _Codec(
                lambda value: [each.plain(v) for v in _exactly(value, tuple)],
                lambda data: tuple(each.typed(v) for v in _exactly(data, list)),
            )
        codecs = [self._codec(a) for a in arguments]

        def zipped(value: Any, kind: type) -> Any:
            if len(_exactly(value, kind)) != len(codecs):
                raise IRSyntaxError(f"{len(value)} values where {len(codecs)} belong")
            return zip(codecs, value, strict=True)

        return _Codec(
            lambda value: [c.plain(v) for c, v in zipped(value, tuple)],
            lambda data: tuple(c.typed(v) for c, v in zipped(data, list)),
        )

    def _record(self, cls: type) -> _Codec:
        hints = typing.get_type_hints(cls)
        codecs = {f.name: self._codec(hints[f.name]) for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

        def typed(data: Any) -> Any:
            found = set(_exactly(data, dict))
            if not needed <= found <= set(codecs):
                raise IRSyntaxError(f"{cls.__name__} has the fields {', '.join(codecs)}, not {_short(sorted(found))}")
            values = {}
            for name, value in data.items():
                try:
                    values[name] = codecs[name].typed(value)
                except (ValueError, TypeError, IRError) as e:
                    raise IRSyntaxError(f"{cls.__name__}: {name}: {_short(e)}") from None
            return cls(**values)

        defaults = {f.name: f.default for f in fields(cls) if self._brief and f.default is not MISSING}

        def plain(value: Any) -> dict[str, Any]:
            values = {name: getattr(_exactly(value, cls), name) for name in codecs}
            kept = {n: v for n, v in values.items() if not _is_default(v, defaults.get(n, MISSING))}
            return {n: codecs[n].plain(v) for n, v in kept.items()}

        return _Codec(plain, typed)

    def _either(self, classes: list[Any]) -> _Codec:
        """Of one of several dataclasses, told apart by the fields that they need."""

        def typed(data: Any) -> Any:
            found = set(_exactly(data, dict))
            for cls in classes:
                if {f.name for f in fields(cls) if f.default is MISSING} <= found:
                    return self._codec(cls).typed(data)
            names = " or ".join(cls.__name__ for cls in classes)
            raise IRSyntaxError(f"{_short(sorted(found))} are not the fields of {names}")

        def plain(value: Any) -> Any:
            if type(value) not in classes:
                raise IRError(f"{type(value).__name__} is none of {', '.join(cls.__name__ for cls in classes)}")
            return self._codec(type(value)).plain(value)

        return _Codec(plain, typed)

    def _variant(self, classes: Mapping[str, type]) -> _Codec:
        names = {cls: name for name, cls in classes.items()}

        def plain(value: Any) -> Any:
            if type(value) not in names:
                raise IRError(f"{type(value).__name__} is none of {', '.join(classes)}")
            return {names[type(value)]: self._codec(type(value)).plain(value)}

        def typed(data: Any) -> Any:
            (name, *more) = _exactly(data, dict) or [""]
            if more or name not in classes:
                raise IRSyntaxError(f"{_short(name)} is none of {', '.join(classes)}")
            return self._codec(classes[name]).typed(data[name])

        return _Codec(plain, typed)


def _optional(codec: _Codec) -> _Codec:
    return _Codec(
        lambda value: None if value is None else codec.plain(value),
        lambda data: None if data is None else codec.typed(data),
    )


def _is_default(value: Any, default: Any) -> bool:
    """Whether a field may be left out in text. By type, too, as 0 == False."""
    return type(value) is type(default) and bool(value == default)


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise IRSyntaxError(f"{_short(value)} is not of type {kind.__name__}")
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not abs(int(value)) < _LARGEST_INT:
        raise IRSyntaxError(f"{_short(value)} is not an integer of at most 64 bits")
    return int(value)


def _float_of(value: Any) -> float:
    """For writing: numbers of all types, so that Python's integers may stand for floats in code."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise IRSyntaxError(f"{_short(value)} is not a number")
    return _finite(float(value))


def _finite(value: Any) -> float:
    if not math.isfinite(_exactly(value, float)):
        raise IRSyntaxError(f"{value} has no form in JSON")
    return float(value)


_SCALARS: dict[Any, _Codec] = {
    bool: _Codec(lambda v: _exactly(v, bool), lambda v: _exactly(v, bool)),
    int: _Codec(_int, _int),
    float: _Codec(_float_of, _finite),
    str: _Codec(lambda v: _exactly(v, str), lambda v: _exactly(v, str)),
}


def _no_number(text: str) -> Any:
    raise IRSyntaxError(f"{text} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise IRSyntaxError("a field is given twice")
    return found


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return " ".join(text.split())[:200]
