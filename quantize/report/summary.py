"""summary.txt and what the command line prints: the report for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantize.report.cpus import Place, decisive, holds_for, places_of
from quantize.report.reading import report_value
from quantize.report.verdict import closeness_line, reused_line, verdict_line


def summary(report: dict[str, Any]) -> str:
    """A short readable account of report.json; the last line is the verdict."""
    verdict = report["verdict"]
    here = Place(
        verdict["instruction_set"], verdict["outcome"], verdict["reason"], verdict["images"]
    )
    others = places_of(report_value(report).at("measured"))
    counts = decisive(here, others)
    lines = [
        *_files(report),
        *_images(report),
        *_accuracy(report),
        *_fidelity(report),
        *_speed(report),
        *_without_vnni(report),
        *_cpus(here, others),
        *_trials(report),
        *_reused(report),
        *(f"note       {note}" for note in report["data"]["notes"]),
        "",
        verdict_line(counts.outcome, counts.reason, counts.images, counts.label),
    ]
    return "\n".join(lines) + "\n"


def _files(report: dict[str, Any]) -> list[str]:
    float_, int8 = report["float_model"], report["int8_model"]
    convs = int8["convolutions"]
    plan = int8["plan"]
    lines = [
        f"model      {float_['file']}, opset {float_['opset']}",
        f"int8       by {plan['engine']} ({plan['format']}): {convs['int8']} of {convs['all']}"
        f" convolutions, {100 * int8['int8_share_of_multiply_adds']:.1f} % of the multiply-adds",
        f"size       float {_mib(float_['bytes'])}, int8 {_mib(int8['bytes'])},"
        f" {int8['bytes'] / float_['bytes']:.3f} of it",
    ]
    if int8["stayed_float"]:
        some = ", ".join(int8["stayed_float"][:5])
        more = len(int8["stayed_float"]) - 5
        lines.append(f"float      {some}{f' and {more} more' if more > 0 else ''}")
    return lines


def _reused(report: dict[str, Any]) -> list[str]:
    reused = report["measured"]["reused"]
    trials, answers, known = (reused.get(k, 0) for k in ("trials", "answers", "float_answers"))
    lines = []
    if trials or answers:
        lines.append(f"reused     {trials} candidates and {answers} answers of an earlier run")
    return lines + ([reused_line(known, report["verdict"]["images"])] if known else [])


def _images(report: dict[str, Any]) -> list[str]:
    data = report["data"]
    again = " (the calibration images again)" if data["search"]["is_calibration"] else ""
    lines = [
        f"images     calibration {data['calibration']['images']}, search"
        f" {data['search']['images']}{again}, holdout {data['holdout']['images']}"
    ]
    if data["duplicates"]:
        lines.append(f"           {data['duplicates']} equal images were counted once")
    for part in ("calibration", "search", "holdout"):
        unreadable = data[part]["unreadable"]
        if unreadable["images"]:
            first = next(iter(unreadable["first"]))
            lines.append(f"           {part}: {unreadable['images']} unreadable, first {first}")
    return lines


def _accuracy(report: dict[str, Any]) -> list[str]:
    seen = report["accuracy"]
    if seen is None:
        return ["accuracy   not measured: the images have no labels"]
    low, high = seen["drop_interval_points"]
    ratio = seen["drop_ratio"]
    lines = [
        f"top-1      float {100 * seen['float']['top1']:.2f} %,"
        f" int8 {100 * seen['int8']['top1']:.2f} %",
        f"top-5      float {100 * seen['float']['top5']:.2f} %,"
        f" int8 {100 * seen['int8']['top5']:.2f} %",
        f"drop       {seen['drop_points']:.2f} points, 95 % interval {low:.2f} to {high:.2f}"
        f" (lost {seen['lost']}, gained {seen['gained']} images)",
    ]
    if ratio is not None:
        lines.append(f"drop ratio {100 * ratio:.2f} % of the float top-1")
    return lines


def _fidelity(report: dict[str, Any]) -> list[str]:
    seen = report["fidelity"]
    return [closeness_line(seen["sqnr_db"], seen["agreement"])]


def _speed(report: dict[str, Any]) -> list[str]:
    measured = report["measured"]
    seen = measured["latency"]
    if seen is None:
        return ["speed      not measured"]
    fewer = (
        f" ({seen['threads_asked']} asked, the machine has fewer)"
        if seen["threads"] < seen["threads_asked"]
        else ""
    )
    return [
        f"latency    float {seen['float_ms']:.2f} ms, int8 {seen['int8_ms']:.2f} ms: int8 is"
        f" {seen['ratio']:.2f}x as fast, 95 % interval {seen['low']:.2f} to {seen['high']:.2f}",
        f"           batch 1, {seen['threads']} threads{fewer}, {seen['rounds']} interleaved"
        f" rounds, {measured['cpu']['name']}",
    ]


def _without_vnni(report: dict[str, Any]) -> list[str]:
    """Whether the file computes the same on x86 CPUs without VNNI, by the forecast."""
    known = [row for row in report["layers"] if row["overflow_possible_share"] is not None]
    possible = sum(row["overflow_possible_share"] > 0 for row in known)
    if not known:
        return []
    if not possible:
        return ["no VNNI    the same sums on x86 CPUs without VNNI: none can leave 16 bits"]
    seen = sum((row["overflow_share"] or 0) > 0 for row in known)
    return [
        f"no VNNI    other sums on x86 CPUs without VNNI: 16 bits overflowed in {seen} of"
        f" {len(known)} layers on calibration images, and can in {possible}"
    ]


def _cpus(here: Place, others: Sequence[Place]) -> list[str]:
    """The verdicts on other processors, where there are any."""
    return [f"holds for  {holds_for(here, others, proven=False, saturates=False)}"] * bool(others)


def _trials(report: dict[str, Any]) -> list[str]:
    lines = [f"search     {report['search']['strategy']}: {report['search']['stopped']}"]
    if report["measured"]["earlier_run"] == "finished":
        lines.append("           of an earlier, finished run of this job; only verified again")
    if report["measured"]["earlier_run"] == "continued":
        lines.append("           continued from an earlier, interrupted run of this job")
    for number, trial in enumerate(report["search"]["trials"], 1):
        lines.append(f"  trial {number}  {_made(trial['plan'])}: {', '.join(_found(trial))}")
    return lines


def _made(plan: dict[str, Any]) -> str:
    parts = [f"{plan['engine']} {plan['format']}", *plan["repairs"]]
    left, walked = len(plan["keep_float"]), plan.get("walked")
    few = {None: "", 0: ", offline"}.get(walked, f", looking at {walked} images")
    return " + ".join(parts) + few + (f", {left} nodes float" if left else "")


def _found(trial: dict[str, Any]) -> list[str]:
    """What a trial showed, each part a few words."""
    found = []
    if trial["probe"] is not None and trial["probe"]["sqnr_db"] is not None:
        gain = "" if trial["gain_db"] is None else f" ({trial['gain_db']:+.1f})"
        found.append(f"SQNR {trial['probe']['sqnr_db']:.1f} dB{gain}")
    if trial["top1"] is not None:
        found.append(f"top-1 {100 * trial['top1']:.2f} %")
    if trial["accepted"]:
        found.append("accepted")
    elif trial["note"]:
        found.append(trial["note"])
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
