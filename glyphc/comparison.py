"""Strategies side by side on one network and its data: what is compared, what was found, and the file that keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.files import write_atomically
from glyphc.free_memory import available_bytes
from glyphc.ir.errors import IRSyntaxError
from glyphc.ir.typed_json import TypedJSON
from glyphc.slow import duration
from glyphc.ways.strategies import STRATEGIES, Size

FORMAT = "glyphc-comparison"
VERSION = 2
ALL = "all"
_RETRAINED = "+retrained"


@dataclass(frozen=True)
class Choice:
    """A row: a strategy with its options. size: the degree of its polynomials, the bits of its tables' index, or of its
    words; None for the strategy's own."""

    strategy: str
    size: int | None = None
    retrained: bool = False

    def __str__(self) -> str:
        size = "" if self.size is None else f":{self.size}"
        return f"{self.strategy}{size}{_RETRAINED if self.retrained else ''}"

    def given(self, size: Size) -> int | None:
        """Its size as an option of ``glyphc.compile``: the strategy's own of that name, or a degree."""
        return self.size if size is (STRATEGIES[self.strategy].size or Size.DEGREE) else None


class Outcome(Enum):
    """What became of a row."""

    RUN = "run"
    NOT_RUN = "not run"
    REFUSED = "refused"
    FAILED = "failed"

    def __str__(self) -> str:
        return "predicted, not run" if self is Outcome.NOT_RUN else self.value


def parse_choices(text: str, retraining: bool) -> tuple[Choice, ...]:
    """Rows from text: ``all``, or ``NAME[:SIZE][+retrained]``, separated by commas. GlyphcError for anything else.

    retraining: whether there are samples to retrain on; ``all`` has rows with and without then.
    """
    found: list[Choice] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item == ALL:
            found += _all(retraining)
            continue
        plain = item.removesuffix(_RETRAINED)
        name, colon, size = plain.partition(":")
        if name not in STRATEGIES:
            raise GlyphcError(f"there is no strategy {name!r}; there are: {ALL}, {', '.join(STRATEGIES)}")
        if colon and not (size.isdecimal() and len(size) < 4):
            raise GlyphcError(f"{item!r} is not NAME:SIZE; write e.g. onoufriou:7 for degree 7")
        if plain != item and not retraining:
            raise GlyphcError(f"{item!r} takes samples to train again on: give --retrain-data and --retrain-labels")
        found.append(Choice(name, int(size) if colon else None, plain != item))
    if not found:
        raise GlyphcError(f"{text!r} names no strategy; write {ALL}, or names separated by commas")
    return tuple(dict.fromkeys(found))


def _all(retraining: bool) -> Iterable[Choice]:
    for each in STRATEGIES.values():
        if not (each.changes_network and retraining):
            yield Choice(each.name)
        if retraining and (each.changes_network or (each.size is Size.DEGREE and each.degree)):
            yield Choice(each.name, None, True)


@dataclass(frozen=True)
class Predicted:
    """Of all samples: seconds of evaluation, and of encryption and decryption; bytes. trips: to the client and back."""

    evaluate_seconds: float
    client_seconds: float
    memory_bytes: float
    key_bytes: float
    upload_bytes: float
    download_bytes: float
    trips: int


@dataclass(frozen=True)
class Measured:
    """Of a run in a process of its own. seconds: by stage, of the wall; cpu_seconds: of evaluation, on all cores.

    memory_bytes: at the peak. error: rms difference from what the program computes in the clear, as a share of the
    outputs' range; exact: whether there is none at all.
    """

    seconds: tuple[tuple[str, float], ...]
    cpu_seconds: float
    memory_bytes: int
    error: float
    exact: bool
    scores: tuple[tuple[str, float], ...]

    def stage(self, name: str) -> float:
        """Seconds of a stage; 0 where there was none."""
        return dict(self.seconds).get(name, 0.0)


@dataclass(frozen=True)
class Result:
    """What was found of a row.

    reason: of all outcomes but ``RUN``; ``NOT_RUN`` is what would not fit. program: its fingerprint. scores: in
    simulation, by the names of figures. learns: who learns what. notes: of the compiler.
    """

    choice: Choice
    outcome: Outcome
    reason: str = ""
    program: str = ""
    security: str = ""
    predicted: Predicted | None = None
    simulated: tuple[tuple[str, float], ...] = ()
    measured: Measured | None = None
    learns: str = ""
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[tuple[str, float], ...]:
        """Encrypted where it ran, else simulated."""
        return self.measured.scores if self.measured is not None else self.simulated


