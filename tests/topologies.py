"""ResNets as plans: which layers there are, in which order and under which names.

What a layer looks like is up to a dialect: ONNX of each age, MXNet's symbols. `Names` spell the
layers of a stage or of a block, so one plan serves whoever writes the same network elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

BRANCH_GAIN = 0.1
"""What a residual branch adds, against its input. Random branches at full strength are chaotic:
they turn the slightest rounding into another answer, which trained ones do not."""

# Depth -> whether blocks are bottlenecks, blocks of the four stages.
_DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
DEPTHS = tuple(_DEPTHS)

V = TypeVar("V")
"""What a dialect calls a tensor by."""


@dataclass(frozen=True)
class Layer:
    """A convolution, padded to keep the size.

    Attributes:
        taken: channels that it reads.
        given: channels that it makes.
        kernel: side of its kernel.
        stride: along both axes.
        biased: whether it has a bias.
    """

    taken: int
    given: int
    kernel: int
    stride: int = 1
    biased: bool = False


@dataclass(frozen=True)
class Block:
    """Where a block stands and how wide it is.

    Attributes:
        stage: from 1.
        number: within the stage, from 0.
        taken: channels that it reads.
        width: channels of its 3x3 convolutions.
        given: channels that it makes: four times the width behind a bottleneck.
        stride: of the convolution that makes the maps smaller.
    """

    stage: int
    number: int
    taken: int
    width: int
    given: int
    stride: int

    @property
    def branch(self) -> list[Layer]:
        """Its convolutions: two of 3x3, or the 3x3 one between two of 1x1."""
        if self.given == self.width:
            return [
                Layer(self.taken, self.width, 3, self.stride),
                Layer(self.width, self.given, 3),
            ]
        return [
            Layer(self.taken, self.width, 1),
            Layer(self.width, self.width, 3, self.stride),
            Layer(self.width, self.given, 1),
        ]

    @property
    def gluon_branch(self) -> list[Layer]:
        """Gluon's v1: the stride sits on the first 1x1 convolution, and both 1x1 have a bias."""
        if self.given == self.width:
            return self.branch
        return [
            Layer(self.taken, self.width, 1, self.stride, biased=True),
            Layer(self.width, self.width, 3),
            Layer(self.width, self.given, 1, biased=True),
        ]

    @property
    def shortcut(self) -> Layer | None:
        """The convolution beside the branch, where the shape changes."""
        if self.taken == self.given:
            return None
        return Layer(self.taken, self.given, 1, self.stride)


class Dialect(Protocol[V]):
    """How a format writes the layers of a network; each gives what the next layer reads."""

    def conv(self, name: str, x: V, layer: Layer, gain: float = 1.0) -> V:
        """A convolution; gain: of its weights."""

    def norm(self, name: str, x: V, channels: int, gain: float = 1.0) -> V:
        """A BatchNormalization; gain: of what it gives."""

    def relu(self, name: str, x: V) -> V:
        """A Relu."""

    def add(self, name: str, branch: V, x: V) -> V:
        """The sum of a branch and its shortcut."""

    def max_pool(self, name: str, x: V) -> V:
        """The largest of 3x3, with stride 2."""

    def average_pool(self, name: str, x: V) -> V:
        """The mean of each map."""


class Names:
    """Counts layers, each kind from 0: conv, norm, relu, activation (the block's own), add."""

    def __init__(self, spell: Callable[[str, int], str]) -> None:
        self._spell = spell
        self._counts: dict[str, int] = {}

    def next(self, kind: str) -> str:
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        return self._spell(kind, number)


def blocks(depth: int, width: int = 64) -> Iterator[Block]:
    """The blocks of a ResNet, in order; width: of the first stage."""
    bottleneck, stages = _DEPTHS[depth]
    taken = width
    for stage, count in enumerate(stages, start=1):
        inner = width << (stage - 1)
        given = 4 * inner if bottleneck else inner
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            yield Block(stage, number, taken, inner, given, stride)
            taken = given


def channels_of(depth: int, width: int = 64) -> int:
    """How many channels the last block makes."""
    *_, last = blocks(depth, width)
    return last.given


# ------------------------------------------------------------------------------ blocks


