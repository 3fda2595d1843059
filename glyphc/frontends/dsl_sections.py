"""Writes the sections of a ``.glyph`` file that are about no value in particular: ``quantize`` and ``training``."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from typing import Any

from .dsl_expressions import WORDS
from .dsl_network import QuantizationHints
from .dsl_parse import KEYWORDS
from .dsl_training import Constant, Training

_PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def hint_lines(hints: QuantizationHints) -> list[str]:
    """The section ``quantize``; no lines if it says nothing."""
    options = [f for f in fields(hints) if f.name != "nodes" and getattr(hints, f.name) is not None]
    lines = [f"{f.name} = {number(float(getattr(hints, f.name)))}" for f in options]
    lines += [f"{identifier(p.node)}: {p.bits} bits" for p in hints.nodes]
    return ["quantize {", *(f"  {line}" for line in lines), "}"] if lines else []


def training_lines(training: Training | None) -> list[str]:
    """The section ``training``; no lines if there is none."""
    if training is None:
        return []
    lines = [
        f"loss {training.loss.name}({identifier(training.loss.value)})",
        f"optimizer {_record(training.optimizer)}",
    ]
    if not isinstance(training.schedule, Constant):
        lines.append(f"schedule {_record(training.schedule)}")
    if training.epochs is not None:
        lines.append(f"epochs {training.epochs}")
    if training.frozen:
        lines.append(f"freeze {', '.join(map(identifier, training.frozen))}")
    return ["training {", *(f"  {line}" for line in lines), "}"]


def _record(record: Any) -> str:
    """An optimizer or schedule as the call that makes it, without what is so by default."""
    said = [f for f in fields(record) if f.default is MISSING or getattr(record, f.name) != f.default]
    return f"{record.keyword}({', '.join(f'{f.name}={_plain(getattr(record, f.name))}' for f in said)})"


def _plain(value: bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else number(float(value))


def number(value: float) -> str:
    """So that it reads as the same number; whole ones without a point."""
    negative_zero = value == 0 and str(value).startswith("-")
    if value.is_integer() and abs(value) < 1e15 and not negative_zero:
        return str(int(value))
    return repr(float(value))


def quoted(text: str) -> str:
    return json.dumps(text)


def identifier(name: str) -> str:
    """A name as the language has it, between backticks where it must be."""
    if _PLAIN.fullmatch(name) and name not in KEYWORDS | WORDS:
        return name
    return "`" + json.dumps(name)[1:-1].replace("`", "\\u0060") + "`"
