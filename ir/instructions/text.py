"""Instructions as text: a head that names their family, then a line each.

For example ``{"scaled":{"target":2,"source":0,"factor":0.5}}``. The text is complete and exact:
``parse_code(code_text(code, family), family) == code``. It is written and read generically from the classes of a
family's module, so a new instruction or field needs nothing here. What is read has the right types, nothing more:
:mod:`.check` and the families' own checks say whether it can be executed.
"""

from __future__ import annotations

from types import ModuleType

from ..errors import IRSyntaxError
from ..typed_json import TypedJSON
from . import ckks, coefficients, gates, integers, slots
from .base import Code, Free, Instruction, Load, Store

VERSION = 2


class Family:
    """The instructions of one module, and those that all families have, by mnemonic."""

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        own = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Instruction) and c.method]
        classes: list[type[Instruction]] = [Load, *own, Store, Free]
        self.instructions: dict[str, type] = {c.__name__.lower(): c for c in classes}
        self.json = TypedJSON({Instruction: self.instructions}, brief=True)

    @property
    def head(self) -> str:
        """The first line of its texts."""
        return f"glyphc-code {VERSION} {self.name}"


COEFFICIENTS = Family("coefficients", coefficients)
SLOTS = Family("slots", slots)
INTEGERS = Family("integers", integers)
GATES = Family("gates", gates)
CKKS = Family("ckks", ckks)


def code_text(code: Code, family: Family) -> str:
    """Instructions as text; IRError for what has no text form (NaN, infinity), or is of another family."""
    return "\n".join([family.head, *(family.json.text(instruction, Instruction) for instruction in code)]) + "\n"


def parse_code(text: str, family: Family) -> Code:
    """The inverse of :func:`code_text`; IRSyntaxError, with the line, for any other text."""
    head, *lines = text.split("\n")
    if head != family.head or lines[-1:] != [""]:
        raise IRSyntaxError(f"line 1: instructions begin with {family.head!r} and end with a line end")
    code: list[Instruction] = []
    for number, line in enumerate(lines[:-1], start=2):
        try:
            code.append(family.json.read(line, Instruction))
        except IRSyntaxError as e:
            raise IRSyntaxError(f"line {number}: {e}") from None
    return tuple(code)
