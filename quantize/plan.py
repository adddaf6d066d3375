"""The nouns that the rooms hand to each other: frozen values, no I/O, no onnx.

Arrays say shape and dtype, numbers say their unit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

NO_LABEL = -1
"""The label of an image that has none, in arrays of labels."""

TOP_K = 5

EngineName = Literal["inc", "onnxruntime"]
Format = Literal["qdq", "qoperator"]
Method = Literal["minmax", "kl", "percentile", "mse"]
Granularity = Literal["per_channel", "per_tensor"]
GoalKind = Literal["relative", "absolute", "agreement"]
Outcome = Literal["met", "unmet", "undecided"]

EXIT_CODES: Mapping[Outcome, int] = {"met": 0, "unmet": 3, "undecided": 4}

_WORST_FIRST: tuple[Outcome, ...] = ("unmet", "undecided", "met")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The one of several verdicts that counts: unmet before undecided before met."""
    return min(outcomes, key=_WORST_FIRST.index)


# ---------------------------------------------------------------------------- images


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        kept: the source; a file as text where there are many, since a Path is five times as large.
        label: class index of the model, or None.
        digest: sha256 (hex) of the file's or the array's bytes; equal digests are one image.
    """

    kept: str | Path | NDArray[np.uint8] | NDArray[np.float32] = field(compare=False, repr=False)
    label: int | None
    digest: str

    @property
    def source(self) -> Path | NDArray[np.uint8] | NDArray[np.float32]:
        """A file, or uint8 [H,W,3] RGB before preprocessing, or float32 [C,H,W] after it."""
        return Path(self.kept) if isinstance(self.kept, str) else self.kept

    @property
    def name(self) -> str:
        """The file name, or the first digits of the digest for an array."""
        source = self.source
        return source.name if isinstance(source, Path) else self.digest[:12]


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive samples, ready for the model.

    Attributes:
        images: float32 [N,C,H,W].
        labels: int64 [N], `NO_LABEL` where there is none.
        digests: N digests, in the same order.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    digests: tuple[str, ...]


# ---------------------------------------------------------------------- quantization


@dataclass(frozen=True)
class Range:
    """What a tensor's values span (real numbers); low <= high."""

    low: float
    high: float

    def merge(self, other: Range) -> Range:
        """The range of both together."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one calibration pass saw.

    Attributes:
        ranges: tensor name -> exact range over all images.
        images: how many images were seen.
        histograms: name of a tensor that int8 may round -> int64 [BINS] counts over the fixed
            bins of `quantize.histogram`.
        means: name of a layer -> mean of each channel of its input, float64 [C].
    """

    ranges: Mapping[str, Range]
    images: int
    histograms: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    means: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of images together; those of no image change nothing.

        Raises:
            ValueError: they are not of the same model.
        """
        if not (self.images and other.images):
            return self if self.images else other
        if not self._matches(other):
            raise ValueError("statistics of different models do not merge")
        images = self.images + other.images
        mine, theirs = self.images / images, other.images / images
        return Statistics(
            {name: seen.merge(other.ranges[name]) for name, seen in self.ranges.items()},
            images,
            {name: counts + other.histograms[name] for name, counts in self.histograms.items()},
            {name: mine * mean + theirs * other.means[name] for name, mean in self.means.items()},
        )

    def _matches(self, other: Statistics) -> bool:
        return (
            self.ranges.keys() == other.ranges.keys()
            and self.histograms.keys() == other.histograms.keys()
            and self.means.keys() == other.means.keys()
        )


@dataclass(frozen=True, eq=False)
class Encoding:
    """How one tensor's real numbers r become integers q: r = scale (q - zero_point).

    Attributes:
        scale: float32 [], or [C] with one scale per channel.
        zero_point: the integer of 0.0, the same for all channels.
        axis: which axis of the tensor the channels are, or None.
    """

    scale: NDArray[np.float32]
    zero_point: int
    axis: int | None = None


_SOURCE = "source:sha256"


@dataclass(frozen=True, eq=False)
class Encodings:
    """What the repairs decided, for whoever writes the int8 file: nothing of it is recomputed.

    Attributes:
        tensors: name of an activation or a weight -> its encoding.
        constants: name -> repaired value, float32; one with an encoding is scale times integer
            exactly, one without belongs to a layer that stays float.
        biases: name of a layer -> its bias, float32 [M], also where it had none.
        source: sha256 of the float file that they were decided for (hex), or None where nobody
            knows.
    """

    tensors: Mapping[str, Encoding]
    constants: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, NDArray[np.float32]]
    source: str | None = None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for an .npz: weights as int8, since their scales are there too."""
        arrays = self._decided()
        if self.source is not None:
            arrays[_SOURCE] = np.frombuffer(bytes.fromhex(self.source), np.uint8)
        return arrays

    def _decided(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for name, encoding in sorted(self.tensors.items()):
            arrays[f"scale:{name}"] = encoding.scale
            arrays[f"point:{name}"] = np.asarray(
                [encoding.zero_point, -1 if encoding.axis is None else encoding.axis], np.int32
            )
        for name, value in sorted(self.constants.items()):
            if name in self.tensors:
                arrays[f"integer:{name}"] = self._integers(name, value)
            else:
                arrays[f"float:{name}"] = value
        for name, value in sorted(self.biases.items()):
            arrays[f"bias:{name}"] = value
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Encodings:
        """The inverse of `to_arrays`.

        Raises:
            ValueError: the arrays are not of that form.
        """
        tensors: dict[str, Encoding] = {}
        constants: dict[str, NDArray[np.float32]] = {}
        biases: dict[str, NDArray[np.float32]] = {}
        arrays = dict(arrays)
        source = _digest(arrays.pop(_SOURCE, None))
        for key in sorted(arrays, key=lambda key: not key.startswith("scale:")):
            kind, _, name = key.partition(":")
            if kind == "scale":
                if f"point:{name}" not in arrays:
                    raise ValueError(f"the encodings have no zero point for {name!r}")
                tensors[name] = _encoding(name, arrays[key], arrays[f"point:{name}"])
            elif kind == "integer":
                if name not in tensors:
                    raise ValueError(f"the encodings have no scale for {name!r}")
                constants[name] = dequantize(arrays[key], tensors[name])
            elif kind == "float":
                constants[name] = _reals(name, arrays[key])
            elif kind == "bias":
                biases[name] = _reals(name, arrays[key])
            elif kind != "point":
                raise ValueError(f"no part of encodings is called {key!r}")
        return cls(tensors, constants, biases, source)

    @property
    def sha256(self) -> str:
        """Hex hash of all names, shapes and values that were decided, whatever the source."""
        digest = hashlib.sha256()
        for name, array in self._decided().items():
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _integers(self, name: str, value: NDArray[np.float32]) -> NDArray[np.int8]:
        encoding = self.tensors[name]
        return np.asarray(np.rint(value / _along(encoding, value.ndim)), np.int8)


def _encoding(name: str, scale: NDArray[Any], point: NDArray[Any]) -> Encoding:
    integer, axis = (int(number) for number in point)
    reals = _reals(name, scale)
    if not (reals > 0).all():
        raise ValueError(f"a scale of {name!r} is not above 0")
    if not -128 <= integer <= 255:
        raise ValueError(f"the zero point of {name!r}, {integer}, has more than 8 bits")
    return Encoding(reals, integer, None if axis < 0 else axis)


def _reals(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    reals = np.asarray(array, np.float32)
    if not np.isfinite(reals).all():
        raise ValueError(f"a value of {name!r} is not finite")
    return reals


def _digest(array: NDArray[Any] | None) -> str | None:
    if array is None:
        return None
    if array.dtype != np.uint8 or array.shape != (32,):
        raise ValueError("the encodings name no float model by a sha256")
    return array.tobytes().hex()


def dequantize(integers: NDArray[Any], encoding: Encoding) -> NDArray[np.float32]:
    """Real numbers of a tensor's integers, float32: scale (q - zero_point)."""
    shifted = integers.astype(np.float32) - np.float32(encoding.zero_point)
    return np.asarray(shifted * _along(encoding, integers.ndim), np.float32)


def _along(encoding: Encoding, dimensions: int) -> NDArray[np.float32]:
    """The scale, shaped to multiply a tensor of that many dimensions."""
    if encoding.axis is None:
        return encoding.scale
    shape = [1] * dimensions
    shape[encoding.axis] = -1
    return encoding.scale.reshape(shape)


@dataclass(frozen=True)
class Scheme:
    """How numbers become integers: uint8 asymmetric activations, int8 symmetric weights.

    Attributes:
        weight_granularity: one scale per output channel, or one per tensor.
        method: how an activation's range follows from what calibration saw.
        reduce_range: 7-bit weights, for x86 CPUs without VNNI (products of pairs saturate there).
        portable: weights of which no pair of products can saturate there; see `quantize.pairs`.
    """

    weight_granularity: Granularity = "per_channel"
    method: Method = "minmax"
    reduce_range: bool = False
    portable: bool = False


@dataclass(frozen=True)
class Plan:
    """One way to quantize the model: everything an engine needs beside model and statistics.

    Attributes:
        engine: who writes the int8 model.
        format: QDQ (ai.onnx operators only) or QOperator.
        scheme: how numbers become integers.
        repairs: remedies applied to the float model first, in order.
        keep_float: names of the nodes that stay float, sorted.
        encodings_sha256: hash of the given scales, or None where the engine computes them.
        walked: images that repairs walk through the model on; None: as many as they ever do; 0:
            none, the bias is corrected by what calibration saw.
    """

    engine: EngineName
    format: Format
    scheme: Scheme = Scheme()
    repairs: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    encodings_sha256: str | None = None
    walked: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON values, the same for equal plans."""
        return asdict(self)

    @property
    def ranges(self) -> Method | None:
        """By which method the activations' ranges are; None: INC is told by rules of its own."""
        if self.engine == "inc":
            return None
        return "mse" if "ranges" in self.repairs else self.scheme.method

    @property
    def key(self) -> str:
        """Sixteen hex digits that name this plan."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# ----------------------------------------------------------------------- measurement


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model answered on a list of images.

    Attributes:
        digests: which images, in order.
        top5: int64 [N, min(5, K)], class indices, best first; ties go to the lower index.
        labels: int64 [N], `NO_LABEL` where there is none.
    """

    digests: tuple[str, ...]
    top5: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many images were evaluated."""
        return len(self.digests)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """int64 [N], the best class of each image."""
        return self.top5[:, 0]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the best class is the label, bool [N]."""
        return np.equal(self.predicted, self.labels)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != NO_LABEL).all())

    def accuracy(self, k: int = 1) -> float:
        """Share of images whose label is among the best k classes (a ratio, 0 to 1)."""
        hits = (self.top5[:, :k] == self.labels[:, None]).any(axis=1)
        return float(hits.mean())


