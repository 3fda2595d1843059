"""Errors of the IR: inconsistent graphs and unreadable text. They are bugs of whoever made the graph."""

from __future__ import annotations


class IRError(Exception):
    """A graph, type or layout that breaks a rule of the IR. The message names the node."""


class IRSyntaxError(IRError):
    """Text that is not the IR's text form. The message names line and column and shows the text."""
