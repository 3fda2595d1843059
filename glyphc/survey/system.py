"""What every system of the survey is here: a training job with its definition, its forecast, and a way to run it.

A system trains by plain steps. Its *definition* is a step in the clear, on the numbers that the system computes with;
a *runner* does the same step by instructions, on ciphertexts or on plain numbers. Both sides run in one process.
"""

from __future__ import annotations

import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from glyphc import free_memory
from glyphc.backends.errors import BackendError
from glyphc.backends.processes import ended_processes_seconds
from glyphc.errors import EnvironmentSetupError, ParameterError
from glyphc.knowledge import Knowledge
from glyphc.progress import Reporter, Silent
from glyphc.runtime import Mode
from glyphc.train.job import Job

F64 = npt.NDArray[np.floating[Any]]
# Weights by constant name: integers or real numbers, as the system has them.
State = Mapping[str, npt.NDArray[Any]]
K = TypeVar("K")


@dataclass(frozen=True)
class Forecast:
    """What a run is going to take. Of a step: seconds of the server and of the client, trips to the client, bytes to
    and from the server. Of the run: bytes of a batch and of the first weights, of evaluation keys, and of memory at the
    peak, with both sides in one process. measured_on: the machine that the figures are of."""

    step_seconds: float
    client_seconds: float
    trips: int
    upload_bytes: float
    download_bytes: float
    batch_bytes: float
    state_bytes: float
    key_bytes: float
    memory_bytes: float
    measured_on: str

    def sent(self, steps: int, batches: int) -> tuple[float, float]:
        """Bytes to and from the server in a run of so many steps on so many different batches, without keys."""
        up = self.state_bytes + batches * self.batch_bytes + steps * self.upload_bytes
        return up, steps * self.download_bytes


class Runner(Protocol):
    """Does steps by instructions. trips, client_seconds, sent, received: so far, of the steps; bytes to and from the
    server."""

    trips: int
    client_seconds: float

    def start(self, state: State) -> None:
        """Encrypt the weights to begin with."""

    def step(self, number: int) -> None:
        """Do step 0, 1, ..."""

    def state(self) -> State:
        """The weights as they stand; the client's."""


class System(ABC):
    """job: of the network that is trained, with floats and plain steps."""

    name: ClassVar[str]
    exact: ClassVar[bool]
    job: Job

    @property
    @abstractmethod
    def forecast(self) -> Forecast:
        """What a run is going to take."""

    @property
    @abstractmethod
    def security(self) -> str:
        """OpenFHE's level, or that there is none."""

    @property
    @abstractmethod
    def knowledge(self) -> Knowledge:
        """Who learns what."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the plan, a line each."""

    @abstractmethod
    def initial(self) -> State:
        """The weights to begin with."""

    @abstractmethod
    def defined(self, state: State, number: int) -> State:
        """A step in the clear: the definition of what every runner computes. TrainingError beyond the planned range."""

    @abstractmethod
    def weights(self, state: State) -> dict[str, F64]:
        """The real numbers that weights stand for, by constant name."""

    @contextmanager
    def runner(self, mode: Mode, reporter: Reporter) -> Iterator[Runner]:
        """For the time of a ``with`` block, keys included where it encrypts; EnvironmentSetupError when OpenFHE is
        missing."""
        if mode is Mode.CLEAR:
            yield Clear(self)
            return
        with self.simulated() if mode is Mode.SIMULATE else self.encrypted(reporter) as found:
            yield found

    @abstractmethod
    def simulated(self) -> AbstractContextManager[Runner]:
        """Executes the instructions on plain numbers."""

    @abstractmethod
    def encrypted(self, reporter: Reporter) -> AbstractContextManager[Runner]:
        """With keys of its own; EnvironmentSetupError when OpenFHE is missing, ParameterError when it refuses."""


@dataclass
class Done:
    """What a run did. seconds: of each step, both sides; server_seconds: the server's share of all steps; cpu_seconds:
    of all steps on all cores. peak_memory: of the process so far, in bytes."""

    state: State
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    client_seconds: float = 0.0
    key_seconds: float = 0.0
    trips: int = 0
    peak_memory: int = 0

    @property
    def server_seconds(self) -> float:
        return sum(self.seconds) - self.client_seconds


def carry_out(
    system: System,
    mode: Mode,
    reporter: Reporter | None = None,
    monitor: Callable[[int, State], None] | None = None,
) -> Done:
    """All steps of a system's job. monitor: shown the weights before each step, which under encryption takes the
    client's key. EnvironmentSetupError where memory is short."""
    shown = reporter or Silent()
    if mode is Mode.ENCRYPTED:
        check_memory(system.forecast)
    steps = system.job.options.steps
    done = Done(system.initial())
    began, others = time.perf_counter(), ended_processes_seconds()
    with system.runner(mode, shown) as runner:
        done.key_seconds = time.perf_counter() - began
        runner.start(done.state)
        shown.stage("train", steps)
        spent = runner.client_seconds
        cpu = time.process_time()
        for number in range(steps):
            if monitor is not None:
                monitor(number, runner.state())
            start = time.perf_counter()
            runner.step(number)
            done.seconds.append(time.perf_counter() - start)
            shown.advance(1, f"step {number + 1} of {steps}")
        done.cpu_seconds = time.process_time() - cpu
        done.client_seconds = runner.client_seconds - spent
        done.trips = runner.trips
        done.state = runner.state()
    done.cpu_seconds += ended_processes_seconds() - others
    shown.done()
    done.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return done


def check_memory(forecast: Forecast, most: float | None = None, where: str = "available") -> None:
    """EnvironmentSetupError for a run that takes more memory. most, where: as of ``free_memory.require``."""
    free_memory.require(forecast.memory_bytes, "use smaller batches", most, where)


@contextmanager
def fresh_keys(generate: Callable[[], K], reporter: Reporter) -> Iterator[K]:
    """What ``generate`` makes in OpenFHE, whose tables of keys are this block's alone."""
    try:
        from glyphc.backends.openfhe.keys import key_tables, release_all_keys
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None
    with key_tables(wait=True):
        try:
            reporter.stage("generate keys", 0.5)
            try:
                made = generate()
            except BackendError as e:
                raise ParameterError(str(e)) from None
            yield made
        finally:
            release_all_keys()


class Clear:
    """The definition as a runner."""

    trips = 0
    client_seconds = 0.0

    def __init__(self, system: System) -> None:
        self._system = system
        self._state: State = {}

    def start(self, state: State) -> None:
        self._state = state

    def step(self, number: int) -> None:
        self._state = self._system.defined(self._state, number)

    def state(self) -> State:
        return self._state
