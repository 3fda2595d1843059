"""What a client remembers of programs that ask it on the way: inputs that it sent, questions that it answered."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from glyphc.errors import ArtifactError
from glyphc.files import write_atomically
from glyphc.ir.errors import IRSyntaxError
from glyphc.ir.typed_json import TypedJSON
from glyphc.storage.headers import QuestionHeader

LEDGER_FILE = "client.ledger"
_JSON = TypedJSON(brief=True)


@dataclass(frozen=True)
class Sent:
    """A file of encrypted inputs, by its digest."""

    request: str
    samples: int


@dataclass(frozen=True)
class Answered:
    """A question, by its digest, and the place in the evaluation that it was about."""

    request: str
    pass_number: int
    number: int
    question: str


@dataclass(frozen=True)
class Ledger:
    """What a client sent and answered."""

    sent: tuple[Sent, ...] = ()
    answered: tuple[Answered, ...] = ()

    @staticmethod
    def load(path: Path) -> Ledger:
        """An empty one where there is none; ArtifactError for a damaged one."""
        try:
            found: Ledger = _JSON.read(path.read_text(encoding="utf-8"), Ledger)
            return found
        except FileNotFoundError:
            return Ledger()
        except OSError as e:
            raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e.strerror}") from None
        except (ValueError, IRSyntaxError) as e:
            raise ArtifactError(
                f"{os.fspath(path)!r} is damaged ({e}); without it this client cannot tell whether a question was "
                "answered already: make new keys"
            ) from None

    def save(self, path: Path) -> None:
        """The file appears whole or not at all."""
        write_atomically(path, (_JSON.text(self, Ledger) + "\n").encode())

    def samples(self, request: str) -> int | None:
        """Of inputs that were sent."""
        return next((each.samples for each in self.sent if each.request == request), None)

    def question(self, header: QuestionHeader) -> str | None:
        """Which question was answered for a place."""
        place = (header.request, header.pass_number, header.number)
        return next((a.question for a in self.answered if (a.request, a.pass_number, a.number) == place), None)


@contextlib.contextmanager
def locked(ledger: Path) -> Iterator[Ledger]:
    """What it says, while no other process or thread of this client's can change it. What is read before is stale."""
    path = ledger.with_name(f".{ledger.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise ArtifactError(f"cannot write {os.fspath(path)!r}: {e.strerror}") from None
    try:
        # each opening has a lock of its own, so threads exclude one another, too
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Ledger.load(ledger)
    finally:
        os.close(descriptor)


def record_sent(ledger: Path, request: str, samples: int) -> None:
    """Remember inputs, before they leave."""
    with locked(ledger) as known:
        if known.samples(request) is None:
            replace(known, sent=(*known.sent, Sent(request, samples))).save(ledger)