_JSON = TypedJSON({})


@dataclass(frozen=True)
class Comparison:
    """subject: what was compared, a digest of network, data and options: results of another one are not taken over.

    model: its name. samples: how many results are of. floats: scores of the float network. machine: where it ran.
    """

    subject: str
    model: str
    samples: int
    floats: tuple[tuple[str, float], ...]
    machine: str
    results: tuple[Result, ...] = ()
    format: str = FORMAT
    version: int = VERSION

    def of(self, choice: Choice) -> Result | None:
        """The result of a row, if there is one."""
        return next((result for result in self.results if result.choice == choice), None)

    def with_result(self, result: Result) -> Comparison:
        """With this row in place of an earlier one of the same choice, or behind all others."""
        kept = tuple(r for r in self.results if r.choice != result.choice)
        return replace(self, results=(*kept, result))

    def save(self, path: Path) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        save_record(path, self)

    @staticmethod
    def load(path: Path) -> Comparison:
        """Read what :meth:`save` wrote; ArtifactError if it is damaged or none."""
        return load_record(path, Comparison)


class Record(Protocol):
    """What is kept in a file, with what kind of file that is."""

    @property
    def format(self) -> str: ...

    @property
    def version(self) -> int: ...


_R = TypeVar("_R", bound=Record)


def save_record(path: Path, record: Record) -> None:
    """Write it as JSON; the file appears whole or not at all."""
    write_atomically(path, (_JSON.text(record, type(record)) + "\n").encode())


def load_record(path: Path, kind: type[_R]) -> _R:
    """Read what :func:`save_record` wrote, with the format and version that the class has; ArtifactError if it is
    damaged or none."""
    try:
        found: _R = _JSON.read(path.read_text(encoding="utf-8"), kind)
    except OSError as e:
        raise ArtifactError(f"cannot read {str(path)!r}: {e.strerror}") from None
    except (ValueError, IRSyntaxError) as e:
        raise ArtifactError(f"{str(path)!r} is no record of such a comparison ({e}); name another file") from None
    if (found.format, found.version) != (getattr(kind, "format"), getattr(kind, "version")):  # noqa: B009
        raise ArtifactError(f"{str(path)!r} is no record of a comparison of this version; name another file")
    return found


def digest(model: bytes, arrays: Iterable[npt.NDArray[Any] | None], options: str) -> str:
    """What a comparison is about, in hexadecimal digits."""
    found = hashlib.sha256(model)
    for array in arrays:
        found.update(b"-" if array is None else f"{array.dtype}{array.shape}".encode())
        if array is not None:
            found.update(np.ascontiguousarray(array).tobytes())
    found.update(options.encode())
    return found.hexdigest()


def held_out(input: npt.NDArray[Any], retraining: npt.NDArray[Any]) -> None:
    """GlyphcError where a sample to compare on is one to train on: results would look better than they are."""
    if input.shape[1:] != retraining.shape[1:]:
        return  # found out where the network takes them
    seen = set(_rows(retraining))
    rows = _rows(input)
    shared = [at for at, row in enumerate(rows) if row in seen]
    if shared:
        raise GlyphcError(
            f"{len(shared)} of the {len(rows)} samples to compare on are among those to retrain on, first sample "
            f"{shared[0]}: results would look better than they are. Hold samples out that are not trained on"
        )


def too_much(seconds: float, most_seconds: float, memory_bytes: float, most_bytes: float) -> str:
    """Why what is predicted to take that much is not run, in words; empty where it fits. most_bytes: 0 for what is
    available."""
    if seconds > most_seconds:
        return f"predicted to take {duration(seconds)}, more than the {duration(most_seconds)} that it may"
    room = available_bytes()
    room = min(most_bytes, room) if most_bytes else room
    if memory_bytes > room:
        return f"predicted to take {memory_bytes / 1e9:.1f} GB of memory, more than {room / 1e9:.1f} GB"
    return ""


def _rows(samples: npt.NDArray[Any]) -> list[bytes]:
    """Samples as bytes that are equal for copies, too: of another precision, or with another sign of zero."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(samples).astype(np.float32).reshape(len(samples), -1) + np.float32(0)
    return [row.tobytes() for row in rounded]
