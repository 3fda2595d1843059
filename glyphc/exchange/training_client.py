"""The data owner's side of training: plans, makes keys, encrypts batches to files; decrypts the trained weights.

Holds the secret; never imported by the server's modules. The client's folder has the secret key and what it takes to
read the weights: the network and the options, no data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError, GlyphcError, ParameterError
from glyphc.files import make_folder
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.ckks import MOST_STEPS
from glyphc.ir.parameters import Parameters
from glyphc.ir.text import parse, record_text, to_text
from glyphc.ir.typed_json import TypedJSON
from glyphc.ir.verify import verify
from glyphc.progress import Reporter, Silent, keys_counted
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import (
    TrainingBatchHeader,
    TrainingJobHeader,
    TrainingKeysHeader,
    TrainingSecretHeader,
    TrainingStateHeader,
)
from glyphc.train.batches import Batches, Turn
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Options, RangeSource, job_of
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SCHEDULES, Followed, Schedule
from glyphc.train.plan import Plan
from glyphc.train.planning import checked, plan_of, source_text
from glyphc.train.predict import memory_bytes, require_memory
from glyphc.train.ranges import Ranges

from .client import SECRET_FILE
from .client_engines import training_key_maker
from .engines import key_form
from .secret import check_apart, check_mode, needs_passphrase, read_secret, write_secret
from .training_engines import training_engine
from .training_files import (
    BATCHES,
    INITIAL,
    KEYS,
    PROGRAM,
    Earlier,
    TrainingProgram,
    batch_path,
    check_run,
    part_name,
    stream_name,
)
from .training_owners import write_spec
from .training_room import check_room

if TYPE_CHECKING:
    from glyphc.backends.openfhe.residues import Uniform
    from glyphc.backends.openfhe.training_fresh import FreshCiphertexts

F64 = npt.NDArray[np.floating[Any]]

JOB_FILE = "training.job"
RECORD_JSON = TypedJSON({Schedule: SCHEDULES | {Followed.name: Followed}})
# Decrypted weights are far below this; what was not encrypted with this secret decrypts to anything.
_LARGEST = 2.0**24


@dataclass(frozen=True)
class JobRecord:
    """What is kept of a job beside its network. loss: its name; samples, batch: how many; ranges: of its plan.

    target: the largest magnitude of a target that its bounds allow for. turns, earlier: of a run that goes on.
    engine: that the evaluation keys are for.
    """

    options: Options
    loss: str
    samples: int
    batch: int
    ranges: Ranges
    target: float = 1.0
    turns: tuple[Turn, ...] = ()
    earlier: tuple[Earlier, ...] = ()
    engine: str = "openfhe"


@dataclass(frozen=True)
class Prepared:
    """What was written. server_bytes: of the server's folder; reach: how much of the ranges the run is going to use,
    where that was tried; source: of the ranges, for people; engine: that the keys are for."""

    steps: int
    batches: int
    ciphertexts: int
    server_bytes: int
    reach: float | None
    source: str
    parameters: Parameters
    engine: str


def plan_steps(job: Job, earlier: tuple[Earlier, ...] = ()) -> tuple[Plan, TrainingProgram]:
    """The plan of a job and what the server executes for it."""
    plan = plan_of(job)
    return plan, program_of(job, plan, earlier)


def program_of(job: Job, plan: Plan, earlier: tuple[Earlier, ...] = ()) -> TrainingProgram:
    """What the server executes for a job's plan. earlier: programs that it goes on from."""
    numbers = tuple(job.batches.number(step) for step in range(job.options.steps))
    return TrainingProgram.of(plan.server, numbers, earlier)


def prepare(
    job: Job,
    client: Path,
    server: Path,
    passphrase: str | None = None,
    reporter: Reporter | None = None,
    planned: Callable[[Plan], None] = lambda plan: None,
    memory: float | None = None,
    model: bytes | None = None,
    spec: Path | None = None,
    engine: str | None = None,
    offered: str | None = None,
) -> Prepared:
    """Make keys and encrypt everything; the secret is written last, and nothing stays behind after an error.

    planned: told the plan before keys are made. memory: bytes that the server may take, by default those of
    ``glyphc.ir.memory``. model: the ONNX file that the network was read from, for :func:`original_model`.
    spec: where to write what owners of data need, who encrypt the batches then. engine: what computes on the server,
    by default the first that takes the run. offered: fingerprint of the program that an offer names, where others have
    found the ranges; else the run is done in the clear first.

    GlyphcError when the secret would lie in the server's folder, or the engine takes no such run, TrainingError when
    training would diverge or leave what encryption computes (found out in the clear, beforehand), ArtifactError when
    files are in the way, EnvironmentSetupError when OpenFHE is missing or room is short.
    """
    check_apart(client, server)
    reporter = reporter or Silent()
    plan, program = plan_steps(job)
    if offered not in (None, program.fingerprint):
        raise ArtifactError(
            "this machine plans another program than the offer's; use the same version of glyphc as the offer's "
            "server, or ask for a new offer"
        )
    reach = checked(job, plan) if offered is None else None
    chosen, _ = training_engine(plan.parameters, engine)
    planned(plan)
    require_memory(plan, chosen, memory, here=False)
    write_run(job, plan, program, client, server, passphrase, chosen, reporter, model, spec)
    size = sum(p.stat().st_size for p in server.rglob("*") if p.is_file())
    ciphertexts = len(program.outline.data)
    outline = program.outline
    return Prepared(outline.steps, outline.batches, ciphertexts, size, reach, source_text(job), plan.parameters, chosen)


