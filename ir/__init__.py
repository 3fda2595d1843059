"""The dataflow IR of glyphc: types, ops, graphs, text form, verifier, reference evaluator, instructions.

This package knows no file format, no backend and nothing of cryptography libraries. Its import name is
``glyphc.ir``; the folder stands at the top level of the source tree (see the link ``glyphc/ir``).
"""

if __name__ != "glyphc.ir":
    raise ImportError(f"this package is 'glyphc.ir'; importing it as {__name__!r} would make a second copy")
