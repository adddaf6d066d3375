"""What torchvision's ResNet computes, in plain numpy, straight from a state dict.

Written after torch's module tree and not after the ONNX graph, so that the two can be held
against each other.
"""

from __future__ import annotations

import numpy as np

from quantize.conversion.arithmetic import Array, convolve, fully_connected, max_pool, normalize
from quantize.conversion.imported import Reference, Tensors
from quantize.conversion.torch_resnet import EPSILON, OUTPUT, Weights


def reference(weights: Weights) -> Reference:
    """The forward pass of a state dict whose names and shapes were checked."""

    def forward(images: Array) -> Tensors:
        return _Forward(weights).run(images)

    return forward


class _Forward:
    """One pass; every tensor on the way is kept under the name of the module that makes it."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.seen: dict[str, Array] = {}

    def run(self, images: Array) -> Tensors:
        x = self._norm("bn1", self._conv("conv1", images, 2, 3))
        x = self._keep("relu", np.maximum(x, np.float32(0)))
        x = self._keep("maxpool", max_pool(x, (3, 3), (2, 2), (1, 1, 1, 1)))
        stage = 1
        while f"layer{stage}.0.conv1.weight" in self.weights:
            index = 0
            while f"layer{stage}.{index}.conv1.weight" in self.weights:
                stride = 2 if stage > 1 and index == 0 else 1
                x = self._block(f"layer{stage}.{index}", x, stride)
                index += 1
            stage += 1
        x = self._keep("avgpool", _mean(x))
        x = self._keep("flatten", x.reshape(len(x), -1))
        self._keep(OUTPUT, fully_connected(x, self.weights["fc.weight"], self.weights["fc.bias"]))
        return self.seen

    def _block(self, name: str, x: Array, stride: int) -> Array:
        if f"{name}.conv3.weight" in self.weights:
            y = self._relu(f"{name}.relu1", self._pair(name, 1, x, 1, 0))
            y = self._relu(f"{name}.relu2", self._pair(name, 2, y, stride, 1))
            y = self._pair(name, 3, y, 1, 0)
        else:
            y = self._relu(f"{name}.relu1", self._pair(name, 1, x, stride, 1))
            y = self._pair(name, 2, y, 1, 1)
        past = f"{name}.downsample"
        if f"{past}.0.weight" in self.weights:
            x = self._norm(f"{past}.1", self._conv(f"{past}.0", x, stride, 0))
        return self._relu(f"{name}.relu", self._keep(f"{name}.add", y + x))

    def _pair(self, name: str, number: int, x: Array, stride: int, pad: int) -> Array:
        return self._norm(f"{name}.bn{number}", self._conv(f"{name}.conv{number}", x, stride, pad))

    def _conv(self, name: str, x: Array, stride: int, pad: int) -> Array:
        weight = self.weights[f"{name}.weight"]
        pads = (pad, pad, pad, pad)
        return self._keep(name, convolve(x, weight, stride=(stride, stride), pads=pads))

    def _norm(self, name: str, x: Array) -> Array:
        gain, bias, mean, variance = (
            self.weights[f"{name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return self._keep(name, normalize(x, gain, bias, mean, variance, EPSILON))

    def _relu(self, name: str, x: Array) -> Array:
        return self._keep(name, np.maximum(x, np.float32(0)))

    def _keep(self, name: str, value: Array) -> Array:
        self.seen[name] = value
        return value


def _mean(images: Array) -> Array:
    """Over height and width -> float32 [N,C,1,1]."""
    return np.asarray(images.mean(axis=(2, 3), dtype=np.float64, keepdims=True), np.float32)
