"""Kernels, strides, pads and dilations of Caffe2 operators, in all their spellings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantize.conversion.arithmetic import Pads, Pair
from quantize.conversion.caffe2_net import Operator

_MOST = 1 << 16
_EXPLICIT, _VALID, _AS_CAFFE = 0, 1, 3
_PLAIN = (1, 1), (1, 1), (0, 0, 0, 0)


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image.

    Attributes:
        kernel: height and width; (0, 0) where the operator takes the whole image.
        stride: vertical, horizontal.
        dilation: distance between the kernel's taps.
        pads: top, left, bottom, right.
        ceil: whether a last, partial window counts, as in Caffe.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: Pads
    ceil: bool = False

    @property
    def everything(self) -> bool:
        """Whether it takes the whole image at once."""
        return self.kernel == (0, 0)

    def sizes(self, height: int, width: int) -> Pair:
        """Height and width of what comes out; not positive where the image is too small."""
        if self.everything:
            return 1, 1
        top, left, bottom, right = self.pads
        (a, b), (c, d), (e, f) = self.kernel, self.dilation, self.stride
        reach_down, reach_right = c * (a - 1) + 1, d * (b - 1) + 1
        free = height + top + bottom - reach_down, width + left + right - reach_right
        return (free[0] // e + 1 if free[0] >= 0 else 0), (free[1] // f + 1 if free[1] >= 0 else 0)

    def explicit(self, height: int, width: int) -> Window:
        """The same on images of one size without `ceil`: padded further below and to the right."""
        if not self.ceil:
            return self
        top, left, bottom, right = self.pads
        more = [
            _missing(size, kernel, stride, before, after)
            for size, kernel, stride, before, after in zip(
                (height, width), self.kernel, self.stride, (top, left), (bottom, right), strict=True
            )
        ]
        return replace(self, pads=(top, left, bottom + more[0], right + more[1]), ceil=False)


def window(op: Operator) -> Window:
    """The window of a convolution or pooling operator.

    Raises:
        ModelError: an argument that is missing, given twice, out of range, or not supported.
    """
    if op.integer("ceil_mode", 0):
        raise op.wrong("has ceil_mode, which Caffe2 spells legacy_pad: 3", "export the net again")
    whole = bool(op.integer("global_pooling", 0))
    kernel = _spelled(op, "kernel", "kernels", ("kernel_h", "kernel_w"), 2)
    stride = _spelled(op, "stride", "strides", ("stride_h", "stride_w"), 2) or (1, 1)
    dilation = _spelled(op, "dilation", "dilations", ("dilation_h", "dilation_w"), 2) or (1, 1)
    pads = _spelled(op, "pad", "pads", ("pad_t", "pad_l", "pad_b", "pad_r"), 4) or (0, 0, 0, 0)
    if whole:
        if (stride, dilation, pads) != _PLAIN:
            raise op.wrong("has global_pooling with a stride, pads or a dilation")
        kernel = (0, 0)
    elif kernel is None:
        raise op.wrong("has no kernel")
    elif min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
        raise op.wrong("has a kernel, stride or dilation of 0")
    padding = op.integer("legacy_pad", _EXPLICIT)
    if padding not in (_EXPLICIT, _VALID, _AS_CAFFE):
        raise op.wrong(f"has legacy_pad: {padding}, which is not supported", "write its pads out")
    if padding == _VALID and any(pads):
        raise op.wrong("has pads beside legacy_pad: 1, which means none")
    ceil = padding == _AS_CAFFE and not whole
    if ceil and (pads[:2] != pads[2:] or stride[0] > kernel[0] or stride[1] > kernel[1]):
        raise op.wrong("has legacy_pad: 3 with uneven pads or a stride beyond its kernel")
    return Window(
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (dilation[0], dilation[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        ceil,
    )


def _spelled(
    op: Operator, single: str, plural: str, parts: tuple[str, ...], count: int
) -> tuple[int, ...] | None:
    """One value for all, a list, or an argument for each; None where none is given."""
    given = [name for name in (single, plural) if name in op.arguments]
    some = [name for name in parts if name in op.arguments]
    if len(given) + bool(some) > 1:
        raise op.wrong(f"gives its {single} in more than one way")
    if some and len(some) < len(parts):
        raise op.wrong(f"has {', '.join(some)} but not all of {', '.join(parts)}")
    if some:
        values = tuple(op.integer(name, 0) for name in parts)
    elif single in given:
        values = (op.integer(single, 0),) * count
    elif plural in given and op.integers(plural):
        values = op.integers(plural)
    else:
        return None
    if len(values) != count or not all(0 <= value <= _MOST for value in values):
        raise op.wrong(f"has the {single} {list(values[:8])}, not {count} usable numbers")
    return values


def _missing(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    """How much padding the windows that Caffe counts need beyond `after`.

    Caffe has ceil((size + before + after - kernel) / stride) + 1 windows, less one that would
    start in the padding.
    """
    free = size + before + after - kernel
    if free < 0:
        return 0
    windows = -(-free // stride) + 1
    if before > 0 and (windows - 1) * stride >= size + before:
        windows -= 1
    return max(0, (windows - 1) * stride + kernel - (size + before + after))
