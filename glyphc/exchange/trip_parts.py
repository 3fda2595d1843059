"""What the parts of questions and answers are called."""

from __future__ import annotations


def part_name(number: int) -> str:
    """Of one ciphertext, in the order of the request."""
    return f"{number:05d}"
