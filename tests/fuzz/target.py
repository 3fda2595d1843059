"""What a fuzzer is made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from glyphc.errors import GlyphcError

from .mutate import integer, real

Reached = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """weight: inputs in a thousand of a run's, or about. slow: an input takes tens of milliseconds and more."""

    name: str
    make: Callable[[Random], bytes]
    feed: Callable[[bytes, Path, Reached], None]
    weight: float
    slow: bool = False
    refusals: tuple[type[Exception], ...] = (GlyphcError,)


def json_value(random: Random) -> Any:
    """One that does not belong where it is put."""
    return random.choice(
        (
            *(None, True, "", "x" * 300, [], {}, [[]], [None], {"a": 1}, integer(random), real(random)),
            *([integer(random)] * 2, [["a", integer(random)]], [["STATE", 1], ["STATE", 2]]),
        )
    )


def random_of(data: bytes) -> Random:
    """What is drawn while an input is read follows from the input, so that it can be read again."""
    return Random(zlib.crc32(data))
