"""What plans of layouts count of keys, weights and images, beside what their programs hold."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from onnx_models import build, node, randoms

import glyphc
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.ir.graph import Graph
from glyphc.ir.parameters import Parameters
from glyphc.ir.types import Level
from glyphc.passes.image_plan import ImagePlan
from glyphc.passes.image_search import image_plan
from glyphc.passes.layout_search import DEGREE, LayoutPlan, Room, Search
from glyphc.passes.pictures import Pictures
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.uploads import Uploads, chosen

RING, BATCH = 1024, 4
SHAPE = (1, 4, 4)


def network() -> onnx.ModelProto:
    """Three channels, in groups of four where they are unpacked, and then six."""
    constants = {
        "k0": randoms(3, 1, 3, 3, seed=1) / 3,
        "k1": randoms(6, 3, 3, 3, seed=2) / 5,
        "w": randoms(3, 6, seed=3),
        "b": randoms(3, seed=4),
    }
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "k1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("GlobalAveragePool", ["r1"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


@cache
def compiled(images: str) -> tuple[glyphc.Program, Graph]:
    """A program, and its graph before there were layouts."""
    passes = DEFAULT.replace("assign-layout", f"assign-layout{{images={images}}}")
    x = np.random.default_rng(0).uniform(-1, 1, (32, *SHAPE))
    program = glyphc.compile(
        network(), x, BATCH, strategy="glyph", insecure_ring=RING, passes=passes, tolerance=50.0, engine="kernels"
    )
    return program, [g for g in program.stages.values() if g.level is Level.ASSIGNED][-1]


@pytest.mark.parametrize("images", ["always", "never"])
def test_plans_count_what_programs_hold(images: str) -> None:
    """All keys of conjugates, all weights and no more than the bias of a map beside them, and what is alive."""
    program, graph = compiled(images)
    parameters = program.client.parameters
    assert isinstance(parameters, Parameters) and parameters.conjugates
    room = Room(RING, 16, 14e9)
    plan: ImagePlan | LayoutPlan | str
    if images == "always":
        plan = image_plan(graph, room, KERNELS)
    else:
        plan, _ = chosen(Search.over(graph, room, KERNELS).best, room, KERNELS, (KERNELS,), Uploads.SERVER)
    assert not isinstance(plan, str)
    weights = sum(map(len, program.schedule.polynomials.values()))
    counted = plan.polynomials
    assert weights <= counted <= weights + 8, (weights, counted)
    without = replace(parameters, conjugates=())
    keys = KERNELS.idle_bytes(parameters) - KERNELS.idle_bytes(without)
    levels = int(images == "always")
    planned = replace(without, degree=DEGREE, slot_levels=levels, folded_levels=levels)
    beside = plan.memory_bytes(KERNELS) - KERNELS.idle_bytes(planned) - KERNELS.work_bytes(planned)
    assert keys + 16 * RING * weights <= beside


@pytest.mark.parametrize(("group", "chunks"), [(1, 1), (4, 1), (4, 2), (8, 4)])
def test_a_batch_that_fills_the_ciphertexts_takes_as_many(group: int, chunks: int) -> None:
    _, graph = compiled("always")
    pictures = Pictures.of(graph)
    assert not isinstance(pictures, str)

    def plan(batch: int) -> ImagePlan:
        return ImagePlan(graph, pictures, RING, batch, group, chunks)

    few = plan(chunks)
    full, more = plan(few.most), plan(few.most + 1)
    assert not few.problem and not full.problem
    assert (full.bootstraps, full.slots, full.most) == (few.bootstraps, few.slots, few.most)
    assert more.problem or more.slots > few.slots
