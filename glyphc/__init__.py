"""glyphc compiles neural networks to programs that a server runs on encrypted data.

>>> import glyphc
>>> program = glyphc.compile("model.onnx", calibration=x_train, batch=512)   # doctest: +SKIP
>>> y = program.run(x_test)                                                  # doctest: +SKIP

Importing the package is cheap: OpenFHE, onnx and numba are loaded when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Client",
    "GlyphcError",
    "Program",
    "__version__",
    "activations",
    "compile",
    "load",
    "register_activation",
    "unregister_activation",
]

if TYPE_CHECKING:
    from .compiler import compile
    from .errors import GlyphcError
    from .frontends.custom_activations import activations, register_activation, unregister_activation
    from .program import Program
    from .service.client import Client

    load = Program.load


def __getattr__(name: str) -> Any:
    if name == "compile":
        from .compiler import compile

        return compile
    if name == "GlyphcError":
        from .errors import GlyphcError

        return GlyphcError
    if name == "Client":
        from .service.client import Client

        return Client
    if name in ("Program", "load"):
        from .program import Program

        return Program if name == "Program" else Program.load
    if name in ("activations", "register_activation", "unregister_activation"):
        from .frontends import custom_activations

        return getattr(custom_activations, name)
    raise AttributeError(f"module 'glyphc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
