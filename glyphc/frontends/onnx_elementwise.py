"""ONNX operators that work element by element, on tensors of the network and on constants that broadcast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from glyphc.ir import memory
from glyphc.ir.functions import Function
from glyphc.ir.graph import Node
from glyphc.ir.ops import Add, Apply, Div, Gather, Max, Min, Mul, Op, ReduceMax, ReduceSum, Reshape, Softmax, Sub

from .onnx_call import Call, Placed, Rule, places
from .onnx_constants import FLOATS, INTEGERS, Named, UnsupportedError, type_name
from .onnx_functions import FUNCTIONS, Build
from .onnx_masks import masked_choice, masked_sum
from .onnx_shapes import moved

_EXPONENTIALS = ((Function("exp"),), (Function("exp_nonpositive"),))


def _identity(call: Call) -> Node:
    return call.tensor(0)


def _apply(build: Build) -> Callable[[Call], Node]:
    return lambda call: call.add(Apply((build(call),)), call.tensor(0))


def _unshaped(call: Call, x: Node) -> Node:
    """What a value is but for its shape."""
    while isinstance(x.op, Reshape):
        (x,) = call.conversion.graph.operands(x)
    return x


def _less_maximum(call: Call, x: Node) -> bool:
    """Whether a value is a tensor less its own maximum, as softmaxes are written out: then no element is positive."""
    graph = call.conversion.graph
    if not isinstance(x.op, Sub):
        return False
    a, b = graph.operands(x)
    while isinstance(b.op, Reshape | Gather):
        (b,) = graph.operands(b)
    if not isinstance(b.op, ReduceMax):
        return False
    (of,) = graph.operands(b)
    while isinstance(of.op, Reshape | Gather):
        (of,) = graph.operands(of)
    while isinstance(a.op, Reshape | Gather):
        (a,) = graph.operands(a)
    return a.id == of.id


def _shares(call: Call, part: Node, whole: Node) -> Node | None:
    """exp(z) over its sum along the last axis, which is a softmax written out; None for other quotients."""
    graph, shape = call.conversion.graph, part.type.shape
    exponential, total = _unshaped(call, part), _unshaped(call, whole)
    if not isinstance(exponential.op, Apply) or exponential.op.functions not in _EXPONENTIALS:
        return None
    if not isinstance(total.op, ReduceSum) or not shape or whole.type.shape != (*shape[:-1], 1):
        return None
    (summed,) = graph.operands(total)
    if summed.type.shape[-1] != shape[-1] or _unshaped(call, summed).id != exponential.id:
        return None
    (z,) = graph.operands(exponential)
    if _less_maximum(call, z) and graph.operands(z)[1].type.shape == whole.type.shape:
        z = graph.operands(z)[0]  # it cancels out
    return call.add(Softmax(), call.reshape(z, shape))


def _exp(call: Call) -> Node:
    """Of a logarithm of shares: the shares."""
    x = call.tensor(0)
    shares = _unshaped(call, x)
    if isinstance(shares.op, Softmax) and shares.op.log:
        (scores,) = call.conversion.graph.operands(shares)
        return call.reshape(call.add(Softmax(), scores), x.type.shape)
    return call.apply(x, "exp_nonpositive" if _less_maximum(call, x) else "exp")


def _neg(call: Call) -> Node:
    return call.scale(call.tensor(0), -1.0, 0.0)


# -- with constants, or two tensors of the network --


def _both_encrypted(call: Call) -> bool:
    return not call.is_constant(0) and not call.is_constant(1)


def with_constant(call: Call, first: int = 0, second: int = 1) -> tuple[Node, Named, bool]:
    """The tensor of two operands, the constant per sample, and whether the constant comes first.

    Where the constant makes the result larger than the tensor, the tensor is repeated.
    """
    constant_first = call.is_constant(first)
    x = call.tensor(second if constant_first else first)
    return (*broadcast(call, x, call.constant(first if constant_first else second, "operand")), constant_first)


def broadcast(call: Call, x: Node, constant: Named) -> tuple[Node, Named]:
    """A tensor repeated as a constant's shape demands, and that constant without batch axis."""
    c = constant.per_sample(x.type.shape) if call.lead else constant
    try:
        shape = np.broadcast_shapes(c.value.shape, x.type.shape)
    except ValueError:
        raise UnsupportedError(f"{c} does not broadcast to samples of shape {list(x.type.shape)}") from None
    if shape != x.type.shape:
        memory.require_tensor(shape, "its result")
        x = call.gather(x, np.broadcast_to(places(x), shape))
    return x, c


