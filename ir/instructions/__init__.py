"""Instructions on numbered ciphertexts, the contract between the compiler and the engines, in families.

``base``: what all have in common. ``coefficients``: inference, in BGV and on the torus. ``slots``: inference on numbers
in slots. ``integers``: on exact ones. ``gates``: on single bits. ``ckks``: training. ``text`` writes and reads them,
``check`` says whether a whole program can be executed.
"""

from .base import NO_NODE, Code, Free, Instruction, Kind, Load, Register, Store, check_flow, with_frees
from .coefficients import (
    ConjugateDot,
    Conjugates,
    Divide,
    Dot,
    DotProduct,
    EncryptedDot,
    Evaluate,
    FromTorus,
    Powers,
    Split,
    ToTorus,
    TransientDot,
    masks_of,
    weighted,
)
from .gates import ConstantBit, Gate, GateKind, Opposite
from .integers import ClientRequest, IntegerBlocks, IntegerDot, IntegerProduct, IntegerTotal, requests_of
from .program import ClientSpec, EncryptedMap, Polynomials, Port, Schedule
from .slots import Drop, SlotDot, SlotProduct

__all__ = [
    "NO_NODE",
    "ClientRequest",
    "ClientSpec",
    "Code",
    "ConjugateDot",
    "Conjugates",
    "ConstantBit",
    "Divide",
    "Dot",
    "DotProduct",
    "Drop",
    "EncryptedDot",
    "EncryptedMap",
    "Evaluate",
    "Free",
    "FromTorus",
    "Gate",
    "GateKind",
    "Instruction",
    "IntegerBlocks",
    "IntegerDot",
    "IntegerProduct",
    "IntegerTotal",
    "Kind",
    "Load",
    "Opposite",
    "Polynomials",
    "Port",
    "Powers",
    "Register",
    "Schedule",
    "SlotDot",
    "SlotProduct",
    "Split",
    "Store",
    "ToTorus",
    "TransientDot",
    "check_flow",
    "masks_of",
    "requests_of",
    "weighted",
    "with_frees",
]
