"""Caffe2 models: a predict net, an init net, and perhaps the shape of the input, become ONNX.

predict net -> what it reads -> image input -> operators -> ONNX
init net -> weights ------------------------------^
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from quantize.conversion.caffe2_fills import Weights
from quantize.conversion.caffe2_inputs import Image, find_image, read_value_info
from quantize.conversion.caffe2_net import Net, read_net
from quantize.conversion.caffe2_operators import Draft, Shape, draft_net, outputs_of
from quantize.conversion.caffe2_reference import run_net
from quantize.conversion.imported import Imported
from quantize.errors import ModelError

_OPSET, _IR = 13, 8


def import_caffe2(predict: Path, init: Path, value_info: Path | None = None) -> Imported:
    """Read a trained Caffe2 classifier, each net in binary or as text.

    Args:
        predict: the predict net: its operators.
        init: the init net: its weights.
        value_info: `{input: [1, [N, C, H, W]]}` as JSON; without it the size is taken from a
            place holder in the init net, or assumed to be 224x224 and checked against the weights.

    Returns:
        ONNX of opset 13 that takes any batch, with the names of the model zoo's files.

    Raises:
        ModelError: a file that cannot be read, an operator or an argument that is not supported,
            a missing weight, or shapes that do not fit.
    """
    net, weights = read_net(predict, "predict net"), Weights(read_net(init, "init net"))
    declared = read_value_info(value_info) if value_info else {}
    if value_info and not declared:
        raise ModelError(
            f"{value_info} declares no float32 input", 'write {"data": [1, [1, 3, 224, 224]]}'
        )
    image = find_image(net, weights, declared)
    try:
        draft = draft_net(net, weights, image.blob, image.size)
    except ModelError as error:
        if not image.assumed:
            raise
        size = "x".join(map(str, image.size))
        raise ModelError(
            f"{error.message} (with assumed images of {size})",
            error.cure or "give value_info.json with the size of the images",
        ) from error
    model = _model(net, draft, image, outputs_of(net, draft))
    return Imported(
        model, partial(run_net, net, weights, image.blob), _steps(net, weights, draft, image)
    )


def _model(net: Net, draft: Draft, image: Image, outputs: dict[str, Shape]) -> onnx.ModelProto:
    graph = helper.make_graph(
        draft.nodes,
        net.name or "caffe2",
        [_value(f"{image.blob}_0", image.size)],
        [_value(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in draft.constants.items()],
    )
    return helper.make_model(
        graph,
        producer_name="quantize",
        ir_version=_IR,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )


def _value(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])


def _steps(net: Net, weights: Weights, draft: Draft, image: Image) -> tuple[str, ...]:
    count = len(net.operators)
    steps = [f"read {count} operators and {len(draft.constants)} weights of a Caffe2 net"]
    steps += image.steps
    if image.blob in weights:
        steps.append(f"dropped the place holder that the init net fills {image.blob!r} with")
    unread = len(weights) - len(draft.constants) - (image.blob in weights)
    if unread:
        steps.append(f"left out {unread} blobs of the init net that no operator reads")
    steps.append("freed the batch axis")
    return tuple(steps)