def _add(call: Call) -> Node:
    if _both_encrypted(call):
        return call.pair(Add(), call.tensor(0), call.tensor(1))
    masked = masked_sum(call)
    if masked is not None:
        return masked
    x, c, _ = with_constant(call)
    return call.scale(x, 1.0, c)


def _sub(call: Call) -> Node:
    if _both_encrypted(call):
        a, b = call.tensor(0), call.tensor(1)
        if b.type.size == 1 and call.conversion.log_sums.get(_unshaped(call, b).id) == _unshaped(call, a).id:
            # x - log sum exp(x): its exponential is a softmax, which needs no function of so wide a range
            return call.reshape(call.add(Softmax(log=True), call.reshape(a, (a.type.size,))), a.type.shape)
        return call.pair(Sub(), a, b)
    x, c, constant_first = with_constant(call)
    return call.scale(x, -1.0, c) if constant_first else call.scale(x, 1.0, Named(c.name, -c.value))


def _mul(call: Call) -> Node:
    if _both_encrypted(call):
        return call.pair(Mul(), call.tensor(0), call.tensor(1))
    x, c, _ = with_constant(call)
    return call.scale(x, c, 0.0)


def _div(call: Call) -> Node:
    if call.kind(0) in INTEGERS:
        return _quotient(call)
    if _both_encrypted(call):
        if call.node.input[0] == call.node.input[1]:  # how exporters make ones
            return call.scale(call.tensor(0), 0.0, 1.0)
        shares = _shares(call, call.tensor(0), call.tensor(1))
        if shares is not None:
            return shares
        return call.pair(Div(), call.tensor(0), call.tensor(1))
    x, c, constant_first = with_constant(call)
    if constant_first:
        return call.scale(call.apply(x, "reciprocal"), c, 0.0)
    if not c.value.all():
        raise UnsupportedError(f"divides by constant {c.name!r}, which holds a zero")
    return call.scale(x, Named(c.name, 1.0 / c.value), 0.0)


def _quotient(call: Call) -> Node:
    """Of integers, which is cut off towards zero: by a constant, it jumps between them."""
    if call.is_constant(0) or not call.is_constant(1):
        raise UnsupportedError("divides by encrypted integers, and cuts the results off; cast to float before")
    x, c, _ = with_constant(call)
    return _with_parameter(call, x, c, lambda v: (Function("quotient", (v,)),))


# Of more different parameters, every one a function (and a bootstrap) of its own.
_MOST_PARAMETERS = 16


def _with_parameter(call: Call, x: Node, constant: Named, functions: Callable[[float], tuple[Function, ...]]) -> Node:
    """A function with a parameter of every element: one function for each different number."""
    parameters = np.broadcast_to(constant.value, x.type.shape)
    different = np.unique(parameters)
    if len(different) > _MOST_PARAMETERS:
        raise UnsupportedError(f"{constant} holds {len(different)} different numbers; {_MOST_PARAMETERS} are possible")
    if len(different) == 1:
        return call.add(Apply(functions(float(different[0]))), x)
    chosen = [np.nonzero(parameters.reshape(-1) == v)[0] for v in different]
    parts = [call.add(Apply(functions(float(v))), call.gather(x, at)) for v, at in zip(different, chosen, strict=True)]
    return call.gather(call.stack(parts), np.argsort(np.concatenate(chosen)).reshape(x.type.shape))


def _pow(call: Call) -> Node:
    """Of a constant exponent: one function; of a positive base: exp(exponent * log(base))."""
    if _both_encrypted(call):
        logarithm = call.apply(call.tensor(0), "log")
        return call.apply(call.pair(Mul(), call.tensor(1), logarithm), "exp")
    x, c, constant_first = with_constant(call)
    if constant_first:
        if not (c.value > 0).all():
            raise UnsupportedError(f"constant {c.name!r}, the base, is not positive")
        return call.apply(call.scale(x, Named(c.name, np.log(c.value)), 0.0), "exp")
    if len(np.unique(c.value)) > _MOST_PARAMETERS:
        return call.apply(call.scale(call.apply(x, "log"), c, 0.0), "exp")
    return _with_parameter(call, x, c, lambda v: (Function("pow", (v,)),))


