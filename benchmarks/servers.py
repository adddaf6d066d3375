"""Runtimes in processes of their own, asked over a pipe: `children/serve.py` is the other end."""

from __future__ import annotations

import json
import selectors
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from benchmarks.environments import without_folders
from benchmarks.peers import CHILDREN, RuntimeName
from benchmarks.process_tree import end_group

_LONGEST_ANSWER = 1 << 16


class ServerError(Exception):
    """A runtime could not do what it was asked: one line."""


class Server:
    """A runtime that keeps files loaded.

    Args:
        python: interpreter of the environment that has the runtime.
        runtime: which.
        folder: where it is started; its messages go to a file there.
        seconds: how long an answer may take before the process is ended.
        script: the other end.
    """

    def __init__(
        self,
        python: Path,
        runtime: RuntimeName,
        folder: Path,
        *,
        seconds: float = 300.0,
        script: Path = CHILDREN / "serve.py",
    ) -> None:
        self.runtime = runtime
        self.seconds = seconds
        self._log = (folder / f"{runtime}.log").open("wb")
        self._process = subprocess.Popen(
            [str(python), str(script), runtime],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._rest = b""

    def ask(self, op: str, **values: Any) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            ServerError: it said so, died, or did not answer in time.
        """
        request = json.dumps({"op": op, **values}).encode() + b"\n"
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(request)
            pipe.flush()
        except (OSError, ValueError) as error:
            raise ServerError(f"{self.runtime} ended before") from error
        answer: dict[str, Any] = json.loads(self._line())
        if "failed" in answer:
            raise ServerError(without_folders(answer["failed"]))
        return answer

    def _line(self) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        until = time.monotonic() + self.seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, until - time.monotonic())):
                    self.close()
                    raise ServerError(f"{self.runtime} did not answer in {self.seconds:g} s")
                piece = pipe.read1(_LONGEST_ANSWER)  # type: ignore[attr-defined]
                if not piece:
                    self.close()
                    raise ServerError(f"{self.runtime} ended: {self._status()}")
                self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _status(self) -> str:
        status = self._process.returncode
        return f"signal {-status}" if status and status < 0 else f"exit {status}"

    def close(self) -> None:
        """End the process."""
        end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
