"""What a program may take, and what it should be good at: a choice among strategies, once each is compiled.

``auto`` without any of these weighs bootstraps against numbers in slots while it compiles. With them, everything that
computes the given network as it is gets compiled, and what keeps to the constraints and is best is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from glyphc import knowledge
from glyphc.analysis.cost import CostModel
from glyphc.diagnostics import predicted
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.types import Level
from glyphc.measures import text as loss_text
from glyphc.measures import worst
from glyphc.program import Program
from glyphc.promises import promised
from glyphc.text_tables import counted
from glyphc.ways.strategies import CANDIDATES, STRATEGIES, Refresh


class Prefer(Enum):
    """What is as small as can be."""

    LATENCY = "latency"  # seconds until a batch is back: both sides, and the upload
    THROUGHPUT = "throughput"  # seconds for a sample of ciphertexts that are full
    TRAFFIC = "traffic"  # bytes up and down for a batch, without keys


@dataclass(frozen=True)
class Constraints:
    """trips: that a batch may take to the client, which sees hidden values there; None: what was asked for by name may
    take as many as it does, ``auto`` none. memory_bytes: at the peak of a run in one process."""

    trips: int | None = None
    memory_bytes: float | None = None
    prefer: Prefer | None = None

    @property
    def any(self) -> bool:
        return self != Constraints()

    def broken(self, program: Program, cost: CostModel) -> str:
        """Which of the limits a program does not keep to, in words; empty where it does."""
        passes = -(-program.requested_batch // program.client.batch)
        trips = passes * knowledge.trips(program)
        if self.trips is not None and trips > self.trips:
            return f"takes {trips} trips to the client, {self.trips} are allowed"
        if self.exceeded(program, cost):
            needed, limit = predicted(program, cost).memory_bytes, self.memory_bytes or 0.0
            least = ", one sample at a time" if program.client.batch == 1 < program.requested_batch else ""
            return f"is predicted to take {needed / 1e9:.2f} GB of memory{least}, more than {limit / 1e9:.2f} GB"
        return ""

    def exceeded(self, program: Program, cost: CostModel) -> bool:
        """Whether a program takes more memory than it may."""
        return self.memory_bytes is not None and predicted(program, cost).memory_bytes > self.memory_bytes

    def price(self, program: Program, cost: CostModel) -> float:
        """What is to be small, in its unit."""
        found = predicted(program, cost)
        passes = -(-program.requested_batch // program.client.batch)
        seconds = found.seconds + found.client_seconds + cost.upload_seconds(found.upload_bytes)
        match self.prefer:
            case Prefer.THROUGHPUT:
                return seconds / capacity(program)
            case Prefer.TRAFFIC:
                return passes * (found.upload_bytes + found.download_bytes)
            case _:
                return passes * seconds


def capacity(program: Program) -> int:
    """Samples that a pass could take at the same price: as many as there are slots, or slots in a block."""
    p = program.client.parameters
    if isinstance(p, Parameters):
        return program.client.batch
    return (p.block if isinstance(p, IntegerParameters) else 0) or p.slots


def batch_seconds(program: Program, cost: CostModel) -> float:
    """What the server is predicted to take for the batch that was asked for, in all passes."""
    return -(-program.requested_batch // program.client.batch) * predicted(program, cost).seconds


def parse_prefer(text: str | None) -> Prefer | None:
    """GlyphcError for what is none."""
    try:
        return None if text is None else Prefer(text)
    except ValueError:
        raise GlyphcError(f"{text!r} is nothing to prefer; there are: {', '.join(p.value for p in Prefer)}") from None


def in_passes(compiled: Callable[[int | None], Program], constraints: Constraints, cost: CostModel) -> Program:
    """The program of the batch that was asked for (None); where that takes too much memory, one in passes of fewer
    samples: the largest power of two that keeps to the limit, or one sample where none does.

    compiled: for passes of so many samples. Graphs of later stages than the network's keep their batch. Where there is
    no program for fewer samples, the one for all is what there is.
    """
    program = compiled(None)
    asked, first = program.requested_batch, next(iter(program.stages.values()))
    if not constraints.exceeded(program, cost) or program.client.batch == 1 or first.level is not Level.SOURCE:
        return program
    whole = predicted(program, cost).memory_bytes
    try:
        found = compiled(1)
    except ParameterError:
        return program
    fits, too_large = 0, (program.client.batch - 1).bit_length()
    if constraints.exceeded(found, cost):
        too_large = fits
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        tried = compiled(1 << middle)
        if constraints.exceeded(tried, cost):
            too_large = middle
        else:
            fits, found = middle, tried
    found.requested_batch = asked
    size = counted(found.client.batch, "sample")
    note = (
        f"passes of {size}, and not of {program.client.batch} (--memory): these would take {whole / 1e9:.2f} GB, "
        f"passes of {size} take {predicted(found, cost).memory_bytes / 1e9:.2f} GB"
    )
    found.notes = (*found.notes, note)
    return found


def check(program: Program, constraints: Constraints, cost: CostModel) -> None:
    """ParameterError for a program of a strategy by name that does not keep to the limits."""
    if problem := constraints.broken(program, cost):
        raise ParameterError(f"the program {problem}; allow more, or let 'auto' choose among strategies")


def best(compiled: Callable[[str], Program], constraints: Constraints, cost: CostModel) -> tuple[Program, str]:
    """The best program of all strategies that keep the network and its accuracy, and how they compare, in a line.

    compiled: by a strategy's name, GlyphcError where it cannot. ParameterError when none keeps to the constraints.
    """
    found: list[tuple[float, str, Program]] = []
    said = []
    for name in CANDIDATES:
        if STRATEGIES[name].refresh is Refresh.CLIENT and not constraints.trips:
            said.append(f"{name}: shows hidden values to the client")
            continue
        try:
            program = compiled(name)
        except GlyphcError as e:
            said.append(f"{name}: {e}")
            continue
        losses = promised(program)
        problem = constraints.broken(program, cost)
        if not problem and not all(loss.kept for loss in losses):
            problem = loss_text(worst(losses))
        price = constraints.price(program, cost)
        passes = f" in passes of {program.client.batch}" if program.client.batch < program.requested_batch else ""
        said.append(f"{name}: {problem or text(price, constraints.prefer) + passes}")
        if not problem:
            found.append((price, name, program))
    if not found:
        raise ParameterError(f"no strategy keeps to the constraints and the tolerance. {'; '.join(said)}")
    _, name, program = min(found, key=lambda each: each[0])
    return program, f"auto takes {name}. {'; '.join(said)}"


def text(price: float, prefer: Prefer | None) -> str:
    """A price with its unit."""
    match prefer:
        case Prefer.THROUGHPUT:
            return f"{price * 1e3:.3g} ms a sample"
        case Prefer.TRAFFIC:
            return f"{price / 1e6:.3g} MB"
        case _:
            return f"{price:.3g} s"