@dataclass(frozen=True)
class Fidelity:
    """How close the int8 outputs are to the float ones.

    Attributes:
        sqnr_db: 10 log10( mean f^2 / mean (f - q)^2 ) over all images and logits, in dB.
        agreement: share of images with equal best class (a ratio, 0 to 1).
    """

    sqnr_db: float
    agreement: float


@dataclass(frozen=True)
class Cpu:
    """The processor that a figure holds for.

    Attributes:
        name: as the processor calls itself.
        isa: the instruction set that decides int8 arithmetic, such as `x86-64 AVX512-VNNI`.
        saturates: whether uint8 x int8 products saturate in 16 bits here (x86 without VNNI).
        cores: how many this process may use.
    """

    name: str
    isa: str
    saturates: bool
    cores: int


@dataclass(frozen=True)
class Latency:
    """Batch-1 time of both models, rounds interleaved, only the session's run timed.

    Attributes:
        float_ms: median, milliseconds.
        int8_ms: median, milliseconds.
        ratio: how many times as fast int8 is as float.
        low: lower end of the ratio's two-sided 95 % interval.
        high: upper end of it.
        threads: threads of each session.
        rounds: interleaved rounds behind the figures.
        cpu: where it was measured.
    """

    float_ms: float
    int8_ms: float
    ratio: float
    low: float
    high: float
    threads: int
    rounds: int
    cpu: Cpu


