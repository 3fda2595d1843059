"""The files of a training run that the server has: its program, evaluation keys, encrypted batches and states.

The server's folder, made by the client but for what the server adds, from the checkpoint on:

    program.training           parameters, names of ciphertexts, the instructions of every step
    evaluation.keys            for all steps
    batches/000000.batch ...   encrypted once, used in every epoch
    initial.state              the weights before the first step
    checkpoint.state           the weights after the last step that was done
    trained.state              the weights after the last step: what the client wants
    monitor/000001.statistic.. one of each step, where the client wants to watch it
    backbone.weights           of frozen layers, in the clear: the server's own, if it keeps some
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

from glyphc.errors import ArtifactError
from glyphc.ir.errors import IRError
from glyphc.ir.instructions.ckks import MOST_STEPS, STATISTIC, Code, check
from glyphc.ir.instructions.ckks_operands import check_operands
from glyphc.ir.instructions.text import CKKS
from glyphc.ir.parameters import MOST_LINEAR_LIMBS, Parameters
from glyphc.ir.text import record_text
from glyphc.ir.typed_json import TypedJSON
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import (
    TrainingAnswerHeader,
    TrainingBatchHeader,
    TrainingKeysHeader,
    TrainingProgramHeader,
    TrainingRequestHeader,
    TrainingStateHeader,
    TrainingStatisticHeader,
)

from .artifacts import read_parameters
from .code_parts import CODE_FAULTS, code_part, encoded, packed, read_code, sha256

PROGRAM, KEYS, BATCHES = "program.training", "evaluation.keys", "batches"
INITIAL, CHECKPOINT, TRAINED = "initial.state", "checkpoint.state", "trained.state"
BACKBONE, MONITOR = "backbone.weights", "monitor"
# No integer in parameters that can be used is larger.
_MOST_PARAMETER = 1 << 20
# Of the bootstrapping context; plans stay well inside (see ``glyphc.train.plan.secure_parameters``).
_MOST_LEVELS_KEPT, _MOST_DIGITS, _MOST_BUDGET = 6, 16, 8
_PRIME_BITS = range(20, 61)
# Between a bootstrap's result and its modulus; plans have 28. Where nothing is left, OpenFHE ends the process instead
# of raising an error.
_LEAST_HEADROOM_BITS = 8
# Outlines that name no earlier program are what they were before there were any.
_JSON = TypedJSON(brief=True)
_MOST_EARLIER = 1000

Named = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Earlier:
    """A program that this one goes on from. program: its fingerprint; steps, batches: how many both have in common, so
    that its files are good for this one, too."""

    program: str
    steps: int
    batches: int


@dataclass(frozen=True)
class Outline:
    """A training program but for its instructions.

    data, state: names of a batch's and the state's ciphertexts and their limbs, in the order of the parts in files.
    periods: of packing. codes: SHA-256 of each code's text; step_codes: which one a step executes; step_batches: on
    which batch. earlier: programs that it goes on from, if it does. kept: of the state's ciphertexts those of frozen
    layers that the server has the weights of. statistic: limbs of what a step stores for the client to watch; 0: none.
    """

    data: Named
    state: Named
    periods: tuple[int, ...]
    batches: int
    codes: tuple[str, ...]
    step_codes: tuple[int, ...]
    step_batches: tuple[int, ...]
    earlier: tuple[Earlier, ...] = ()
    kept: tuple[str, ...] = ()
    statistic: int = 0

    @property
    def steps(self) -> int:
        return len(self.step_codes)

    @property
    def limbs(self) -> dict[str, int]:
        """Of all fresh ciphertexts, by name."""
        return dict((*self.data, *self.state))


class ServerHalf(Protocol):
    """What a plan of training tells of the server's work."""

    @property
    def parameters(self) -> Parameters: ...

    @property
    def periods(self) -> tuple[int, ...]: ...

    @property
    def data_names(self) -> tuple[str, ...]: ...

    @property
    def state_names(self) -> tuple[str, ...]: ...

    @property
    def kept_names(self) -> tuple[str, ...]: ...

    @property
    def statistic_limbs(self) -> int: ...

    def fresh_limbs(self, name: str) -> int: ...

    def code(self, step: int) -> Code: ...


