"""CPU seconds and memory to compile stacks of convolutions, as they become wider and deeper.

    python benchmarks/stacks.py [--widths 4 8 16 32] [--depths 2 4 8 12] [--side 32] [--batch 8] [--ring N]
                                [--output FILE.md] [--plot FILE.svg]

A stack has the form of a VGG: 3 x 3 convolutions of as many channels each, ReLUs, means of 2 x 2 pixels behind the
second one and the fourth, a mean of all pixels and a dense layer of ten classes. Weights and samples are random ones.
Wider ones have four convolutions, deeper ones 8 channels. Each is compiled in a process of its own, whose CPU seconds
and peak memory count beyond those of a process that has glyphc loaded. The exponents say how both grow with the
network's weights and with its nodes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from engines import processor
from onnx import ModelProto, TensorProto, helper, numpy_helper

CLASSES, SAMPLES = 10, 64
# Convolutions of a wider stack, and channels of a deeper one.
DEPTH, WIDTH = 4, 8


@dataclass(frozen=True)
class Point:
    """One compiled stack. weights: entries of its kernels that are not zero; seconds: of the CPU; memory: bytes."""

    width: int
    depth: int
    weights: int
    nodes: int
    seconds: float
    memory: float
    bootstraps: int


def stack(width: int, depth: int, side: int) -> ModelProto:
    """A network of so many convolutions of so many channels, on images of 3 x side x side."""
    random, nodes, constants = np.random.default_rng(0), [], {}

    def add(kind: str, name: str, *more: str, **attributes: int | list[int]) -> None:
        before = nodes[-1].output[0] if nodes else "x"
        nodes.append(helper.make_node(kind, [before, *more], [name], name=name, **attributes))

    channels = 3
    for number in range(1, depth + 1):
        scale = np.sqrt(2 / (9 * channels))
        constants[f"k{number}"] = random.normal(0, scale, (width, channels, 3, 3)).astype(np.float32)
        add("Conv", f"conv{number}", f"k{number}", pads=[1, 1, 1, 1])
        add("Relu", f"relu{number}")
        if number in (2, 4) and number < depth:
            add("AveragePool", f"pool{number}", kernel_shape=[2, 2], strides=[2, 2])
        channels = width
    add("GlobalAveragePool", "mean")
    add("Flatten", "flat")
    constants["w"] = random.normal(0, 1 / np.sqrt(width), (CLASSES, width)).astype(np.float32)
    constants["b"] = np.zeros(CLASSES, dtype=np.float32)
    add("Gemm", "y", "w", "b", transB=1)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, side, side]), ("y", ["N", CLASSES]))
    )
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, f"stack-{width}-{depth}", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(width: int, depth: int, side: int, batch: int, ring: int | None) -> Point:
    """Compile one, in this process."""
    import glyphc
    from glyphc.diagnostics import predicted

    model, x = stack(width, depth, side), np.random.default_rng(1).uniform(-1, 1, (SAMPLES, 3, side, side))
    # what a process takes with nothing compiled, and a small network that loads what is loaded when it is needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        glyphc.compile(stack(1, 1, 4), x[:, :, :4, :4], 1, strategy="glyph", tolerance=50.0, insecure_ring=1024)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        program = glyphc.compile(model, x, batch, strategy="glyph", tolerance=50.0, insecure_ring=ring)
        seconds = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    weights = sum(int(np.count_nonzero(numpy_helper.to_array(t))) for t in model.graph.initializer)
    return Point(width, depth, weights, len(model.graph.node), seconds, memory, predicted(program).bootstraps)


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope b of the line through the logarithms: values = a sizes^b."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-6)), 1)[0])


def report(wider: list[Point], deeper: list[Point], side: int, batch: int, ring: int | None) -> str:
    """As Markdown."""
    head = "| channels | convolutions | nodes | weights | bootstraps | compile, CPU s | beyond an idle process, GB |"
    lines = [head, "|" + " --- |" * 7]
    for p in (*wider, *deeper):
        lines.append(
            f"| {p.width} | {p.depth} | {p.nodes} | {p.weights:,} | {p.bootstraps} | {p.seconds:.1f} "
            f"| {p.memory / 1e9:.2f} |"
        )
    for points, size, what in ((wider, "weights", "Wider"), (deeper, "nodes", "Deeper")):
        if len(points) > 1:
            sizes = [getattr(p, size) for p in points]
            seconds, memory = exponent(sizes, [p.seconds for p in points]), exponent(sizes, [p.memory for p in points])
            lines += ["", f"{what}: CPU seconds grow with {size}^{seconds:.2f}, memory with {size}^{memory:.2f}"]
    security = f"ring {ring}, NOT SECURE" if ring else "128-bit security"
    return "\n".join([*lines, "", f"Images of 3 x {side} x {side}, batch {batch}, {security}; {processor()}"])


def plot(path: Path, wider: list[Point], deeper: list[Point]) -> None:
    """Seconds and memory over weights and over nodes, all axes logarithmic, beside straight lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4))
    for axis, points, size in zip(axes, (wider, deeper), ("weights", "nodes"), strict=True):
        sizes = np.array([getattr(p, size) for p in points])
        for name, values in (("CPU seconds", [p.seconds for p in points]), ("GB", [p.memory / 1e9 for p in points])):
            (line,) = axis.plot(sizes, values, "o-", label=name)
            axis.plot(sizes, values[-1] * sizes / sizes[-1], ":", color=line.get_color(), label=f"{name}, if linear")
        axis.set(xscale="log", yscale="log", xlabel=size)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_title(f"{DEPTH} convolutions, more and more channels")
    axes[1].set_title(f"{WIDTH} channels, more and more convolutions")
    figure.suptitle("To compile a stack of convolutions")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32], help="channels of wider ones")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 12], help="convolutions of deeper ones")
    parser.add_argument("--side", type=int, default=32, help="rows and columns of the images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--plot", type=Path, help="write the plot to this file (.svg or .png)")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child:
        print(json.dumps(asdict(measure(*o.child, o.side, o.batch, o.ring))))
        return
    fixed = ["--side", str(o.side), "--batch", str(o.batch), *(["--ring", str(o.ring)] if o.ring else [])]
    points: dict[tuple[int, int], Point] = {}
    for shape in [*((width, DEPTH) for width in o.widths), *((WIDTH, depth) for depth in o.depths)]:
        if shape not in points:
            command = [sys.executable, __file__, "--child", *map(str, shape), *fixed]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            points[shape] = Point(**json.loads(done.stdout.splitlines()[-1]))
            print(points[shape], file=sys.stderr, flush=True)
    wider, deeper = [points[width, DEPTH] for width in o.widths], [points[WIDTH, depth] for depth in o.depths]
    text = report(wider, deeper, o.side, o.batch, o.ring)
    print(text)
    if o.output:
        o.output.write_text(text + "\n")
    if o.plot:
        plot(o.plot, wider, deeper)


if __name__ == "__main__":
    main()
