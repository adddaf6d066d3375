"""A predictor on another x86 processor, emulated: about a hundred times as slow as here."""

from __future__ import annotations

import difflib
import os
import platform
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from quantize.deadline import NEVER, Deadline
from quantize.emulation.frames import packed, unpacked
from quantize.errors import BudgetError, EngineError
from quantize.graph.pair import EXACT, largest_pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROGRAM = "qemu-x86_64"
NATIVE = "native"

_START_S = 300.0
_LISTING_S = 60.0
_PIECE = 1 << 16


def processor(name: str) -> str:
    """The emulator's spelling of a processor's name, in whatever case it is written.

    Raises:
        EngineError: the emulator is not installed, or does not know the name.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise EngineError(
            f"other x86 processors are emulated on x86-64 only, and this is {platform.machine()}",
            "run verify on such a machine",
        )
    try:
        listed = subprocess.run(
            [_program(), "-cpu", "help"], capture_output=True, timeout=_LISTING_S, check=False
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{PROGRAM} does not run: {error}", "install it again") from error
    words = [line.split() for line in listed.splitlines()]
    known = {line[1].casefold(): line[1] for line in words if len(line) > 1 and line[0] == "x86"}
    if name.casefold() not in known:
        near = difflib.get_close_matches(name.casefold(), known, 3, 0.5)
        some = ", ".join(known[one] for one in near) or f"one of `{PROGRAM} -cpu help`"
        raise EngineError(f"{PROGRAM} knows no processor {name!r}", f"write {some}")
    return known[name.casefold()]


def _program() -> str:
    found = shutil.which(PROGRAM)
    if found is None:
        raise EngineError(
            f"{PROGRAM}, which emulates other processors, is not installed",
            "apt-get install qemu-user, or run verify on such a machine",
        )
    return found


class Emulator:
    """A model on an emulated processor, until the `with` block ends.

    Args:
        model: an int8 file whose first output are the logits, serialized.
        name: of the processor, from `processor`.
        deadline: when the start or a question is given up.

    Attributes:
        saturates: whether sums of two products were cut off at 16 bits there.

    Raises:
        EngineError: the child ended; the message holds its last words.
        BudgetError: the deadline passed.
    """

    def __init__(self, model: bytes, name: str, deadline: Deadline = NEVER) -> None:
        self._name = name
        self._deadline = deadline
        self._folder = tempfile.TemporaryDirectory(prefix="quantize.")
        try:
            self._process = self._start(Path(self._folder.name), model)
        except BaseException:
            self._folder.cleanup()
            raise
        self._words = Path(self._folder.name) / "words"
        try:
            largest = self._answer(min(_START_S, deadline.left))
            self.saturates = float(largest.reshape(-1)[0]) != EXACT
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child; nothing of it is left."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 [N,K] for images float32 [N,C,H,W].

        Raises:
            EngineError, BudgetError: as for the class.
        """
        if self._process.stdin is None:
            raise ValueError("the child has no standard input")
        try:
            self._process.stdin.write(packed(images))
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return self._answer(self._deadline.left)

    def _start(self, folder: Path, model: bytes) -> subprocess.Popen[bytes]:
        (folder / "model.onnx").write_bytes(model)
        (folder / "pair.onnx").write_bytes(largest_pair().SerializeToString())
        child = [sys.executable, "-m", "quantize.emulation.child"]
        path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in path if part)}
        with (folder / "words").open("wb") as words:
            return subprocess.Popen(
                [_program(), "-cpu", self._name, *child, "model.onnx", "pair.onnx"],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
            )

    def _answer(self, seconds: float) -> NDArray[np.float32]:
        until = time.monotonic() + seconds
        try:
            return unpacked(lambda size: self._read(size, until))
        except ValueError as error:
            raise EngineError(f"the emulated {self._name} gives {error}") from error

    def _read(self, size: int, until: float) -> bytes:
        """Exactly so many bytes of the child's answers."""
        if self._process.stdout is None:
            raise ValueError("no answers")
        found = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while len(found) < size:
                left = until - time.monotonic()
                if left <= 0:
                    raise BudgetError(f"the emulated {self._name} took too long")
                if not selector.select(min(left, _LISTING_S)):
                    continue
                piece = os.read(self._process.stdout.fileno(), min(_PIECE, size - len(found)))
                if not piece:
                    raise self._ended()
                found += piece
        return bytes(found)

    def _ended(self) -> EngineError:
        """Why the child is gone, by its last words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        lines = self._words.read_text(errors="replace").strip().splitlines()
        last = next((line for line in reversed(lines) if "warning: TCG" not in line), "no word")
        return EngineError(f"the emulated {self._name} ended: {last.strip()[:300]}")