@dataclass(frozen=True)
class Goal:
    """What the int8 model has to reach.

    Attributes:
        tolerance: for `relative` a share of the float top-1 (0.01 = 1 %), for `absolute` a
            difference of top-1 as a ratio (0.01 = 1 point), for `agreement` the least share
            of images with equal answers.
        kind: which of the three.
        confidence: one-sided confidence asked of the decision, or None for the point rule.
        speed_floor: least ratio of float to int8 time, batch 1.
    """

    tolerance: float
    kind: GoalKind = "relative"
    confidence: float | None = None
    speed_floor: float = 1.1


@dataclass(frozen=True)
class Drop:
    """Float top-1 minus int8 top-1 on the same images, everything in points.

    Attributes:
        points: the difference seen.
        low: lower end of the two-sided 95 % interval.
        high: upper end of it.
        lost: images that float had right and int8 has wrong.
        gained: images that float had wrong and int8 has right.
        images: images compared.
    """

    points: float
    low: float
    high: float
    lost: int
    gained: int
    images: int


@dataclass(frozen=True)
class Verdict:
    """Whether the int8 file that ships reaches the goal on images that nobody tuned on.

    Attributes:
        outcome: met, unmet, or undecided at the asked confidence; speed counts too.
        reason: why, with the figures of accuracy; a missed speed floor is named without them.
        goal: what was asked.
        drop: the paired difference of top-1, or None without labels.
        float_top1: ratio, or None without labels; likewise int8_top1, float_top5, int8_top5.
        fidelity: closeness of the outputs.
        agreement_low: lower end of the two-sided 95 % interval of the agreement (ratio).
        agreement_high: upper end of it.
        images: images that decided.
        more_images: images that would probably decide, where undecided.
        latency: time of both files, or None where it was not measured.
        cpu: the processor that this was seen on.
        reused: float answers that an earlier run had computed; int8's are always computed.
    """

    outcome: Outcome
    reason: str
    goal: Goal
    drop: Drop | None
    float_top1: float | None
    int8_top1: float | None
    float_top5: float | None
    int8_top5: float | None
    fidelity: Fidelity
    agreement_low: float
    agreement_high: float
    images: int
    more_images: int | None
    latency: Latency | None
    cpu: Cpu
    reused: int = 0

    @property
    def exit_code(self) -> int:
        """0 met, 3 unmet, 4 undecided."""
        return EXIT_CODES[self.outcome]


