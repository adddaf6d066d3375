"""The verb `predict`: what one image shows, with probabilities and class names."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantize.config import Config
from quantize.data.images import decode
from quantize.data.transforms import Pipeline
from quantize.errors import DataError, ModelError
from quantize.evaluation import top_classes
from quantize.measure import predictor

_LARGEST_NAMES = 16 << 20


@dataclass(frozen=True)
class Guess:
    """One class of an answer.

    Attributes:
        index: of the class.
        name: of the class, or its index as text.
        probability: softmax of the logits (a ratio, 0 to 1).
    """

    index: int
    name: str
    probability: float


def predict(
    model: Path, images: list[Path], config: Config, names: list[str] | None = None
) -> list[tuple[Guess, ...]]:
    """The five best classes of each image, best first.

    Args:
        model: float or int8 file.
        images: image files.
        config: its evaluation transform prepares the images.
        names: class names by index, or None.

    Raises:
        QuantizeError: an image, the model or the configuration cannot be used.
    """
    loader = config.evaluation.accuracy.dataloader or config.quantization.calibration.dataloader
    if loader is None:
        raise DataError(
            "the config has no dataloader, so the preprocessing is unknown",
            "give evaluation.accuracy.dataloader with its transform",
        )
    pipeline = Pipeline(loader.transforms)
    run = predictor(model, at_once=1)
    answers = []
    for path in images:
        logits = run(pipeline(decode(path))[None])
        if not np.isfinite(logits).all():
            raise ModelError(f"model {model} gives NaN or infinity for {path}", "check its weights")
        answers.append(_guesses(logits, names))
    return answers


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """exp(x - max x) / sum exp(x - max x) along the last axis, float64: no overflow."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    ratios: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return ratios


def read_names(path: Path) -> list[str]:
    """Class names, one a line, by index; a leading WordNet id stays part of the name.

    Raises:
        DataError: the file is missing, too large or not text.
    """
    try:
        seen = path.stat()
        if not stat.S_ISREG(seen.st_mode):
            raise DataError(f"class names {path}: it is no regular file", "name a text file")
        if seen.st_size > _LARGEST_NAMES:
            raise DataError(f"class names {path} are larger than 16 MiB", "name another file")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(
            f"class names {path} cannot be read: {reason}", "name a text file"
        ) from error


def _guesses(logits: NDArray[np.float32], names: list[str] | None) -> tuple[Guess, ...]:
    shares = softmax(logits)[0]
    return tuple(
        Guess(
            int(index),
            names[index] if names and index < len(names) else str(index),
            float(shares[index]),
        )
        for index in top_classes(logits)[0]
    )
