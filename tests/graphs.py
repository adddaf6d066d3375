"""Small graphs for tests, written as ONNX text, and what onnxruntime answers for them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper, parser

OFF = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def build(
    text: str, *, opset: int = 13, ir: int = 8, seed: int = 0, **constants: object
) -> onnx.ModelProto:
    """A model from `(inputs) => (outputs) { nodes }`.

    Args:
        text: the graph in ONNX's textual form, without its name.
        opset: of ai.onnx.
        ir: version of the file format.
        seed: of random constants.
        constants: initializers by name: an array, or the shape of float32 noise. A double
            underscore in the name stands for a dot.
    """
    rng = np.random.default_rng(seed)
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> graph {text}')
    for name, value in constants.items():
        if isinstance(value, tuple):
            value = rng.normal(0, 0.5, value).astype(np.float32)
        model.graph.initializer.append(
            numpy_helper.from_array(np.asarray(value), name.replace("__", "."))
        )
    return model


def norm(channels: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """gamma, beta, mean and var of a BatchNormalization."""
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(0, 1, channels) for name in ("gamma", "beta", "mean")}
    values["var"] = rng.uniform(0.1, 2, channels)
    return {name: value.astype(np.float32) for name, value in values.items()}


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Images, float32 of this shape."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def answers(
    model: onnx.ModelProto, images: NDArray[np.float32], *, plain: bool = False
) -> list[NDArray[np.float32]]:
    """All outputs for one input; `plain` runs the graph node by node, as written."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if plain:
        options.graph_optimization_level = OFF
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: images})


def ops(model: onnx.ModelProto) -> list[str]:
    """The operators, in order."""
    return [node.op_type for node in model.graph.node]