def write_run(
    job: Job,
    plan: Plan,
    program: TrainingProgram,
    client: Path,
    server: Path,
    passphrase: str | None,
    engine: str,
    reporter: Reporter,
    model: bytes | None = None,
    spec: Path | None = None,
) -> None:
    """Make keys for an engine and encrypt everything that a planned run needs; errors of :func:`prepare`."""
    from glyphc.backends.errors import BackendError

    places = [server / name for name in (PROGRAM, KEYS, BATCHES, INITIAL)]
    places += [client / JOB_FILE, client / SECRET_FILE, *([] if spec is None else [spec])]
    for place in places:
        if place.exists():
            raise ArtifactError(f"{os.fspath(place)!r} exists already; use new folders, or remove it yourself")
    try:
        from glyphc.backends.openfhe.keys import key_tables
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None
    try:
        with removed_after_errors(places), key_tables():
            make_folder(client, 0o700)
            make_folder(server, 0o777)
            check_room(program, server, engine)
            _Preparation(job, plan, program, client, server, passphrase, engine, reporter, model, spec).run()
    except BackendError as e:
        raise ParameterError(str(e)) from None


class _Preparation:
    def __init__(
        self,
        job: Job,
        plan: Plan,
        program: TrainingProgram,
        client: Path,
        server: Path,
        passphrase: str | None,
        engine: str,
        reporter: Reporter,
        model: bytes | None,
        spec: Path | None,
    ) -> None:
        self.model, self.spec = model, spec
        self.job, self.plan, self.program = job, plan, program
        self.client, self.server, self.passphrase = client, server, passphrase
        self.engine, self.reporter = engine, reporter
        self.key = ""

    def run(self) -> None:
        from glyphc.backends.openfhe.keys import release_all_keys

        try:
            self._keys()
            if self.spec is None:
                self._batches()
            else:
                self._invite(self.spec)
            self._state()
        finally:
            release_all_keys()
        self.program.save(self.server / PROGRAM, int(memory_bytes(self.plan, self.engine)))
        self._job_file()
        # nothing should be found out only when the weights come back
        TrainingClientFiles.load(self.client / JOB_FILE)
        header = TrainingSecretHeader(self.key, record_text(self.plan.parameters), 0, "", "")
        write_secret(self.client / SECRET_FILE, header, self._secret, self.passphrase)

    def _keys(self) -> None:
        from glyphc.backends.openfhe.training_fresh import FreshCiphertexts
        from glyphc.backends.openfhe.training_wire import TrainingWire

        p, outline, seed = self.plan.parameters, self.program.outline, os.urandom(32)
        maker = training_key_maker(self.engine, p, outline.periods)
        count = len(maker.names())
        self.reporter.stage("generate keys", count)
        made = keys_counted(self.reporter, count)
        form = key_form(self.engine, p)
        header = TrainingKeysHeader(self.program.fingerprint, seed.hex(), self.engine, form)
        with Writer(self.server / KEYS, header) as writer:
            for name, data in maker.parts(seed):
                writer.add(name, data)
                made(name)
        self.key = writer.digest
        self._secret = maker.client.secret_bytes()
        self._fresh = FreshCiphertexts(maker.client, p.ring)
        self._wire = TrainingWire.like(p.ring, {n: maker.client.zero(n) for n in set(outline.limbs.values())})

    def _batches(self) -> None:
        """Each batch of the steps, encrypted once, one in memory at a time."""
        outline = self.program.outline
        (self.server / BATCHES).mkdir()
        self.reporter.stage("encrypt", outline.batches)
        for number in range(outline.batches):
            write_batch(self.server, number, self.plan, self.program, self.key, self._fresh, *self.job.batch(number))
            self.reporter.advance(1, f"batch {number + 1} of {outline.batches}")

    def _invite(self, path: Path) -> None:
        """What owners need, instead of batches."""
        from glyphc.backends.openfhe.residues import Uniform
        from glyphc.backends.openfhe.training_public import PUBLIC_STREAM

        (self.server / BATCHES).mkdir()
        p, seed = self.plan.parameters, os.urandom(32)
        public = self._fresh.write(np.zeros(p.ring), p.linear_limbs, Uniform(seed, PUBLIC_STREAM))
        assert self.job.radius is not None
        write_spec(path, self.plan, self.program, self.key, self.job.radius, public, seed)

    def _state(self) -> None:
        from glyphc.backends.openfhe.residues import Uniform

        start, seed = self.plan.state(self.job.program.initial()), os.urandom(32)
        with Writer(self.server / INITIAL, TrainingStateHeader(self.program.fingerprint, self.key, 0)) as writer:
            for at, (name, limbs) in enumerate(self.program.outline.state):
                message, planned = start[name]
                assert planned == limbs, name
                if name in self.program.outline.kept:  # the server adds its weights
                    message = np.zeros_like(message)
                fresh = _encrypted(self._fresh, name, message, limbs, Uniform(seed, name))
                ciphertext = self._wire.read_fresh(fresh, limbs, Uniform(seed, name))
                writer.add(part_name(at), self._wire.write(ciphertext, limbs))

    def _job_file(self) -> None:
        job = self.job
        # requests are clipped as the samples were, and those of bounds to the norm that these hold for
        radius = job.widest if job.options.source is RangeSource.BOUNDS else job.radius
        batches, target = job.batches, float(np.abs(job.y).max(initial=1.0))
        record = JobRecord(
            replace(job.options, clip=radius),
            job.loss.name,
            batches.samples,
            batches.batch,
            self.plan.ranges,
            target,
            engine=self.engine,
        )
        write_job(self.client / JOB_FILE, self.program, self.key, job.network, record, self.model)


