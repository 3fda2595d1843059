"""Where the cost model comes from: the user's file (``glyphc measure`` writes it) or what ships with glyphc."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.ir.parameters import MOST_BABY_STEPS

from .cost import REFERENCE_DEGREE, BootstrapCost, Configuration, CostModel, Machine, Shape
from .kernels_cost import KERNELS
from .security import MOST_DIGITS
from .slot_figures import FIGURES, SlotRow
from .training_figures import ROW_FIGURES, TORUS_FIGURES, TrainingFigures, TrainingRow

# Of a transform: N = 65536 has no more stages.
_MOST_LEVELS = 15
# Names another file; empty: the model that ships with glyphc, whatever files there are.
VARIABLE = "GLYPHC_COST_MODEL"
FORMAT = "glyphc-cost-model"
VERSION = 5
# Beside an automorphism; earlier files have none.
_STEPS = ("baby", "giant")
# Written before a size could have several configurations; all else is the same.
_READ = (4, VERSION)


class _DamagedError(Exception):
    """What is wrong with the content of a file."""


def user_path() -> Path:
    """The user's own file, $XDG_CONFIG_HOME/glyphc/cost.json, by default below ~/.config; it need not exist.

    GlyphcError when there is no home directory.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):  # the XDG specification has relative paths ignored
        return Path(base) / "glyphc" / "cost.json"
    try:
        return Path.home() / ".config" / "glyphc" / "cost.json"
    except RuntimeError:
        raise GlyphcError(f"this user has no home directory for the cost model; name a file in {VARIABLE}") from None


def output_path() -> Path:
    """Where ``glyphc measure`` writes when it is not told: the file in GLYPHC_COST_MODEL, or the user's."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else user_path()


def source() -> Path | None:
    """The file that :func:`current` reads; None for the shipped model."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        path = user_path()
        return path if path.exists() else None
    except (GlyphcError, OSError):  # no home, or none that this process may look into
        return None


def in_use(path: Path) -> bool:
    """Whether :func:`current` reads this file."""
    used = source()
    return used is not None and used.exists() and path.exists() and used.samefile(path)


def current() -> CostModel:
    """The model to use. GlyphcError when the user's file is damaged or of another version, or a named one missing."""
    path = source()
    return CostModel() if path is None else load(path)


def load(path: Path) -> CostModel:
    """Read a model; GlyphcError with the file's name and what to do."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise _unusable(path, e.strerror or str(e)) from None
    try:
        return from_json(data)
    except _DamagedError as e:
        raise _unusable(path, str(e)) from None


def earlier(path: Path) -> CostModel:
    """What a file that is to be written holds already; the shipped model when that is nothing usable."""
    try:
        return load(path)
    except GlyphcError:
        return CostModel()


def make_folder(path: Path) -> None:
    """Make the folder of the user's own file; ArtifactError when that is impossible. Other folders must exist."""
    if path != output_path():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ArtifactError(f"cannot make the folder {os.fspath(path.parent)!r}: {e.strerror}") from None


def save(path: Path, model: CostModel) -> None:
    """Write a model; the file appears whole or not at all. ArtifactError when the place is not writable."""
    from glyphc.files import write_atomically

    write_atomically(path, to_json(model).encode())


def _unusable(path: Path, reason: str) -> GlyphcError:
    return GlyphcError(
        f"cannot use the cost model {os.fspath(path)!r}: {reason}. Run 'glyphc measure' to measure again, or delete "
        f"the file (or unset {VARIABLE}) to go on with the model that ships with glyphc"
    )


def to_json(model: CostModel) -> str:
    """The file's text."""
    tree = {"format": FORMAT, "version": VERSION, **_engine_tree(model, CostModel())}
    tree["slots"] = [asdict(row) for row in model.slots]
    tree["training"] = asdict(model.training)
    if model.kernels is not None:
        tree["kernels"] = _engine_tree(model.kernels, KERNELS) | {"external": model.kernels.external}
        tree["kernels"]["training"] = asdict(model.kernels.training)
        tree["kernels"]["slots"] = [asdict(row) for row in model.kernels.slots]
    return json.dumps(tree, indent=1) + "\n"


def _engine_tree(model: CostModel, shipped: CostModel) -> dict[str, Any]:
    """Without what baby and giant steps take where they were not measured."""
    steps = {name: getattr(model, name) for name in _STEPS if getattr(model, name) != getattr(shipped, name)}
    return {
        "machine": asdict(model.machine),
        "product": model.product,
        "automorphism": model.automorphism,
        "switch": model.switch,
        **steps,
        "configurations": [_configuration_tree(c) for c in model.configurations],
    }


def _configuration_tree(configuration: Configuration) -> dict[str, Any]:
    """Without baby steps where they are left to the engine."""
    return {name: value for name, value in asdict(configuration).items() if name != "baby_steps" or value}


