"""Exports small PyTorch networks with random weights, for tests/test_onnx_exports.py: torch-*.onnx beside this file.

    pip install torch onnx onnxscript
    python tests/data/export_torch.py

Both of PyTorch's exporters are used: the one by TorchScript (torch.onnx.export(dynamo=False)) and the newer one.
"""

from pathlib import Path

import onnx
import torch
from torch import nn

HERE = Path(__file__).resolve().parent


class Residual(nn.Module):
    """A block with batch normalisation, as in torchvision's ResNets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + x)


class Attention(nn.Module):
    """Scaled dot products of four positions of three features, then a view whose sizes are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 3) for _ in range(3))
        self.out = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = torch.softmax(q @ k.transpose(1, 2) / 3**0.5, dim=-1)
        y = weights @ v
        return self.out(y.reshape(y.shape[0], -1))


class Pieces(nn.Module):
    """Slices, permutations, concatenation, padding, unfolding, upsampling."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=3)
        x = torch.cat([left.flip(3), nn.functional.pad(right, (1, 0, 0, 0), mode="reflect")], dim=3)
        windows = nn.functional.unfold(x[:, :, ::2], kernel_size=2)
        wide = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest").mean(dim=(2, 3))
        return torch.cat([windows.permute(0, 2, 1).flatten(1), wide], dim=1).tanh()


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "resnet": (
        nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            Residual(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        (1, 8, 8),
    ),
    "cnn1d": (
        nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=2, dilation=2),
            nn.GELU(),
            nn.AvgPool1d(2),
            nn.Conv1d(4, 4, 3, groups=4),
            nn.Hardswish(),
            nn.MaxPool1d(2),
            nn.ConvTranspose1d(4, 1, 2, stride=2),
            nn.Flatten(),
        ),
        (2, 16),
    ),
    "attention": (Attention(), (4, 3)),
    "pieces": (Pieces(), (2, 4, 6)),
}


def main() -> None:
    """Write every network twice."""
    torch.manual_seed(0)
    for name, (network, shape) in NETWORKS.items():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn(module.num_features)
                module.running_var = torch.rand(module.num_features) + 0.5
        network.eval()
        x = torch.randn(2, *shape)
        old, new = (str(HERE / f"torch-{name}-{kind}.onnx") for kind in ("script", "dynamo"))
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(
            network, (x,), old, dynamo=False, opset_version=17, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, **names
        )
        torch.onnx.export(
            network,
            (x,),
            new,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            **names,
        )
        without_traces(new)


def without_traces(path: str) -> None:
    """Take out where in which file PyTorch found every node."""
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.functions, *(n for f in model.functions for n in f.node)):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


if __name__ == "__main__":
    main()
