"""Part 1: milliseconds of one run of each peer's file, by interleaved rounds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.cases import Ready
from benchmarks.peers import AGAIN, OURS, Made, RuntimeName
from benchmarks.servers import Server, ServerError
from benchmarks.standing import LEAST_ROUNDS, Span, ratio, spread

Servers = Mapping[RuntimeName, Server]

NARROW = 0.02
"""Width of an interval, in its median, that needs no more rounds."""

_TURN_S = 5e-3
"""Runs are repeated until a turn takes this long, so that the clock and the pipe do not matter."""
_WARM_BELOW_S = 0.1
"""A run this short starts with another's data in the caches, so one before it is not timed."""


@dataclass(frozen=True)
class Rounds:
    """How long a setting is measured; its least number of rounds is always done.

    Attributes:
        most: rounds.
        seconds: after these no round starts.
        enough: after these none does either, if all intervals are as narrow as `NARROW`.
    """

    most: int
    seconds: float
    enough: float = math.inf

    def over(self, done: int, seconds: float, ratios: Callable[[], Iterable[Span]]) -> bool:
        """Whether no more round starts.

        How wide an interval is decides, never where it lies: to stop once it leaves out 1 would
        call more than one in twenty of equal files ahead or behind.

        Args:
            done: rounds.
            seconds: that they took.
            ratios: of the rounds so far, of each file to ours.
        """
        if done < LEAST_ROUNDS:
            return False
        if done >= self.most or seconds > self.seconds:
            return True
        return seconds > self.enough and all(
            one.high - one.low <= NARROW * one.value for one in ratios()
        )


FULL, QUICK = Rounds(100, 30.0, enough=10.0), Rounds(8, 2.0)


@dataclass(frozen=True)
class Setting:
    """One cell of the table.

    Attributes:
        batch: images of one run.
        threads: of the runtime.
    """

    batch: int
    threads: int


@dataclass
class _Turn:
    """One file in one setting, loaded."""

    made: Made
    server: Server
    repeats: int
    untimed: int
    seconds: list[float] = field(default_factory=list)

    def take(self) -> None:
        answer = self.server.ask(
            "run", key=self.made.peer.key, untimed=self.untimed, repeats=self.repeats
        )
        self.seconds.append(float(answer["seconds"]))


def measure(
    case: Ready,
    files: Sequence[Made],
    servers: Servers,
    setting: Setting,
    rounds: Rounds,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """A row for each file, in their order.

    Args:
        case: whose images are run.
        files: of the peers; those that are None give rows that say so.
        servers: one for each runtime that could be started.
        setting: batch and threads.
        rounds: how many.
        clock: seconds.
    """
    failed = {made.peer.key: made.note for made in files if made.path is None}
    turns: list[_Turn] = []
    for made in files:
        if made.path is None:
            continue
        try:
            turns.append(_loaded(made, case, servers, setting))
        except ServerError as error:
            failed[made.peer.key] = f"failed: {error}"
    order, start, done = random.Random(0), clock(), 0
    while turns and not rounds.over(done, clock() - start, partial(_ratios, turns)):
        for turn in order.sample(turns, len(turns)):
            try:
                turn.take()
            except ServerError as error:
                failed[turn.made.peer.key] = f"failed: {error}"
        turns = [turn for turn in turns if turn.made.peer.key not in failed]
        done += 1
    _drop(servers)
    return _rows(case, files, setting, failed, {turn.made.peer.key: turn for turn in turns})


def _loaded(made: Made, case: Ready, servers: Servers, setting: Setting) -> _Turn:
    server = servers.get(made.peer.runtime)
    if server is None:
        raise ServerError(f"{made.peer.runtime} is not installed")
    key = made.peer.key
    server.ask(
        "load",
        key=key,
        path=str(made.path.resolve() if made.path else ""),
        threads=setting.threads,
        images=str(case.calibration.resolve()),
        batch=setting.batch,
    )
    once = min(server.ask("run", key=key, untimed=0, repeats=1)["seconds"] for _ in range(2))
    repeats = max(1, int(_TURN_S / max(once, 1e-6)))
    return _Turn(made, server, repeats, untimed=int(once < _WARM_BELOW_S))


def _ratios(turns: Sequence[_Turn]) -> list[Span]:
    """Of every file to ours, where ours runs."""
    ours = [turn for turn in turns if turn.made.peer == OURS]
    others = [turn for turn in turns if turn.made.peer != OURS]
    return [ratio(ours[0].seconds, turn.seconds) for turn in others] if ours else []


def _drop(servers: Servers) -> None:
    for server in servers.values():
        try:
            server.ask("drop")
        except ServerError:  # it is dead; the next load says so
            continue


def _rows(
    case: Ready,
    files: Sequence[Made],
    setting: Setting,
    failed: Mapping[str, str],
    turns: Mapping[str, _Turn],
) -> list[dict[str, Any]]:
    ours, twice = turns.get(OURS.key), turns.get(AGAIN.key)
    again = ratio(ours.seconds, twice.seconds) if ours and twice else None
    rows = []
    for made in files:
        key = made.peer.key
        row: dict[str, Any] = {
            "id": f"latency/{case.case.key}/{key}/batch{setting.batch}/threads{setting.threads}",
            "case": case.case.key,
            "peer": key,
            "batch": setting.batch,
            "threads": setting.threads,
            "rival": made.peer.rival,
        }
        if key in failed:
            rows.append(row | {"failed": failed[key]})
            continue
        seconds = turns[key].seconds
        row |= {"ms": spread(seconds).to_json(), "rounds_s": [round(s, 9) for s in seconds]}
        if ours and key != OURS.key:
            faster = ratio(ours.seconds, seconds)
            standing = faster.standing(1.0) if key == AGAIN.key else faster.beyond(again)
            row |= {"ratio": faster.to_json(), "standing": standing}
        rows.append(row)
    return rows
