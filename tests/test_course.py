"""What progress says of an instruction: its layer, and which bootstrap it is (insecure rings)."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from hypothesis import given
from pass_networks import SAMPLES, mlp
from strategies import examples

import glyphc
from glyphc.course import Course
from glyphc.ir.instructions import Free, Load, Powers, Store
from glyphc.progress import Silent
from glyphc.runtime import run
from tests.schedule_cases import Case, cases

SAID = re.compile(r"layer (?:(\S+) \()?(\d+) of (\d+)\)?(?:, bootstrap (\d+) of (\d+))?")


class Told(Silent):
    """Keeps what a stage of evaluation says."""

    def __init__(self) -> None:
        self.stage_name, self.texts = "", list[str]()

    def stage(self, name: str, total: float) -> None:
        self.stage_name = name

    def advance(self, amount: float, what: str = "") -> None:
        if self.stage_name == "evaluate":
            self.texts.append(what)


def test_a_run_names_layers_in_their_order() -> None:
    program, told = glyphc.compile(mlp(), SAMPLES, 64, insecure_ring=1024, strategy="glyph"), Told()
    run(program, np.resize(SAMPLES, (64, 2, 3)), "simulate", told)
    bootstraps = sum(isinstance(i, Powers) for i in program.schedule.instructions)
    assert bootstraps > 0
    found = [SAID.fullmatch(text) for text in told.texts]
    assert all(found), told.texts
    places = [(m[1], int(m[2]), m[3], m[4], m[5]) for m in found if m is not None]
    assert list(dict.fromkeys(p[:3] for p in places)) == [("fc1", 1, "3"), ("tanh", 2, "3"), ("fc2", 3, "3")]
    assert [p[1] for p in places] == sorted(p[1] for p in places)
    said = Counter(p[3] for p in places if p[0] == "tanh" and p[3])
    assert sorted(map(int, said)) == list(range(1, bootstraps + 1))
    assert {p[4] for p in places if p[3]} == {str(bootstraps)}


def test_a_server_without_names_counts_layers() -> None:
    program = glyphc.compile(mlp(), SAMPLES, 2, insecure_ring=1024, strategy="glyph")
    code = program.schedule.instructions
    course = Course.of(code)
    texts = [course.text(i) for i in code if not isinstance(i, Load | Store | Free)]
    assert list(dict.fromkeys(texts)) == [
        "layer 1 of 3",
        "layer 2 of 3, bootstrap 1 of 1",
        "layer 2 of 3",
        "layer 3 of 3",
    ]


@examples(15)
@given(cases())
def test_every_instruction_of_any_program_has_a_place(case: Case) -> None:
    program = case.compile()
    code = program.schedule.instructions
    course = Course.of(code, lambda node: program.graph.node(node).location)
    for i in code:
        found = SAID.fullmatch(course.text(i))
        assert found is not None
        assert 1 <= int(found[2]) <= int(found[3])
        assert (found[4] is None) == (id(i) not in course.bootstraps)
    assert {course.layers[i.node] for i in code} >= set(range(1, len(course.names) + 1))
    assert course.refreshes == sum(isinstance(i, Powers) for i in code)
