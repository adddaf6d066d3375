"""MXNet's files as tests write them: symbols of many ages, `.params` of every version, networks."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field

import numpy as np

MAGICS = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}
TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def params_bytes(arrays, version=2, device=1):
    """A `.params` file; keys are written as they are."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    parts += [array_bytes(array, version, device) for array in arrays.values()]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        encoded = name.encode()
        parts.append(struct.pack("<Q", len(encoded)) + encoded)
    return b"".join(parts)


def array_bytes(array, version=2, device=1, storage=0):
    array = np.ascontiguousarray(array)
    if version == 0:
        head = struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
    else:
        head = struct.pack("<I", MAGICS[version])
        head += struct.pack("<i", storage) if version > 1 else b""
        head += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
    return head + struct.pack("<iii", device, 0, TYPES[str(array.dtype)]) + array.tobytes()


@dataclass
class Net:
    """A symbol while it is built, with random parameters that keep activations in scale."""

    seed: int = 0
    spelling: str = "attrs"
    entries: int = 3
    legacy: bool = False
    nodes: list = field(default_factory=list)
    values: dict = field(default_factory=dict)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def variable(self, name, value=None, *, aux=False, **attributes):
        if value is not None:
            key = ("aux:" if aux else "arg:") + name
            self.values[key] = np.asarray(value, np.float32)
        return self.add("null", name, [], **attributes)

    def add(self, operator, name, inputs, **attributes):
        node = {"op": operator, "name": name}
        if attributes:
            node[self.spelling] = {key: str(value) for key, value in attributes.items()}
        node["inputs"] = [[i, 0, 0][: self.entries] for i in inputs]
        self.nodes.append(node)
        return len(self.nodes) - 1

    def conv(self, name, data, taken, given, kernel=3, *, bias=False, op="Convolution", **more):
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        scale = np.sqrt(2 / (taken * sides[0] * sides[1]))
        weight = self.rng.normal(0, scale, (given, taken, *sides))
        inputs = [data, self.variable(f"{name}_weight", weight)]
        if bias:
            inputs.append(self.variable(f"{name}_bias", self.rng.normal(0, 0.1, given)))
        more = {"no_bias": not bias, "num_filter": given, "kernel": sides, **more}
        return self.add(op, name + self.suffix, inputs, **more)

    suffix: str = ""

    def norm(self, name, data, channels, statistics=("moving_mean", "moving_var"), **attributes):
        rng = self.rng
        inputs = [
            data,
            self.variable(f"{name}_gamma", rng.uniform(0.5, 1.5, channels)),
            self.variable(f"{name}_beta", rng.normal(0, 0.2, channels)),
        ]
        held = (rng.normal(0, 0.2, channels), rng.uniform(0.5, 1.5, channels))
        for statistic, value in zip(statistics, held, strict=True):
            if self.legacy:  # old files hold the values, and no nodes for them
                self.values[f"aux:{name}_{statistic}"] = value.astype(np.float32)
            else:
                inputs.append(self.variable(f"{name}_{statistic}", value, aux=True))
        return self.add("BatchNorm", name + self.suffix, inputs, **attributes)

    def dense(self, name, data, taken, given, *, bias=True, **attributes):
        weight = self.rng.normal(0, np.sqrt(1 / taken), (given, taken))
        inputs = [data, self.variable(f"{name}_weight", weight)]
        if bias:
            inputs.append(self.variable(f"{name}_bias", self.rng.normal(0, 0.1, given)))
        more = {"num_hidden": given, "no_bias": not bias, **attributes}
        return self.add("FullyConnected", name + self.suffix, inputs, **more)

    def symbol(self, *heads, version=10901):
        graph = {
            "nodes": self.nodes,
            "arg_nodes": [i for i, node in enumerate(self.nodes) if node["op"] == "null"],
            "node_row_ptr": list(range(len(self.nodes) + 1)),
            "heads": [[h, 0, 0][: self.entries] for h in heads or [len(self.nodes) - 1]],
        }
        if version:
            graph["attrs"] = {"mxnet_version": ["int", version]}
        return graph

    def write(self, folder, *heads, version=10901, header=2):
        """Both files; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        symbol, params = folder / "net-symbol.json", folder / "net-0000.params"
        symbol.write_text(json.dumps(self.symbol(*heads, version=version), indent=2))
        params.write_bytes(params_bytes(self.values, header))
        return symbol, params


_BLOCKS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
_GLUON = {"eps": "1e-05", "momentum": 0.9, "fix_gamma": False, "axis": 1}
_RUNNING = ("running_mean", "running_var")


def gluon_v1(depth, classes=1000, width=64, seed=0):
    """The topology of Gluon's ResNet v1; `width` 64 is the real one."""
    deep, blocks = _BLOCKS[depth]
    net, p = Net(seed, suffix="_fwd"), "resnetv10"
    x = net.conv(f"{p}_conv0", net.variable("data"), 3, width, 7, stride=(2, 2), pad=(3, 3))
    x = net.norm(f"{p}_batchnorm0", x, width, _RUNNING, **_GLUON)
    x = net.add("Activation", f"{p}_relu0_fwd", [x], act_type="relu")
    x = _max_pool(net, f"{p}_pool0_fwd", x)
    taken = width
    for stage, count in enumerate(blocks, 1):
        given, s = width * 2 ** (stage - 1) * (4 if deep else 1), f"{p}_stage{stage}"
        counters = {"conv": 0, "norm": 0}
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            y = _v1_branch(net, s, x, taken, given, stride, deep, counters)
            if block == 0 and taken != given:
                x = _conv_norm(net, s, x, taken, given, 1, stride, False, counters)
            x = net.add("elemwise_add", f"{s}__plus{block}", [y, x])
            x = net.add("Activation", f"{s}_activation{block}", [x], act_type="relu")
            taken = given
    x = _gluon_average(net, f"{p}_pool1_fwd", x)
    net.dense(f"{p}_dense0", x, taken, classes, flatten=True)
    return net