def write_batch(
    folder: Path, number: int, plan: Plan, program: TrainingProgram, key: str, fresh: FreshCiphertexts, x: F64, y: F64
) -> None:
    """Encrypt a batch into a folder with one of batches. x: what the trained part reads; y: targets."""
    from glyphc.backends.openfhe.residues import Uniform

    data, seed = plan.data(x.reshape(len(x), -1), y), os.urandom(32)
    header = TrainingBatchHeader(program.fingerprint, key, number, seed.hex())
    with Writer(batch_path(folder, number), header) as writer:
        for at, (name, limbs) in enumerate(program.outline.data):
            message, planned = data[name]
            assert planned == limbs, name
            writer.add(part_name(at), _encrypted(fresh, name, message, limbs, Uniform(seed, stream_name(at))))


def _encrypted(fresh: FreshCiphertexts, name: str, message: F64, limbs: int, stream: Uniform) -> bytes:
    try:
        return fresh.write(np.asarray(message, dtype=np.float64), limbs, stream)
    except ValueError as e:
        raise TrainingError(
            f"{name}: {e}, so it cannot be encrypted; scale the features, or start from smaller weights"
        ) from None


def write_job(
    path: Path, program: TrainingProgram, key: str, network: Graph, record: JobRecord, model: bytes | None
) -> None:
    """What the client keeps of a run. model: the ONNX file that the network was read from."""
    with Writer(path, TrainingJobHeader(program.fingerprint, key), secret=True) as writer:
        writer.add("network", to_text(network).encode())
        writer.add("job", RECORD_JSON.text(record, JobRecord).encode())
        if model is not None:
            writer.add("model", model)


@dataclass(frozen=True, eq=False)
class TrainingClientFiles:
    """A job as it was prepared, without its data, and what belongs to it."""

    job: Job
    record: JobRecord
    plan: Plan
    program: TrainingProgram
    key: str

    @staticmethod
    def load(path: Path) -> TrainingClientFiles:
        """ArtifactError when the file is damaged, or this glyphc makes another program of the job."""
        with Reader(path, TrainingJobHeader) as reader:
            try:
                network = parse(reader.read("network").decode())
                verify(network)
                record: JobRecord = RECORD_JSON.read(reader.read("job").decode(), JobRecord)
                job = job_of_record(network, record)
            except (IRError, UnicodeDecodeError, ValueError, KeyError, GlyphcError) as e:
                raise e if isinstance(e, ArtifactError) else reader.damaged(f"its job is unreadable ({e})") from None
            other = ArtifactError(
                f"{reader.name} was made by another version of glyphc, which trains by another program; use that "
                "version to read the weights"
            )
            try:
                plan, program = plan_steps(job, record.earlier)
            except (TrainingError, ParameterError) as e:  # that version could plan it
                raise other from e
            if program.fingerprint != reader.header.program:
                raise other
            return TrainingClientFiles(job, record, plan, program, reader.header.key)


