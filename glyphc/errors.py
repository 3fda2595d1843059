"""Errors that a user can cause. Each message is one paragraph: what is wrong, where, and what to do.

Anything else that escapes is a bug of glyphc and keeps its traceback.
"""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """The message of somebody else's exception, to be quoted within a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class GlyphcError(Exception):
    """Base of all user errors; the command line prints the message and exits with ``exit_code``."""

    exit_code = 2


class ModelError(GlyphcError):
    """The network cannot be read or compiled: not an ONNX file, unsupported ops, inconsistent shapes."""


class CalibrationError(GlyphcError):
    """The calibration samples are missing or unusable."""


class DataError(GlyphcError):
    """Input data that does not fit the program: shape, dtype, NaN, outside the calibrated range."""


class ActivationError(GlyphcError):
    """An activation of the user's own that cannot be registered: its name, its interval or what it computes."""


class ParameterError(GlyphcError):
    """No secure parameters exist for the program, or a validator refuses the chosen ones. Names the node."""


class ArtifactError(GlyphcError):
    """A file that is not a readable .glyphc artifact of this version."""


class CheckpointError(ArtifactError):
    """A checkpoint that cannot be gone on with."""


class SecretError(GlyphcError):
    """A secret key that cannot be opened: no passphrase, or the wrong one."""


class EnvironmentSetupError(GlyphcError):
    """The installation lacks something, e.g. an OpenFHE build for this Python."""


class OverrunWarning(UserWarning):
    """Hidden values left the ranges that a program was made for: results of these samples are not to be relied on."""
