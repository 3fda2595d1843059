"""Mutators of bytes and of texts: small changes, so that much of a file is read before they matter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

# Where readers break: ends of integer types, what numpy takes for a size, powers of two beyond the memory.
INTEGERS = (0, 1, -1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 100, 255, 256, 1000, 1024, 4096, 65535, 65536, 10**6, 1 << 20)
LARGE = ((1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 32, 10**9, 10**11, (1 << 62), (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, 1e-30, 1e-300, 1e3, 1e15, 1e16, 1e30, 3e38, 1e300, -1e300)
ODD = (float("nan"), float("inf"), float("-inf"))
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z_]\w*")


def integer(random: Random) -> int:
    """Mostly a small one."""
    return random.choice(LARGE if random.random() < 0.15 else INTEGERS)


def real(random: Random) -> float:
    if random.random() < 0.3:
        return random.uniform(-3, 3)
    return random.choice(ODD if random.random() < 0.1 else FLOATS)


def mutated_bytes(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to a few changes anywhere."""
    out = bytearray(data)
    for _ in range(1 << random.randrange(4)):
        at = random.randrange(len(out) + 1)
        match random.randrange(8):
            case 0 if out:
                out[at % len(out)] ^= 1 << random.randrange(8)
            case 1 if out:
                out[at % len(out)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            case 2:
                out[at:at] = random.randbytes(random.randrange(1, 9))
            case 3:
                del out[at : at + random.randrange(1, 33)]
            case 4:
                out[at:at] = out[at : at + random.randrange(1, 65)]
            case 5:
                width = random.choice((2, 4, 8))
                out[at : at + width] = (integer(random) % (1 << 8 * width)).to_bytes(width, "little")
            case 6 if others:
                other = random.choice(others)
                start = random.randrange(len(other) + 1)
                out[at:at] = other[start : start + random.randrange(1, 129)]
            case _:
                if random.random() < 0.2:
                    del out[at:]
    return bytes(out)


def mutated_text(random: Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """One to a few changes that leave most of the syntax alone: numbers, words, and pieces moved about."""
    for _ in range(1 << random.randrange(3)):
        match random.randrange(7):
            case 0 | 1 | 2:
                data = _replaced(random, data, _NUMBER, _number(random))
            case 3:
                found = words or [m[0] for m in _WORD.finditer(data)] or [b"x"]
                data = _replaced(random, data, _WORD, random.choice(found))
            case 4:
                lines = data.split(b"\n")
                a, b = random.randrange(len(lines)), random.randrange(len(lines))
                lines[a] = lines[b] if random.random() < 0.5 else b""
                data = b"\n".join(lines)
            case 5:
                at = random.randrange(len(data) + 1)
                data = data[:at] + random.choice((b"(", b")", b"[", b"]", b",", b'"', b"{", b"}", b":")) + data[at:]
            case _:
                data = mutated_bytes(random, data)
    return data


def _number(random: Random) -> bytes:
    return str(integer(random) if random.random() < 0.7 else real(random)).encode()


def _replaced(random: Random, data: bytes, pattern: re.Pattern[bytes], by: bytes) -> bytes:
    """One match of the pattern, near a random place, replaced."""
    match = pattern.search(data, random.randrange(len(data) + 1))
    return data if match is None else data[: match.start()] + by + data[match.end() :]