def _mod(call: Call) -> Node:
    """The rest of a division by a constant: with the constant's sign, or with fmod, that of x."""
    if _both_encrypted(call) or call.is_constant(0):
        raise UnsupportedError("its divisor is computed by the network; it must be a constant")
    x, c, _ = with_constant(call)
    if not c.value.all():
        raise UnsupportedError(f"divides by constant {c.name!r}, which holds a zero")
    # of integers it must jump between them, not where they are
    before = (Function("round", (1.0,)),) if call.kind(0) in INTEGERS else ()
    name = "fmod" if call.integer("fmod", 0) else "mod"
    return _with_parameter(call, x, c, lambda v: (*before, Function(name, (v,))))


def _extremum(op: Max | Min) -> Callable[[Call], Node]:
    """Of any number of tensors and constants: max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x)."""
    sign = 1.0 if isinstance(op, Max) else -1.0

    def convert(call: Call) -> Node:
        x, constants = _combined(call, op)
        for constant in constants:
            x, c = broadcast(call, x, constant)
            above = call.scale(x, sign, Named(c.name, -sign * c.value))
            x = call.scale(call.apply(above, "relu"), sign, c)
        return x

    return convert


def _sum(call: Call) -> Node:
    x, constants = _combined(call, Add())
    for constant in constants:
        x, c = broadcast(call, x, constant)
        x = call.scale(x, 1.0, c)
    return x


def _mean(call: Call) -> Node:
    return call.scale(_sum(call), 1 / len(call.node.input), 0.0)


def _combined(call: Call, op: Op) -> tuple[Node, list[Named]]:
    """All tensors of the network among the operands in one, and the constants."""
    positions = range(len(call.node.input))
    tensors = [call.tensor(i) for i in positions if not call.is_constant(i)]
    x = tensors[0]
    for other in tensors[1:]:
        x = call.pair(op, x, other)
    return x, [call.constant(i, "operand") for i in positions if call.is_constant(i)]


def _prelu(call: Call) -> Node:
    """One slope: a univariate function. A slope per channel: s x + (1 - s) relu(x)."""
    x, slope = broadcast(call, call.tensor(0), call.constant(1, "slope"))
    if slope.value.size and np.all(slope.value == slope.value.flat[0]):
        return call.apply(x, "leaky_relu", float(slope.value.flat[0]))
    positive = call.scale(call.apply(x, "relu"), Named(f"{slope.name}.rest", 1.0 - slope.value), 0.0)
    return call.add(Add(), call.scale(x, slope, 0.0), positive)


# -- comparisons and logic: truth values are 0 and 1 --


def _comparison(name: str, negated: bool = False) -> Callable[[Call], Node]:
    """x > y or x < y as 1 or 0 by the sign of the difference; negated for <= and >=."""

    def convert(call: Call) -> Node:
        # of integers: between the difference 0 and the next one
        middle = 0.0 if call.kind(0) not in INTEGERS else 0.5 if name == "greater" else -0.5
        truth = call.apply(_sub(call), name, middle)
        return call.scale(truth, -1.0, 1.0) if negated else truth

    return convert


def _equal(call: Call) -> Node:
    """Of integers and truth values, which differ by 1 at least if they differ."""
    if call.kind(0) not in INTEGERS:
        raise UnsupportedError("compares real numbers for equality, which approximate results cannot tell; use Less")
    return call.apply(_sub(call), "near_zero")


def _not(call: Call) -> Node:
    return call.scale(call.tensor(0), -1.0, 1.0)


def _logic(least: float) -> Callable[[Call], Node]:
    """Whether so many of two operands are true."""

    def convert(call: Call) -> Node:
        return call.apply(_add(call), "greater", least - 0.5)

    return convert


def _xor(call: Call) -> Node:
    return call.apply(_sub(call), "abs")


