"""What each kind of file says of itself. All fields are checked for their types when a file is opened.

program: the fingerprint of a program, see ``artifacts.ServerProgram``; of weights in the clear, of its final graph.
key: the digest of a client's file of evaluation keys. request: the digest of a file of encrypted inputs. parameters: as
text, see ``glyphc.ir.text.record_text``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .container import Header

# The part of a file of evaluation keys that names the program whose weights are encrypted in it.
BINDING = "weights/program"
# What the parts of evaluation keys are called (see ``glyphc.backends.openfhe.keymoulds``, which needs OpenFHE).
KEY_PART = re.compile(
    r"slots/(public|multiplication)|"
    r"integers/((public|multiplication)-[01]|automorphism-[01]-[0-9]{1,9})|"
    r"kernels/(sparse|dense|(linear|multiplication)-[0-9]{1,9}|automorphism-[0-9]{1,9}-[0-9]{1,3})|"
    r"bgv/public|torus/multiplication|(bgv|torus)/automorphism-[0-9]{1,9}|weights/[0-9]{5,9}/[0-9]{5,9}/(ws?|bias)|"
    + re.escape(BINDING)
)


@dataclass(frozen=True)
class SpecHeader(Header):
    """The client specification: layouts, number formats and parameters; part "spec"."""

    kind = "a client specification"
    made_by = "'glyphc split'"
    read_by = "'glyphc keygen', 'glyphc encrypt --spec' and 'glyphc decrypt --spec' read it"
    program: str


@dataclass(frozen=True)
class ProgramHeader(Header):
    """The server's half of a program; parts "spec", "outline", "noise", "code/..." and "weights/..."."""

    kind = "a server program"
    made_by = "'glyphc split'"
    read_by = "'glyphc eval --program' and 'glyphc serve' read it"
    program: str


@dataclass(frozen=True)
class NamesHeader(Header):
    """What a model calls its inputs and outputs, their columns and classes, which nothing else says; part "names"."""

    kind = "names of inputs and outputs"
    made_by = "'glyphc split --names'"
    read_by = "'glyphc encrypt' and 'glyphc decrypt' read it, in the client's folder"
    program: str


@dataclass(frozen=True)
class WeightsHeader(Header):
    """What a program with encrypted weights was saved without; a part for each constant of each stage."""

    kind = "the weights of a model"
    made_by = "'glyphc compile --encrypt-weights'"
    read_by = "'glyphc run', 'glyphc inspect' and 'glyphc keygen' read them with --weights"
    program: str


@dataclass(frozen=True)
class SecretHeader(Header):
    """The secret key; part "secret". scrypt_log2_cost: 0 without a passphrase; salt, nonce: hexadecimal."""

    kind = "a secret key"
    made_by = "'glyphc keygen'"
    read_by = "'glyphc encrypt' and 'glyphc decrypt' read it, in the client's folder"
    key: str
    parameters: str
    scrypt_log2_cost: int
    salt: str
    nonce: str


@dataclass(frozen=True)
class KeysHeader(Header):
    """Evaluation keys. seed: hexadecimal, public; modulus: of the BGV context, as a check on OpenFHE's version.

    engine: the name of the only engine that they serve; shape: what its own form of them depends on, hexadecimal
    (``kernels.shape.fingerprint``), empty for OpenFHE's.
    """

    kind = "evaluation keys"
    made_by = "'glyphc keygen'"
    read_by = "'glyphc eval' and 'glyphc submit --keys' read them, in the server's folder"
    parameters: str
    modulus: int
    seed: str
    engine: str = "openfhe"
    shape: str = ""


@dataclass(frozen=True)
class InputsHeader(Header):
    """Encrypted inputs, one part per ciphertext. seed: hexadecimal, public."""

    kind = "encrypted inputs"
    made_by = "'glyphc encrypt'"
    read_by = "'glyphc eval --input' reads them"
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
    made_by = "'glyphc eval'"
    read_by = "'glyphc decrypt --input' reads them"
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
    made_by = "'glyphc eval'"
    read_by = "'glyphc eval' goes on with it when the same command is given again"
    program: str
    key: str
    request: str
    flooding_bits: int
    pass_number: int
    instructions: int


@dataclass(frozen=True)
class QuestionHeader(Header):
    """What the client is asked in the middle of an evaluation, one part per ciphertext: request ``number`` of the
    program, in a pass. flooding_bits: as of outputs."""

    kind = "a question to the client"
    made_by = "'glyphc eval'"
    read_by = "'glyphc refresh --question' answers it"
    program: str
    key: str
    request: str
    pass_number: int
    number: int
    flooding_bits: int


@dataclass(frozen=True)
class AnswerHeader(Header):
    """The client's answer, one part per fresh ciphertext. question: the digest of what it answers. seed: hexadecimal,
    public."""

    kind = "an answer of the client"
    made_by = "'glyphc refresh'"
    read_by = "'glyphc eval --answer' goes on with it"
    program: str
    key: str
    request: str
    pass_number: int
    number: int
    question: str
    seed: str


# -- training: program is the fingerprint of a training program, key the digest of the run's evaluation keys --


