"""Blocks of four by four numbers, transposed in registers: of loops over single numbers LLVM makes no vectors."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_VECTOR = ir.VectorType(ir.DoubleType(), 4)


def _transpose_four(context: Any, x: Any, at: Any, apart: Any, out: Any, to: Any, out_apart: Any) -> Any:
    """out[to + k*out_apart + i] = x[at + i*apart + k] for i, k < 4, of contiguous arrays read and written as vectors
    without regard to their shape."""
    for array in (x, out):
        if not isinstance(array, types.Array) or array.layout != "C" or array.dtype != types.float64:
            return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def places(number: int) -> list[Any]:
            kind, array = signature.args[number], arguments[number]
            first, step = arguments[number + 1 : number + 3]
            data = context.make_array(kind)(context, builder, array).data
            steps = (builder.mul(step, ir.Constant(step.type, k)) for k in range(4))
            return [builder.bitcast(builder.gep(data, [builder.add(first, s)]), _VECTOR.as_pointer()) for s in steps]

        def mixed(a: Any, b: Any, *order: int) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 4), list(order)))

        a, b, c, d = (builder.load(place, align=8) for place in places(0))
        ab, cd = mixed(a, b, 0, 4, 2, 6), mixed(c, d, 0, 4, 2, 6)
        odd_ab, odd_cd = mixed(a, b, 1, 5, 3, 7), mixed(c, d, 1, 5, 3, 7)
        turned = [mixed(ab, cd, 0, 1, 4, 5), mixed(odd_ab, odd_cd, 0, 1, 4, 5)]
        turned += [mixed(ab, cd, 2, 3, 6, 7), mixed(odd_ab, odd_cd, 2, 3, 6, 7)]
        for vector, place in zip(turned, places(3), strict=True):
            builder.store(vector, place, align=8)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, out, types.int64, types.int64), generate


transpose_four: Any = intrinsic(_transpose_four)
