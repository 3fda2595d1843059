"""The client's side of trips: answers to questions of an evaluation. Holds the secret, and sees what it answers.

What a client gives away by answering is in docs/security.md. It keeps a ledger of the inputs that it sent and of the
questions that it answered: each place of an evaluation is answered for one question alone, of inputs of its own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.ir.client_requests import Request
from glyphc.ir.instructions import ClientSpec
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import AnswerHeader, QuestionHeader

from .client import Account
from .client_engines import IntegerAccess
from .ledger import Answered, Ledger, locked
from .parts import pass_count
from .trip_parts import part_name


def answer(account: Account, question: Path, output: Path) -> str:
    """Answer a question of an evaluation in a file; returns the answer's digest.

    ArtifactError for a question that is damaged, of another program or other keys, of inputs that this client never
    encrypted, or of a place that was answered for another question. Everything else is answered, whatever the
    ciphertexts hold: a refusal would tell the server something about them.
    """
    spec = account.spec
    with Reader(question, QuestionHeader) as reader:
        header = reader.header
        if header.program != spec.program:
            raise ArtifactError(f"{reader.name} belongs to another program than the client specification")
        if header.key != account.secret.key:
            raise ArtifactError(f"{reader.name} was made with other keys than this client's")
        if not spec.client.requests:
            raise GlyphcError("this program asks its client nothing")
        if account.ledger is None:
            raise GlyphcError("a client answers questions from its folder, where it keeps a ledger of them")
        engine = account.engine
        assert isinstance(engine, IntegerAccess)
        with locked(account.ledger) as known:
            request = _request(reader, spec.client, known)
            names = [part_name(number) for number in range(request.ciphertexts)]
            reader.expect([(name, engine.shown_size) for name in names])
            reader.verify()
            if known.question(header) is None:
                mark = Answered(header.request, header.pass_number, header.number, reader.digest)
                replace(known, answered=(*known.answered, mark)).save(account.ledger)
        from glyphc.backends.openfhe.residues import ResidueError

        try:
            values = np.array([engine.integers(reader.read(name)) for name in names])
        except ResidueError as e:
            raise reader.damaged(str(e)) from None
        seed = os.urandom(32)
        made = AnswerHeader(
            header.program, header.key, header.request, header.pass_number, header.number, reader.digest, seed.hex()
        )
        messages = [(part_name(number), message) for number, message in enumerate(request.answer(values))]
        with Writer(output, made) as writer:
            for (name, _), data in zip(messages, engine.fresh(messages, seed), strict=True):
                writer.add(name, data)
        return writer.digest


def _request(reader: Reader[QuestionHeader], client: ClientSpec, known: Ledger) -> Request:
    """What a question asks for; ArtifactError where it may not be answered."""
    header = reader.header
    samples = known.samples(header.request)
    if samples is None:
        raise ArtifactError(f"{reader.name} is about inputs that this client did not encrypt")
    if header.number >= len(client.requests) or header.pass_number >= pass_count(client, samples):
        raise ArtifactError(f"{reader.name} asks for more than the program does")
    if known.question(header) not in (None, reader.digest):
        raise ArtifactError(
            f"{reader.name} asks once more, and something else, at a place of the evaluation that was answered: "
            "each is answered for one question alone"
        )
    return client.requests[header.number]
