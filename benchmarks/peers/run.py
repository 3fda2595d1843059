"""glyphc beside others on the same network, data and machine, one after the other, encrypted at 128-bit security.

    python benchmarks/peers/run.py [--only NAME ...] [--samples N] [--output FILE.md]

The network is models/mnist-mlp.onnx (784-128-32-10, ReLU); the data are the 5,000 MNIST images that it was made with.
Each peer has an environment of its own, `make peers` makes them; what has none is left out, and the page says so. Each
run is a process of its own. Peers take seconds for each sample, so they get --samples of the held-out ones; without
encryption all are evaluated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measured import Measured, notes, read, table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[1:1] = [str(HERE.parent), str(ROOT / "models")]
# Environments of peers, each with what NAME.txt beside this file lists.
ENVIRONMENTS = ROOT / ".peers"


@dataclass(frozen=True)
class Peer:
    """A script beside this file, and in whose environment it runs: "" is glyphc's own. configurations: its arguments.

    batch: samples that it takes at once, where it is made for batches. made: files of its environment that say that it
    is whole.
    """

    script: str
    environment: str
    configurations: tuple[tuple[str, ...], ...]
    batch: int = 0
    made: tuple[str, ...] = (".made",)

    @property
    def python(self) -> Path:
        return Path(sys.executable) if not self.environment else ENVIRONMENTS / self.environment / "bin" / "python"

    @property
    def here(self) -> bool:
        """Whether its environment is made, as a whole."""
        return not self.environment or all((ENVIRONMENTS / self.environment / name).exists() for name in self.made)


PEERS = {
    "glyphc": Peer("glyphc_mlp.py", "", (("--batch", "512"),), 512),
    "glyphc-one": Peer("glyphc_mlp.py", "", (("--batch", "1"),), 1),
    "concrete-ml": Peer(
        "concrete_ml.py",
        "concrete-ml",
        tuple((how, *more) for how in ("retrained", "rounded") for more in ((), ("--approximate",))),
    ),
    "tenseal": Peer("tenseal_mlp.py", "tenseal", ((),)),
    "heir": Peer("heir_mlp.py", "heir", ((),), made=(".made", "headers/.made")),
}


def write_case(path: Path) -> None:
    """Weights of the network and its data, as scripts read them: arrays w0, b0, ..., x_train, y_train, x_test, y_test;
    pixels are 0..1."""
    import datasets
    import onnx
    from onnx import numpy_helper

    split = datasets.mnist()
    graph = onnx.load(ROOT / "models" / "mnist-mlp.onnx").graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    layers = [node for node in graph.node if node.op_type == "Gemm"]
    case = {"x_train": split.x_train / 255, "y_train": split.y_train, "x_test": split.x_test / 255}
    case["y_test"] = split.y_test
    for i, node in enumerate(layers):
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        weights = tensors[node.input[1]]
        case |= {f"w{i}": weights if transposed else weights.T, f"b{i}": tensors[node.input[2]]}
    np.savez(path, **case)


def measure(peer: Peer, configuration: tuple[str, ...], case: Path, samples: int, extra: list[str]) -> Measured:
    """One run in a process of its own."""
    command = [peer.python, HERE / peer.script, case, *configuration, "--samples", peer.batch or samples, *extra]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
    return read(done.stdout)


def main() -> None:
    from engines import processor

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--samples", type=int, default=4, help="encrypted samples of systems without batches")
    parser.add_argument("--ring", type=int, help="of glyphc, a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    arguments = parser.parse_args()
    results, absent, failed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.npz"
        write_case(case)
        for name in arguments.only:
            peer = PEERS[name]
            if not peer.here:
                absent.append(name)
                continue
            extra = ["--ring", str(arguments.ring)] if arguments.ring and not peer.environment else []
            for configuration in peer.configurations:
                try:
                    results.append(measure(peer, configuration, case, arguments.samples, extra))
                except subprocess.CalledProcessError:
                    failed.append(" ".join((name, *configuration)))
                    continue
                print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    missing = f"\n\nNot measured, for want of an environment (`make peers`): {', '.join(absent)}." if absent else ""
    missing += f"\n\nFailed, as the output says: {', '.join(failed)}." if failed else ""
    load = f"{processor()}; load average {os.getloadavg()[0]:.1f} at the end."
    page = f"{table(results)}\n\n{notes(results)}\n\n{load}{missing}"
    print(page)
    if arguments.output:
        arguments.output.write_text(page + "\n")


if __name__ == "__main__":
    main()
