"""The fuzzers of ``tests/fuzz``, briefly: every format, and all inputs that failed once. ``make fuzz`` is the long run.

The inputs are the same every time. Each is read in a forked process with limits of memory and time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glyphc.ir import memory
from tests.fuzz import seeds
from tests.fuzz.run import SEEDS, Count, feed, stretch
from tests.fuzz.targets import TARGETS, Target

# Inputs of each target; the slow test takes more.
_FEW, _FEW_SLOW, _MORE = 60, 12, 8


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """A limit of memory that a test can keep to, and all good files made before processes are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(memory.VARIABLE, "1GB")
        seeds.warm()
        yield


def run(name: str, numbers: range, folder: Path) -> Count:
    count = Count()
    stretch(TARGETS[name], numbers, count, {}, folder)
    texts = "\n".join(p.read_text() for p in folder.glob("*-*"))
    assert count.failures == 0, f"python -m tests.fuzz --target {name} --number N says more\n{texts}"
    assert count.inputs == len(numbers)
    return count


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_more_than_an_error(name: str, tmp_path: Path) -> None:
    run(name, range(_FEW_SLOW if TARGETS[name].slow else _FEW), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_many_makes_more_than_an_error(name: str, tmp_path: Path) -> None:
    few = _FEW_SLOW if TARGETS[name].slow else _FEW
    run(name, range(few, _MORE * few), tmp_path)


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*/*")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_failed_once_is_an_error(path: Path) -> None:
    feed(TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.parametrize("name", ["onnx-graph", "glyph-graph"])
def test_networks_of_the_grammars_reach_the_passes(name: str, tmp_path: Path) -> None:
    """Otherwise they would test the readers alone."""
    count = run(name, range(1000, 1016), tmp_path)
    assert count.read >= 4
    assert count.compiled >= 4


# -- the harness itself can fail --


def _target(act: str) -> Target:
    def make(random: object) -> bytes:
        return b"x"

    def act_on(data: bytes, folder: Path, reached: object) -> None:
        exec(act)

    return Target("test", make, act_on, 1)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        ("raise KeyError('k')", "traceback"),
        ("import os; os._exit(3)", "crash"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash"),
        ("b'x' * (200 << 20)", "memory"),
        ("while True: pass", "hang"),
    ],
)
def test_the_harness_sees_each_kind_of_failure(
    act: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fuzz import run as harness

    monkeypatch.setattr(harness, "HANG_SECONDS", 0.5)
    monkeypatch.setattr(harness, "MEMORY_BYTES", 150 << 20)
    count = Count()
    stretch(_target(act), range(2), count, {}, tmp_path)
    assert getattr(count, kind) == 2
    assert count.inputs == count.failures == 2
    assert list(tmp_path.glob(f"test-*.{kind}"))


def test_an_input_follows_from_its_number() -> None:
    from tests.fuzz.run import data_of

    for target in TARGETS.values():
        if not target.slow:
            assert data_of(target, 7) == data_of(target, 7)
