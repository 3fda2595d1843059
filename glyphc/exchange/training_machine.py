"""What the server of a training run computes with: keys and ciphertexts from files, no secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from glyphc import free_memory
from glyphc.analysis.kernels_cost import more_bytes
from glyphc.backends.errors import BackendError
from glyphc.errors import EnvironmentSetupError, ParameterError
from glyphc.progress import Reporter, keys_counted
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingBatchHeader, TrainingKeysHeader, TrainingStateHeader

from .artifacts import read_seed
from .training_engines import Machine, Wire, check_form, loaded, part_names, warm_up
from .training_files import Named, ProgramFile, check_run, part_name, stream_name


def check_memory(program: ProgramFile, engine: str) -> None:
    """EnvironmentSetupError when the machine has less memory free than the program is predicted to take on it."""
    needed = program.memory_bytes + more_bytes(program.parameters, engine)
    free_memory.require(needed, "use a larger machine or stop other programs")


def load_machine(
    keys: Reader[TrainingKeysHeader], program: ProgramFile, reporter: Reporter
) -> tuple[ExitStack, Machine, Wire]:
    """The machine and its ciphertexts' form, from verified keys. The stack releases what OpenFHE holds of them.

    ArtifactError for keys that are not those of the program, ParameterError for what the engine refuses,
    EnvironmentSetupError when OpenFHE is missing.
    """
    tables = ExitStack()
    try:
        return tables, *_loaded(keys, program, reporter, tables)
    except BaseException:
        tables.close()
        raise


def _loaded(
    keys: Reader[TrainingKeysHeader], program: ProgramFile, reporter: Reporter, tables: ExitStack
) -> tuple[Machine, Wire]:
    parameters, periods = program.parameters, program.outline.periods
    engine = check_form(keys, parameters)
    try:
        from glyphc.backends.openfhe.keys import key_tables, release_all_keys
        from glyphc.backends.openfhe.residues import ResidueError

        tables.enter_context(key_tables())
        warm_up(engine, lambda name: reporter.stage(name, 1))
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None
    tables.callback(release_all_keys)
    try:
        with refusals():
            names = part_names(engine, parameters, periods)
        keys.expect([(name, keys.parts[name].size if name in keys.parts else 0) for name in names])
        reporter.stage("load keys", len(names))
        seed = read_seed(keys.header.seed, keys)
        with refusals():
            return loaded(engine, parameters, periods, seed, keys.read, keys_counted(reporter, len(names)))
    except ResidueError as e:
        raise keys.damaged(str(e)) from None
    except BackendError as e:
        raise ParameterError(str(e)) from None


def read_state(path: Path, program: ProgramFile, key: str, wire: Wire) -> tuple[dict[str, Any], int]:
    """The state's ciphertexts by name, and how many steps they are after; ArtifactError for another run's."""
    from glyphc.backends.openfhe.residues import ResidueError

    with Reader(path, TrainingStateHeader) as reader:
        check_run(reader, program, key)
        named = program.outline.state
        reader.expect([(part_name(i), wire.state_size(limbs)) for i, (_, limbs) in enumerate(named)])
        try:
            state = {name: wire.read(reader.read(part_name(i)), limbs) for i, (name, limbs) in enumerate(named)}
        except ResidueError as e:
            raise reader.damaged(str(e)) from None
        return state, reader.header.step


class Stored(Mapping[str, Any]):
    """Ciphertexts of a batch or a state, read when they are needed. named: with limbs, in the order of the parts."""

    def __init__(
        self, reader: Reader[TrainingBatchHeader] | Reader[TrainingStateHeader], named: Named, wire: Wire
    ) -> None:
        self._reader, self._wire = reader, wire
        # a batch under the public key has no seed, and neither has a state
        seed = reader.header.seed if isinstance(reader.header, TrainingBatchHeader) else ""
        self._seed = read_seed(seed, reader) if seed else b""
        self._places = {name: (i, limbs) for i, (name, limbs) in enumerate(named)}

    def __getitem__(self, name: str) -> Any:
        from glyphc.backends.openfhe.residues import ResidueError, Uniform

        number, limbs = self._places[name]
        data = self._reader.read(part_name(number))
        try:
            if not self._seed:
                return self._wire.read(data, limbs)
            return self._wire.read_fresh(data, limbs, Uniform(self._seed, stream_name(number)))
        except ResidueError as e:
            raise self._reader.damaged(f"part {part_name(number)}: {e}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def refusals() -> Iterator[None]:
    """ParameterError for what OpenFHE refuses in a program that passed all checks."""
    try:
        yield
    except RuntimeError as e:
        if type(e) is not RuntimeError:  # OpenFHE's errors are of this class itself
            raise
        raise ParameterError(f"OpenFHE cannot execute this training program: {e}") from e
