"""Univariate functions in ``.glyph`` files: those of the IR by name, and the user's own formulas and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ActivationError
from glyphc.ir.errors import IRError
from glyphc.ir.functions import NAMES, Function, parameter_count

from .custom_activations import make_activation
from .dsl_ast import Activation, Binary, Call, Expression, Name, Negation, Number, Span
from .dsl_errors import MistakeError, similar
from .dsl_weights import read_tensors

F64 = npt.NDArray[np.floating[Any]]

# Parameters that may be left out, as ONNX has them; and other names that papers use.
DEFAULTS: Mapping[str, tuple[float, ...]] = {
    "celu": (1.0,),
    "elu": (1.0,),
    "floor": (1.0,),
    "hard_sigmoid": (0.2, 0.5),
    "leaky_relu": (0.01,),
    "round": (1.0,),
    "selu": (1.67326319217681884765625, 1.05070102214813232421875),
    "thresholded_relu": (1.0,),
}
ALIASES: Mapping[str, str] = {"swish": "silu", "logistic": "sigmoid", "relu_n": "clip"}

_OPERATORS: Mapping[str, Callable[[F64, F64], F64]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
    ">": lambda a, b: np.asarray(a > b, dtype=np.float64),
    "<": lambda a, b: np.asarray(a < b, dtype=np.float64),
}
_CONSTANTS = {"pi": np.pi, "e": np.e}


def known_function(name: str) -> bool:
    return ALIASES.get(name, name) in NAMES


def function(name: Name, parameters: tuple[float, ...], span: Span) -> Function:
    """A function of the IR; parameters that are left out have their usual values. MistakeError."""
    plain = ALIASES.get(name.text, name.text)
    count = parameter_count(plain)
    if not parameters and plain in DEFAULTS:
        parameters = DEFAULTS[plain]
    if count is not None and count != len(parameters):
        usage = f"({', '.join(['NUMBER'] * count)})" if count else " without parameters"
        hint = f"write {name.text}{usage}"
        raise MistakeError(span, f"{name.text!r} takes {count} parameter(s), not {len(parameters)}", hint)
    try:
        return Function(plain, parameters)
    except IRError as e:
        raise MistakeError(span, str(e), "give it parameters that it is defined for") from None


def user_activation(statement: Activation, folder: Path) -> Function:
    """The function that an ``activation`` statement defines, as a table. MistakeError, with the statement's place."""
    name, lo, hi = statement.name.text, statement.lo.value, statement.hi.value
    points = {}
    if statement.points is not None:
        if not statement.points.integer:
            raise MistakeError(statement.points.span, "a table has a whole number of points", "write e.g. 1025")
        points = {"points": int(statement.points.value)}
    try:
        if statement.formula is not None and statement.variable is not None:
            body, variable = statement.formula, statement.variable.text
            _check_formula(body, variable)
            return make_activation(name, lambda x: _formula(body, variable, x), lo, hi, **points)
        return make_activation(name, _values(statement, folder), lo, hi)
    except ActivationError as e:
        raise MistakeError(statement.span, str(e), "see 'activation' in docs/dsl.md") from None


def _values(statement: Activation, folder: Path) -> F64:
    if statement.values is not None:
        items = statement.values.items
        wrong = next((i for i in items if not isinstance(i, Number)), None)
        if wrong is not None:
            raise MistakeError(wrong.span, "a table is a list of numbers", "write e.g. 'table [0, 0.5, 1]'")
        return np.array([i.value for i in items if isinstance(i, Number)])
    assert statement.path is not None
    tensors = read_tensors(folder / statement.path, statement.span)
    member = statement.member if statement.member is not None else next(iter(tensors), "")
    if member not in tensors or (statement.member is None and len(tensors) != 1):
        raise MistakeError(
            statement.span,
            f"{statement.path!r} holds {len(tensors)} tensors; which one is the table?",
            f'write table("{statement.path}", "NAME") with one of {", ".join(sorted(tensors)[:8]) or "nothing"}',
        )
    return tensors[member].astype(np.float64)


def _check_formula(body: Expression, variable: str) -> None:
    """Every name in a formula must be its variable, a constant or a function: better known before it is computed."""
    match body:
        case Number():
            return
        case Name(text=text, span=span):
            if text != variable and text not in _CONSTANTS:
                hint = f"formulas know {variable}, pi, e, numbers and functions such as sigmoid({variable})"
                raise MistakeError(span, f"{text!r} is not known in this formula", hint)
        case Negation(operand=operand):
            _check_formula(operand, variable)
        case Binary(left=left, right=right):
            _check_formula(left, variable)
            _check_formula(right, variable)
        case Call(name=name, arguments=arguments, keywords=keywords, span=span):
            if name.text not in ("max", "min") and not known_function(name.text):
                hint = similar(name.text, NAMES).strip() or f"known: max, min, {', '.join(sorted(NAMES))}"
                raise MistakeError(name.span, f"there is no function {name.text!r}", hint)
            if not arguments or keywords:
                raise MistakeError(span, f"{name.text!r} is applied to a value", f"write {name.text}({variable})")
            for argument in arguments:
                _check_formula(argument, variable)
        case _:
            raise MistakeError(body.span, "this cannot stand in a formula", "use + - * / **, comparisons and functions")


def _formula(body: Expression, variable: str, x: F64) -> F64:
    match body:
        case Number(value=value):
            return np.full_like(x, value)
        case Name(text=text):
            return x if text == variable else np.full_like(x, _CONSTANTS[text])
        case Negation(operand=operand):
            return -_formula(operand, variable, x)
        case Binary(operator=operator, left=left, right=right):
            return _OPERATORS[operator](_formula(left, variable, x), _formula(right, variable, x))
        case Call(name=name, arguments=arguments, span=span):
            values = [_formula(a, variable, x) for a in arguments]
            if name.text in ("max", "min"):
                reduce = np.maximum if name.text == "max" else np.minimum
                return np.asarray(reduce.reduce(values))
            parameters = tuple(float(v[0]) for v in values[1:])
            return function(name, parameters, span)(values[0])
    raise AssertionError("checked before")
