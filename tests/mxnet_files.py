"""MXNet's files as tests write them: symbols of many ages, `.params` of every version, networks."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field

import numpy as np

import topologies
from topologies import Layer, Names

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


@dataclass
class _Layers:
    """A net as a `topologies.Dialect`: its layers with the attributes of their time."""

    net: Net
    convs: dict
    norms: dict
    statistics: tuple = ("running_mean", "running_var")

    def conv(self, name, x, layer, gain=1.0):
        assert gain == 1.0
        attributes = {"stride": (layer.stride,) * 2, **self.convs}
        if layer.kernel > 1:
            attributes["pad"] = (layer.kernel // 2,) * 2
        return self.net.conv(
            name, x, layer.taken, layer.given, layer.kernel, bias=layer.biased, **attributes
        )

    def norm(self, name, x, channels, gain=1.0):
        assert gain == 1.0
        return self.net.norm(name, x, channels, self.statistics, **self.norms)

    def relu(self, name, x):
        return self.net.add("Activation", name, [x], act_type="relu")

    def add(self, name, branch, x):
        return self.net.add("_Plus" if self.net.legacy else "elemwise_add", name, [branch, x])

    def max_pool(self, name, x):
        return self.net.add(
            "Pooling", name, [x], global_pool=False, kernel=(3, 3), pad=(1, 1), pool_type="max",
            pooling_convention="valid", stride=(2, 2),
        )  # fmt: skip

    def average_pool(self, name, x):
        return self.net.add(
            "Pooling", name, [x], global_pool=True, kernel=(1, 1), pad=(0, 0), pool_type="avg",
            pooling_convention="full", stride=(1, 1),
        )  # fmt: skip


_GLUON_CONV = {"pad": (0, 0), "dilate": (1, 1), "num_group": 1, "layout": "NCHW"}
_GLUON_NORM = {"eps": "1e-05", "momentum": 0.9, "fix_gamma": False, "axis": 1}


def gluon_v1(depth, classes=1000, width=64, seed=0):
    """Gluon's ResNet v1; `width` 64 is the real one."""
    net, p = Net(seed, suffix="_fwd"), "resnetv10"
    layers = _Layers(net, _GLUON_CONV, _GLUON_NORM)
    x = topologies.gluon_v1(layers, p, net.variable("data"), depth, width, gain=1.0)
    net.dense(f"{p}_dense0", x, topologies.channels_of(depth, width), classes, flatten=True)
    return net


def gluon_v2(depth, classes=1000, width=64, seed=0):
    """Gluon's ResNet v2."""
    net, p = Net(seed, suffix="_fwd"), "resnetv20"
    layers = _Layers(net, _GLUON_CONV, _GLUON_NORM)
    image = _Layers(net, {}, {**_GLUON_NORM, "fix_gamma": True})
    x = image.norm(f"{p}_batchnorm0", net.variable("data"), 3)
    x = topologies.gluon_v2(layers, p, x, depth, width, gain=1.0)
    x = net.add("Reshape", f"{p}_flatten0_reshape0", [x], shape=(0, -1))
    net.dense(f"{p}_dense0", x, topologies.channels_of(depth, width), classes, flatten=True)
    return net


def classic_resnet(units=(2, 2), filters=(8, 16, 32), classes=10, seed=0, **options):
    """The pre-activation net of the symbolic days: its data is normalized, its scores softmaxed."""
    net = Net(seed, **options)
    settings = {"fix_gamma": False, "eps": "2e-05", "momentum": 0.9}
    layers = _Layers(net, {}, settings, ("moving_mean", "moving_var"))
    x = net.norm("bn_data", net.variable("data"), 3, **{**settings, "fix_gamma": True})
    x = net.conv("conv0", x, 3, filters[0], 3, stride="(1, 1)", pad="(1, 1)", workspace=256)
    taken = filters[0]
    for stage, (count, given) in enumerate(zip(units, filters[1:], strict=True), 1):
        for unit in range(1, count + 1):
            step = 2 if stage > 1 and unit == 1 else 1
            names = _classic_names(net, f"stage{stage}_unit{unit}")
            branch = [Layer(taken, given, 3, step), Layer(given, given, 3)]
            shortcut = Layer(taken, given, 1, step) if unit == 1 else None
            x = topologies.block_v2(layers, names, x, branch, shortcut, gain=1.0)
            taken = given
    x = layers.relu("relu1", layers.norm("bn1", x, taken))
    x = net.add("Pooling", "pool1", [x], global_pool=True, kernel=(7, 7), pool_type="avg")
    x = net.add("Flatten", "flatten0", [x])
    x = net.dense("fc1", x, taken, classes)
    net.add("SoftmaxOutput", "softmax", [x, net.variable("softmax_label")], grad_scale="1")
    return net


def _classic_names(net, unit):
    """Counted from 1 within a unit; sums have no unit, but the number of their node."""

    def spell(kind, number):
        if kind == "add":
            return f"_plus{len(net.nodes)}"
        word = {"norm": "bn", "activation": "relu"}.get(kind, kind)
        return f"{unit}_sc" if (kind, number) == ("conv", 2) else f"{unit}_{word}{number + 1}"

    return Names(spell)