def _v1_branch(net, s, x, taken, given, stride, deep, counters):
    if not deep:
        x = _conv_norm(net, s, x, taken, given, 3, stride, False, counters)
        x = net.add("Activation", f"{s}_relu{counters['conv']}_fwd", [x], act_type="relu")
        return _conv_norm(net, s, x, given, given, 3, 1, False, counters)
    inner = given // 4
    for kernel, step, sources, bias in ((1, stride, taken, True), (3, 1, inner, False)):
        x = _conv_norm(net, s, x, sources, inner, kernel, step, bias, counters)
        x = net.add("Activation", f"{s}_relu{counters['conv']}_fwd", [x], act_type="relu")
    return _conv_norm(net, s, x, inner, given, 1, 1, True, counters)


def _conv_norm(net, s, x, taken, given, kernel, stride, bias, counters):
    pad = kernel // 2
    x = net.conv(
        f"{s}_conv{counters['conv']}", x, taken, given, kernel, bias=bias,
        stride=(stride, stride), pad=(pad, pad), dilate=(1, 1), num_group=1, layout="NCHW",
    )  # fmt: skip
    x = net.norm(f"{s}_batchnorm{counters['norm']}", x, given, _RUNNING, **_GLUON)
    counters["conv"] += 1
    counters["norm"] += 1
    return x


def gluon_v2(depth, classes=1000, width=64, seed=0):
    """The topology of Gluon's ResNet v2."""
    deep, blocks = _BLOCKS[depth]
    net, p = Net(seed, suffix="_fwd"), "resnetv20"
    x = net.norm(
        f"{p}_batchnorm0", net.variable("data"), 3, _RUNNING, **{**_GLUON, "fix_gamma": True}
    )
    x = net.conv(f"{p}_conv0", x, 3, width, 7, stride=(2, 2), pad=(3, 3))
    x = net.norm(f"{p}_batchnorm1", x, width, _RUNNING, **_GLUON)
    x = net.add("Activation", f"{p}_relu0_fwd", [x], act_type="relu")
    x = _max_pool(net, f"{p}_pool0_fwd", x)
    taken = width
    for stage, count in enumerate(blocks, 1):
        given, s = width * 2 ** (stage - 1) * (4 if deep else 1), f"{p}_stage{stage}"
        counters = {"conv": 0, "norm": 0}
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _v2_block(net, s, x, taken, given, stride, deep, block, counters)
            taken = given
    x = net.norm(f"{p}_batchnorm2", x, taken, _RUNNING, **_GLUON)
    x = net.add("Activation", f"{p}_relu1_fwd", [x], act_type="relu")
    x = _gluon_average(net, f"{p}_pool1_fwd", x)
    x = net.add("Reshape", f"{p}_flatten0_reshape0", [x], shape=(0, -1))
    net.dense(f"{p}_dense0", x, taken, classes, flatten=True)
    return net