@dataclass(frozen=True, eq=False)
class TrainingProgram:
    """A whole program in memory, on the side that makes it. codes: compressed texts, in the outline's order."""

    outline: Outline
    parameters: Parameters
    codes: tuple[bytes, ...]

    @staticmethod
    def of(plan: ServerHalf, step_batches: tuple[int, ...], earlier: tuple[Earlier, ...] = ()) -> TrainingProgram:
        """step_batches: which batch each step uses; earlier: of the outline."""
        codes: dict[str, bytes] = {}
        order: list[str] = []
        last: Code | None = None
        for step in range(len(step_batches)):
            code = plan.code(step)
            if code != last:
                text = encoded(code, CKKS)
                digest = sha256(text)
                codes.setdefault(digest, packed(text))
                last = code
            order.append(digest)
        numbers = {digest: number for number, digest in enumerate(codes)}
        outline = Outline(
            data=tuple((name, plan.fresh_limbs(name)) for name in plan.data_names),
            state=tuple((name, plan.fresh_limbs(name)) for name in plan.state_names),
            periods=tuple(plan.periods),
            # numbers of batches that the server has are taken
            batches=max(max(step_batches) + 1, *(e.batches for e in earlier), 0),
            codes=tuple(codes),
            step_codes=tuple(numbers[digest] for digest in order),
            step_batches=step_batches,
            earlier=earlier,
            kept=tuple(plan.kept_names),
            statistic=plan.statistic_limbs,
        )
        return TrainingProgram(outline, plan.parameters, tuple(codes.values()))

    @cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self.parameters, _JSON.text(self.outline, Outline))

    def save(self, path: Path, memory_bytes: int) -> None:
        header = TrainingProgramHeader(self.fingerprint, record_text(self.parameters), memory_bytes)
        with Writer(path, header) as writer:
            writer.add("outline", _JSON.text(self.outline, Outline).encode())
            for number, code in enumerate(self.codes):
                writer.add(code_part(number), code)


class ProgramFile:
    """An open file of a training program: the server's. Instructions are read when they are asked for.

    ArtifactError when it is damaged or breaks a rule; all of it is checked when it is opened. A context manager.
    """

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path, TrainingProgramHeader)
        try:
            self._open()
        except BaseException:
            self._reader.close()
            raise

    def _open(self) -> None:
        reader = self._reader
        self.parameters = read_parameters(reader.header.parameters, reader)
        self.memory_bytes = reader.header.memory_bytes
        text = reader.read("outline").decode(errors="replace")
        try:
            check_parameters(self.parameters)
            self.outline: Outline = _JSON.read(text, Outline)
            _check_outline(self.outline, self.parameters)
        except IRError as e:
            raise reader.damaged(f"its outline is unreadable ({e})") from None
        if _fingerprint(self.parameters, text) != reader.header.program:
            raise reader.damaged("its fingerprint is not that of its outline")
        self.fingerprint = reader.header.program
        parts = ["outline", *(code_part(number) for number in range(len(self.outline.codes)))]
        reader.expect([(name, reader.parts[name].size if name in reader.parts else 0) for name in parts])
        self._code = lru_cache(maxsize=1)(self._read_code)
        for number in range(len(self.outline.codes)):
            self._code(number)

    def code(self, step: int) -> Code:
        """The instructions of step 0, 1, ..."""
        return self._code(self.outline.step_codes[step])

    def _read_code(self, number: int) -> Code:
        try:
            code = read_code(self._reader, number, self.outline.codes[number], CKKS)
            _check_code(code, self.parameters, self.outline)
            return code
        except CODE_FAULTS as e:
            raise self._reader.damaged(f"part {code_part(number)}: {e}") from None

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> ProgramFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def program_parameters(path: Path) -> Parameters:
    """The parameters of a training program, of which nothing else is read."""
    with Reader(path, TrainingProgramHeader) as reader:
        return read_parameters(reader.header.parameters, reader)


def batch_path(folder: Path, number: int) -> Path:
    """Where a server's folder has a batch."""
    return folder / BATCHES / f"{number:06d}.batch"


def statistic_path(folder: Path, step: int) -> Path:
    """Where a folder of statistics has that of step 1, 2, ..."""
    return folder / f"{step:06d}.statistic"


def part_name(number: int) -> str:
    """Of the ciphertext with this number, in batches and states."""
    return f"{number:06d}"


def stream_name(number: int) -> str:
    """Of the residues that a fresh ciphertext takes from its file's seed."""
    return f"training/{part_name(number)}"


_OfRun = (
    Reader[TrainingBatchHeader]
    | Reader[TrainingStateHeader]
    | Reader[TrainingRequestHeader]
    | Reader[TrainingAnswerHeader]
    | Reader[TrainingStatisticHeader]
)


