"""onnxruntime's quantizer, given ranges that we measured: the float model in, the int8 one out."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode

from quantize.errors import EngineError
from quantize.files import cannot_write
from quantize.graph.activations import must_stay
from quantize.graph.front import front_of, pixels_of, with_front
from quantize.graph.layers import with_constants
from quantize.graph.order import sort_nodes
from quantize.graph.scores import float_scores
from quantize.graph.shield import shield_float_layers
from quantize.graph.view import View
from quantize.plan import Encodings, Plan, Statistics

OPERATORS = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
]
"""What becomes int8. Not Softmax and Sigmoid: 256 levels of probability cost more than they
save. Operators that only move data are listed so that int8 passes through them."""


def quantize(
    model: onnx.ModelProto,
    statistics: Statistics,
    plan: Plan,
    encodings: Encodings | None = None,
) -> onnx.ModelProto:
    """Write the int8 form of a prepared model.

    Args:
        model: prepared, opset >= 13; not changed.
        statistics: exact ranges of its tensors.
        plan: format, scheme and the nodes that stay float.
        encodings: given scales, weights and biases; where there is none, onnxruntime computes
            the scale from the range or from max|W|.

    Returns:
        The int8 model.

    Raises:
        EngineError: a node to keep float is not there, the plan's method needs scales and none
            are given, or onnxruntime's quantizer failed; the message holds its reason.
        OutputError: the disk for temporary files is full.
    """
    given = encodings or Encodings({}, {}, {})
    if plan.scheme.method != "minmax" and not given.tensors:
        raise EngineError(
            f"onnxruntime's quantizer was given no scales of {plan.scheme.method} ranges",
            "apply the plan with --config, or write scheme.method minmax",
        )
    missing = sorted(set(plan.keep_float) - {node.name for node in model.graph.node})
    if missing:
        raise EngineError(
            f"the node {missing[0]!r}, to be kept float, is not in the model",
            "name nodes of the model: quantize inspect lists what is float",
        )
    copy, added = _with_given(model, given)
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it warns through the root logger about things we know
    try:
        quantizer = _quantizer(copy, _tensors(statistics, given), plan, _overrides(given), added)
        quantizer.quantize_model()
    except OSError as error:  # it keeps models in temporary files
        raise cannot_write(Path(tempfile.gettempdir()), error) from error
    except Exception as error:  # it raises ValueError, RuntimeError, AssertionError, KeyError
        raise EngineError(
            f"onnxruntime's quantizer failed: {type(error).__name__}: {error}",
            "keep the named node float with op_wise, or use quantization.engine inc",
        ) from error
    finally:
        log.setLevel(level)
    made: onnx.ModelProto = quantizer.model.model
    _settle(made, model)
    return made


def _quantizer(
    model: onnx.ModelProto,
    ranges: TensorsData,
    plan: Plan,
    overrides: dict[str, Any],
    added: tuple[str, ...],
) -> QDQQuantizer | ONNXQuantizer:
    per_channel = plan.scheme.weight_granularity == "per_channel"
    rest = {
        "per_channel": per_channel,
        # Where portable, scales are given; what is not given is a layer that no repair knows.
        "reduce_range": plan.scheme.reduce_range or plan.scheme.portable,
        "weight_qType": QuantType.QInt8,
        "activation_qType": QuantType.QUInt8,
        "tensors_range": ranges,
        "nodes_to_quantize": [],
        "nodes_to_exclude": [*plan.keep_float, *added, *_lost(model, plan)],
        "op_types_to_quantize": OPERATORS,
        "extra_options": {
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "TensorQuantOverrides": overrides,
        },
    }
    if plan.format == "qdq":
        return QDQQuantizer(model, **rest)
    return ONNXQuantizer(model, mode=QuantizationMode.QLinearOps, static=True, **rest)


def _lost(model: onnx.ModelProto, plan: Plan) -> list[str]:
    """The Relu and Clip that would vanish where their rounding is not that of what they read."""
    return must_stay(model, passing_on=plan.format != "qdq")


def _with_given(
    model: onnx.ModelProto, given: Encodings
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy with the given constants, and the names of the float nodes that they came with."""
    copy = with_constants(model, given.constants, given.biases)
    pixels = given.tensors.get(pixels_of(View(model.graph).inputs[0].name))
    front = front_of(copy, given.constants, None if pixels is None else pixels.scale)
    return (copy, ()) if front is None else with_front(copy, front)


def _overrides(encodings: Encodings) -> dict[str, Any]:
    """Given scales in onnxruntime's form: one dictionary per tensor, or per channel."""
    overrides: dict[str, Any] = {}
    for name, encoding in encodings.tensors.items():
        weight = name in encodings.constants  # activations are no constants
        kind = QuantType.QInt8 if weight else QuantType.QUInt8
        point = np.asarray(encoding.zero_point, np.int8 if weight else np.uint8)
        axis = {} if encoding.axis is None else {"axis": encoding.axis}
        overrides[name] = [
            {"quant_type": kind, "scale": scale, "zero_point": point, **axis}
            for scale in (np.asarray(value, np.float32) for value in encoding.scale.reshape(-1))
        ]
    return overrides


def _tensors(statistics: Statistics, given: Encodings) -> TensorsData:
    """The ranges; a given scale has the last word, but the quantizer asks for a range as well."""
    spans = {name: (seen.low, seen.high) for name, seen in statistics.ranges.items()}
    for name in given.tensors.keys() - spans.keys() - given.constants.keys():
        scale, point = float(given.tensors[name].scale), given.tensors[name].zero_point
        spans[name] = (-point * scale, (255 - point) * scale)
    return TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in spans.items()
        },
    )


def _settle(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """One order of nodes and constants, whatever the quantizer gave; what is float stays float."""
    sort_nodes(model.graph)
    float_scores(model, original)
    shield_float_layers(model)
    ordered = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    del model.graph.value_info[:]
    model.producer_name = "quantize"