@dataclass(frozen=True)
class Trial:
    """One candidate of the search.

    Attributes:
        plan: how it was made.
        path: the int8 file, or None where the candidate failed.
        accuracy: top-1 on the search images (ratio), or None without labels or on failure.
        fidelity: closeness to float on the search images, or None on failure.
        latency: measured time, or None where it was not measured.
        accepted: whether it meets goal and speed floor on the search images.
        note: why it was refused or how it failed, one line; empty where accepted.
        seconds: how long making and measuring it took.
        probe: closeness to float on the few images that compare candidates, or None.
        gain_db: what it brought on them over the candidate it was made from, in dB.
        outcome: whether the search images say that the goal is met, or None where they were not
            asked; speed does not count.
        images: how many of them it took.
        drop_points: float top-1 minus int8 top-1 on these, in points; None as `accuracy`.
    """

    plan: Plan
    path: Path | None
    accuracy: float | None
    fidelity: Fidelity | None
    latency: Latency | None
    accepted: bool
    note: str
    seconds: float
    probe: Fidelity | None = None
    gain_db: float | None = None
    outcome: Outcome | None = None
    images: int | None = None
    drop_points: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        best: the accepted trial, else the closest one that ran, else None.
        trials: all of them, in order.
        stopped: why the search ended, one line.
    """

    best: Trial | None
    trials: tuple[Trial, ...]
    stopped: str


@dataclass(frozen=True)
class LayerRow:
    """What one layer costs and brings.

    Attributes:
        name: of its node in the float model.
        operator: of that node.
        int8: whether it computes on integers.
        multiply_add_share: of the whole model's (a ratio).
        sqnr_db: output SQNR with only this layer rounded, in dB: infinite where that changes
            nothing, None where the layer stays float, cannot be told or the time was over.
        noise_share: its noise power over the sum of all layers' (a ratio), None likewise.
        weight_range_ratio: largest over smallest max|w| of its output channels, those that are
            all zero left out; None without any other.
        saturation: share of its input's values that the int8 file's grid cuts off (a ratio), None
            where the layer does not read integers.
        overflow_possible: share of its pairs of weights whose products some activations drive
            beyond 16 bits, on x86 without VNNI (a ratio); None where it does not multiply integers.
        overflow: share of its sums of pairs that calibration images did drive there (a ratio), None
            likewise or where nobody looked.
    """

    name: str
    operator: str
    int8: bool
    multiply_add_share: float
    sqnr_db: float | None
    noise_share: float | None
    weight_range_ratio: float | None
    saturation: float | None
    overflow_possible: float | None = None
    overflow: float | None = None


# -------------------------------------------------------------------------- progress


@dataclass(frozen=True)
class Progress:
    """One step of long work.

    Attributes:
        stage: what is being done, such as `verify`.
        done: units finished.
        total: units in all, or None where unknown.
        unit: what is counted, such as `images`.
    """

    stage: str
    done: int
    total: int | None
    unit: str = "images"


OnProgress = Callable[[Progress], None]
"""Told after each step of long work."""
