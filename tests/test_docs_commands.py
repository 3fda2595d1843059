"""Every command that the documentation shows is one: its options and arguments are read as the command line does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from glyphc.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*(p for p in sorted(ROOT.glob("*.md")) if p.name != "CHANGELOG.md"), *sorted((ROOT / "docs").glob("*.md"))]
# A line of a code block that begins with the command, and short ones between backquotes.
_LINES = re.compile(r"^(?: {4,}|\$ )?(glyphc [a-z].*)$")
_INLINE = re.compile(r"`(glyphc [a-z][^`]*)`")


def commands(page: Path) -> list[str]:
    """What a page shows; prose that begins with the product's name is not indented."""
    found, fenced = [], False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        match = _LINES.match(line)
        if match and (fenced or line[0] in " $"):
            found.append(match[1])
        else:
            found.extend(_INLINE.findall(line))
    return found


def whole(text: str) -> list[str] | None:
    """Its words without the comment at the end; None where it is an outline: '...', or commands side by side."""
    words = shlex.split(text.partition(" > ")[0], comments=True)
    return None if any("..." in w or w.endswith(",") or "|" in w for w in words) else words[1:]


def read(words: list[str]) -> click.Context:
    """As the command line reads them, down to the last subcommand; click.UsageError where it would not."""
    context = main.make_context("glyphc", list(words), resilient_parsing=False)
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, context._protected_args + context.args)
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_are_read(page: Path) -> None:
    wrong = []
    for text in commands(page):
        words = whole(text)
        # 'glyphc serve' in prose names a command; with options or files it is a call
        if words is None or (len(words) == 1 and words[0] in main.commands):
            continue
        if (
            len(words) == 2
            and words[0] in main.commands
            and words[1] in getattr(main.commands[words[0]], "commands", {})
        ):
            continue
        try:
            read(words)
        except click.exceptions.Exit:
            pass
        except click.UsageError as e:
            # what a sentence leaves out is not wrong, what it adds is
            if not isinstance(e, (click.MissingParameter, click.BadOptionUsage)):
                wrong.append(f"{text}: {e.format_message()}")
    assert wrong == []


def test_most_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 60
