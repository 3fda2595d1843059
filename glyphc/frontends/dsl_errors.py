"""Mistakes in a ``.glyph`` text: where, the guilty words underlined, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from glyphc.errors import ModelError

from .dsl_ast import Source, Span


class DslError(ModelError):
    """A mistake in a ``.glyph`` file. The message is ``file:line:column: what``, the line, a hint."""


class MistakeError(Exception):
    """A mistake and its place; becomes a DslError where the text is at hand."""

    def __init__(self, span: Span, what: str, hint: str) -> None:
        super().__init__(what)
        self.span, self.what, self.hint = span, what, hint

    def shown(self, source: Source) -> DslError:
        return DslError(render(source, self.span, self.what, self.hint))


# Of longer lines, a part around the mistake is shown.
_WIDTH = 140


def render(source: Source, span: Span, what: str, hint: str) -> str:
    """The whole message; of a mistake that spans lines, the first line is shown."""
    lines = source.text.splitlines() or [""]
    line = lines[min(span.line, len(lines)) - 1]
    end = span.end_column if span.end_line == span.line else len(line) + 1
    start = max(0, span.column - 1 - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown, column = line[start : start + _WIDTH], span.column - 1 - start
    end = min(end - start, len(shown) + 2)
    number = str(span.line)
    margin = " " * len(number)
    # tabs stay tabs, so that the underline stands below the words in every editor
    before = "".join(c if c == "\t" else " " for c in shown[:column])
    underline = "^" * max(1, end - 1 - column)
    return (
        f"{source.label}:{span.line}:{span.column}: {what}\n"
        f"  {number} | {shown}\n"
        f"  {margin} | {before}{underline}\n"
        f"  hint: {hint}"
    )


def similar(word: str, known: Iterable[str]) -> str:
    """``did you mean 'dense'? `` or nothing; to be followed by the list of what is known."""
    close = get_close_matches(word, list(known), 1, 0.6) or get_close_matches(word.lower(), list(known), 1, 0.6)
    return f"did you mean {close[0]!r}? " if close else ""
