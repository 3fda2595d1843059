"""Tables with named columns (pandas' DataFrame, and what looks like one) as arrays, in the order of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError

# Columns that a message names.
_NAMED = 5


def is_table(x: object) -> TypeGuard[Any]:
    """Whether an object has named columns and turns into an array."""
    return hasattr(x, "columns") and hasattr(x, "to_numpy")


def column_names(x: object) -> tuple[str, ...]:
    """Names of a table's columns in order; of anything else, none."""
    return tuple(str(c) for c in x.columns) if is_table(x) else ()


def as_array(x: Any, columns: Sequence[str], what: str) -> npt.NDArray[Any]:
    """A table as an array with its columns in this order; those that are not among them are left out.

    Without columns, as it stands. DataError for missing, repeated and not numeric columns; what: how messages call it.
    """
    names = column_names(x)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"{what} has more than one column {twice[0]!r}; rename the others")
    missing = [c for c in columns if c not in names]
    if missing:
        raise DataError(
            f"{what} is without column(s) {_some(missing)}; the model was fitted on: {', '.join(columns)}. The table "
            f"has: {_some(names)}"
        )
    chosen = columns or names
    wrong = [n for n in chosen if np.asarray(_column(x, names, n)).dtype.kind not in "fiub"]
    if wrong:
        raise DataError(
            f"column(s) {_some(wrong)} of {what} hold(s) no numbers; encode categories as numbers before the table is "
            "given to the model"
        )
    return np.column_stack([np.asarray(_column(x, names, n)) for n in chosen])


def _column(x: Any, names: Sequence[str], name: str) -> Any:
    return x[x.columns[names.index(name)]]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
