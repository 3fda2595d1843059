"""Transfer learning with the backbone on the server, at 128-bit security: MNIST, by the commands of server and client.

    python benchmarks/train_backbone.py [--steps 12] [--samples 512] [--plan] [--folder FOLDER] [--output FILE.md]

The server has a network: 4 maps of 5 x 5 with means over 3 x 3 pixels, 256-32-10, tanh. It has trained it in the clear
on 2,000 images of MNIST, and offers its convolution and its layer of 32 features. A client has 2,000 other images; a
new last layer 32-10 is trained on them from random weights, 32 images in a step. The client uploads encrypted images,
never sees the weights of the two layers, and gets the last one. In the end the server classifies encrypted held-out
images, with all weights where they are.

Every command is a process of its own. The reference is the same head, from the same weights and by the same steps, in
the clear; and one that is trained in the clear until it converges. --plan: say what that is going to take, and what
the clear run gives. --ring: a small, insecure ring, with --batch 4.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import train_common as common
from engines import processor
from onnx import TensorProto, helper, numpy_helper
from train_serve import Done, glyphc, right, script

from glyphc.commands.trained_model import trained_model
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.sources import read_model
from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD, Cosine
from glyphc.train.step import with_weights
from glyphc.trainer.loop import train

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.integer[Any]]

OWN, BATCH, RATE = 2000, 32, 2.0
# Root mean square of the pixels: the convolution's sums stay where tanh is not flat.
SIZE = 0.3
# The server's own training, in the clear; and the converged head's.
BACKBONE = Options(SGD(0.1, 0.9, weight_decay=3e-3, schedule=Cosine(300, 0.05)), 300, 64, convolutions=True)
CONVERGED = 3000
FROZEN = "first,features"
# The server finds ranges on as many images as the client has, of the same kind.
MARGIN = 1.2


def model(seed: int = 0) -> bytes:
    """The network with random weights, as an ONNX file."""
    random = np.random.default_rng(seed)
    shapes = {"k": (4, 1, 5, 5), "s": (4,), "w1": (32, 256), "b1": (32,), "w2": (10, 32), "b2": (10,)}
    tensors = {n: random.normal(size=s) / np.sqrt(np.prod(s[1:])) if len(s) > 1 else np.zeros(s) for n, s in shapes.items()}  # fmt: skip  # noqa: E501
    tensors["b2"] = np.full(10, common.RARE)
    nodes = [
        helper.make_node("Conv", ["x", "k", "s"], ["c"], "first"),
        helper.make_node("AveragePool", ["c"], ["m"], "means", kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Tanh", ["m"], ["t"]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["h"], "features", transB=1),
        helper.make_node("Tanh", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["z"], "digits", transB=1),
        helper.make_node("Sigmoid", ["z"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def images() -> tuple[F64, I64, F64, I64]:
    """MNIST's images, centred and divided by one number; the test images, too."""
    split = common.SPLITS["mnist"]()
    x, x_test = (v.astype(np.float64).reshape(len(v), 1, 28, 28) for v in (split.x_train, split.x_test))
    mean = x[:OWN].mean(axis=0)
    factor = SIZE / np.sqrt(((x[:OWN] - mean) ** 2).mean())
    return factor * (x - mean), split.y_train, factor * (x_test - mean), split.y_test


def backbone(x: F64, y: I64) -> bytes:
    """Trained in the clear by the server, with a last layer that is random again."""
    start = model()
    network = read_model_of(start)
    trained = train(make_job(network, x, y, BACKBONE), "clear").network
    fresh = np.random.default_rng(1).normal(size=(10, 32)) * 0.1
    return bytes(trained_model(start, with_weights(trained, {"w2": fresh, "b2": np.full(10, common.RARE)})).SerializeToString())  # fmt: skip  # noqa: E501


def read_model_of(data: bytes) -> Graph:
    return read_model(onnx.load_from_string(data)).graph


def heads(whole: Graph, x: F64, y: I64, a: argparse.Namespace) -> dict[str, Graph]:
    """References: the same steps in the clear, and many."""
    found = {}
    for name, steps in (("the same steps in the clear", a.steps), ("converged in the clear", CONVERGED)):
        optimizer = SGD(RATE, schedule=Cosine(steps, 0.05))
        options = Options(optimizer, steps, a.batch or BATCH, frozen=tuple(FROZEN.split(",")))
        found[name] = train(make_job(whole, x, y, options), "clear").network
    return found