def from_json(data: bytes) -> CostModel:
    """The inverse of :func:`to_json`. Everything in it is checked: a private error says what is wrong."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise _DamagedError("it is truncated or damaged, or another kind of file") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise _DamagedError("it is not a cost model")
    if type(tree.get("version")) is not int or tree["version"] not in _READ:
        known = " and ".join(map(str, _READ))
        raise _DamagedError(f"it has version {tree.get('version')!r}, this glyphc reads versions {known}")
    kernels = None
    if "kernels" in tree:
        section = _entry(tree, "kernels")
        own = replace(_engine(section, KERNELS), external=_positive(section, "external"))
        kernels = replace(own, slots=_slot_rows(section), training=_training(_entry(section, "training")))
    training = _training(_entry(tree, "training"))
    return replace(_engine(tree, CostModel()), slots=_slot_rows(tree), training=training, kernels=kernels)


def _engine(tree: Any, shipped: CostModel) -> CostModel:
    """One engine's figures; shipped: what they replace."""
    model = replace(
        shipped,
        product=_positive(tree, "product"),
        automorphism=_positive(tree, "automorphism"),
        switch=_positive(tree, "switch"),
        baby=_positive(tree, "baby") if "baby" in tree else shipped.baby,
        giant=_positive(tree, "giant") if "giant" in tree else shipped.giant,
        configurations=tuple(_configuration(c) for c in _items(tree, "configurations")),
        machine=_machine(_entry(tree, "machine")),
    )
    _check_configurations([c.shape for c in model.configurations], [c.shape for c in shipped.usual])
    return model


def _check_configurations(shapes: Sequence[Shape], usual: Sequence[Shape]) -> None:
    """The usual one of every size must be there, and others of that size behind it, each once."""
    firsts = [shape for at, shape in enumerate(shapes) if at == 0 or shape.slots != shapes[at - 1].slots]
    if firsts != list(usual):
        raise _DamagedError("it was measured for other configurations of the bootstrap than this glyphc uses")
    for shape in shapes:
        if shapes.count(shape) > 1:
            raise _DamagedError(f"a configuration of {shape.slots} slots is there twice: {shape.label}")


def _machine(tree: Any) -> Machine:
    return Machine(
        processor=_text(tree, "processor"),
        cores=_count(tree, "cores"),
        threads=_count(tree, "threads"),
        openfhe=_text(tree, "openfhe"),
        date=_text(tree, "date"),
    )


def _configuration(tree: Any) -> Configuration:
    budget = _items(tree, "level_budget")
    if len(budget) != 2 or not all(type(b) is int and 0 < b <= _MOST_LEVELS for b in budget):
        raise _DamagedError(f"'level_budget' is not two numbers from 1 to {_MOST_LEVELS}")
    costs = tuple(_cost(c) for c in _items(tree, "costs"))
    degrees = [c.degree for c in costs]
    if REFERENCE_DEGREE not in degrees or degrees != sorted(set(degrees)):
        raise _DamagedError(f"the degrees of a configuration are not ascending with {REFERENCE_DEGREE} among them")
    digits = _count(tree, "large_digits")
    if digits > MOST_DIGITS:
        raise _DamagedError(f"'large_digits' is {digits}, at most {MOST_DIGITS} are possible")
    babies = _count(tree, "baby_steps") if "baby_steps" in tree else 0
    if babies > MOST_BABY_STEPS:
        raise _DamagedError(f"'baby_steps' is {babies}, at most {MOST_BABY_STEPS} are possible")
    return Configuration(_count(tree, "slots"), (budget[0], budget[1]), digits, costs, babies)


def _slot_rows(tree: Any) -> tuple[SlotRow, ...]:
    rows = tuple(_slot_row(row) for row in _items(tree, "slots"))
    if not rows:
        raise _DamagedError("'slots' is empty")
    return rows


def _slot_row(tree: Any) -> SlotRow:
    figures = {name: _positive(tree, name) for name in FIGURES}
    return SlotRow(_count(tree, "ring"), _count(tree, "limbs"), **figures)


def _training(tree: Any) -> TrainingFigures:
    rows = tuple(
        TrainingRow(_count(row, "limbs"), **{name: _positive(row, name) for name in ROW_FIGURES})
        for row in _items(tree, "rows")
    )
    limbs = [row.limbs for row in rows]
    if not rows or limbs != sorted(set(limbs)):
        raise _DamagedError("the limbs of training's rows are not ascending")
    return TrainingFigures(rows, **{name: _positive(tree, name) for name in TORUS_FIGURES})


def _cost(tree: Any) -> BootstrapCost:
    measured = _entry(tree, "measured")
    if not isinstance(measured, bool):
        raise _DamagedError("'measured' is neither true nor false")
    return BootstrapCost(
        degree=_count(tree, "degree"),
        powers=_positive(tree, "powers"),
        evaluate=_positive(tree, "evaluate"),
        key_seconds=_positive(tree, "key_seconds"),
        key_bytes=_positive(tree, "key_bytes"),
        idle_bytes=_positive(tree, "idle_bytes"),
        work_bytes=_positive(tree, "work_bytes"),
        powers_bytes=_positive(tree, "powers_bytes"),
        measured=measured,
    )


def _entry(tree: Any, name: str) -> Any:
    if not isinstance(tree, dict) or name not in tree:
        raise _DamagedError(f"{name!r} is missing")
    return tree[name]


def _items(tree: Any, name: str) -> list[Any]:
    value = _entry(tree, name)
    if not isinstance(value, list):
        raise _DamagedError(f"{name!r} is not a list")
    return value


def _positive(tree: Any, name: str) -> float:
    value = _entry(tree, name)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise _DamagedError(f"{name!r} is {value!r}, not a positive number")
    return float(value)


def _count(tree: Any, name: str) -> int:
    value = _entry(tree, name)
    if type(value) is not int or value < 1:
        raise _DamagedError(f"{name!r} is {value!r}, not a whole number above zero")
    return value


def _text(tree: Any, name: str) -> str:
    value = _entry(tree, name)
    if not isinstance(value, str):
        raise _DamagedError(f"{name!r} is not a text")
    return value
