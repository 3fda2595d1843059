"""Instructions as a part of a container: their text, compressed, known by its SHA-256.

The programs of inference and of training are files of one form: an outline that names everything else by its hash,
and parts of instructions. A program's fingerprint is a hash of its outline, so it says which instructions there are.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

from glyphc.ir import memory
from glyphc.ir.errors import IRError
from glyphc.ir.instructions import Code
from glyphc.ir.instructions.text import Family, code_text, parse_code
from glyphc.storage.container import Reader

# Of one part as text: some 20 times what the largest programs have.
MOST_BYTES = 256 << 20
# What is read from a byte of it: objects, and the lines that they come from.
_READ_BYTES = 10


def code_part(number: int) -> str:
    """Name of the part with this number."""
    return f"code/{number:06d}"


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def packed(data: bytes) -> bytes:
    """As it is in the file."""
    return zlib.compress(data, 6)


def encoded(code: Code, family: Family) -> bytes:
    """The text that is hashed."""
    return code_text(code, family).encode()


def read_code(reader: Reader[Any], number: int, digest: str, family: Family) -> Code:
    """Instructions of a part; one of ``CODE_FAULTS`` when they are not those of this digest.

    The size of the text is bounded before it is inflated, and what is read from it before it is read.
    """
    text = memory.inflated(reader.read(code_part(number)), MOST_BYTES)
    if sha256(text) != digest:
        raise IRError("it is not the code that the outline names")
    memory.require(len(text) * _READ_BYTES, f"{reader.name}: its instructions, {len(text):,} bytes of text,")
    return parse_code(text.decode(), family)


# What reading, parsing and checking raise.
CODE_FAULTS = (IRError, ValueError)