def block_v1(
    net: Dialect[V],
    names: Names,
    x: V,
    branch: list[Layer],
    shortcut: Layer | None,
    gain: float = BRANCH_GAIN,
) -> V:
    """Each convolution is normalised; Relu stands between them and behind the sum."""
    y = x
    for position, layer in enumerate(branch, start=1):
        last = position == len(branch)
        y = net.conv(names.next("conv"), y, layer)
        y = net.norm(names.next("norm"), y, layer.given, gain if last else 1.0)
        if not last:
            y = net.relu(names.next("relu"), y)
    if shortcut is not None:
        x = net.conv(names.next("conv"), x, shortcut)
        x = net.norm(names.next("norm"), x, shortcut.given)
    return net.relu(names.next("activation"), net.add(names.next("add"), y, x))


def block_v2(
    net: Dialect[V],
    names: Names,
    x: V,
    branch: list[Layer],
    shortcut: Layer | None,
    gain: float = BRANCH_GAIN,
) -> V:
    """BatchNormalization and Relu stand before each convolution; the shortcut shares the first."""
    first = y = _active(net, names, x, branch[0].taken)
    for position, layer in enumerate(branch, start=1):
        if position > 1:
            y = _active(net, names, y, layer.taken)
        last = position == len(branch)
        y = net.conv(names.next("conv"), y, layer, gain if last else 1.0)
    if shortcut is not None:
        x = net.conv(names.next("conv"), first, shortcut)
    return net.add(names.next("add"), y, x)


def _active(net: Dialect[V], names: Names, x: V, channels: int) -> V:
    y = net.norm(names.next("norm"), x, channels)
    return net.relu(names.next("activation"), y)


# ------------------------------------------------------------------------------- Gluon


def gluon_v1(
    net: Dialect[V], prefix: str, x: V, depth: int, width: int = 64, gain: float = BRANCH_GAIN
) -> V:
    """Gluon's ResNet v1, from the image to the features [N,C,1,1].

    Args:
        net: who writes it.
        prefix: of the names.
        x: the image.
        depth: one of `DEPTHS`.
        width: of the first stage; 64 is the real one.
        gain: of what a branch adds.
    """
    x = net.conv(f"{prefix}_conv0", x, Layer(3, width, 7, 2))
    x = net.norm(f"{prefix}_batchnorm0", x, width)
    x = net.max_pool(f"{prefix}_pool0_fwd", net.relu(f"{prefix}_relu0_fwd", x))
    for block, names in _named_by_stage(prefix, depth, width):
        x = block_v1(net, names, x, block.gluon_branch, block.shortcut, gain)
    return net.average_pool(f"{prefix}_pool1_fwd", x)


def gluon_v2(
    net: Dialect[V], prefix: str, x: V, depth: int, width: int = 64, gain: float = BRANCH_GAIN
) -> V:
    """Gluon's ResNet v2 likewise, of an image that batchnorm0 has normalised."""
    x = net.conv(f"{prefix}_conv0", x, Layer(3, width, 7, 2))
    x = net.norm(f"{prefix}_batchnorm1", x, width)
    x = net.max_pool(f"{prefix}_pool0_fwd", net.relu(f"{prefix}_relu0_fwd", x))
    for block, names in _named_by_stage(prefix, depth, width):
        x = block_v2(net, names, x, block.branch, block.shortcut, gain)
    x = net.norm(f"{prefix}_batchnorm2", x, channels_of(depth, width))
    return net.average_pool(f"{prefix}_pool1_fwd", net.relu(f"{prefix}_relu1_fwd", x))


def _named_by_stage(prefix: str, depth: int, width: int) -> Iterator[tuple[Block, Names]]:
    """Gluon counts the layers of each kind within a stage."""
    for block in blocks(depth, width):
        if block.number == 0:
            names = _stage_names(f"{prefix}_stage{block.stage}")
        yield block, names


def _stage_names(stage: str) -> Names:
    words = {
        "conv": "conv{}",
        "norm": "batchnorm{}",
        "relu": "relu{}_fwd",
        "activation": "activation{}",
        "add": "_plus{}",
    }
    return Names(lambda kind, number: f"{stage}_{words[kind].format(number)}")
