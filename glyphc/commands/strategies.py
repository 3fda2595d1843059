"""``glyphc strategies``: which policies there are; and the options that a strategy's retraining takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from glyphc.errors import DataError, GlyphcError

if TYPE_CHECKING:
    from glyphc.train.retraining import Data
    from glyphc.ways.strategies import Strategy


@click.command("strategies")
def strategies_command() -> None:
    """List the strategies of 'compile --strategy': how each computes a network, and the paper that it is from."""
    from glyphc.ways.strategies import STRATEGIES

    click.echo("\n\n".join(map(strategy_text, STRATEGIES.values())))


def strategy_text(chosen: Strategy) -> str:
    """What a strategy is, in a few lines."""
    lines = [f"{chosen.name}: {chosen.summary}"]
    rows = [
        ("paper", chosen.paper),
        ("nonlinearity", f"{chosen.replacement.value}{_size(chosen)}"),
        ("retraining", _retraining(chosen)),
        ("numbers", chosen.numbers.value),
        ("refresh", chosen.refresh.value),
    ]
    return "\n".join([*lines, *(f"  {name:13} {text}" for name, text in rows if text)])


def _size(chosen: Strategy) -> str:
    """Behind what replaces a nonlinearity: of which size that is."""
    match chosen.size and chosen.size.name:
        case "DEGREE" if chosen.degree:
            return f", of degree {chosen.degree} (--degree)"
        case "DEGREE":
            return ", of the degree that the tolerance asks"
        case "TABLE_BITS":
            return f", with an index of {chosen.table_bits} bits (--table-bits)"
        case "WORD_BITS":
            return f", of {chosen.word_bits} bits (--word-bits)"
        case _:
            return ""


def _retraining(chosen: Strategy) -> str:
    from glyphc.ways.strategies import Size

    if chosen.changes_network:
        return "needed: it computes another network (--retrain-data, --retrain-labels)"
    return "possible (--retrain-data, --retrain-labels)" if chosen.size is Size.DEGREE else ""


def load_retraining(data: str | None, labels: str | None) -> Data | None:
    """Samples and labels to train again on; None where neither is given. GlyphcError, DataError for unusable files."""
    from glyphc.train.retraining import Data

    from .arrays import load_arrays

    if data is None and labels is None:
        return None
    if data is None or labels is None:
        raise GlyphcError("retraining takes samples and their labels: give --retrain-data and --retrain-labels")
    x, y = load_arrays(data, "samples to retrain on"), load_arrays(labels, "labels to retrain on")
    for what, array in ((data, x), (labels, y)):
        if isinstance(array, dict):
            raise DataError(f"{what!r} holds {len(array)} arrays; retraining takes one of samples and one of labels")
    return Data(x, y)
