"""Caffe2 nets for tests, written by protobuf itself from descriptors that are made here."""

from __future__ import annotations

import resource
from functools import cache

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from quantize.conversion.caffe2_fields import DamagedError
from quantize.errors import ModelError

KINDS = {"text": 9, "bytes": 12, "float": 2, "int": 3, "bool": 8}
FIELDS = {
    "Argument": [
        (1, "name", "text", False),
        (2, "f", "float", False),
        (3, "i", "int", False),
        (4, "s", "bytes", False),
        (5, "floats", "float", True),
        (6, "ints", "int", True),
        (7, "strings", "bytes", True),
        (9, "nets", "NetDef", True),
    ],
    "DeviceOption": [(1, "device_type", "int", False), (4, "node_name", "text", False)],
    "OperatorDef": [
        (1, "input", "text", True),
        (2, "output", "text", True),
        (3, "name", "text", False),
        (4, "type", "text", False),
        (5, "arg", "Argument", True),
        (6, "device_option", "DeviceOption", False),
        (7, "engine", "text", False),
        (9, "is_gradient_op", "bool", False),
    ],
    "NetDef": [
        (1, "name", "text", False),
        (2, "op", "OperatorDef", True),
        (3, "type", "text", False),
        (4, "num_workers", "int", False),
        (6, "arg", "Argument", True),
        (7, "external_input", "text", True),
        (8, "external_output", "text", True),
    ],
}


@cache
def messages(packed=False):
    """Message name -> class."""
    file = descriptor_pb2.FileDescriptorProto(name="c2.proto", package="c2", syntax="proto2")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            made = message.field.add(name=field, number=number, label=3 if repeated else 1)
            made.type = KINDS.get(kind, 11)
            if kind not in KINDS:
                made.type_name = f".c2.{kind}"
            if packed and field in ("floats", "ints"):
                made.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"c2.{name}"))
        for name in FIELDS
    }


def argument(name, value):
    """An Argument of the kind that the value is."""
    made = messages()["Argument"](name=name)
    if isinstance(value, bytes):
        made.s = value
    elif isinstance(value, str):
        made.s = value.encode()
    elif isinstance(value, float):
        made.f = value
    elif isinstance(value, int):
        made.i = value
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        made.floats.extend(value.ravel().tolist())
    else:
        made.ints.extend(int(one) for one in value)
    return made


def op(kind, inputs, outputs, **arguments):
    """An OperatorDef; blobs as words in one text."""
    arg = [argument(name, value) for name, value in arguments.items()]
    return messages()["OperatorDef"](
        type=kind, input=inputs.split(), output=outputs.split(), arg=arg
    )


def net(*operators, outputs=()):
    """A NetDef."""
    return messages()["NetDef"](name="net", op=operators, external_output=outputs)


def fill(blob, value):
    """The operator that fills a blob with an array."""
    value = np.asarray(value, np.float32)
    return op("GivenTensorFill", "", blob, shape=value.shape, values=value)


def init_net(**blobs):
    """The init net that fills blobs with arrays, and has a counter, as trainings leave it."""
    counter = op("ConstantFill", "", "iter", shape=[1], value=0, dtype=10)
    return net(*(fill(name, value) for name, value in blobs.items()), counter)


def binary(message):
    """Its bytes in binary."""
    return message.SerializeToString()


def packed(message):
    """Its bytes in binary, lists of numbers packed."""
    again = messages(packed=True)["NetDef"].FromString(message.SerializeToString())
    return again.SerializeToString()


def text(message):
    """Its bytes as text."""
    return text_format.MessageToString(message).encode()


def from_text(content):
    """A NetDef from its text."""
    return text_format.Parse(content, messages()["NetDef"]())


FORMS = {"binary": binary, "packed": packed, "text": text}


def write(folder, predict, init, form="binary"):
    """Write both nets; returns their paths."""
    paths = folder / "predict_net.pb", folder / "init_net.pb"
    for path, message in zip(paths, (predict, init), strict=True):
        path.write_bytes(message if isinstance(message, bytes) else FORMS[form](message))
    return paths


def sample():
    rng = np.random.default_rng(0)
    return net(
        op("Conv", "data w", "y", kernel=3, pads=[0, 1, 0, 1], order="NCHW", epsilon=0.5),
        fill("w", rng.normal(0, 1, (2, 1, 3, 3))),
        outputs=["y"],
    )


def complaint(read, *arguments):
    """What a reader says of something that it refuses; empty where it does not."""
    try:
        read(*arguments)
    except (DamagedError, ModelError) as error:
        return str(error)
    return ""


def mutated(rng, content):
    """One to four changes: a byte, a piece lost, doubled or moved, the end cut off."""
    for _ in range(rng.integers(1, 5)):
        at, size = int(rng.integers(len(content) + 1)), int(rng.integers(1, 12))
        kind = rng.integers(5)
        if kind == 0:
            content = content[:at] + bytes([rng.integers(256)]) + content[at + 1 :]
        elif kind == 1:
            content = content[:at] + content[at + size :]
        elif kind == 2:
            content = content[: at + size] + content[at:]
        elif kind == 3:
            content = content[:at] + rng.bytes(size) + content[at:]
        elif rng.integers(4) == 0:
            content = content[:at]
    return content


def fuzz(read, contents, count, seed):
    """Read mutations; returns how many were read, and how many were refused."""
    rng = np.random.default_rng(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = [0, 0]
    for index in range(count):
        said = complaint(read, mutated(rng, contents[index % len(contents)]))
        assert "\n" not in said
        outcomes[bool(said)] += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert min(outcomes) > count // 50
    return outcomes