def _v2_block(net, s, x, taken, given, stride, deep, block, counters):
    def before(x, channels):
        x = net.norm(f"{s}_batchnorm{counters['norm']}", x, channels, _RUNNING, **_GLUON)
        counters["norm"] += 1
        return net.add("Activation", f"{s}_activation{counters['norm'] - 1}", [x], act_type="relu")

    def conv(x, sources, targets, kernel, step):
        pad = kernel // 2
        counters["conv"] += 1
        return net.conv(
            f"{s}_conv{counters['conv'] - 1}", x, sources, targets, kernel,
            stride=(step, step), pad=(pad, pad),
        )  # fmt: skip

    first = before(x, taken)
    inner = given // 4 if deep else given
    plan = [(taken, inner, 1, 1), (inner, inner, 3, stride), (inner, given, 1, 1)]
    if not deep:
        plan = [(taken, given, 3, stride), (given, given, 3, 1)]
    y = first
    for position, (sources, targets, kernel, step) in enumerate(plan):
        y = conv(y if position == 0 else before(y, sources), sources, targets, kernel, step)
    if block == 0 and taken != given:
        x = conv(first, taken, given, 1, stride)
    return net.add("elemwise_add", f"{s}__plus{block}", [y, x])


def _max_pool(net, name, x):
    return net.add(
        "Pooling", name, [x], global_pool=False, kernel=(3, 3), pad=(1, 1), pool_type="max",
        pooling_convention="valid", stride=(2, 2),
    )  # fmt: skip


def _gluon_average(net, name, x):
    return net.add(
        "Pooling", name, [x], global_pool=True, kernel=(1, 1), pad=(0, 0), pool_type="avg",
        pooling_convention="full", stride=(1, 1),
    )  # fmt: skip


def classic_resnet(units=(2, 2), filters=(8, 16, 32), classes=10, seed=0, **options):
    """The pre-activation net of the symbolic days: its data is normalized, its scores softmaxed."""
    net = Net(seed, **options)
    settings = {"fix_gamma": False, "eps": "2e-05", "momentum": 0.9}
    x = net.norm("bn_data", net.variable("data"), 3, **{**settings, "fix_gamma": True})
    x = net.conv("conv0", x, 3, filters[0], 3, stride="(1, 1)", pad="(1, 1)", workspace=256)
    taken = filters[0]
    for stage, (count, given) in enumerate(zip(units, filters[1:], strict=True), 1):
        for unit in range(1, count + 1):
            step, name = 2 if stage > 1 and unit == 1 else 1, f"stage{stage}_unit{unit}"
            first = net.norm(f"{name}_bn1", x, taken, **settings)
            first = net.add("Activation", f"{name}_relu1", [first], act_type="relu")
            y = net.conv(f"{name}_conv1", first, taken, given, stride=(step, step), pad=(1, 1))
            y = net.norm(f"{name}_bn2", y, given, **settings)
            y = net.add("Activation", f"{name}_relu2", [y], act_type="relu")
            y = net.conv(f"{name}_conv2", y, given, given, stride=(1, 1), pad=(1, 1))
            if unit == 1:
                x = net.conv(f"{name}_sc", first, taken, given, 1, stride=(step, step))
            x = net.add("_Plus" if net.legacy else "elemwise_add", f"_plus{len(net.nodes)}", [y, x])
            taken = given
    x = net.norm("bn1", x, taken, **settings)
    x = net.add("Activation", "relu1", [x], act_type="relu")
    x = net.add("Pooling", "pool1", [x], global_pool=True, kernel=(7, 7), pool_type="avg")
    x = net.add("Flatten", "flatten0", [x])
    x = net.dense("fc1", x, taken, classes)
    net.add("SoftmaxOutput", "softmax", [x, net.variable("softmax_label")], grad_scale="1")
    return net
