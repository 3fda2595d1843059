"""A small network on words of encrypted bits, weights encrypted as well, at 128-bit; and what larger ones would take.

    python benchmarks/gates.py [--bits 8 --fraction 4] [--toy] [--predict NETWORK]

The network is 2-2-1 with a sigmoid, as in t-BMPNet's example. Each gate is one bootstrap of OpenFHE's BinFHE, one after
another. Results are compared with the integers that the circuit stands for. --predict counts the gates of a dense
network in models/ with public weights, whose constants fold away; nothing is run then.
"""

from __future__ import annotations

import argparse
import resource
import time
from functools import partial
from pathlib import Path

import numpy as np

from glyphc.gates.network import (
    Format,
    Layer,
    input_bits,
    network_circuit,
    network_integers,
    output_integers,
)
from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Dense, Input, Scale
from glyphc.measure import this_machine
from glyphc.sources import read_model

ROOT = Path(__file__).resolve().parent.parent
# Of a gate at STD128 on two cores of an AMD EPYC.
GATE_SECONDS = 0.035


def small(format: Format) -> list[Layer]:
    """2-2-1, a sigmoid behind each layer."""
    sigmoid = format.table(lambda x: 1 / (1 + np.exp(-x)))
    w1, b1 = format.integers([[3.0, -2.5], [-3.5, 2.0]]), format.integers([-1.0, -0.75])
    w2, b2 = format.integers([[3.5, 3.25]]), format.integers([-2.0])
    return [Layer(w1, b1, sigmoid), Layer(w2, b2, sigmoid)]


def predict(network: str, format: Format) -> str:
    """Gates and hours of a sample of a chain of dense layers, in a line."""
    graph = read_model(ROOT / "models" / f"{network}.onnx").graph
    layers = list(layers_of(graph, format))
    circuit = network_circuit(layers, format)
    hours = circuit.gates * GATE_SECONDS / 3600
    return f"{network}, words of {format.bits} bits: {circuit.gates:,} gates, {hours:.1f} h a sample at 35 ms a gate"


def layers_of(graph: Graph, format: Format) -> list[Layer]:
    """Dense layers with the functions behind them; a scaling of the input is the client's."""
    found: list[Layer] = []
    for node in graph:
        match node.op:
            case Dense(weights=weights, bias=bias):
                weight = graph.constant(weights[0].name)
                found.append(Layer(format.integers(weight), format.integers(graph.constant(bias.name))))
            case Apply(functions=functions):
                table = format.table(partial(compose, functions))
                found[-1] = Layer(found[-1].weights, found[-1].bias, table)
            case Input() | Scale():
                continue
    return found


def run(format: Format, toy: bool) -> str:
    """Encrypts, evaluates, compares; a line of figures."""
    from glyphc.backends.openfhe.gates import generate_gate_keys

    layers = small(format)
    made = network_circuit(layers, format, encrypted=True)
    start = time.perf_counter()
    client, server = generate_gate_keys(secure=not toy)
    keys = time.perf_counter() - start
    x = format.integers(np.array([1.0, 0.25]))
    start = time.perf_counter()
    inputs = client.encrypt(input_bits(layers, format, x, True))
    encrypt = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    outputs = server.run(inputs, made.circuit.gates, made.circuit.needed(made.bits), made.bits)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    found = output_integers(format, client.decrypt(outputs))
    exact = np.array_equal(found, network_integers(layers, format, x[None])[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    security = "TOY: PROTECTS NOTHING" if toy else "STD128"
    return (
        f"2-2-1, words of {format.bits} bits ({format.fraction} behind the point), encrypted weights: {made.gates:,} "
        f"gates; keys {keys:.1f} s, encrypt {encrypt:.1f} s, evaluate {seconds:.1f} s ({made.gates * GATE_SECONDS:.0f} "
        f"s predicted), {cpu:.1f} CPU s, {1e3 * cpu / made.gates:.1f} CPU ms a gate; peak {peak:.2f} GB; "
        f"{'bit for bit' if exact else 'WRONG'}; result {format.reals(found)[0]:g}; {security}; {this_machine().text}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--fraction", type=int, default=4)
    parser.add_argument("--toy", action="store_true", help="toy keys, which protect nothing")
    parser.add_argument("--predict", metavar="NETWORK", help="count gates of a network in models/ instead")
    a = parser.parse_args()
    format = Format(a.bits, a.fraction)
    print(predict(a.predict, format) if a.predict else run(format, a.toy))


if __name__ == "__main__":
    main()
