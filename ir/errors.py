"""Errors of the IR: inconsistent graphs and unreadable text. They are bugs of whoever made the graph."""

from __future__ import annotations


class IRError(Exception):
    """A graph, type or layout that breaks a rule of the IR. The message names the node."""


class IRSyntaxError(IRError):
    """Text that is not the IR's text form. The message names line and column and shows the text."""


class TooLargeError(IRError):
    """What would take more memory than is allowed, found before it is made. The message says what and how much."""


# What a reader of foreign data runs into when numbers in it are out of place or do not fit one another: an index or a
# key that is not there, a division by zero, an overflow, shapes that numpy refuses. Readers turn these, and no others,
# into errors about the file; a TypeError, an AttributeError or a failed assertion is a bug of ours and stays one.
FILE_FAULTS = (ArithmeticError, LookupError, ValueError, MemoryError)
