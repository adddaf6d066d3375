"""The child of `emulator`, on the emulated processor: images on standard input, scores back.

    python -m quantize.emulation.child MODEL PAIR

First it tells the largest sum of a pair of products, which shows how this processor adds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from quantize.emulation.frames import packed, unpacked
from quantize.runtime import Session


def main(model: Path, pair: Path) -> None:
    """Answer until there are no more images."""
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # whatever prints must not get between the answers
    session = Session(model, name="the int8 file")
    tell(answers, Session(pair).run(np.full((1, 2), 255, np.uint8))[0].astype(np.float32))
    while True:
        try:
            images = unpacked(lambda size: exactly(questions, size))
        except EOFError:
            return
        tell(answers, session.predict(images))


def tell(stream: BinaryIO, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """Send an array at once."""
    stream.write(packed(array))
    stream.flush()


def exactly(stream: BinaryIO, size: int) -> bytes:
    """So many bytes.

    Raises:
        EOFError: there is nothing more, or less than that.
    """
    found = stream.read(size)
    if len(found) != size:
        raise EOFError
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
