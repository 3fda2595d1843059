"""The key holder's side of prediction with trained weights: encrypts requests, decrypts answers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.backends.errors import BackendError
from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError
from glyphc.ir.instructions.text import CKKS
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingAnswerHeader, TrainingRequestHeader
from glyphc.train.inference import Inference, outputs, score
from glyphc.train.job import clipped, samples_of
from glyphc.train.predict import pass_seconds

from .client import SECRET_FILE
from .code_parts import code_part, encoded, packed, sha256
from .training_client import JOB_FILE, TrainingClientFiles, stored_secret
from .training_files import check_run, part_name
from .training_requests import OUTLINE, RequestOutline, sample_part, sample_stream

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Requested:
    """samples in passes of so many ciphertexts; clipped: how many samples were scaled down, as in training.

    pass_seconds: predicted, of one pass on this machine."""

    samples: int
    passes: int
    ciphertexts: int
    clipped: int
    pass_seconds: float


def make_request(
    client: Path, x: npt.ArrayLike, output: Path, passphrase: str | None = None, steps: int | None = None
) -> Requested:
    """Encrypt samples for the weights after ``steps`` steps, by default all. What the run freezes is computed here.

    DataError for samples that do not fit the network, ArtifactError and SecretError as of ``finish``.
    """
    files = TrainingClientFiles.load(client / JOB_FILE)
    step = files.program.outline.steps if steps is None else steps
    if not 0 <= step <= files.program.outline.steps:
        raise DataError(f"the run has {files.program.outline.steps} steps, not {step}")
    samples = samples_of(files.job.network, x)
    features = files.job.split.features(samples)
    within = clipped(features, files.job.options.clip)
    inference = Inference(files.plan, step)
    text = encoded(inference.code, CKKS)
    passes = -(-len(samples) // inference.batch)
    outline, seed = RequestOutline(inference.data, passes, sha256(text)), os.urandom(32)
    secret = stored_secret(client / SECRET_FILE, files, passphrase)
    try:
        from glyphc.backends.openfhe.residues import Uniform
        from glyphc.backends.openfhe.training_fresh import FreshCiphertexts, stored_client

        fresh = FreshCiphertexts(stored_client(files.plan.parameters, secret), files.plan.parameters.ring)
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None
    header = TrainingRequestHeader(files.program.fingerprint, files.key, step, seed.hex())
    with Writer(output, header) as writer:
        writer.add(OUTLINE, outline.text().encode())
        writer.add(code_part(0), packed(text))
        for number, messages in enumerate(inference.messages(within)):
            for at, (name, limbs) in enumerate(outline.data):
                stream = Uniform(seed, sample_stream(number, at))
                try:
                    writer.add(
                        sample_part(number, at),
                        fresh.write(np.asarray(messages[name], dtype=np.float64), limbs, stream),
                    )
                except ValueError as e:
                    raise DataError(f"{name}: {e}, so it cannot be encrypted; scale the samples") from None
    moved = int((np.abs(within - features).reshape(len(features), -1).max(axis=1) > 0).sum())
    cost = for_engine(cost_file.current(), files.record.engine)
    return Requested(len(samples), passes, len(outline.data), moved, pass_seconds(inference, cost))


@dataclass(frozen=True, eq=False)
class Predicted:
    """outputs: of the network, shape (samples, outputs). loss, accuracy: where labels were given."""

    outputs: F64
    loss: float | None = None
    accuracy: float | None = None


def read_answer(
    client: Path,
    request: Path,
    answer: Path,
    samples: int | None = None,
    labels: npt.ArrayLike | None = None,
    passphrase: str | None = None,
) -> Predicted:
    """Decrypt what a server answered. samples: how many were asked for; by default as many as labels, or passes hold.

    ArtifactError for an answer to another request, DataError for labels that do not fit.
    """
    files = TrainingClientFiles.load(client / JOB_FILE)
    loss, network = files.job.loss, files.job.network
    with Reader(request, TrainingRequestHeader) as asked:
        digest, step = asked.digest, asked.header.step
    with Reader(answer, TrainingAnswerHeader) as reader:
        check_run(reader, files.program, files.key)
        if reader.header.request != digest:
            raise ArtifactError(f"{reader.name} answers another request than {os.fspath(request)!r}")
        if reader.header.step != step:
            raise ArtifactError(f"{reader.name} is of the weights of step {reader.header.step}; {step} were asked for")
        reader.verify()
        inference = Inference(files.plan, reader.header.step)
        secret = stored_secret(client / SECRET_FILE, files, passphrase)
        try:
            logits = _decrypted(reader, inference, secret)
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None
    if labels is None:
        logits = logits[:samples]
        return Predicted(outputs(network, loss, logits))
    targets = loss.targets(labels, logits.shape[1])
    count = len(targets) if samples is None else samples
    if len(targets) != count or not 0 < count <= len(logits):
        raise DataError(f"{len(targets)} labels for {count} samples, of at most {len(logits)}")
    found, right = score(loss, logits[:count], targets)
    return Predicted(outputs(network, loss, logits[:count]), found, right)


class Answering(Protocol):
    """Who has the server's folder: a service's client (``glyphc.Client``), for example."""

    def ask(self, request: Path, answer: Path, reporter: Reporter | None = None) -> None:
        """Have a request answered, from file to file."""


def predict(
    server: Answering,
    client: Path,
    x: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    passphrase: str | None = None,
    steps: int | None = None,
    reporter: Reporter | None = None,
) -> Predicted:
    """What weights make of samples that were trained encrypted and stay so: encrypt, have them answered, decrypt.

    Arguments and errors of :func:`make_request` and :func:`read_answer`, and errors of the server.
    """
    reporter = reporter or Silent()
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request", Path(folder) / "answer"
        reporter.stage("encrypt", 1.0)
        samples = make_request(client, x, request, passphrase, steps).samples
        server.ask(request, answer, reporter)
        reporter.stage("decrypt", 1.0)
        return read_answer(client, request, answer, samples, labels, passphrase)


def _decrypted(reader: Reader[TrainingAnswerHeader], inference: Inference, secret: bytes) -> F64:
    from glyphc.backends.openfhe.residues import ResidueError
    from glyphc.backends.openfhe.training_fresh import stored_client
    from glyphc.backends.openfhe.training_wire import TrainingWire

    parameters = inference.plan.parameters
    client = stored_client(parameters, secret)
    wire = TrainingWire.like(parameters.ring, {1: client.zero(1)})
    reader.expect([(part_name(i), wire.state_size(1)) for i in range(len(reader.parts))])
    try:
        found = [inference.logits(client.decrypt(wire.read(reader.read(name), 1))) for name in reader.parts]
    except ResidueError as e:
        raise reader.damaged(str(e)) from None
    return np.concatenate(found)
