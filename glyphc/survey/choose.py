"""Training systems by the names of their strategies."""

from __future__ import annotations

from dataclasses import dataclass

from glyphc.errors import GlyphcError
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Keeper
from glyphc.ways.strategies import STRATEGIES, Size, size_of

from .formats import Precision
from .integer_system import IntegerSystem
from .onoufriou import Onoufriou
from .polynomials import with_polynomials
from .system import System
from .tbmpnet import TBMPNet

NAMES = ("hesamifard", "nandakumar", "onoufriou", "tbmpnet")
# Of tables in training, where the user names none: as Nandakumar and others have them.
_TABLE_BITS = 8


@dataclass(frozen=True)
class Sizes:
    """What a user chooses; None for the strategy's own. degree: of polynomials; table_bits: of the index of tables;
    word_bits: of words."""

    degree: int | None = None
    table_bits: int | None = None
    word_bits: int | None = None


def system_of(name: str, job: Job, sizes: Sizes | None = None) -> System:
    """A job as a strategy trains it. job: with the network's own functions, as glyph would train it.

    GlyphcError for a strategy that trains nothing, or does not take these sizes; TrainingError for a job that it cannot
    do, and where the run in the clear diverges that it is planned by.
    """
    if name not in NAMES:
        known = f"glyph, {', '.join(NAMES)}"
        what = "only infers" if name in STRATEGIES else "is none"
        raise GlyphcError(f"the strategy {name!r} {what}; those that train are: {known}")
    _check_options(name, job)
    chosen, given = STRATEGIES[name], sizes or Sizes()
    degree = size_of(chosen, Size.DEGREE, given.degree)
    bits = size_of(chosen, Size.TABLE_BITS, given.table_bits)
    words = size_of(chosen, Size.WORD_BITS, given.word_bits)
    match name:
        case "onoufriou":
            return Onoufriou(with_polynomials(job, degree))
        case "hesamifard":
            return IntegerSystem(name, with_polynomials(job, degree), Precision())
        case "nandakumar":
            index = bits if given.table_bits is not None else _TABLE_BITS
            return IntegerSystem(name, job, Precision(index=index, entries=_TABLE_BITS))
        case _:
            return TBMPNet(job, words)


def _check_options(name: str, job: Job) -> None:
    """TrainingError for what glyph alone does, and no other would tell that it leaves it out."""
    options = job.options
    if options.convolutions or options.keep_on is Keeper.SERVER:
        raise TrainingError(
            f"the strategy {name!r} trains dense layers behind what the client computes; convolutions, and frozen "
            "layers on the server, go with --strategy glyph"
        )
    # the step program limits them: there, the client computes it
    if options.clip_errors is not None and name != Onoufriou.name:
        raise TrainingError(f"the strategy {name!r} does not limit errors; leave --clip-errors out")