class OfRun(Protocol):
    """A training program, on either side."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def outline(self) -> Outline: ...


def check_run(reader: _OfRun, program: OfRun, key: str) -> None:
    """ArtifactError unless a batch, state, request, answer or statistic belongs to this program and these keys.

    Those of a program that it goes on from do, too, as far as both are the same.
    """
    header = reader.header
    common = _common(header.program, program, reader.name)
    if header.key != key:
        raise ArtifactError(f"{reader.name} was encrypted with other keys than this run's")
    if common is None:
        return
    if not isinstance(header, TrainingBatchHeader) and header.step > common.steps:
        raise ArtifactError(
            f"{reader.name} is of step {header.step} of an earlier program; this one goes on from step {common.steps}"
        )
    if isinstance(header, TrainingBatchHeader) and header.number >= common.batches:
        raise ArtifactError(f"{reader.name} holds batch {header.number}, which the earlier program does not have")


def is_abandoned(reader: Reader[TrainingStatisticHeader], program: OfRun) -> bool:
    """Whether a statistic is of a step that an earlier program did, and this one goes on from before it."""
    common = _common(reader.header.program, program, reader.name)
    return common is not None and reader.header.step > common.steps


def check_keys(reader: Reader[TrainingKeysHeader], program: OfRun) -> None:
    """ArtifactError unless evaluation keys were made for this program, or for one that it goes on from."""
    _common(reader.header.program, program, reader.name)


def _common(fingerprint: str, program: OfRun, name: str) -> Earlier | None:
    """What an earlier program has in common with this one; None for this one itself."""
    if fingerprint == program.fingerprint:
        return None
    for earlier in program.outline.earlier:
        if fingerprint == earlier.program:
            return earlier
    raise ArtifactError(f"{name} belongs to another training program")


def _fingerprint(parameters: Parameters, outline: str) -> str:
    return sha256(f"{record_text(parameters)}\n{outline}".encode())


def check_parameters(parameters: Parameters) -> None:
    """IRError for parameters that no plan has, before contexts are made from them."""
    values = [getattr(parameters, f.name) for f in fields(parameters)]
    numbers = [v for value in values for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int)]
    if any(not 0 <= n <= _MOST_PARAMETER for n in numbers):
        raise IRError("its parameters are out of range")
    powers = (parameters.ring, parameters.slots)
    if any(p < 1 or p & (p - 1) for p in powers) or not 64 <= parameters.ring <= 1 << 17:
        raise IRError("its parameters are those of no ring")
    try:
        depth = parameters.depth
    except ValueError as e:
        raise IRError(str(e)) from None
    if 2 * parameters.slots > parameters.ring or depth > 100:
        raise IRError("its parameters are those of no bootstrap")
    if any(not 1 <= budget <= _MOST_BUDGET for budget in parameters.level_budget):
        raise IRError("its bootstrap has no levels for a transform, or too many")
    if not 1 <= parameters.large_digits <= _MOST_DIGITS or not 0 <= parameters.levels_kept <= _MOST_LEVELS_KEPT:
        raise IRError("its keys have no digits, or too many, or its bootstrap leaves too many levels")
    if not 1 <= parameters.decoded_limbs <= parameters.linear_limbs <= MOST_LINEAR_LIMBS:
        raise IRError("its bootstraps leave more limbs than there are, or none")
    if parameters.scaling_bits not in _PRIME_BITS or parameters.linear_bits not in _PRIME_BITS:
        raise IRError("its primes are too small or too large")
    result_bits = parameters.linear_bits * (parameters.decoded_limbs - 1)
    if (parameters.levels_kept + 1) * parameters.scaling_bits - result_bits < _LEAST_HEADROOM_BITS:
        raise IRError("its bootstraps leave too few levels for their results")


def _check_outline(outline: Outline, parameters: Parameters) -> None:
    names = [name for name, _ in (*outline.data, *outline.state)]
    if len(set(names)) != len(names) or not outline.state or STATISTIC in names:
        raise IRError("a ciphertext is named twice, or there is no state")
    if len(set(outline.kept)) != len(outline.kept) or not set(outline.kept) <= {name for name, _ in outline.state}:
        raise IRError("it keeps weights that are none of its state's, or keeps them twice")
    if any(not 1 <= limbs <= parameters.linear_limbs for _, limbs in (*outline.data, *outline.state)) or not (
        0 <= outline.statistic <= parameters.linear_limbs
    ):
        raise IRError("a ciphertext has no limbs, or too many")
    if not 1 <= outline.steps == len(outline.step_batches) <= MOST_STEPS:
        raise IRError("its steps are not as many as their batches")
    if any(not 0 <= n < len(outline.codes) for n in outline.step_codes):
        raise IRError("a step has no code")
    if any(not 0 <= n < outline.batches for n in outline.step_batches):
        raise IRError("a step has no batch")
    if len(outline.earlier) > _MOST_EARLIER or any(
        not (0 <= e.steps <= outline.steps and 0 <= e.batches <= outline.batches) for e in outline.earlier
    ):
        raise IRError("it has more in common with an earlier program than there is, or goes on from too many")
    if any(p < 1 or p & (p - 1) or p > parameters.ring for p in outline.periods):
        raise IRError("a period of packing is no power of two, or beyond the ring")


def _check_code(code: Code, parameters: Parameters, outline: Outline) -> None:
    """IRError for code that cannot be executed, or does not lead from a state to the next one, and a statistic."""
    check_operands(code, parameters, outline.periods)
    stored = check(code, outline.limbs, parameters.decoded_limbs - 1, parameters.slot_levels)
    statistic = {STATISTIC: outline.statistic} if outline.statistic else {}
    if stored != dict(outline.state) | statistic:
        raise IRError("it does not store the ciphertexts of the next state on their limbs, and what is watched")
