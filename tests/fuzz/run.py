"""Feeds inputs to readers in forked processes with limits, and counts what became of them.

Which input is number n of a target follows from both alone, so a run can be gone on with, and a failure made again.
A hang is counted in seconds of processor time, so that other work on the machine makes none.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from .targets import TARGETS, Target

HANG_SECONDS = 20.0
MEMORY_BYTES = 2 << 30
ROOT = Path(__file__).resolve().parents[2]
SEEDS = Path(__file__).with_name("seeds")
_CODE = ("glyphc", "ir", "backends")
# Of a slow target's inputs, and of others: the lines of every so manieth one are looked at.
_COVERAGE_EVERY = {True: 64, False: 256}
# Later calls of a function in one process are not traced: they hardly show other lines, and take most of the time.
_TRACED_CALLS = 16


@dataclass
class Count:
    """Of one target. read: inputs that their reader took; done: with all that was asked of them; compiled: programs."""

    next: int = 0
    inputs: int = 0
    read: int = 0
    done: int = 0
    compiled: int = 0
    traceback: int = 0
    crash: int = 0
    hang: int = 0
    memory: int = 0
    seconds: float = 0.0

    @property
    def failures(self) -> int:
        return self.traceback + self.crash + self.hang + self.memory

    def plus(self, other: Count) -> Count:
        return Count(**{k: v + getattr(other, k) for k, v in asdict(self).items()})


@dataclass
class Tally:
    """All counts, and the lines of our code that sampled inputs ran."""

    counts: dict[str, Count] = field(default_factory=lambda: {name: Count() for name in TARGETS})
    lines: dict[str, set[int]] = field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> Tally:
        tally = Tally()
        if path.exists():
            tree = json.loads(path.read_text())
            tally.counts.update({k: Count(**v) for k, v in tree["counts"].items() if k in TARGETS})
            tally.lines = {k: set(v) for k, v in tree["lines"].items()}
        return tally

    def save(self, path: Path) -> None:
        tree = {
            "counts": {k: asdict(v) for k, v in self.counts.items()},
            "lines": {k: sorted(v) for k, v in self.lines.items()},
        }
        part = path.with_suffix(".part")
        part.write_text(json.dumps(tree))
        part.replace(path)

    def table(self) -> str:
        rows = [("target", "inputs", "read", "compiled", "done", "tracebacks", "crashes", "hangs", "memory", "CPU s")]
        total = Count()
        for name, c in self.counts.items():
            rows.append((name, *_cells(c)))
            total = total.plus(c)
        rows.append(("all", *_cells(total)))
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        ]
        return "\n".join([*lines, "", *coverage(self.lines)])


def _cells(c: Count) -> tuple[str, ...]:
    return tuple(
        f"{v:,}"
        for v in (c.inputs, c.read, c.compiled, c.done, c.traceback, c.crash, c.hang, c.memory, round(c.seconds))
    )


def data_of(target: Target, number: int) -> bytes:
    return target.make(Random(f"{target.name} {number}"))


def feed(target: Target, data: bytes, folder: Path | None = None) -> set[str]:
    """What an input reached; whatever is no refusal is raised. folder: for its files, by default one of its own."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="glyphc-fuzz-") as own:
            return feed(target, data, Path(own))
    reached: set[str] = set()
    try:
        target.feed(data, folder, reached.add)
        reached.add("done")
    except target.refusals as e:
        if not str(e).strip():
            raise AssertionError("a refusal that says nothing") from e
    return reached


# -- one process for a stretch of inputs --


def stretch(target: Target, numbers: range, count: Count, lines: dict[str, set[int]], failures: Path | None) -> None:
    """Feed inputs in forked processes until all numbers are through; a failure costs one process."""
    left = numbers
    while len(left):
        left = left[_forked(target, left, count, lines, failures) :]


def _forked(target: Target, numbers: range, count: Count, lines: dict[str, set[int]], failures: Path | None) -> int:
    """How many inputs are through, the one that failed included."""
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="glyphc-fuzz-") as folder:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            code = 1
            try:
                _child(target, numbers, send, Path(folder))
                code = 0
            finally:
                os._exit(code)
        os.close(send)
        return _watched(child, receive, target, numbers, count, lines, failures)


def _watched(
    child: int,
    receive: int,
    target: Target,
    numbers: range,
    count: Count,
    lines: dict[str, set[int]],
    failures: Path | None,
) -> int:
    """What a child tells of its inputs, or what became of it; how many are through."""
    through, last, text = 0, 0.0, b""
    kind = ""
    with os.fdopen(receive, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], 2.0)
            if not ready:
                if _cpu_seconds(child) - last > HANG_SECONDS:
                    kind = "hang"
                    os.kill(child, signal.SIGKILL)
                    break
                continue
            chunk = pipe.read(1 << 20)
            if not chunk:
                break
            text += chunk
            *records, text = text.split(b"\n")
            for record in records:
                entry = json.loads(record)
                if "lines" in entry:
                    for name, found in entry["lines"].items():
                        lines.setdefault(name, set()).update(found)
                    continue
                through += 1
                last = entry["cpu"]
                _count(count, entry["reached"])
                if entry.get("failure"):
                    setattr(count, entry["failure"], getattr(count, entry["failure"]) + 1)
                    _keep(target, numbers[through - 1], entry["failure"], entry.get("text", ""), failures)
    _, status, usage = os.wait4(child, 0)
    count.seconds += usage.ru_utime + usage.ru_stime
    if not kind and status != 0 and through < len(numbers):
        kind = "crash"
    if kind and through < len(numbers):
        setattr(count, kind, getattr(count, kind) + 1)
        count.inputs += 1
        _keep(target, numbers[through], kind, f"status {status}", failures)
        through += 1
    return through