def _where(call: Call) -> Node | tuple[Placed, ...]:
    """Of a constant condition: a choice of elements. Of an encrypted one c, which is 0 or 1: y + c (x - y)."""
    masked = masked_choice(call)
    if masked is not None:
        return masked
    if call.is_constant(0):
        return moved(call, (1, 2))
    condition = call.tensor(0)
    constant = [call.is_constant(i) for i in (1, 2)]
    if all(constant):
        chosen, other = (call.constant(i, "operand") for i in (1, 2))
        condition, factor = broadcast(call, condition, Named(f"{call.location}.difference", chosen.value - other.value))
        return call.scale(condition, factor, other.per_sample(condition.type.shape) if call.lead else other)
    if any(constant):
        # (c of the tensor's branch) * (tensor - constant) + constant
        at, fixed = (2, 1) if constant[0] else (1, 2)
        x, c = broadcast(call, call.tensor(at), call.constant(fixed, "operand"))
        mask = condition if at == 1 else call.scale(condition, -1.0, 1.0)
        return call.scale(call.pair(Mul(), mask, call.scale(x, 1.0, Named(c.name, -c.value))), 1.0, c)
    x, y = call.tensor(1), call.tensor(2)
    return call.pair(Add(), call.pair(Mul(), condition, call.pair(Sub(), x, y)), y)


# -- types --


def _dropout(call: Call) -> Node:
    if call.has(2) and any(call.integers(2, "training_mode")):
        raise UnsupportedError("drops values at random (training mode); export it for inference")
    return call.tensor(0)


def _cast(call: Call) -> Node:
    return _cast_to(call, call.integer("to", TensorProto.UNDEFINED))


def _cast_like(call: Call) -> Node | tuple[Node, ...]:
    target = call.kind(1)
    if target is None:
        raise UnsupportedError("the type of its second operand is unknown")
    if call.is_constant(0):
        call.conversion.constants.fold(helper.make_node("Cast", call.node.input[:1], call.node.output, to=target))
        return ()
    return _cast_to(call, target)


def _cast_to(call: Call, target: int) -> Node:
    """To floats, and between integers: nothing. To integers: towards zero. To truth values: of integers only."""
    x, source = call.tensor(0), call.kind(0) or TensorProto.FLOAT
    if call.node.input[0] in call.conversion.labels:
        # the value is an index of labels, which are whole numbers: cutting it off would only lose it to noise
        if target == TensorProto.BOOL:
            raise UnsupportedError("casts labels of classes to truth values, which has no encrypted counterpart")
        return x
    if source == TensorProto.BOOL or (target in FLOATS and source in FLOATS | INTEGERS):
        return x
    if target in INTEGERS and target != TensorProto.BOOL:
        if source in INTEGERS:
            return x
        if source in FLOATS:
            return call.apply(x, "trunc")
    if target == TensorProto.BOOL and source in INTEGERS:
        return call.scale(call.apply(x, "near_zero"), -1.0, 1.0)
    names = [type_name(k) for k in (source, target)]
    raise UnsupportedError(f"casts {names[0]} to {names[1]}, which has no encrypted counterpart")


RULES: dict[str, Rule] = {
    **{name: Rule(_apply(build), attributes) for name, (build, attributes) in FUNCTIONS.items()},
    "Add": Rule(_add),
    "And": Rule(_logic(2)),
    "Cast": Rule(_cast, ("to", "saturate", "round_mode")),  # the latter two concern float8 only
    "CastLike": Rule(_cast_like, ("saturate", "round_mode")),
    "Div": Rule(_div),
    "Dropout": Rule(_dropout, ("seed",)),
    "Equal": Rule(_equal),
    "Exp": Rule(_exp),
    "Greater": Rule(_comparison("greater")),
    "GreaterOrEqual": Rule(_comparison("less", negated=True)),
    "Identity": Rule(_identity),
    "Less": Rule(_comparison("less")),
    "LessOrEqual": Rule(_comparison("greater", negated=True)),
    "Max": Rule(_extremum(Max())),
    "Mean": Rule(_mean),
    "Min": Rule(_extremum(Min())),
    "Mod": Rule(_mod, ("fmod",)),
    "Mul": Rule(_mul),
    "Neg": Rule(_neg),
    "Not": Rule(_not),
    "Or": Rule(_logic(1)),
    "PRelu": Rule(_prelu),
    "Pow": Rule(_pow),
    "Sub": Rule(_sub),
    "Sum": Rule(_sum),
    "Where": Rule(_where),
    "Xor": Rule(_xor),
}