def commands(a: argparse.Namespace, folder: Path) -> tuple[dict[str, Done], F64]:
    """All of them, one after another, and the decrypted predictions."""
    client, server = ("--client", folder / "client"), ("--server", folder / "server")
    sizes = ("--samples", OWN, "--batch", a.batch or BATCH, "--steps", a.steps, "--freeze", FROZEN)
    rate = ("--learning-rate", RATE, "--schedule", f"cosine{{steps={a.steps},final=0.05}}")
    loss = ("--loss", "binary-cross-entropy", *(() if a.ring is None else ("--insecure-ring", a.ring)))
    trial = ("--trial-data", folder / "own-x.npy", "--trial-labels", folder / "own-y.npy", "--margin", MARGIN)
    files = ("--backbone", folder / "own.weights", "-o", folder / "head.offer")
    data = ("--data", folder / "x.npy", "--labels", folder / "y.npy")
    offer = ("offer", folder / "own.onnx", *sizes, *rate, *loss, *trial, *files)
    done = {"offer": glyphc(*offer, *(("--dry-run",) if a.plan else ()))}
    if a.plan:
        return done, np.zeros((0, 10))
    done["accept"] = glyphc("accept", folder / "head.offer", *data, *client, *server)
    (folder / "own.weights").rename(folder / "server" / "backbone.weights")
    done["run"] = glyphc("run", *server)
    done["finish"] = glyphc("finish", *client, *server, "-o", folder / "head.onnx")
    request, answer = folder / "new.request", folder / "new.answer"
    done["request"] = glyphc("request", *client, "--data", folder / "x-test.npy", "-o", request)
    done["infer"] = glyphc("infer", *server, "--request", request, "-o", answer)
    both = (*client, "--request", request, "--answer", answer, "--labels", folder / "y-test.npy")
    done["predict"] = glyphc("predict", *both, "-o", folder / "predicted.npy")
    return done, np.load(folder / "predicted.npy")


def measured(a: argparse.Namespace, folder: Path) -> str:
    """Everything, as text."""
    x, y, x_test, y_test = images()
    own = backbone(x[:OWN], y[:OWN])
    (folder / "own.onnx").write_bytes(own)
    whole = read_model_of(own)
    mine = slice(OWN, 2 * OWN)
    arrays = {"own-x": x[:OWN], "own-y": y[:OWN], "x": x[mine], "y": y[mine]}
    arrays |= {"x-test": x_test[: a.samples], "y-test": y_test[: a.samples]}
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
    scores = {"before": common.accuracy(whole, x_test, y_test)}
    references = heads(whole, x[mine], y[mine], a)
    scores |= {name: common.accuracy(graph, x_test, y_test) for name, graph in references.items()}
    done, predicted = commands(a, folder)
    said = [f"MNIST, backbone on the server: {a.steps} steps of {a.batch or BATCH} of {OWN} images"]
    if not a.plan:
        head = read_model(os.fspath(folder / "head.onnx")).graph
        names = {"w2", "b2"}
        trained = with_weights(whole, {n: v for n, v in head.constants.items() if n in names})
        scores["**trained encrypted**"] = common.accuracy(trained, x_test, y_test)
        clear = references["the same steps in the clear"]
        far = max(float(np.abs(trained.constant(n) - clear.constant(n)).max()) for n in names)
        change = max(float(np.abs(trained.constant(n) - whole.constant(n)).max()) for n in names)
        (outputs,) = evaluate(trained, {"x": x_test[: a.samples]}).values()
        served = right(predicted, y_test[: a.samples])
        said += [
            f"weights, encrypted beside clear: within {far:.1e}; largest change {change:.2f}",
            f"served on {len(predicted)} encrypted images: {served:.2%}, in the clear {right(outputs, y_test[: a.samples]):.2%}, "  # noqa: E501
            f"outputs within {np.abs(predicted - outputs).max():.1e}",
            "",
            "| command | wall s | CPU s | peak GB |",
            "|" + " --- |" * 4,
            *(f"| {n} | {d.wall:.1f} | {d.cpu:.1f} | {d.memory / 1e9:.2f} |" for n, d in done.items()),
            "",
        ]
    said.append("accuracy on 1,000 images: " + ", ".join(f"{name} {score:.2%}" for name, score in scores.items()))
    security = "nothing was encrypted (--plan)" if a.plan else "128-bit security"
    security = security if a.ring is None else f"ring {a.ring}, NOT SECURE"
    return "\n".join([*said, f"{processor()}; {security}; load at the end {os.getloadavg()[0]:.1f}"])


def main() -> None:
    script(__doc__, 64, str(BATCH), "predict, and train in the clear", measured)


if __name__ == "__main__":
    main()
