"""Errors of backends."""

from __future__ import annotations


class BackendError(Exception):
    """A backend cannot do what it was asked; the message says why and what to do."""
