"""What a run took, in a file that ``glyphc inspect`` can show beside the predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glyphc.errors import ArtifactError
from glyphc.files import write_atomically
from glyphc.ir.accuracy import Loss, MeasureKind
from glyphc.overruns import Overrun
from glyphc.program import Program
from glyphc.runtime import Mode, RunReport

FORMAT = "glyphc-run"
VERSION = 5


@dataclass(frozen=True)
class Step:
    """One instruction: its number in the schedule, seconds from the first one's beginning, and seconds it took."""

    instruction: int
    start: float
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """program: its fingerprint. mode, engine, security, overruns, lost, promised, losses: as the run report has them.
    stages: seconds of keys, encryption and so on, in order."""

    program: str
    mode: str
    engine: str
    samples: int
    passes: int
    stages: tuple[tuple[str, float], ...]
    node_seconds: tuple[tuple[int, float], ...]
    steps: tuple[Step, ...]
    peak_memory: int
    security: str
    overruns: tuple[Overrun, ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    promised: tuple[Loss, ...] = ()
    losses: tuple[Loss, ...] = ()

    @property
    def predicted_engine(self) -> str | None:
        """The engine whose predictions these times can be compared with; None of a run that encrypted nothing."""
        return self.engine if self.mode == Mode.ENCRYPTED.value else None

    @property
    def node_seconds_of_a_pass(self) -> dict[int, float]:
        """By node id, on average over the passes: to be compared with predictions."""
        return {node: seconds / max(1, self.passes) for node, seconds in self.node_seconds}

    @staticmethod
    def of(program: Program, report: RunReport) -> RunRecord:
        steps = tuple(Step(number, round(start, 6), round(seconds, 6)) for number, start, seconds in report.timeline)
        nodes = tuple(report.node_seconds.items())
        stages = tuple(report.seconds.items())
        return RunRecord(
            program.fingerprint,
            report.mode.value,
            report.engine,
            report.samples,
            report.passes,
            stages,
            nodes,
            steps,
            report.peak_memory,
            report.security,
            report.overruns,
            report.lost,
            report.promised,
            report.losses,
        )

    def save(self, path: Path) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        data = {"format": FORMAT, "version": VERSION, **asdict(self)}
        data["steps"] = [[s.instruction, s.start, s.seconds] for s in self.steps]
        write_atomically(path, (json.dumps(data, default=_plain) + "\n").encode())

    @staticmethod
    def load(path: Path, program: Program) -> RunRecord:
        """Read what :meth:`save` wrote; ArtifactError if it is missing, damaged or of another program."""
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise ArtifactError(f"cannot read {str(path)!r}: {e.strerror}") from None
        except ValueError as e:
            raise ArtifactError(f"{str(path)!r} is no record of a run ({e}); 'run --record' writes one") from None
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            raise ArtifactError(f"{str(path)!r} is no record of a run of this version; 'run --record' writes one")
        try:
            record = RunRecord(
                str(data["program"]),
                str(data["mode"]),
                str(data["engine"]),
                int(data["samples"]),
                int(data["passes"]),
                tuple((str(n), float(s)) for n, s in data["stages"]),
                tuple((int(n), float(s)) for n, s in data["node_seconds"]),
                tuple(Step(int(i), float(a), float(s)) for i, a, s in data["steps"]),
                int(data["peak_memory"]),
                str(data["security"]),
                tuple(
                    Overrun(
                        int(o["node"]),
                        str(o["layer"]),
                        int(o["sample"]),
                        int(o["values"]),
                        int(o["wraps"]),
                        float(o["farthest"]),
                    )
                    for o in data["overruns"]
                ),
                tuple((int(first), int(end)) for first, end in data["lost"]),
                tuple(_loss(loss) for loss in data["promised"]),
                tuple(_loss(loss) for loss in data["losses"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise ArtifactError(f"{str(path)!r} is a damaged record of a run ({e}); run the program again") from None
        if record.program != program.fingerprint:
            raise ArtifactError(f"{str(path)!r} is the record of a run of another program; run this one with --record")
        return record


def _plain(kind: MeasureKind) -> str:
    return kind.value


def _loss(data: dict[str, Any]) -> Loss:
    """A loss as it stands in a record; infinite and NaN where outputs were."""
    return Loss(
        str(data["output"]),
        MeasureKind(data["kind"]),
        float(data["value"]),
        float(data["limit"]),
        int(data["samples"]),
        float(data["error"]),
        int(data["column"]),
        int(data["columns"]),
        int(data["near_ties"]),
        str(data["reason"]),
        bool(data["held_out"]),
        tuple(float(spread) for spread in data["spreads"]),
    )
