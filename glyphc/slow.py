"""What takes a bootstrap for every bit, or a look-up for every value, is not begun unasked when it takes long."""

from __future__ import annotations

from glyphc.errors import ParameterError
from glyphc.ir.instructions import ClientRequest, Gate, Schedule

# Ten minutes.
MOST_SECONDS = 600.0


def check_patience(schedule: Schedule, seconds: float, samples: int, allow: bool) -> None:
    """ParameterError where gates or look-ups take too long for anybody who has not asked for it.

    seconds: predicted, of all samples.
    """
    if allow or seconds <= MOST_SECONDS or not (by := _by(schedule)):
        return
    raise ParameterError(
        f"{samples} sample{'s' if samples != 1 else ''} would take {duration(seconds)} by {by}, more than the "
        f"{MOST_SECONDS / 60:.0f} minutes that are taken unasked; --allow-slow (allow_slow) lets it, another strategy "
        "is quicker ('glyphc compare')"
    )


def _by(schedule: Schedule) -> str:
    """What takes the time, where it is gates or look-ups."""
    gates = sum(isinstance(i, Gate) for i in schedule.instructions)
    if gates:
        return f"{gates:,} gates for each, a bootstrap every one"
    lookups = any(isinstance(i, ClientRequest) and i.request.bits for i in schedule.instructions)
    return "look-ups in tables" if lookups else ""


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"
