"""Caffe2 operators as ONNX ones, with the shape of everything checked on the way.

Caffe2 overwrites blobs, ONNX names each tensor once: a blob's n-th value is called `blob_n`, where
`blob_0` is what it held before the net ran. So did the converter whose files the model zoo has.
Shapes are without the batch axis, which stays free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from quantize.conversion.caffe2_fills import Weights
from quantize.conversion.caffe2_net import Net, Operator
from quantize.conversion.caffe2_windows import Window, window
from quantize.errors import ModelError

Shape = tuple[int, ...]
"""(C, H, W) or (K,)."""

DEFAULT_EPSILON = 1e-5
MOST_ELEMENTS = 1 << 30
"""Of all tensors of one image together: two numbers in a net could ask for any size."""

MOST_PRODUCTS = 1 << 28
"""Input values that the windows of one convolution read in one image; a ResNet's read some 2^21."""

_MOST_RESPONSE = 999

_CONVOLUTION = {
    *("kernel", "kernels", "kernel_h", "kernel_w", "stride", "strides", "stride_h", "stride_w"),
    *("dilation", "dilations", "dilation_h", "dilation_w", "pad", "pads"),
    *("pad_t", "pad_l", "pad_b", "pad_r", "group", "global_pooling", "legacy_pad", "ceil_mode"),
}
_HARMLESS = {
    *("convolution_transform_strategy", "cudnn_exhaustive_search", "deterministic"),
    *("enable_tensor_core", "exhaustive_search", "float16_compute", "init_params", "no_bias"),
    *("order", "shared_buffer", "use_cudnn", "ws_nbytes_limit"),
}
"""They choose how a result is computed, not which; `order` is checked for all."""


