"""A verdict or a latency as JSON values and as lines: for the verbs that make no report."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from quantize.plan import Latency, Verdict
from quantize.report.values import finite

_WORDS = {"met": "GOAL MET", "unmet": "GOAL NOT MET", "undecided": "UNDECIDED"}


def verdict_to_json(seen: Verdict) -> dict[str, Any]:
    """All fields of a verdict, and its exit code."""
    return finite({**asdict(seen), "exit_code": seen.exit_code})  # type: ignore[no-any-return]


def verdict_lines(seen: Verdict) -> list[str]:
    """The figures and, last, the verdict."""
    lines = [f"images     {seen.images}"]
    if seen.drop is not None and seen.float_top1 is not None and seen.int8_top1 is not None:
        lines += [
            f"top-1      float {100 * seen.float_top1:.2f} %, int8 {100 * seen.int8_top1:.2f} %",
            f"drop       {seen.drop.points:.2f} points, 95 % interval {seen.drop.low:.2f} to"
            f" {seen.drop.high:.2f} (lost {seen.drop.lost}, gained {seen.drop.gained} images)",
        ]
    lines.append(closeness_line(seen.fidelity.sqnr_db, seen.fidelity.agreement))
    if seen.reused:
        lines.append(reused_line(seen.reused, seen.images))
    if seen.latency is not None:
        lines += latency_lines(seen.latency)
    return [*lines, "", verdict_line(seen.outcome, seen.reason, seen.images, seen.cpu.isa)]


def reused_line(known: int, images: int) -> str:
    """How many of the float model's answers were not computed anew; int8's always are."""
    return f"reused     {known} of {images} answers of the float model, from an earlier run"


def closeness_line(sqnr_db: float | None, agreement: float) -> str:
    """How close int8 is to float; an infinite or missing SQNR means equal or unusable outputs."""
    if sqnr_db is not None and math.isfinite(sqnr_db):
        sqnr = f"{sqnr_db:.1f} dB"
    else:
        sqnr = "exact" if agreement == 1 else "undefined"
    return f"closeness  {100 * agreement:.2f} % equal answers, output SQNR {sqnr}"


def verdict_line(outcome: str, reason: str, images: int, isa: str) -> str:
    """One line: the outcome, why, and the instruction set it holds for."""
    return f"{_WORDS[outcome]}: {reason}; seen on {images} holdout images, {isa}"


def latency_to_json(seen: Latency) -> dict[str, Any]:
    """All fields of a latency."""
    return asdict(seen)


def latency_lines(seen: Latency) -> list[str]:
    """The figures of both models."""
    return [
        f"latency    float {seen.float_ms:.2f} ms, int8 {seen.int8_ms:.2f} ms: int8 is"
        f" {seen.ratio:.2f}x as fast, 95 % interval {seen.low:.2f} to {seen.high:.2f}",
        f"           batch 1, {seen.threads} threads, {seen.rounds} interleaved rounds,"
        f" {seen.cpu.name}, {seen.cpu.isa}",
    ]
