"""glyphc's training with separate roles and files, as between two machines: python glyphc_sgd.py CASE.npz --steps N."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from measured import Training

import glyphc
from glyphc.exchange.training_client import finish, prepare
from glyphc.exchange.training_files import TRAINED
from glyphc.exchange.training_server import run_training
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.progress import Silent
from glyphc.train.job import Options, RangeSource, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD
from glyphc.trainer.loop import train

# Where nothing of the training is run in the clear, samples are scaled down to this norm (see docs/training.md).
CLIP = 6.0


class Stages(Silent):
    """Keys and encryption, by the stages that the client tells of; the server's steps, one by one."""

    def __init__(self, found: Training) -> None:
        self._found, self._at, self._stage = found, (0.0, 0.0), ""

    def stage(self, name: str, total: float) -> None:
        self.end()
        self._stage = {"generate keys": "keys", "encrypt": "encrypt", "train": "step"}.get(name, "")

    def end(self) -> None:
        now = time.perf_counter(), time.process_time()
        for figures, before, after in zip((self._found.wall, self._found.cpu), self._at, now, strict=True):
            figures[self._stage] = figures.get(self._stage, 0.0) + after - before
        self._at, self._stage = now, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    arguments = parser.parse_args()
    with np.load(arguments.case) as archive:
        case = {name: archive[name] for name in archive.files}
    batch = arguments.ring // 16 if arguments.ring else len(case["x_train"])
    options = Options(
        SGD(arguments.rate),
        arguments.steps,
        batch,
        "binary-cross-entropy",
        source=RangeSource.BOUNDS,
        clip=CLIP,
        insecure_ring=arguments.ring,
    )
    network = linear_model(case["x_train"], 1, "sigmoid", standardise=False)
    job = make_job(network, case["x_train"], case["y_train"], options)
    found = Training("glyphc", f"ranges from bounds, nothing run in the clear, rate {arguments.rate:g}", {})
    found.steps, found.batch, found.tested = arguments.steps, batch, len(case["y_test"])
    found.security = "NOT SECURE" if arguments.ring else "128 bits by the lattice-estimator, after a margin of 13"

    def accuracy(graph: Graph) -> float:
        (p,) = evaluate(graph, {"x": case["x_test"]}).values()
        return float(np.mean((p[:, 0] > 0.5) == case["y_test"]))

    stages = Stages(found)
    with tempfile.TemporaryDirectory() as name:
        client, server = Path(name) / "client", Path(name) / "server"
        found.configuration += f", engine {prepare(job, client, server, reporter=stages).engine}"
        stages.end()
        run_training(server, reporter=stages)
        stages.end()
        found.encrypted = accuracy(finish(client, server / TRAINED)[0])
    found.clear = accuracy(train(job, "clear").network)
    found.versions = {"glyphc": glyphc.__version__}
    found.print()


if __name__ == "__main__":
    main()
