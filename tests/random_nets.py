"""Small random classifiers of convolutions, sums and poolings, with strides in unusual places.

For rewrites that must not change a bit: what nobody thought of comes up in some hundred of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 4
_STEPS = ("point", "point", "skip", "skip", "window", "window", "act", "act", "sum", "sum", "sum",
          "squeezed", "norm", "pool", "product", "concat")  # fmt: skip


def random_net(seed: int) -> tuple[onnx.ModelProto, tuple[int, int, int]]:
    """A float classifier, and the [C,H,W] of its images; equal seeds give equal ones."""
    return _Net(seed).build()


class _Net:
    """A graph that grows node by node; `size` holds height and width of each picture in it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        side = tuple(int(each) for each in self.random.integers(3, 13, 2))
        self.size: dict[str, tuple[int, int]] = {"x": side}

    def build(self) -> tuple[onnx.ModelProto, tuple[int, int, int]]:
        """Grow it, close every loose end with a strided 1x1 or none, and join them as scores."""
        side = self.size["x"]
        self.constant("low", np.float32(0))
        self.constant("high", np.float32(3))
        self.conv("x", [3, 3], [1, 1], {"pads": [1, 1, 1, 1]}, read=3)
        for _ in range(int(self.random.integers(4, 16))):
            getattr(self, f"add_{self.random.choice(_STEPS)}")(self.any())
        for name in self.loose():
            if self.random.random() < 0.5:
                self.conv(name, [1, 1], [2, 2])
        loose = self.loose()
        width = sum(CHANNELS * int(np.prod(self.size[name])) for name in loose)
        flat = [self.node("Flatten", [name], (1, 1)) for name in loose]
        self.nodes.append(helper.make_node("Concat", flat, ["logits"], "logits", axis=1))
        batch = "n" if self.random.random() < 0.5 else 2
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *side])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, width])],
            self.constants,
        )
        ids = [helper.make_opsetid("", int(self.random.integers(13, 22)))]
        return helper.make_model(graph, opset_imports=ids, ir_version=10), (3, *side)

    def any(self) -> str:
        """One of the pictures, rather the newest."""
        names = list(self.size)[1:]
        return names[-1] if self.random.random() < 0.6 else str(self.random.choice(names))

    def loose(self) -> list[str]:
        """The pictures that nobody reads."""
        read = {name for node in self.nodes for name in node.input}
        return [name for name in self.size if name not in read]

    def constant(self, name: str, value: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], size: Sequence[int], **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        if kind != "Flatten":
            self.size[name] = (size[0], size[1])
        return name

    def conv(
        self,
        source: str,
        kernel: list[int],
        stride: list[int],
        padding: dict[str, object] | None = None,
        read: int = CHANNELS,
    ) -> str:
        """A convolution, some in groups, some with a channel of zeros; none where nothing is left.

        Returns:
            Its result, or the source.
        """
        padding = padding or {}
        pads, dilations = padding.get("pads", [0] * 4), padding.get("dilations", [1, 1])
        same = str(padding.get("auto_pad")).startswith("SAME")
        lost = [(kernel[at] - 1) * dilations[at] - pads[at] - pads[at + 2] for at in range(2)]
        size = [
            (side - 1 - (0 if same else less)) // step + 1
            for side, less, step in zip(self.size[source], lost, stride, strict=True)
        ]
        if min(size) < 1:
            return source
        group = int(self.random.choice([1, 1, 1, 2, CHANNELS])) if read == CHANNELS else 1
        weight = self.random.normal(0, 0.5, (CHANNELS, read // group, *kernel)).astype(np.float32)
        if self.random.random() < 0.2:
            weight[self.random.integers(CHANNELS)] = 0
        inputs = [source, self.constant(f"weight{len(self.nodes)}", weight)]
        if self.random.random() < 0.7:
            bias = self.random.normal(0, 0.3, CHANNELS).astype(np.float32)
            inputs.append(self.constant(f"bias{len(self.nodes)}", bias))
        shape = {"kernel_shape": kernel, "strides": stride, "group": group}
        return self.node("Conv", inputs, size, **shape, **padding)

    def stride(self) -> list[int]:
        """Mostly the same along both axes."""
        high, wide = (int(each) for each in self.random.choice([1, 2, 2, 3], 2))
        return [high, high] if self.random.random() < 0.8 else [high, wide]

    def add_point(self, source: str) -> None:
        self.conv(source, [1, 1], [1, 1])

    def add_skip(self, source: str) -> None:
        """One 1x1 convolution that leaves pixels out, or two."""
        stride = self.stride()
        self.conv(source, [1, 1], stride)
        if self.random.random() < 0.5:
            self.conv(source, [1, 1], stride if self.random.random() < 0.8 else self.stride())

    def add_window(self, source: str) -> None:
        kernel = [int(side) for side in self.random.integers(1, 4, 2)]
        stride = [1, 1] if self.random.random() < 0.7 else self.stride()
        dilations = [int(each) for each in self.random.integers(1, 3, 2)]
        pads = [side // 2 for side in kernel] * 2
        kinds: list[dict[str, object]] = [
            {"pads": pads},
            {"pads": pads},
            {"pads": [int(each) for each in self.random.integers(0, 3, 4)]},
            {"dilations": dilations},
            *({"auto_pad": kind} for kind in ("SAME_UPPER", "SAME_LOWER", "VALID")),
        ]
        self.conv(source, kernel, stride, kinds[self.random.integers(len(kinds))])

    def add_act(self, source: str) -> None:
        kind = str(self.random.choice(["Relu", "Clip", "LeakyRelu"]))
        inputs = [source, "low", "high"] if kind == "Clip" else [source]
        self.node(kind, inputs, self.size[source])

    def add_norm(self, source: str) -> None:
        names = [
            self.constant(f"{part}{len(self.nodes)}", value.astype(np.float32))
            for part in ("gamma", "beta", "mean", "var")
            for value in [self.random.uniform(0.1, 1.5, CHANNELS)]
        ]
        self.node("BatchNormalization", [source, *names], self.size[source])

    def add_pool(self, source: str) -> None:
        if min(self.size[source]) > 1:
            step = int(self.random.choice([1, 2]))
            size = [(side - 2) // step + 1 for side in self.size[source]]
            kind = str(self.random.choice(["MaxPool", "AveragePool"]))
            self.node(kind, [source], size, kernel_shape=[2, 2], strides=[step, step])

    def add_sum(self, source: str) -> None:
        self.node("Add", self.pair(source), self.size[source])

    def add_product(self, source: str) -> None:
        self.node("Mul", self.pair(source), self.size[source])

    def add_squeezed(self, source: str) -> None:
        """A picture and one pixel, which goes for all of them."""
        size = self.size[source]
        pixel = self.node("GlobalAveragePool", [self.any()], (1, 1))
        pixel = self.conv(pixel, [1, 1], [1, 1]) if self.random.random() < 0.7 else pixel
        self.node("Add", [source, pixel] if self.random.random() < 0.5 else [pixel, source], size)

    def add_concat(self, source: str) -> None:
        """Two pictures and a 1x1 convolution that reads both."""
        name = f"concat{len(self.nodes)}"
        size = self.size[source]
        self.nodes.append(helper.make_node("Concat", self.pair(source), [name], name, axis=1))
        self.size[name] = size
        self.conv(name, [1, 1], self.stride(), read=2 * CHANNELS)
        del self.size[name]

    def pair(self, source: str) -> list[str]:
        """A picture and one of its size, rather the newest; it may be itself."""
        same = [name for name, size in self.size.items() if size == self.size[source]][-4:]
        same = [name for name in same if name != "x"]
        both = [source, str(self.random.choice(same))]
        return both if self.random.random() < 0.5 else both[::-1]
