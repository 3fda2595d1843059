"""How much memory reading and compiling a network may take: predicted from sizes alone, before it is taken.

A few bytes of a file can ask for any amount (a padding of 10^9, weights that are compressed zeros). Whoever is about
to make something whose size such a file decides says so first, with :func:`require`; nothing is measured.
"""

from __future__ import annotations

import os
import zlib
from math import prod

from .errors import IRError, TooLargeError

# Names another limit, in bytes or with a unit: 4GB, 512MB.
VARIABLE = "GLYPHC_MEMORY_LIMIT"
DEFAULT = 16 * 10**9
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "": 1}

# What an element of a tensor takes in all of compilation: some hundreds of calibration samples are kept in double
# precision, beside the places, weights and positions that passes work out for it.
ELEMENT_BYTES = 4096
# An entry of a dense map: as float and as integer, working copies of both, and its place and value in a polynomial.
MAP_ENTRY_BYTES = 7 * 8
# An entry of a sparse map: its weight, row and column, as it is made, stacked and stored.
SPARSE_ENTRY_BYTES = 3 * 24


def limit() -> int:
    """The limit in bytes: 16 GB, or what GLYPHC_MEMORY_LIMIT says; IRError when that is no size."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT
    upper = text.upper().replace(" ", "")
    unit = next(u for u in _UNITS if upper.endswith(u))
    try:
        found = float(upper[: len(upper) - len(unit)]) * _UNITS[unit]
        if not 0 < found < 2**63:
            raise ValueError
    except ValueError:
        raise IRError(f"{VARIABLE}={text!r} is no size; write bytes, or e.g. 8GB") from None
    return int(found)


def require(needed: int | float, what: str) -> None:
    """TooLargeError when ``what`` (a noun with the node's name) needs more bytes than the limit."""
    allowed = limit()
    if needed > allowed:
        raise TooLargeError(
            f"{what} needs about {_shown(needed)}, more than the memory limit of {_shown(allowed)}; use smaller "
            f"tensors, or raise the limit with the environment variable {VARIABLE}, e.g. {VARIABLE}={_raised(needed)}"
        )


def require_tensor(shape: tuple[int, ...], what: str) -> None:
    """TooLargeError when a tensor of one sample of this shape is too large to be compiled."""
    require(prod(shape) * ELEMENT_BYTES, f"{what}: a tensor of shape {list(shape)}")


def inflated(data: bytes, most: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """What was deflated, of which no more than ``most`` bytes are ever made; ValueError if there are more, or bytes
    behind. wbits: as of ``zlib.decompressobj``."""
    stream = zlib.decompressobj(wbits)
    try:
        # a limit of 0 would be none
        raw = stream.decompress(data, most + 1)
    except zlib.error as e:
        raise ValueError(str(e)) from None
    if len(raw) > most or not stream.eof or stream.unused_data:
        raise ValueError(f"it inflates to more than {most} bytes, or is damaged")
    return raw


def _shown(size: int | float) -> str:
    """Bytes in the largest unit, also where they are beyond all floats."""
    if size >= 10**15:
        return f"10^{len(str(int(size))) - 1} bytes"
    return f"{size / 1e9:.3g} GB" if size >= 10**9 else f"{size / 1e6:.3g} MB"


def _raised(size: int | float) -> str:
    return "..." if size >= 10**13 else f"{int(size * 1.25) // 10**9 + 1}GB"
