"""What each kind of file says of itself. All fields are checked for their types when a file is opened.

program: the fingerprint of a program (SHA-256 of its final graph). key: the digest of a client's file of evaluation
keys. request: the digest of a file of encrypted inputs. parameters: as text, see ``glyphc.ir.text.record_text``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .container import Header

# The part of a file of evaluation keys that names the program whose weights are encrypted in it.
BINDING = "weights/program"


@dataclass(frozen=True)
class SpecHeader(Header):
    """The client specification: layouts, number formats and parameters; part "spec"."""

    kind = "a client specification"
    made_by = "glyphc split"
    program: str


@dataclass(frozen=True)
class ProgramHeader(Header):
    """The server's half of a program: the final graph without anything that calibration saw; part "graph"."""

    kind = "a server program"
    made_by = "glyphc split"
    program: str


@dataclass(frozen=True)
class WeightsHeader(Header):
    """What a program with encrypted weights was saved without; a part for each constant of each stage."""

    kind = "the weights of a model"
    made_by = "glyphc compile --encrypt-weights"
    program: str


@dataclass(frozen=True)
class SecretHeader(Header):
    """The secret key; part "secret". scrypt_log2_cost: 0 without a passphrase; salt, nonce: hexadecimal."""

    kind = "a secret key"
    made_by = "glyphc keygen"
    key: str
    parameters: str
    scrypt_log2_cost: int
    salt: str
    nonce: str


@dataclass(frozen=True)
class KeysHeader(Header):
    """Evaluation keys. seed: hexadecimal, public; modulus: of the BGV context, as a check on OpenFHE's version."""

    kind = "evaluation keys"
    made_by = "glyphc keygen"
    parameters: str
    modulus: int
    seed: str


@dataclass(frozen=True)
class InputsHeader(Header):
    """Encrypted inputs, one part per ciphertext. seed: hexadecimal, public."""

    kind = "encrypted inputs"
    made_by = "glyphc encrypt"
    program: str
    key: str
    samples: int
    seed: str


@dataclass(frozen=True)
class OutputsHeader(Header):
    """Encrypted outputs, one part per ciphertext. modulus_bits: residues are modulo 2^modulus_bits.

    flooding_bits: 0, or the noise that was added has 2^flooding_bits times the deviation of the predicted one.
    """

    kind = "encrypted outputs"
    made_by = "glyphc eval"
    program: str
    key: str
    request: str
    samples: int
    modulus_bits: int
    flooding_bits: int


@dataclass(frozen=True)
class CheckpointHeader(Header):
    """An evaluation that is not finished: the live ciphertexts after ``instructions`` instructions of a pass."""

    kind = "a checkpoint"
    made_by = "glyphc eval"
    program: str
    key: str
    request: str
    flooding_bits: int
    pass_number: int
    instructions: int
