"""The server's side of trips to the client: an evaluation stops with a question in a file, and goes on with its answer.

A question holds the ciphertexts that a program's request is about. It is bound to the program, the keys, the inputs,
and the place in the evaluation, and an answer to the digest of the question. A trip is: a checkpoint right before the
request, then the question, which stays until the next one takes its place. So whenever a process dies, the same
command finds either the question, or the checkpoint to ask it again from; nothing here is secret.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.files import remove_remnants
from glyphc.ir.client_requests import Request
from glyphc.ir.instructions import ClientSpec
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import AnswerHeader, QuestionHeader

from .artifacts import read_seed
from .engines import IntegerEngine
from .trip_parts import part_name

# Of a unit of messages: a decryption is wrong beyond half of it, and this is eight deviations away.
_MOST_NOISE = 1 / 16


@dataclass(frozen=True)
class Waiting:
    """What an evaluation waits for. question: its file; number: of the trip, from 1 on, of so many in all."""

    question: Path
    number: int
    trips: int


class AskedError(Exception):
    """Ends an evaluation that waits for its client. No error of anybody's."""


@dataclass(frozen=True)
class Trips:
    """Where the questions and answers of one evaluation are.

    answer: a file that the client sent, None where there is none. noise: of what each request shows, in units of
    messages.
    """

    engine: IntegerEngine
    question: Path
    answer: Path | None
    flooding_bits: int
    noise: Sequence[float]

    def ask(
        self, header: QuestionHeader, request: Request, sources: Sequence[Any], stopped: Callable[[], None]
    ) -> list[Any]:
        """The ciphertexts of the client's answer; AskedError where it is still to come.

        header: of the question. stopped: keeps what is done, before the question is asked. ArtifactError for an answer
        to something else.
        """
        asked = self._asked(header)
        if asked and self.answer is not None:
            return self._read(self.answer, header, request, asked)
        stopped()
        if not asked:
            self._write(header, sources)
        raise AskedError

    def _asked(self, header: QuestionHeader) -> str:
        """The digest of the question that is in the file, where it is this one."""
        remove_remnants(self.question)
        if not self.question.exists():
            return ""
        with Reader(self.question, QuestionHeader) as reader:
            return reader.digest if reader.header == header else ""

    def _write(self, header: QuestionHeader, sources: Sequence[Any]) -> None:
        share = self.noise[header.number] * 2.0**self.flooding_bits if self.flooding_bits else 0.0
        with Writer(self.question, header) as writer:
            for number, ciphertext in enumerate(sources):
                writer.add(part_name(number), self.engine.write_shown(ciphertext, share))

    def _read(self, path: Path, header: QuestionHeader, request: Request, asked: str) -> list[Any]:
        from glyphc.backends.openfhe.residues import ResidueError

        with Reader(path, AnswerHeader) as reader:
            _check_answer(reader, header, request, asked, self.engine.parameters)
            seed = read_seed(reader.header.seed, reader)
            try:
                return [self.engine.read_input(reader.read(name), seed, name) for name in reader.parts]
            except ResidueError as e:
                raise reader.damaged(str(e)) from None


def check_answer(answer: Path, question: Path, client: ClientSpec, label: str | None = None) -> None:
    """ArtifactError unless a file is a whole answer to a question that an evaluation of this program waits with."""
    assert isinstance(client.parameters, IntegerParameters)
    with Reader(question, QuestionHeader) as asked, Reader(answer, AnswerHeader, label) as reader:
        request = client.requests[asked.header.number]
        _check_answer(reader, asked.header, request, asked.digest, client.parameters)
        read_seed(reader.header.seed, reader)


def answers(answer: Path, question: Path) -> bool:
    """Whether an answer that was checked is one to this question, and not to an earlier one."""
    if not answer.exists() or not question.exists():
        return False
    with Reader(question, QuestionHeader) as asked, Reader(answer, AnswerHeader) as reader:
        return reader.header.question == asked.digest


def _check_answer(
    reader: Reader[AnswerHeader], header: QuestionHeader, request: Request, asked: str, parameters: IntegerParameters
) -> None:
    """Binding, sizes and hashes. asked: the digest of the question."""
    found = reader.header
    if (found.program, found.key, found.request) != (header.program, header.key, header.request):
        raise ArtifactError(f"{reader.name} answers for another program, other keys or other inputs")
    if (found.pass_number, found.number) != (header.pass_number, header.number) or found.question != asked:
        raise ArtifactError(
            f"{reader.name} answers another question than the one that the evaluation waits with; send that one to the "
            "client ('glyphc refresh')"
        )
    results = request.results(parameters.slots)
    reader.expect([(part_name(number), parameters.fresh_bytes) for number in range(results)])
    reader.verify()


def check_room(noise: Sequence[float], flooding_bits: int) -> None:
    """GlyphcError where so much noise leaves no room for messages. noise: deviations, in units of messages."""
    worst = max(noise)
    if worst * 2.0**flooding_bits > _MOST_NOISE:
        possible = 0
        while worst * 2.0 ** (possible + 1) <= _MOST_NOISE:
            possible += 1
        raise GlyphcError(
            f"noise of 2^{flooding_bits} times the predicted deviation leaves no room for the integers of this "
            f"program; it has room for --sanitize {possible}"
        )
