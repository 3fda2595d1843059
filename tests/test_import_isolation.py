"""What importing loads: nothing heavy before it is needed, and never the client's secrets on the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"openfhe", "onnx", "numba", "networkx", "scipy", "rich", "onnxruntime", "sklearn"}


def loaded(code: str) -> set[str]:
    """The names of all modules in a fresh process after ``code``."""
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return set(result.stdout.split())


def roots(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def test_this_test_sees_heavy_modules() -> None:
    assert roots(loaded("import scipy, rich")) & HEAVY == {"scipy", "rich"}


@pytest.mark.parametrize(
    "code",
    [
        "import glyphc",
        "import glyphc.cli",
        "from glyphc.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "import glyphc; glyphc.__version__",
        "import glyphc; glyphc.GlyphcError",
    ],
)
def test_imports_of_no_consequence(code: str) -> None:
    assert roots(loaded(code)) & (HEAVY | {"numpy", "lark"}) == set()


@pytest.mark.parametrize(
    ("code", "needless"),
    [
        ("import glyphc; glyphc.compile", HEAVY - {"scipy"}),  # folding multiplies sparse matrices
        ("import glyphc; glyphc.Program", HEAVY),
        ("import glyphc; glyphc.load", HEAVY),
        ("import glyphc.runtime", HEAVY),
        ("import glyphc.diagnostics", HEAVY),
        ("import glyphc.frontends.from_onnx", HEAVY - {"onnx", "scipy"}),
        ("import glyphc.console", HEAVY - {"rich"}),
    ],
)
def test_each_module_loads_only_what_it_uses(code: str, needless: set[str]) -> None:
    assert roots(loaded(code)) & needless == set()


def test_a_run_without_encryption_needs_neither_openfhe_nor_onnx() -> None:
    code = f"""
import glyphc, numpy as np
from glyphc.frontends.from_onnx import read_onnx
graph = read_onnx({str(ROOT / "models" / "digits-mlp.onnx")!r})
import sys
for name in [m for m in sys.modules if m.split(".")[0] == "onnx"]:
    del sys.modules[name]
x = np.load({str(ROOT / "models" / "data" / "digits-test.npy")!r})[:20]
program = glyphc.compile(graph, x, batch=8)
program.run(x, mode="clear")
program.run(x, mode="simulate")
"""
    assert roots(loaded(code)) & {"openfhe", "onnx"} == set()


def test_the_servers_modules_never_load_the_clients() -> None:
    modules = loaded("import glyphc.backends.openfhe.evaluator")
    assert "glyphc.backends.openfhe.evaluator" in modules
    assert "openfhe" in modules
    assert "glyphc.backends.openfhe.client" not in modules
    # nor anything else that knows of networks, files or keys
    ours = {name for name in modules if name.startswith("glyphc.")}
    assert {n for n in ours if not n.startswith(("glyphc.backends", "glyphc.ir"))} == set()


def test_the_command_starts_at_once() -> None:
    """In less than 0.3 seconds of a processor: the best of several starts, whatever else is running."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "glyphc", "--help"], capture_output=True, env=env, check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(seconds) < 0.3


def test_the_services_processes_never_load_anything_that_decrypts() -> None:
    """What 'glyphc serve' turns into, and its workers; import contracts say the same of all that they could load."""
    modules = loaded("import glyphc.service.app, glyphc.service.worker, glyphc.service.__main__, openfhe")
    secret = {"client", "keygen"}
    assert not {f"glyphc.backends.openfhe.{name}" for name in secret} & modules
    assert not {"glyphc.exchange.client", "glyphc.exchange.secret", "glyphc.codec", "glyphc.runtime"} & modules
    assert {"glyphc.exchange.server", "glyphc.service.scheduler"} <= modules
