"""What is measured of every peer, and the table of it. Standard library only: it runs in the peers' environments."""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field


@dataclass
class Timed:
    """A run of a system in one configuration, on a process of its own. wall, cpu: seconds by stage, all cores together;
    memory: peak of the process, in bytes."""

    system: str
    configuration: str
    versions: dict[str, str]
    security: str = ""
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    memory: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds of what is inside to a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def print(self, memory: int = 0) -> None:
        """As the last line of standard output, which :func:`read` and :func:`read_training` take. memory: of a process
        that did the work."""
        self.memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.versions = {"python": platform.python_version(), **self.versions}
        print(json.dumps(asdict(self)))


@dataclass
class Measured(Timed):
    """On one network. Seconds are totals of all ``samples``.

    samples: encrypted, at once where the system has batches. wall, cpu: by stage (``STAGES``). correct: share of the
    encrypted samples with their label's class; agreement: with the class that the same system computes without
    encryption. clear: share correct of all ``tested`` samples without encryption. key_bytes: of what the server gets
    once; input_bytes, output_bytes: of all samples.
    """

    samples: int = 0
    tested: int = 0
    correct: float = 0.0
    agreement: float = 0.0
    clear: float = 0.0
    key_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0


@dataclass
class Training(Timed):
    """Of a model. steps: that were done encrypted, of ``batch`` samples each; wall, cpu: of "keys", "encrypt" and
    "step", totals. tested: held-out samples; encrypted, clear: share of them that the model classifies right after the
    encrypted steps, and after the same ones as the system does them without encryption. stopped: seconds that one more
    step had taken when the run was stopped, with its weights still encrypted; 0 where it came to its end."""

    steps: int = 0
    batch: int = 0
    tested: int = 0
    encrypted: float = 0.0
    clear: float = 0.0
    stopped: float = 0.0


# Making the program, the keys; then of every sample.
STAGES = ("compile", "keys", "encrypt", "evaluate", "decrypt")


def read(output: str) -> Measured:
    """From a process's standard output."""
    return Measured(**json.loads(output.splitlines()[-1]))


def read_training(output: str) -> Training:
    """The same of a training run."""
    return Training(**json.loads(output.splitlines()[-1]))


def training_table(results: list[Training]) -> str:
    """As Markdown."""
    head = ["system", "configuration", "steps", "samples in a step", "s a step", "s for 1,000 samples", "keys, s"]
    head += ["encrypt, s", "correct encrypted", "correct in clear", "peak GB"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in results:

        def seconds(stage: str, factor: float = 1.0, r: Training = r) -> str:
            return " / ".join(f"{factor * part.get(stage, 0.0):.3g}" for part in (r.wall, r.cpu))

        def of_steps(factor: float, r: Training = r) -> str:
            return seconds("step", factor / r.steps) if r.steps else f"over {factor * r.stopped:.3g}"

        steps = f"{r.steps}, then stopped" if r.stopped else str(r.steps)
        correct = "not decrypted" if r.stopped else f"{r.encrypted:.2%} of {r.tested}"
        cells = [r.system, r.configuration, steps, str(r.batch), of_steps(1.0), of_steps(1000 / r.batch)]
        cells += [seconds("keys"), seconds("encrypt"), correct, f"{r.clear:.2%}", f"{r.memory / 1e9:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(results: list[Measured]) -> str:
    """As Markdown; the last column says how much longer each takes than the quickest, in CPU seconds a sample."""
    head = ["system", "configuration", "samples", "evaluate, s a sample", "encrypt + decrypt, s a sample", "keys, s"]
    head += ["compile, s", "keys, MB", "up + down, kB a sample", "correct in clear", "correct encrypted", "as in clear"]
    head += ["peak GB", "times the quickest (CPU)"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    quickest = min((r.cpu["evaluate"] / r.samples for r in results), default=1.0)
    for r in results:

        def seconds(*stages: str, per: int = 1, r: Measured = r) -> str:
            return " / ".join(f"{sum(part.get(s, 0.0) for s in stages) / per:.3g}" for part in (r.wall, r.cpu))

        cells = [r.system, r.configuration, str(r.samples), seconds("evaluate", per=r.samples)]
        cells += [seconds("encrypt", "decrypt", per=r.samples), seconds("keys"), seconds("compile")]
        cells += [f"{r.key_bytes / 1e6:,.0f}", f"{(r.input_bytes + r.output_bytes) / r.samples / 1e3:,.1f}"]
        cells += [f"{r.clear:.2%} of {r.tested:,}", f"{r.correct:.2%} of {r.samples}", f"{r.agreement:.2%}"]
        cells += [f"{r.memory / 1e9:.2f}", f"{r.cpu['evaluate'] / r.samples / quickest:,.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def notes(results: Sequence[Timed]) -> str:
    """What a table leaves out: versions, security, and what the seconds are."""
    lines = ["Seconds: wall / CPU of all cores. Keys: what the server gets once. Of every system:", ""]
    for r in results:
        named = ", ".join(f"{name} {version}" for name, version in r.versions.items())
        stopped = r.stopped if isinstance(r, Training) else 0.0
        after = f"; stopped when a step had taken {stopped:.0f} s and was not at its end" if stopped else ""
        lines.append(f"- {r.system}, {r.configuration}: {r.security}; {named}{after}.")
    return "\n".join(lines)
