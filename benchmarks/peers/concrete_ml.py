"""Concrete ML on the network of a case: python concrete_ml.py CASE.npz retrained|rounded [--approximate] --samples N.

rounded: the given weights, quantised to 5 bits after training, sums rounded to 6 bits. retrained: brevitas trains the
network again with weights and activations of 3 bits, from the given weights on, and sums are rounded to 4 bits. Both
as its documentation advises for speed, and so is --approximate, which rounds with errors. The failure probability of a
table look-up is its default.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from concrete.ml.torch.compile import compile_brevitas_qat_model, compile_torch_model
from measured import Measured

SEED = 0
EPOCHS, BATCH, RATE = 60, 64, 1e-3
CALIBRATION = 500


class Plain(torch.nn.Module):
    """Dense layers with ReLU in between."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(inputs, outputs) for outputs, inputs in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class Quantised(torch.nn.Module):
    """The same with weights and activations of so many bits."""

    def __init__(self, sizes: list[tuple[int, int]], bits: int) -> None:
        super().__init__()
        activation = {"bit_width": bits, "act_quant": Int8ActPerTensorFloat, "return_quant_tensor": True}
        weight = {"weight_bit_width": bits, "weight_quant": Int8WeightPerTensorFloat, "weight_narrow_range": True}
        self.quantisers = torch.nn.ModuleList(qnn.QuantIdentity(**activation) for _ in sizes)
        self.layers = torch.nn.ModuleList(
            qnn.QuantLinear(inputs, outputs, bias=True, bias_quant=None, **weight) for outputs, inputs in sizes
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, (quantiser, layer) in enumerate(zip(self.quantisers, self.layers)):  # noqa: B905
            x = layer(quantiser(x))
            if number < len(self.layers) - 1:
                x = torch.relu(x)
        return x


def load(network: Any, case: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        for i, layer in enumerate(network.layers):
            layer.weight.copy_(torch.tensor(case[f"w{i}"]))
            layer.bias.copy_(torch.tensor(case[f"b{i}"]))


def retrain(network: torch.nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """On the training samples, each moved by up to a pixel and a half at random, as those of the float network were."""
    torch.manual_seed(SEED)
    images, labels = torch.tensor(x).reshape(-1, 1, 28, 28), torch.tensor(y)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            down, right = (int(n) for n in torch.randint(-1, 2, (2,)))
            moved = torch.roll(images[rows], (down, right), (2, 3)).reshape(len(rows), -1)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(moved), labels[rows]).backward()
            optimizer.step()
        schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("how", choices=("retrained", "rounded"))
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    with np.load(arguments.case) as archive:
        case = {name: archive[name] for name in archive.files}
    x, labels = case["x_test"].astype(np.float32), case["y_test"]
    train = case["x_train"].astype(np.float32)
    sizes = [case[f"w{i}"].shape for i in range(3)]
    retrained = arguments.how == "retrained"
    words = "3 bits, retrained, sums rounded to 4" if retrained else "5 bits after training, sums rounded to 6"
    words += ", approximately" if arguments.approximate else ""
    rounding = {"n_bits": 4 if retrained else 6, "method": "APPROXIMATE" if arguments.approximate else "EXACT"}
    found = Measured("Concrete ML", words, {}, "128 bits, its default", samples=arguments.samples, tested=len(x))
    network = Quantised(sizes, 3) if retrained else Plain(sizes)
    load(network, case)
    if retrained and arguments.epochs:
        retrain(network, train, case["y_train"], arguments.epochs)
    network.eval()
    with found.stage("compile"):
        if retrained:
            module = compile_brevitas_qat_model(network, train[:CALIBRATION], rounding_threshold_bits=rounding)
        else:
            module = compile_torch_model(network, train[:CALIBRATION], n_bits=5, rounding_threshold_bits=rounding)
    circuit = module.fhe_circuit
    with found.stage("keys"):
        circuit.keygen()
    scores = []
    for sample in x[: arguments.samples]:
        with found.stage("encrypt"):
            encrypted = circuit.encrypt(module.quantize_input(sample[None]))
        with found.stage("evaluate"):
            result = circuit.run(encrypted)
        with found.stage("decrypt"):
            scores.append(module.dequantize_output(circuit.decrypt(result))[0])
    clear = module.forward(x, fhe="disable").argmax(axis=1)
    got = np.array(scores).argmax(axis=1)
    found.clear = float(np.mean(clear == labels))
    found.correct = float(np.mean(got == labels[: len(got)]))
    found.agreement = float(np.mean(got == clear[: len(got)]))
    found.key_bytes = circuit.size_of_bootstrap_keys + circuit.size_of_keyswitch_keys
    found.input_bytes = circuit.size_of_inputs * len(got)
    found.output_bytes = circuit.size_of_outputs * len(got)
    found.security += f"; probability of a wrong look-up {circuit.p_error:.1e}"
    found.versions = {n: version(n) for n in ("concrete-ml", "concrete-python", "torch", "brevitas")}
    found.print()


if __name__ == "__main__":
    main()
