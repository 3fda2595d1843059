"""Commands of glyphc, each in a process of its own, as a user runs them.

Imports take a second of processor time, and tests run hundreds of commands. So each command is forked from one process
that has imported what commands need and has done nothing else: it has no threads, and OpenFHE is not loaded in it.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import multiprocessing
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = subprocess.CompletedProcess[str]

_ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 120.0
_IMPORTED = (
    *("onnx", "glyphc.compiler", "glyphc.console", "glyphc.diagnostics", "glyphc.frontends.from_onnx"),
    *("glyphc.passes.pipeline", "glyphc.run_record", "glyphc.runtime", "glyphc.sources"),
    *("glyphc.backends.kernels.slot_shape", "glyphc.backends.simulate", "glyphc.train.retraining"),
)


def environment(**changes: str) -> dict[str, str]:
    """One thread for each command, since there are many; and this checkout's package."""
    path = os.pathsep.join(filter(None, [changes.pop("PYTHONPATH", ""), str(_ROOT)]))
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | changes | {"PYTHONPATH": path}


def command(*arguments: object) -> list[str]:
    """The command line of a fresh process."""
    return [sys.executable, "-m", "glyphc", *map(str, arguments)]


def glyphc(*arguments: object, **changes: str) -> Result:
    """Run a command to its end. changes: of variables; for others than glyphc's own, a process starts anew."""
    if not all(name.startswith("GLYPHC_") for name in changes):
        return subprocess.run(
            command(*arguments), capture_output=True, text=True, env=environment(**changes), timeout=_SECONDS
        )
    return _template().run([str(a) for a in arguments], environment(**changes))


def succeeding(*arguments: object, code: int = 0, **changes: str) -> Result:
    """The same of a command that must end with this code, and without a traceback."""
    result = glyphc(*arguments, **changes)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


class _Template:
    """The process that commands are forked from; it ends with this one, whose end of the pipe it reads."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def run(self, arguments: list[str], variables: dict[str, str]) -> Result:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            request = {"arguments": arguments, "environment": variables, "cwd": os.getcwd(), "folder": folder}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], _SECONDS)[0]:
                process.kill()
                _template.cache_clear()
                raise subprocess.TimeoutExpired(command(*arguments), _SECONDS)
            code = int(process.stdout.readline())
            out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(command(*arguments), code, out, err)


@functools.cache
def _template() -> _Template:
    return _Template()


def _serve() -> None:
    """Fork a command for each line of standard input, and answer with its exit code."""
    for name in _IMPORTED:
        importlib.import_module(name)
    from glyphc.analysis.cost import CostModel
    from glyphc.backends.kernels.selftest import problem
    from glyphc.cli import main
    from glyphc.ir.graph import Graph
    from glyphc.ir.text import parse, to_text
    from glyphc.ir.types import Level
    from glyphc.passes.base import likely_engine

    # what is made on first use: the grammar, numba's machine code, the shape of a typical program's keys
    parse(to_text(Graph(Level.SOURCE, 1)))
    problem()
    likely_engine(CostModel())
    assert "openfhe" not in sys.modules
    # a process that ends looks at all objects, and copies the pages of those that it counts anew
    gc.collect()
    gc.freeze()
    forked = multiprocessing.get_context("fork")
    for line in sys.stdin:
        request = json.loads(line)
        # waits for its threads, but does not tear the interpreter down, which takes longer than many a command
        child = forked.Process(target=_follow, args=(main, request))
        child.start()
        child.join()
        print(child.exitcode, flush=True)


def _follow(main: Callable[..., object], request: dict[str, Any]) -> None:
    """Be the command."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(request["folder"], name), os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    main(request["arguments"], prog_name="python -m glyphc")


if __name__ == "__main__":
    # as of "python -m": the tests' folder is no place to import from
    sys.path[0] = os.getcwd()
    _serve()
