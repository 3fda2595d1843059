"""The error of training: what cannot be trained, or would not converge, and what to do about it."""

from __future__ import annotations

from glyphc.errors import GlyphcError


class TrainingError(GlyphcError):
    """A network, loss, optimizer or data that cannot be trained as asked. Names the node or option."""
