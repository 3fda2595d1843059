"""A published classifier of images, encrypted: a batch of its test images beside float and simulation.

    python benchmarks/images.py FOLDER [--model NAME.onnx] [--mean R G B] [--std R G B] [--batch N] [--calibration N]
                                       [--tolerance POINTS] [--plan] [--engine NAME] [--ring N] [--output FILE.md]

FOLDER holds the network, images.npy (uint8, samples x channels x rows x columns) and labels.npy; data of others stay
where they are. The network reads (image / 255 - mean) / std, CIFAR-10's by default. Calibration samples are the images,
mirrored and shifted by up to an eighth, as in training. Parameters are those of 128-bit security, unless --ring asks
for a small insecure ring. --plan: compile, predict and simulate all images only.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from engines import processor
from field import by_onnxruntime

import glyphc
from glyphc.diagnostics import predicted
from glyphc.runtime import run

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def augmented(images: F64, count: int, seed: int = 0) -> F64:
    """So many images, mirrored and shifted at random."""
    random = np.random.default_rng(seed)
    height, width = images.shape[2:]
    far = max(1, height // 8)
    out = []
    for number in range(count):
        padded = np.pad(images[number % len(images)], ((0, 0), (far, far), (far, far)))
        y, x = random.integers(0, 2 * far + 1, 2)
        image = padded[:, y : y + height, x : x + width]
        out.append(image[:, :, ::-1] if random.integers(2) else image)
    return np.array(out)


def same(a: F64, b: F64) -> int:
    return int((a.argmax(axis=1) == b.argmax(axis=1)).sum())


def main() -> None:
    """Compile, simulate, and encrypt one batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="the network's file (default: the only .onnx file)")
    parser.add_argument("--mean", type=float, nargs="+", default=CIFAR[0])
    parser.add_argument("--std", type=float, nargs="+", default=CIFAR[1])
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--tolerance", type=float, default=3.0)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--engine", default="kernels")
    parser.add_argument("--ring", type=int)
    parser.add_argument("--passes", help="the pipeline as text")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    arguments = parser.parse_args()
    model = arguments.folder / (arguments.model or next(arguments.folder.glob("*.onnx")).name)
    pixels = np.load(arguments.folder / "images.npy").astype(np.float64) / 255
    labels = np.load(arguments.folder / "labels.npy")
    mean, std = (np.array(v)[:, None, None] for v in (arguments.mean, arguments.std))
    x = (pixels - mean) / std
    calibration = (augmented(pixels, arguments.calibration) - mean) / std
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        lines = report(arguments, model, x, calibration, labels)
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


def report(arguments: argparse.Namespace, model: Path, x: F64, calibration: F64, labels: I64) -> list[str]:
    """What was compiled, predicted, simulated and encrypted, in lines."""
    (floats,) = (np.asarray(v, dtype=np.float64).reshape(len(x), -1) for v in by_onnxruntime(model, x).values())
    began = time.process_time()
    program = glyphc.compile(
        model,
        calibration,
        arguments.batch,
        tolerance=arguments.tolerance,
        strategy="glyph",
        engine=arguments.engine,
        insecure_ring=arguments.ring,
        passes=arguments.passes,
    )
    compiled, memory = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    batch, cost = program.client.batch, predicted(program)
    (simulated,) = (v.reshape(len(x), -1) for v in run(program, x, "simulate").outputs.values())
    lines = [
        f"compile: {compiled:.0f} CPU s, {memory:.2f} GB; {batch} images at once, {cost.bootstraps} bootstraps",
        f"predicted: {cost.seconds:.0f} s, {cost.seconds / batch:.1f} s an image, {cost.memory_bytes / 1e9:.1f} GB, "
        f"upload {cost.upload_bytes / 1e6:.1f} MB",
        f"simulated: class as float for {same(simulated, floats)} of {len(x)} images; right "
        f"{np.mean(simulated.argmax(1) == labels):.2%}, float {np.mean(floats.argmax(1) == labels):.2%}",
    ]
    if not arguments.plan:
        taken, wanted = x[:batch], floats[:batch]
        done = run(program, taken, "encrypted", engine=arguments.engine)
        (found,) = (v.reshape(len(taken), -1) for v in done.outputs.values())
        off, wall = np.sqrt(np.mean((found - wanted) ** 2)) / floats.std(), done.seconds["evaluate"]
        lines += [
            f"encrypted: class as float for {same(found, wanted)} of {len(taken)} images, logits off by {off:.1%} of "
            "their spread",
            f"evaluate: {wall:.0f} s, {wall / len(taken):.1f} s an image ({done.cpu_seconds / len(taken):.1f} CPU s); "
            f"peak {done.peak_memory / 1e9:.1f} GB",
            ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in done.seconds.items()),
        ]
    return [*lines, f"{processor()}; engine {arguments.engine}; security {program.client.parameters.security}"]


if __name__ == "__main__":
    main()