def finish(
    client: Path, state: Path, passphrase: str | None = None, steps: int | None = None
) -> tuple[Graph, Parameters]:
    """The trained network, and the parameters it was trained with, from the client's folder and a server's state. Of an
    offer of the server's what comes behind its own layers.

    steps: after how many the state must be, by default all. ArtifactError for a damaged file, one of another run or of
    another step, before anything is decrypted; SecretError for a wrong passphrase.
    """
    files = TrainingClientFiles.load(client / JOB_FILE)
    wanted = files.program.outline.steps if steps is None else steps
    messages = decrypted_state(client, files, state, wanted, passphrase)
    return files.job.trained(files.plan.weights(messages, wanted)), files.plan.parameters


def decrypted_state(
    client: Path, files: TrainingClientFiles, state: Path, wanted: int, passphrase: str | None
) -> dict[str, F64]:
    """Messages of a state after ``wanted`` steps, by name; errors of :func:`finish`."""
    from glyphc.backends.errors import BackendError

    outline = files.program.outline
    with Reader(state, TrainingStateHeader) as reader:
        check_run(reader, files.program, files.key)
        if reader.header.step != wanted:
            raise ArtifactError(
                f"{reader.name} holds the weights after {reader.header.step} steps, not {wanted}; ask for that with "
                f"--steps {reader.header.step}, or let the server go on"
            )
        names = [part_name(at) for at in range(len(outline.state))]
        reader.expect([(name, reader.parts[name].size if name in reader.parts else 0) for name in names])
        reader.verify()
        secret = stored_secret(client / SECRET_FILE, files, passphrase)
        try:
            return _decrypted(reader, files, secret)
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None


def original_model(client: Path) -> bytes | None:
    """The ONNX file that the network of a prepared run was read from, if it was kept."""
    with Reader(client / JOB_FILE, TrainingJobHeader) as reader:
        return reader.read("model") if "model" in reader.parts else None


def is_insecure(client: Path) -> bool:
    """Whether a prepared run uses a small ring, for tests; ArtifactError for a damaged file."""
    with Reader(client / JOB_FILE, TrainingJobHeader) as reader:
        try:
            record: JobRecord = RECORD_JSON.read(reader.read("job").decode(), JobRecord)
        except (UnicodeDecodeError, ValueError, KeyError) as e:
            raise reader.damaged(f"its job is unreadable ({e})") from None
    return record.options.insecure_ring is not None


def secret_is_encrypted(client: Path) -> bool:
    """Whether the key in a client's folder has a passphrase; DataError when there is none."""
    path = client / SECRET_FILE
    if not path.is_file():
        raise DataError(f"there is no {SECRET_FILE} in {os.fspath(client)!r}; 'glyphc training prepare' makes one")
    check_mode(path)
    return needs_passphrase(path, TrainingSecretHeader)


def stored_secret(path: Path, files: TrainingClientFiles, passphrase: str | None) -> bytes:
    """A run's secret key; ArtifactError for one of another run, SecretError for a wrong passphrase."""
    with Reader(path, TrainingSecretHeader) as reader:
        if reader.header.key != files.key or reader.header.parameters != record_text(files.plan.parameters):
            raise ArtifactError(f"{reader.name} is the secret key of another run")
        return read_secret(reader, passphrase)


def _decrypted(reader: Reader[TrainingStateHeader], files: TrainingClientFiles, secret: bytes) -> dict[str, F64]:
    from glyphc.backends.openfhe.residues import ResidueError
    from glyphc.backends.openfhe.training_fresh import stored_client
    from glyphc.backends.openfhe.training_wire import TrainingWire

    parameters, state = files.plan.parameters, files.program.outline.state
    client = stored_client(parameters, secret)
    wire = TrainingWire.like(parameters.ring, {limbs: client.zero(limbs) for _, limbs in state})
    messages: dict[str, F64] = {}
    for at, (name, limbs) in enumerate(state):
        try:
            messages[name] = client.decrypt(wire.read(reader.read(part_name(at)), limbs))
        except ResidueError as e:
            raise reader.damaged(f"part {part_name(at)}: {e}") from None
        if np.abs(messages[name]).max() >= _LARGEST:
            raise reader.damaged("it does not decrypt to weights; the server did not compute with this run's files")
    return messages


def job_of_record(network: Graph, record: JobRecord) -> Job:
    """A job without its data; ValueError or KeyError for a record that no job has."""
    options, loss = record.options, LOSSES[record.loss]
    if not 1 <= options.steps <= MOST_STEPS:
        raise ValueError(f"{options.steps} steps, which no training program has")
    batches = Batches(record.samples, record.batch, options.seed, record.turns, options.shuffle)
    return job_of(network, loss, options, batches, np.zeros((0, 0)), np.zeros((0, 0)), record.ranges)


@contextmanager
def removed_after_errors(places: list[Path]) -> Iterator[None]:
    """What stands in these places does not stay behind after an error, nor folders that are empty then."""
    try:
        yield
    except BaseException:
        for place in places:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        for folder in {place.parent for place in places}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
