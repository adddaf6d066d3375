"""MXNet's operators as ONNX: for each the attributes with MXNet's own defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from quantize.conversion.mxnet_graph import Site
from quantize.conversion.mxnet_symbol import BATCH_NORMS, Node

Convert = Callable[[Site], str]
"""Adds what a node computes to the graph -> the tensor that holds it."""

LOSSES = frozenset(
    {
        "LinearRegressionOutput",
        "LogisticRegressionOutput",
        "MAERegressionOutput",
        "SVMOutput",
        "Softmax",
        "SoftmaxOutput",
    }
)
"""Operators that read labels behind their first input."""

_MOST_SIDE = 1024
_MOST_CHANNELS = 1 << 24
_ONCE = (1, 1)
_NONE = (0, 0)


def reads(node: Node) -> tuple[int, ...]:
    """The inputs that count when nothing is learnt."""
    return node.inputs[:1] if node.operator in LOSSES else node.inputs


def first_weight(node: Node) -> int | None:
    """From which input on a node reads parameters; None where any input may be computed."""
    weighted = {"Convolution", "Convolution_v1", "FullyConnected", "LeakyReLU", *BATCH_NORMS}
    return 1 if node.operator in weighted else None


def convert_node(site: Site) -> str:
    """Add one node to the graph.

    Returns:
        The tensor that holds its value: the node's own, or its input's where it changes nothing.

    Raises:
        ModelError: an unknown operator, or something about it that ONNX cannot say.
    """
    convert = CONVERSIONS.get(site.node.operator)
    if convert is None:
        raise site.refused("the operator is unknown")
    if not site.operands:
        raise site.refused("it reads nothing")
    return convert(site)


def _convolution(site: Site) -> str:
    a = site.node.attributes
    kernel = a.pair("kernel", None, 1, _MOST_SIDE)
    filters = a.integer("num_filter", None, 1, _MOST_CHANNELS)
    group = a.integer("num_group", 1, 1, _MOST_CHANNELS)
    pad = a.pair("pad", _NONE, 0, _MOST_SIDE)
    a.text("layout", "", ("", "NCHW"))
    bias = not a.flag("no_bias", False)
    site.expect(3 if bias else 2)
    if filters % group:
        raise site.refused(f"{filters} filters do not make {group} groups")
    inputs = [site.data(), site.parameter(1, (filters, None, *kernel))]
    if bias:
        inputs.append(site.parameter(2, (filters,)))
    return site.emit(
        "Conv",
        inputs,
        kernel_shape=kernel,
        strides=a.pair("stride", _ONCE, 1, _MOST_SIDE),
        pads=pad + pad,
        dilations=a.pair("dilate", _ONCE, 1, _MOST_SIDE),
        group=group,
    )


def _batch_norm(site: Site) -> str:
    a = site.node.attributes
    site.expect(5)
    if a.integer("axis", 1, -4, 4) not in ((1, -1) if site.flat else (1,)):
        raise a.refused("axis", "only channels at axis 1 can be converted")
    epsilon = a.number("eps", 1e-3)
    gamma = site.weight(1, (None,))
    if a.flag("fix_gamma", True):  # what the file holds for it was never looked at
        gamma = np.ones_like(gamma)
    scale = site.graph.constant(site.operands[1].name, gamma)
    rest = [site.parameter(position, gamma.shape) for position in (2, 3, 4)]
    if not float(site.weight(4, gamma.shape).min()) + epsilon > 0:
        raise site.refused("its variance and eps are not above zero")
    momentum = a.number("momentum", 0.9)
    inputs = [site.data(), scale, *rest]
    return _like_input(
        site, site.emit("BatchNormalization", inputs, epsilon=epsilon, momentum=momentum)
    )


def _pooling(site: Site) -> str:
    a = site.node.attributes
    site.expect(1)
    largest = a.text("pool_type", "max", ("max", "avg")) == "max"
    a.text("layout", "", ("", "NCHW"))
    if a.flag("global_pool", False):
        return site.emit("GlobalMaxPool" if largest else "GlobalAveragePool", [site.data()])
    full = a.text("pooling_convention", "valid", ("valid", "full")) == "full"
    kernel = a.pair("kernel", None, 1, _MOST_SIDE)
    stride = a.pair("stride", _ONCE, 1, _MOST_SIDE)
    pad = a.pair("pad", _NONE, 0, _MOST_SIDE)
    if any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise a.refused("pad", "windows would lie in the padding alone")
    if full and any(p + s > k for p, s, k in zip(pad, stride, kernel, strict=True)):
        raise a.refused("stride", "a last window could begin beyond the image")
    counted = {} if largest else {"count_include_pad": int(a.flag("count_include_pad", True))}
    return site.emit(
        "MaxPool" if largest else "AveragePool",
        [site.data()],
        kernel_shape=kernel,
        strides=stride,
        pads=pad + pad,
        ceil_mode=int(full),
        **counted,
    )


def _adaptive_pooling(site: Site) -> str:
    site.expect(1)
    if set(site.node.attributes.integers("output_size")) - {1}:
        raise site.node.attributes.refused("output_size", "only 1 can be converted")
    return site.emit("GlobalAveragePool", [site.data()])


def _fully_connected(site: Site) -> str:
    a = site.node.attributes
    hidden = a.integer("num_hidden", None, 1, _MOST_CHANNELS)
    bias = not a.flag("no_bias", False)
    site.expect(3 if bias else 2)
    data = site.data()
    if not site.flat:
        if not a.flag("flatten", True):
            raise a.refused("flatten", "only [N,K] inputs can be converted so")
        data = site.graph.add("Flatten", [data], site.graph.inner(f"flatten_{site.index}"), axis=1)
    inputs = [data, site.parameter(1, (hidden, None))]
    if bias:
        inputs.append(site.parameter(2, (hidden,)))
    return _flat(site, site.emit("Gemm", inputs, alpha=1.0, beta=1.0, transA=0, transB=1))


def _flatten(site: Site) -> str:
    site.expect(1)
    return _flat(site, site.emit("Flatten", [site.data()], axis=1))


def _reshape(site: Site) -> str:
    a = site.node.attributes
    site.expect(1)
    shape, key = a.integers("shape"), "shape"
    if not shape:  # the name it had before
        shape, key = a.integers("target_shape"), "target_shape"
    if not shape or len(shape) > 8 or any(not -1 <= s <= _MOST_CHANNELS for s in shape):
        raise a.refused(key, "only sizes, 0 (as it was) and one -1 can be converted")
    if shape[0] > 0 or shape.count(-1) > 1:
        raise a.refused(key, "it does not leave the batch free")
    if a.flag("reverse", False):
        raise a.refused("reverse", "only False can be converted")
    target = site.graph.extra(f"reshape_attr_tensor{site.index}", np.array(shape, np.int64))
    result = site.emit("Reshape", [site.data(), target])
    return _flat(site, result) if len(shape) == 2 else result


def _expand(site: Site) -> str:
    site.expect(1)
    axis = site.node.attributes.integer("axis", None, 1, 4)
    axes = site.graph.extra(f"{site.node.name}_axes", np.array([axis], np.int64))
    return site.emit("Unsqueeze", [site.data(), axes])


def _squeeze(site: Site) -> str:
    site.expect(1)
    axes = _inner_axes(site)
    name = site.graph.extra(f"{site.node.name}_axes", np.array(axes, np.int64))
    result = site.emit("Squeeze", [site.data(), name])
    return _flat(site, result) if sorted(axes) == [2, 3] else result


def _mean(site: Site) -> str:
    a = site.node.attributes
    site.expect(1)
    if a.flag("exclude", False):
        raise a.refused("exclude", "only False can be converted")
    axes, keep = _inner_axes(site), a.flag("keepdims", False)
    result = site.emit("ReduceMean", [site.data()], axes=axes, keepdims=int(keep))
    return _flat(site, result) if sorted(axes) == [2, 3] and not keep else result


def _inner_axes(site: Site) -> tuple[int, ...]:
    axes = site.node.attributes.integers("axis")
    if not axes or len(set(axes)) < len(axes) or any(not 1 <= axis <= 4 for axis in axes):
        raise site.node.attributes.refused("axis", "it must name axes behind the batch")
    return axes


def _concat(site: Site) -> str:
    axis = site.node.attributes.integer("dim", 1, 1, 3)
    names = [site.data(position) for position in range(len(site.operands))]
    result = site.emit("Concat", names, axis=axis)
    if all(name in site.graph.flat for name in names):
        site.graph.flat.add(result)
    return result


def _pad(site: Site) -> str:
    a = site.node.attributes
    site.expect(1)
    widths = a.integers("pad_width")
    if len(widths) != 8 or any(not 0 <= w <= _MOST_SIDE for w in widths) or any(widths[:4]):
        raise a.refused("pad_width", "only height and width can be padded")
    mode = a.text("mode", "", ("constant", "edge", "reflect"))
    sides = np.array([*widths[::2], *widths[1::2]], np.int64)
    inputs = [site.data(), site.graph.extra(f"{site.node.name}_pads", sides)]
    if mode == "constant":
        value = np.array(a.number("constant_value", 0.0), np.float32)
        inputs.append(site.graph.extra(f"{site.node.name}_value", value))
    return site.emit("Pad", inputs, mode=mode)


def _response_norm(site: Site) -> str:
    a = site.node.attributes
    site.expect(1)
    size = a.integer("nsize", None, 1, _MOST_SIDE)
    if size % 2 == 0:
        raise a.refused("nsize", "it is even")
    return site.emit(
        "LRN",
        [site.data()],
        size=size,
        alpha=a.number("alpha", 1e-4),
        beta=a.number("beta", 0.75),
        bias=a.number("knorm", 2.0),
    )


def _activation(site: Site) -> str:
    site.expect(1)
    kinds = {
        "relu": "Relu",
        "sigmoid": "Sigmoid",
        "tanh": "Tanh",
        "softrelu": "Softplus",
        "softsign": "Softsign",
    }
    a = site.node.attributes
    kind = a.text("act_type", "", kinds)
    return _like_input(site, site.emit(kinds[kind], [site.data()]))


def _leaky(site: Site) -> str:
    a = site.node.attributes
    kind = a.text("act_type", "leaky", ("leaky", "elu", "selu", "prelu"))
    site.expect(2 if kind == "prelu" else 1)
    if kind == "selu":
        return _like_input(site, site.emit("Selu", [site.data()]))
    if kind == "prelu":
        slopes = site.weight(1, (None,))
        if not site.flat:  # one slope a channel
            slopes = slopes.reshape(-1, 1, 1)
        name = site.graph.constant(site.operands[1].name, slopes)
        return _like_input(site, site.emit("PRelu", [site.data(), name]))
    operator = "LeakyRelu" if kind == "leaky" else "Elu"
    return _like_input(site, site.emit(operator, [site.data()], alpha=a.number("slope", 0.25)))


def _hard_sigmoid(site: Site) -> str:
    a = site.node.attributes
    site.expect(1)
    alpha, beta = a.number("alpha", 0.2), a.number("beta", 0.5)
    return _like_input(site, site.emit("HardSigmoid", [site.data()], alpha=alpha, beta=beta))


def _clip(site: Site) -> str:
    site.expect(1)
    inputs = [site.data()]
    for key in ("a_min", "a_max"):
        value = np.array(site.node.attributes.number(key, None), np.float32)
        inputs.append(site.graph.extra(f"{site.node.name}_{key}", value))
    return _like_input(site, site.emit("Clip", inputs))


def _softmax_output(site: Site) -> str:
    a = site.node.attributes
    if a.flag("multi_output", False):
        return _like_input(site, site.emit("Softmax", [site.data()], axis=1))
    if a.flag("preserve_shape", False):
        return _like_input(site, site.emit("Softmax", [site.data()], axis=-1))
    return _softmax_of_rows(site)


def _softmax_activation(site: Site) -> str:
    site.expect(1)
    if site.node.attributes.text("mode", "instance", ("instance", "channel")) == "channel":
        return _like_input(site, site.emit("Softmax", [site.data()], axis=1))
    return _softmax_of_rows(site)


def _softmax_of_rows(site: Site) -> str:
    """MXNet takes all that an image has as one row; here the row stays one."""
    data = site.data()
    if not site.flat:
        data = site.graph.add("Flatten", [data], site.graph.inner(f"flatten_{site.index}"), axis=1)
    return _flat(site, site.emit("Softmax", [data], axis=1))


def _softmax(operator: str) -> Convert:
    def convert(site: Site) -> str:
        a = site.node.attributes
        site.expect(1)
        if a.number("temperature", 1.0) != 1:
            raise a.refused("temperature", "only 1 can be converted")
        if a.flag("use_length", False):
            raise a.refused("use_length", "only False can be converted")
        axis = a.integer("axis", -1, -3, 3)
        if axis == 0:
            raise a.refused("axis", "it mixes images")
        return _like_input(site, site.emit(operator, [site.data()], axis=axis))

    return convert


def _unary(operator: str) -> Convert:
    def convert(site: Site) -> str:  # losses have their labels left out already
        site.expect(1)
        return _like_input(site, site.emit(operator, [site.data()]))

    return convert


def _binary(operator: str, *, alike: bool) -> Convert:
    def convert(site: Site) -> str:
        site.expect(2)
        names = [site.data(0), site.data(1)]
        result = site.emit(operator, names)
        if alike:
            site.graph.alike.add(result)
        if all(name in site.graph.flat for name in names):
            site.graph.flat.add(result)
        return result

    return convert


def _sum(site: Site) -> str:
    names = [site.data(position) for position in range(len(site.operands))]
    result = site.emit("Add" if len(names) == 2 else "Sum", names)
    site.graph.alike.add(result)
    return _like_input(site, result)


def _scalar(operator: str, *, reversed_: bool = False) -> Convert:
    def convert(site: Site) -> str:
        site.expect(1)
        value = np.array(site.node.attributes.number("scalar", None), np.float32)
        if operator == "Div" and not reversed_ and value == 0:
            raise site.node.attributes.refused("scalar", "it divides by zero")
        names = [site.data(), site.graph.extra(f"{site.node.name}_scalar", value)]
        return _like_input(site, site.emit(operator, names[::-1] if reversed_ else names))

    return convert


def _nothing(site: Site) -> str:
    """What changes nothing when nothing is learnt."""
    return site.data()


def _cast(site: Site) -> str:
    """Everything is float32 here, which holds what the others round to."""
    site.node.attributes.text("dtype", "float32", ("float16", "float32", "float64"))
    return site.data()


def _flat(site: Site, result: str) -> str:
    site.graph.flat.add(result)
    return result


def _like_input(site: Site, result: str) -> str:
    return _flat(site, result) if site.flat else result


_UNARIES = {
    "LogisticRegressionOutput": "Sigmoid",
    "abs": "Abs",
    "exp": "Exp",
    "negative": "Neg",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_BINARIES = {
    "Add": ("elemwise_add", "_plus", "_Plus", "_add", "_grad_add"),
    "Sub": ("elemwise_sub", "_minus", "_Minus", "_sub"),
    "Mul": ("elemwise_mul", "_mul", "_Mul"),
    "Div": ("elemwise_div", "_div", "_Div"),
}
_BROADCASTS = {
    "Add": ("broadcast_add", "broadcast_plus"),
    "Sub": ("broadcast_sub", "broadcast_minus"),
    "Mul": ("broadcast_mul",),
    "Div": ("broadcast_div",),
}
_SCALARS = {
    "Add": ("_plus_scalar", "_PlusScalar"),
    "Sub": ("_minus_scalar", "_MinusScalar"),
    "Mul": ("_mul_scalar", "_MulScalar"),
    "Div": ("_div_scalar", "_DivScalar"),
}
_REVERSED_SCALARS = {
    "Sub": ("_rminus_scalar", "_RMinusScalar"),
    "Div": ("_rdiv_scalar", "_RDivScalar"),
}
_NOTHINGS = (
    "BlockGrad",
    "Dropout",
    "IdentityAttachKLSparseReg",
    "LinearRegressionOutput",
    "MAERegressionOutput",
    "MakeLoss",
    "SVMOutput",
    "_copy",
    "identity",
    "make_loss",
    "stop_gradient",
)

CONVERSIONS: Mapping[str, Convert] = {
    **{name: _unary(operator) for name, operator in _UNARIES.items()},
    **{n: _binary(op, alike=True) for op, names in _BINARIES.items() for n in names},
    **{n: _binary(op, alike=False) for op, names in _BROADCASTS.items() for n in names},
    **{n: _scalar(op) for op, names in _SCALARS.items() for n in names},
    **{n: _scalar(op, reversed_=True) for op, names in _REVERSED_SCALARS.items() for n in names},
    **dict.fromkeys(_NOTHINGS, _nothing),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    **dict.fromkeys(("Convolution", "Convolution_v1"), _convolution),
    **dict.fromkeys(("Pooling", "Pooling_v1"), _pooling),
    **dict.fromkeys(("Flatten", "flatten"), _flatten),
    **dict.fromkeys(("Reshape", "reshape"), _reshape),
    **dict.fromkeys(("Concat", "concat"), _concat),
    **dict.fromkeys(("Cast", "cast", "amp_cast"), _cast),
    **dict.fromkeys(("Pad", "pad"), _pad),
    **dict.fromkeys(("ElementWiseSum", "add_n"), _sum),
    **dict.fromkeys(("SoftmaxOutput", "Softmax"), _softmax_output),
    "Activation": _activation,
    "FullyConnected": _fully_connected,
    "LRN": _response_norm,
    "LeakyReLU": _leaky,
    "SoftmaxActivation": _softmax_activation,
    "_contrib_AdaptiveAvgPooling2D": _adaptive_pooling,
    "clip": _clip,
    "expand_dims": _expand,
    "hard_sigmoid": _hard_sigmoid,
    "log_softmax": _softmax("LogSoftmax"),
    "mean": _mean,
    "softmax": _softmax("Softmax"),
    "squeeze": _squeeze,
}
"""MXNet's operator -> how it is converted."""
