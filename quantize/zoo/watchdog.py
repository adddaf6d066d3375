"""Bounds on waiting that sockets do not give.

A time-out of a socket is per read: a server that sends a header's bytes one by one, each in time,
could hold a client for days, and looking up a name has no time-out at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """It took too long."""


class _Call(Generic[T]):
    """A call on a thread of its own, which may be given up."""

    def __init__(self, call: Callable[[], T], dispose: Callable[[T], None]) -> None:
        self._call, self._dispose = call, dispose
        self._lock = threading.Lock()
        self._given_up = False
        self.results: list[T] = []
        self.error: BaseException | None = None

    def work(self) -> None:
        """Run on the thread."""
        try:
            result = self._call()
        except BaseException as error:
            self.error = error
            return
        with self._lock:
            if not self._given_up:
                self.results.append(result)
                return
        self._dispose(result)

    def give_up(self) -> bool:
        """Do not wait any longer; False if it is done after all."""
        with self._lock:
            self._given_up = not self.results
            return self._given_up


def within(seconds: float, call: Callable[[], T], dispose: Callable[[T], None]) -> T:
    """The result of a call, or nothing after so many seconds.

    Args:
        seconds: how long to wait.
        call: what to do; goes on alone when it is given up.
        dispose: what to do with a result that comes too late.

    Raises:
        LateError: it is not done.
    """
    running = _Call(call, dispose)
    thread = threading.Thread(target=running.work, daemon=True)
    thread.start()
    thread.join(seconds)
    if running.error is not None:
        raise running.error
    if not running.results and running.give_up():
        raise LateError
    return running.results[0]


@contextmanager
def watched(stop: Callable[[], None], silence_s: float) -> Iterator[Callable[[], None]]:
    """Call `stop`, from another thread, when nothing was heard for so long.

    Yields:
        What to call whenever something is heard.
    """
    done, last = threading.Event(), [time.monotonic()]

    def watch() -> None:
        while not done.wait(silence_s / 4):
            if time.monotonic() - last[0] > silence_s:
                with suppress(OSError, ValueError, RuntimeError):  # it is closed already
                    stop()
                return

    def heard() -> None:
        last[0] = time.monotonic()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        done.set()
        thread.join()