@dataclass(frozen=True)
class TrainingProgramHeader(Header):
    """What the server executes to train; parts "outline" and "code/...". memory_bytes: predicted peak."""

    kind = "a training program"
    made_by = "'glyphc training prepare'"
    read_by = "'glyphc training run' reads it, in the server's folder"
    program: str
    parameters: str
    memory_bytes: int


@dataclass(frozen=True)
class TrainingKeysHeader(Header):
    """Evaluation keys of a run. seed: hexadecimal, public. engine, shape: as in :class:`KeysHeader`."""

    kind = "evaluation keys for training"
    made_by = "'glyphc training prepare'"
    read_by = "'glyphc training run' reads them, in the server's folder"
    program: str
    seed: str
    engine: str = "openfhe"
    shape: str = ""


@dataclass(frozen=True)
class TrainingBatchHeader(Header):
    """A batch, encrypted, one part per ciphertext. number: which batch; seed: hexadecimal, public; empty for one under
    the public key, whose ciphertexts are there with both halves."""

    kind = "an encrypted batch"
    made_by = "'glyphc training prepare' or 'contribute'"
    read_by = "'glyphc training run' reads it, in the server's folder"
    program: str
    key: str
    number: int
    seed: str


@dataclass(frozen=True)
class TrainingStateHeader(Header):
    """The encrypted weights, one part per ciphertext. step: steps done."""

    kind = "an encrypted state of training"
    made_by = "'glyphc training prepare' (initial.state) or 'glyphc training run'"
    read_by = "'glyphc training run' goes on with it, 'glyphc training finish --state' reads the last one"
    program: str
    key: str
    step: int


@dataclass(frozen=True)
class TrainingStatisticHeader(Header):
    """What the client watches of step 1, 2, ...: one ciphertext."""

    kind = "a statistic of a step"
    made_by = "'glyphc training run'"
    read_by = "'glyphc training watch' reads it, with the client's folder"
    program: str
    key: str
    step: int


@dataclass(frozen=True)
class OwnerSpecHeader(Header):
    """What owners of data need to encrypt batches under a run's public key; no secret and no model. Parts "owners",
    "public-key", and a placement for every ciphertext. seed: hexadecimal, public."""

    kind = "a specification for data owners"
    made_by = "'glyphc training invite'"
    read_by = "'glyphc training contribute' reads it, where the data are"
    program: str
    key: str
    parameters: str
    seed: str


@dataclass(frozen=True)
class TrainingRequestHeader(Header):
    """Encrypted samples for the weights after ``step`` steps, and what to compute of them; parts "outline",
    "code/000000", and for every pass its ciphertexts. seed: hexadecimal, public."""

    kind = "a request to trained weights"
    made_by = "'glyphc training request'"
    read_by = "'glyphc training infer' reads it, on the server"
    program: str
    key: str
    step: int
    seed: str


@dataclass(frozen=True)
class TrainingAnswerHeader(Header):
    """Encrypted logits, one part for every pass. request: SHA-256 of the request's manifest."""

    kind = "an answer of trained weights"
    made_by = "'glyphc training infer'"
    read_by = "'glyphc training predict' reads it, with the client's folder"
    program: str
    key: str
    step: int
    request: str


@dataclass(frozen=True)
class TrainingJobHeader(Header):
    """What the client needs to read the trained weights; parts "network" and "job"."""

    kind = "a training job"
    made_by = "'glyphc training prepare'"
    read_by = "'glyphc training finish' reads it, in the client's folder"
    program: str
    key: str


@dataclass(frozen=True)
class TrainingOfferHeader(Header):
    """What a client accepts: to train what comes behind frozen layers that it does not get; parts "network", with ones
    in place of their weights, and "job"."""

    kind = "an offer to train"
    made_by = "'glyphc training offer'"
    read_by = "'glyphc training accept' reads it"
    program: str


@dataclass(frozen=True)
class TrainingBackboneHeader(Header):
    """Weights of an offer's frozen layers, in the clear, as messages of N numbers; one part for each ciphertext. Part
    "requests": SHA-256 of the forward passes that may be asked for."""

    kind = "weights of frozen layers"
    made_by = "'glyphc training offer'"
    read_by = "'glyphc training run' reads them, in the server's folder"
    program: str


@dataclass(frozen=True)
class TrainingSecretHeader(SecretHeader):
    """The secret key of a training run; part "secret"."""

    kind = "a secret key for training"
    made_by = "'glyphc training prepare'"
    read_by = "'glyphc training finish' reads it, in the client's folder"


HEADERS: tuple[type[Header], ...] = (
    SpecHeader,
    NamesHeader,
    WeightsHeader,
    ProgramHeader,
    SecretHeader,
    KeysHeader,
    InputsHeader,
    OutputsHeader,
    CheckpointHeader,
    QuestionHeader,
    AnswerHeader,
    TrainingProgramHeader,
    TrainingKeysHeader,
    TrainingBatchHeader,
    TrainingStateHeader,
    TrainingStatisticHeader,
    OwnerSpecHeader,
    TrainingRequestHeader,
    TrainingAnswerHeader,
    TrainingJobHeader,
    TrainingOfferHeader,
    TrainingBackboneHeader,
    TrainingSecretHeader,
)