def _count(count: Count, reached: list[str]) -> None:
    count.inputs += 1
    for name in ("read", "done", "compiled"):
        setattr(count, name, getattr(count, name) + (name in reached))


def _child(target: Target, numbers: range, send: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    gc.freeze()  # what the parent made is not searched for garbage again and again
    faulthandler.disable()  # the parent says what became of this process
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _usage()[1]
    lines = Lines()
    for number in numbers:
        entry: dict[str, object] = {}
        try:
            data = data_of(target, number)
            with lines if number % _COVERAGE_EVERY[target.slow] == 0 else contextlib.nullcontext():
                entry["reached"] = sorted(feed(target, data, folder))
        except BaseException:
            entry |= {"reached": [], "failure": "traceback", "text": traceback.format_exc()[-4000:]}
        entry["cpu"], peak = _usage()
        over = peak - before > MEMORY_BYTES
        if over:
            entry["failure"] = "memory"
        _write(send, entry)
        if over:
            break
    _write(send, {"lines": {k: sorted(v) for k, v in lines.found.items()}})


def _write(send: int, entry: dict[str, object]) -> None:
    data = json.dumps(entry).encode() + b"\n"
    while data:
        data = data[os.write(send, data) :]


def _usage() -> tuple[float, int]:
    """Seconds of processor time, and the most bytes that were resident, of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def _cpu_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_SHOWN_EACH = 3


def _keep(target: Target, number: int, kind: str, text: str, failures: Path | None) -> None:
    """The input and why, at most a few for each place."""
    if failures is None:
        return
    failures.mkdir(parents=True, exist_ok=True)
    place = [line.strip() for line in text.splitlines() if line.strip().startswith("File")][-1:]
    signature = f"{target.name} {kind} {place} {text.strip().splitlines()[-1:] if kind == 'traceback' else ''}"[:160]
    known = failures / "signatures.txt"
    seen = known.read_text().splitlines() if known.exists() else []
    with known.open("a") as file:
        file.write(signature.replace("\n", " ") + "\n")
    if seen.count(signature) < _SHOWN_EACH:
        (failures / f"{target.name}-{number}.{kind}").write_text(f"{kind} of {target.name} {number}\n{text}\n")


# -- coverage --


class Lines:
    """Context manager: which lines of our code run."""

    def __init__(self) -> None:
        self.found: dict[str, set[int]] = {}
        self._calls: dict[types.CodeType, int] = {}

    def __enter__(self) -> Lines:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: types.FrameType, event: str, arg: object) -> object:
        name = _own(frame.f_code.co_filename)
        if name is None:
            return None
        lines = self.found.setdefault(name, set())
        lines.add(frame.f_lineno)
        calls = self._calls[frame.f_code] = self._calls.get(frame.f_code, 0) + 1
        if calls > _TRACED_CALLS:
            return None

        def line(frame: types.FrameType, event: str, arg: object) -> object:
            lines.add(frame.f_lineno)
            return line

        return line


_OWN: dict[str, str | None] = {}


def _own(path: str) -> str | None:
    """The file's name in the repository, if it is one of ours."""
    if path not in _OWN:
        real = Path(os.path.realpath(path))
        inside = real.is_relative_to(ROOT) and real.relative_to(ROOT).parts[0] in _CODE
        _OWN[path] = real.relative_to(ROOT).as_posix() if inside else None
    return _OWN[path]


def coverage(lines: dict[str, set[int]]) -> list[str]:
    """Shares of the lines of functions, by folder, in files that were reached at all."""
    folders: dict[str, list[int]] = {}
    for name, found in lines.items():
        path = ROOT / name
        if not path.exists():
            continue
        known = _lines_of(compile(path.read_text(), name, "exec"))
        entry = folders.setdefault(str(Path(name).parent), [0, 0])
        entry[0] += len(known & found)
        entry[1] += len(known)
    return [
        f"coverage  {k:<28} {a:6,} of {b:6,} lines in functions  {a / max(1, b):.0%}"
        for k, (a, b) in sorted(folders.items())
    ]


def _lines_of(code: types.CodeType) -> set[int]:
    """Of all functions in a module, not of the module itself."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno}
    return set().union(*(_lines_of(c) for c in inner)) | (own if code.co_flags & 0x2 else set())


def kept(target: str) -> Iterator[tuple[str, bytes]]:
    """Inputs that failed once and must not again."""
    for path in sorted((SEEDS / target).glob("*")):
        yield path.name, path.read_bytes()