@dataclass(eq=False)
class Draft:
    """The ONNX graph so far.

    Attributes:
        weights: what the init net gives.
        image: the input blob, which is never a weight.
        shapes: ONNX tensor -> its shape, of the input and of all that operators made.
        versions: blob -> how often it was made.
        nodes: in order.
        constants: ONNX initializer -> value.
        elements: of all tensors made, for one image.
    """

    weights: Weights
    image: str
    shapes: dict[str, Shape]
    versions: dict[str, int] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    elements: int = 0

    def tensor(self, op: Operator, position: int) -> tuple[str, Shape]:
        """The ONNX name and the shape of an input that was computed."""
        blob = op.inputs[position]
        name = f"{blob}_{self.versions.get(blob, 0)}"
        if name not in self.shapes and blob in self.weights:
            raise op.wrong(f"reads the weights {blob!r} where only images are supported")
        if name not in self.shapes:
            raise op.wrong(f"reads {blob!r}, which is neither the image input nor made before it")
        return name, self.shapes[name]

    def image_of(self, op: Operator) -> tuple[str, Shape]:
        """The first input, which has to be [N,C,H,W]."""
        name, shape = self.tensor(op, 0)
        if len(shape) != 3:
            raise op.wrong(f"needs images, and {op.inputs[0]!r} is [N,{_listed(shape)}]")
        return name, shape

    def constant(self, op: Operator, position: int, shape: Shape | None = None) -> tuple[str, Any]:
        """The ONNX name and the value of an input that the init net gives, of a certain shape."""
        blob = op.inputs[position]
        if self.versions.get(blob, 0) or blob == self.image:
            raise op.wrong(f"takes {blob!r} as weights, but it is computed", "fold it first")
        if blob not in self.weights:
            raise op.wrong(
                f"needs {blob!r}, which the init net does not fill",
                "give the init net that belongs to this predict net",
            )
        value = self.weights[blob]
        if value.dtype != np.float32:
            raise op.wrong(f"needs float32 weights, and {blob!r} is {value.dtype}")
        if shape is not None and value.shape != shape:
            raise op.wrong(f"needs {blob!r} of {list(shape)}, and it is {list(value.shape)}")
        name = f"{blob}_0"
        if name not in self.constants and not np.isfinite(value).all():
            raise op.wrong(f"has NaN or infinity in {blob!r}", "fetch or export it again")
        self.constants[name] = value
        return name, value

    def emit(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Append a node, which bears its output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def made(self, op: Operator, shape: Shape) -> str:
        """The ONNX name of the first output's new value."""
        if any(size < 1 for size in shape):
            raise op.wrong(
                f"gets an image too small for its kernel: [N,{_listed(shape)}] would come out"
            )
        self.elements += math.prod(shape)
        if self.elements > MOST_ELEMENTS:
            raise op.wrong(
                f"makes [N,{_listed(shape)}]: the net's tensors of one image are too large",
                "check its pads, and the size of its images",
            )
        blob = op.outputs[0]
        self.versions[blob] = self.versions.get(blob, 0) + 1
        name = f"{blob}_{self.versions[blob]}"
        self.shapes[name] = shape
        return name


def draft_net(net: Net, weights: Weights, image: str, size: tuple[int, int, int]) -> Draft:
    """Every operator of a predict net, as ONNX.

    Args:
        net: the predict net.
        weights: what the init net fills.
        image: the input blob.
        size: its channels, height and width.

    Raises:
        ModelError: an operator or argument that is not supported, a missing weight, or shapes
            that do not fit; names the operator by its output.
    """
    draft = Draft(weights, image, {f"{image}_0": size})
    for op in net.operators:
        rule = _RULES.get(op.type)
        if rule is None:
            raise op.wrong("is not supported", _cure(op))
        _check(op, rule)
        rule.draw(draft, op)
    return draft


@dataclass(frozen=True)
class _Rule:
    draw: Callable[[Draft, Operator], None]
    inputs: range
    arguments: Collection[str] = ()
    outputs: int = 1


def _cure(op: Operator) -> str:
    if op.type.endswith("Fill"):
        return "give the predict net first and the init net second"
    return f"supported are {', '.join(sorted(_RULES))}"


def _check(op: Operator, rule: _Rule) -> None:
    if len(op.inputs) not in rule.inputs:
        raise op.wrong(f"has {len(op.inputs)} inputs")
    if not 1 <= len(op.outputs) <= rule.outputs:
        raise op.wrong(f"has {len(op.outputs)} outputs", "export the net for inference")
    strange = sorted(set(op.arguments) - set(rule.arguments) - _HARMLESS)
    if strange:
        raise op.wrong(f"has an argument {strange[0]!r}, which is not supported")
    order = op.text("order", "NCHW")
    if order != "NCHW":
        raise op.wrong(f"has order {order[:20]!r}; only NCHW is supported", "export it as NCHW")


def _convolution(draft: Draft, op: Operator) -> None:
    name, (channels, height, width) = draft.image_of(op)
    moved, group = window(op), op.integer("group", 1)
    if moved.everything or moved.ceil:
        raise op.wrong("has global_pooling or legacy_pad: 3, which is for pooling")
    weight, value = draft.constant(op, 1)
    filters = value.shape[0] if value.ndim else 0
    if group < 1 or value.ndim != 4 or filters % group or channels != value.shape[1] * group:
        raise op.wrong(
            f"has weights of {list(value.shape)} in {group} groups for {channels} channels"
        )
    if value.shape[2:] != moved.kernel:
        raise op.wrong(f"has a kernel of {list(moved.kernel)} and weights of {list(value.shape)}")
    inputs = [name, weight]
    if len(op.inputs) == 3:
        inputs.append(draft.constant(op, 2, (filters,))[0])
    made = moved.sizes(height, width)
    output = draft.made(op, (filters, *made))
    if math.prod(made) * channels * math.prod(moved.kernel) > MOST_PRODUCTS:
        raise op.wrong(f"moves a kernel of {list(moved.kernel)} over too large an image")
    attributes = _moving(moved)
    draft.emit("Conv", inputs, output, dilations=moved.dilation, group=group, **attributes)


def _normalization(draft: Draft, op: Operator) -> None:
    name, shape = draft.image_of(op)
    if not op.integer("is_test", 0):
        raise op.wrong(
            "has no is_test: 1, so this net is for training", "export the net for inference"
        )
    epsilon = op.number("epsilon", DEFAULT_EPSILON)
    if not 0 <= epsilon < math.inf:
        raise op.wrong(f"has the epsilon {epsilon}")
    # The last input is called inverse variance in many nets, and is the variance in all of them.
    inputs = [name, *(draft.constant(op, i, shape[:1])[0] for i in range(1, 5))]
    if (draft.weights[op.inputs[4]] + epsilon <= 0).any():
        raise op.wrong(f"has variances below zero in {op.inputs[4]!r}", "fetch or export it again")
    draft.emit("BatchNormalization", inputs, draft.made(op, shape), epsilon=epsilon)


def _relu(draft: Draft, op: Operator) -> None:
    name, shape = draft.tensor(op, 0)
    draft.emit("Relu", [name], draft.made(op, shape))


def _dropout(draft: Draft, op: Operator) -> None:
    name, shape = draft.tensor(op, 0)
    if not op.integer("is_test", 0):
        raise op.wrong(
            "has no is_test: 1, so this net is for training", "export the net for inference"
        )
    draft.emit("Identity", [name], draft.made(op, shape))


def _pool(draft: Draft, op: Operator) -> None:
    name, (channels, height, width) = draft.image_of(op)
    asked = window(op)
    if asked.dilation != (1, 1):
        raise op.wrong("pools with a dilation, which is not supported")
    moved = asked.explicit(height, width)
    pads = moved.pads
    if not asked.everything and (
        max(pads[0], pads[2]) >= moved.kernel[0] or max(pads[1], pads[3]) >= moved.kernel[1]
    ):
        raise op.wrong(f"has pads {list(pads)} as large as its kernel {list(moved.kernel)}")
    counted = op.integer("count_include_pad", 0)
    if counted and asked.ceil:
        raise op.wrong("has count_include_pad beside legacy_pad: 3, which is not supported")
    output = draft.made(op, (channels, *moved.sizes(height, width)))
    if moved.everything:
        draft.emit(f"Global{op.type}", [name], output)
        return
    more = {"count_include_pad": 1} if counted and op.type == "AveragePool" else {}
    draft.emit(op.type, [name], output, **_moving(moved), **more)


def _sum(draft: Draft, op: Operator) -> None:
    """Additions one by one: an int8 engine knows Add, and not Sum."""
    terms = [draft.tensor(op, i) for i in range(len(op.inputs))]
    shape = terms[0][1]
    for blob, (_, other) in zip(op.inputs, terms, strict=True):
        if other != shape:
            raise op.wrong(
                f"adds {blob!r} of [N,{_listed(other)}] to [N,{_listed(shape)}], and both must be"
                " alike"
            )
    total = terms[0][0]
    output = draft.made(op, shape)
    if len(terms) == 1:
        draft.emit("Identity", [total], output)
    for index, (name, _) in enumerate(terms[1:], 2):
        result = output if index == len(terms) else f"{output}.sum{index}"
        draft.emit("Add", [total, name], result)
        total = result


def _concatenation(draft: Draft, op: Operator) -> None:
    terms = [draft.tensor(op, i) for i in range(len(op.inputs))]
    if op.integer("axis", 1) != 1 or op.integer("add_axis", 0):
        raise op.wrong("joins another axis than that of the channels")
    if len({shape[1:] for _, shape in terms}) > 1:
        shapes = ", ".join(f"[N,{_listed(shape)}]" for _, shape in terms[:5])
        raise op.wrong(f"joins images of unlike shapes {shapes}")
    channels = sum(shape[0] for _, shape in terms)
    output = draft.made(op, (channels, *terms[0][1][1:]))
    draft.emit("Concat", [name for name, _ in terms], output, axis=1)


def _fully_connected(draft: Draft, op: Operator) -> None:
    name, shape = draft.tensor(op, 0)
    if op.integer("axis", 1) != 1 or op.integer("axis_w", 1) != 1:
        raise op.wrong("has another axis than 1, which is not supported")
    weight, value = draft.constant(op, 1)
    if value.ndim != 2 or value.shape[1] != math.prod(shape):
        raise op.wrong(f"has weights of {list(value.shape)} for [N,{_listed(shape)}]")
    bias = draft.constant(op, 2, value.shape[:1])[0]
    output = draft.made(op, value.shape[:1])
    flat = f"{output}.flat"  # no blob's name ends so
    draft.emit("Flatten", [name], flat, axis=1)
    draft.emit("Gemm", [flat, weight, bias], output, transB=1)


def _softmax(draft: Draft, op: Operator) -> None:
    name, shape = draft.tensor(op, 0)
    axis = op.integer("axis", 1)
    # Caffe2 takes everything from the axis on together, ONNX the axis alone.
    if math.prod(shape[1:]) != 1 or axis not in ((1, -1) if len(shape) == 1 else (1,)):
        raise op.wrong(f"has axis {axis} of [N,{_listed(shape)}], which is not supported")
    draft.emit("Softmax", [name], draft.made(op, shape), axis=1)


def _local_response(draft: Draft, op: Operator) -> None:
    name, shape = draft.image_of(op)
    size = op.integer("size", 0)
    if not 1 <= size <= _MOST_RESPONSE or size % 2 == 0:
        raise op.wrong(f"has the size {size}; it must be odd and at most {_MOST_RESPONSE}")
    numbers = {name: op.number(name, 1.0 if name == "bias" else 0.0) for name in _LRN}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise op.wrong("has an argument that is not finite")
    draft.emit("LRN", [name], draft.made(op, shape), size=size, **numbers)


def _moving(moved: Window) -> dict[str, Any]:
    return {"kernel_shape": moved.kernel, "strides": moved.stride, "pads": moved.pads}


def _listed(shape: Shape) -> str:
    return ",".join(map(str, shape))


_LRN = ("alpha", "beta", "bias")
_MANY = range(1, 1000)
_POOLING = _CONVOLUTION - {"group"} | {"count_include_pad"}
_RULES: Mapping[str, _Rule] = {
    "Add": _Rule(_sum, range(2, 3), {"broadcast"}),
    "AveragePool": _Rule(_pool, range(1, 2), _POOLING),
    "Concat": _Rule(_concatenation, _MANY, {"axis", "add_axis"}, 2),
    "Conv": _Rule(_convolution, range(2, 4), _CONVOLUTION),
    "Dropout": _Rule(_dropout, range(1, 2), {"is_test", "ratio"}, 2),
    "FC": _Rule(_fully_connected, range(3, 4), {"axis", "axis_w"}),
    "LRN": _Rule(_local_response, range(1, 2), {"size", *_LRN}, 2),
    "MaxPool": _Rule(_pool, range(1, 2), _POOLING),
    "Relu": _Rule(_relu, range(1, 2)),
    "Softmax": _Rule(_softmax, range(1, 2), {"axis"}),
    "SpatialBN": _Rule(_normalization, range(5, 6), {"epsilon", "is_test", "momentum"}),
    "Sum": _Rule(_sum, _MANY),
}


def outputs_of(net: Net, draft: Draft) -> dict[str, Shape]:
    """ONNX name -> shape of the net's results: those it declares, else its last operator's.

    Raises:
        ModelError: a declared result that no operator makes.
    """
    blobs = dict.fromkeys(net.outputs or net.operators[-1].outputs[:1])
    found = {}
    for blob in blobs:
        if not draft.versions.get(blob):
            raise ModelError(
                f"the predict net declares the output {blob!r}, which no operator makes",
                "fetch or export it again",
            )
        name = f"{blob}_{draft.versions[blob]}"
        found[name] = draft.shapes[name]
    return found
