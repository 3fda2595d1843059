"""Progress in a log: a handful of lines for each stage."""

from __future__ import annotations

import time

import pytest

from glyphc import console
from glyphc.backends.engine import FIRST_USE
from glyphc.progress import RESUMED, Reporter, keys_counted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that tests let pass."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def lines() -> Reporter:
    return console._Lines()


def test_many_steps_of_a_stage_are_a_handful_of_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = lines()
    reporter.stage("evaluate", 1000.0)
    for step in range(1, 1001):
        clock[0] += 0.0625
        reporter.advance(1.0, f"step {step}")
    reporter.done()
    printed = capsys.readouterr().err.splitlines()
    assert printed == [
        "evaluate ...",
        "  step 200: 12.5 s, about 50 s left",
        "  step 400: 12.5 s, about 38 s left",
        "  step 600: 12.5 s, about 25 s left",
        "  step 800: 12.5 s, about 12 s left",
        "  step 1000: 12.5 s",
        "evaluate: 62.5 s",
    ]


def test_short_stages_say_nothing_on_the_way(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = lines()
    for _ in range(2):
        reporter.stage("evaluate", 10.0)
        for step in range(10):
            clock[0] += 0.05
            reporter.advance(1.0, f"step {step}")
    reporter.stage("decrypt", 1.0)
    reporter.done()
    assert capsys.readouterr().err.splitlines() == ["evaluate ...", "evaluate: 0.5 s"] * 2


def test_long_bootstraps_have_lines_and_long_stages_one_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = lines()
    reporter.stage("evaluate", 26.0)
    for what, seconds in (("relu1", 11.0), ("relu1", 2.0), ("relu2", 11.0), ("relu2", 2.0)):
        clock[0] += seconds
        reporter.advance(seconds, f"bootstrap {what}")
    reporter.stage("train", 1000.0)
    for step in range(1, 5):
        clock[0] += 40.0
        reporter.advance(1.0, f"step {step}")
    reporter.done()
    assert capsys.readouterr().err.splitlines() == [
        "evaluate ...",
        "  bootstrap relu1: 11.0 s, about 15 s left",
        "  bootstrap relu2: 13.0 s",
        "evaluate: 26.0 s",
        "train ...",
        "  step 2: 80.0 s, about 11 h 5 min left",
        "  step 4: 80.0 s, about 11 h 4 min left",
        "train: 160.0 s",
    ]


def test_work_of_an_earlier_run_says_nothing_of_the_pace(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = lines()
    reporter.note(" (pass 2 of 3)")
    reporter.stage("evaluate", 100.0)
    reporter.advance(50.0, RESUMED)
    clock[0] += 30.0
    reporter.advance(25.0, "layer 3 of 4")
    assert capsys.readouterr().err.splitlines() == [
        "evaluate (pass 2 of 3) ...",
        "  layer 3 of 4: 30.0 s, about 30 s left of this pass",
    ]


def test_keys_are_counted_and_not_named(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = lines()
    reporter.stage("generate keys", 3)
    made = keys_counted(reporter, 3)
    for name in ("bgv/public", "torus/automorphism-5", "torus/relinearization"):
        clock[0] += 2.0
        made(name)
    assert capsys.readouterr().err.splitlines() == [
        "generate keys ...",
        *(f"  key {number} of 3: 2.0 s" for number in (1, 2, 3)),
    ]


def test_what_takes_long_is_said_before_it_begins(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = lines()
    reporter.stage(FIRST_USE, 1.0)
    assert capsys.readouterr().err == f"{FIRST_USE} ...\n"
    clock[0] += 30.0
    reporter.stage("train on 2 workers", 4.0)
    assert capsys.readouterr().err == f"{FIRST_USE}: 30.0 s\ntrain on 2 workers ...\n"
