"""README.md: the model card, with front matter as Hugging Face reads it."""

from __future__ import annotations

from typing import Any

from quantize.bundle import snippet
from quantize.bundle.card_contract import postprocessing, preprocessing
from quantize.bundle.card_data import front_matter
from quantize.bundle.card_tables import accuracy_table, files_table, speed_table
from quantize.bundle.facts import ATOL, RTOL, Facts
from quantize.bundle.names import code, prose

_OUTCOMES = {"met": "met", "unmet": "**not met**", "undecided": "**not decided**"}
_GOALS = {
    "relative": "at most {:g} % of the float top-1 lost",
    "absolute": "at most {:g} points of top-1 lost",
    "agreement": "{:g} % of the answers equal to the float model's",
}


def card(facts: Facts) -> str:
    """The whole text.

    Args:
        facts: of the release.
    """
    parts = [
        front_matter(facts),
        f"# {prose(facts.name)}",
        *_verdict(facts),
        "## Use",
        *_use(facts),
        "## Preprocessing",
        *preprocessing(facts),
        "## Postprocessing",
        *postprocessing(facts),
        "## Accuracy",
        *_accuracy(facts),
        "## Speed",
        *_speed(facts),
        "## CPUs",
        *_cpus(facts),
        "## How it was quantized",
        *_quantized(facts),
        "## Verify it again",
        *_verify(facts),
        "## Files",
        files_table(facts),
        "## References",
        *_references(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(facts: Facts) -> list[str]:
    report = facts.report
    verdict = report["verdict"]
    outcome, counts = _OUTCOMES[verdict["outcome"]], facts.account.decisive
    lines = []
    if not facts.met:
        lines.append(
            f"> **This model did not meet its goal** (goal {_OUTCOMES[counts.outcome].strip('*')},"
            f" {prose(counts.label)}): {prose(counts.reason)}. It was released all the same."
        )
    float_, int8 = report["float_model"], report["int8_model"]
    lines.append(
        f"An int8 image classifier, quantized from {code(float_['file'])}:"
        f" {facts.model['verified']['bytes'] / float_['bytes']:.2f} of its size,"
        f" {100 * int8['int8_share_of_multiply_adds']:.1f} % of the multiply-adds in int8."
    )
    lines.append(
        f"**Verdict:** goal {outcome} ({_goal(verdict['goal'])}). {_capital(verdict['reason'])}."
        f" Seen on {verdict['images']} images that nothing was tuned on."
    )
    told = facts.account.cannot_overflow and not facts.account.cpus
    more = "" if told else f" {_elsewhere(facts)}"
    lines.append(f"**Holds for:** {prose(facts.account.holds_for)}.{more}")
    return lines


def _goal(goal: dict[str, Any]) -> str:
    text = _GOALS[goal["kind"]].format(100 * goal["tolerance"])
    sure = goal["confidence"]
    sure = "" if sure is None else f", at {100 * sure:g} % confidence"
    return f"{text}{sure}, at least {goal['speed_floor']:g} times as fast"


def _capital(reason: str) -> str:
    return prose(reason[:1].upper() + reason[1:])


def _elsewhere(facts: Facts) -> str:
    """What int8 does on other processors."""
    layers = [row for row in facts.report["layers"] if row["int8"]]
    if layers and all(row.get("overflow_possible_share") == 0 for row in layers):
        return (
            "No sum of two products can leave 16 bits in any layer, so x86 CPUs without VNNI add"
            " up the same."
        )
    if facts.report["int8_model"]["plan"]["scheme"]["reduce_range"]:
        return "Weights have 7 bits, so sums of products do not saturate on any x86 CPU."
    if facts.report["measured"]["cpu"]["saturates"]:
        return (
            "There, sums of two uint8 x int8 products saturate in 16 bits, which the figures"
            " include; on CPUs with VNNI or a dot product they do not, so outputs differ."
        )
    return (
        "On x86 CPUs without VNNI sums of two uint8 x int8 products **saturate** in 16 bits, which"
        " can cost accuracy"
        + ("." if facts.account.cpus else ": verify it there before you use it.")
    )


def _use(facts: Facts) -> list[str]:
    parts = ["Needs onnxruntime, numpy and Pillow.", f"```python\n{snippet.program(facts)}```"]
    if facts.with_preprocessing:
        parts.append(
            f"{code(facts.with_preprocessing)} has the preprocessing in front: it takes one"
            " image as decoded, uint8 [height, width, 3] RGB, and gives the scores. Its input"
            " agrees with the preprocessing below within one grey level."
        )
    return parts


def _accuracy(facts: Facts) -> list[str]:
    report = facts.report
    where = "These are the images of the holdout"
    if facts.dataset:
        where += f", of {prose(facts.dataset)}"
    holdout = report["data"]["holdout"]
    lines = [accuracy_table(facts)]
    if report["accuracy"] is not None:
        low, high = report["accuracy"]["drop_interval_points"]
        lines.append(
            f"Drop: **{report['accuracy']['drop_points']:.2f} points** of top-1, 95 % interval"
            f" {low:.2f} to {high:.2f} (Tango's score interval for paired samples; lost"
            f" {report['accuracy']['lost']}, gained {report['accuracy']['gained']} images)."
        )
    else:
        lines.append("The images had no labels, so the accuracy is not known.")
    lines.append(
        f"{where}: {holdout['images']}, sha256 {code(holdout['sha256'])} over content, labels and"
        " preprocessing. Neither calibration nor search saw them."
    )
    lines += [f"Note: {prose(note)}." for note in report["data"]["notes"]]
    return lines


def _speed(facts: Facts) -> list[str]:
    seen = facts.report["measured"]["latency"]
    if seen is None:
        return ["Not measured."]
    return [
        speed_table(facts),
        f"int8 is **{seen['ratio']:.2f} times** as fast, 95 % interval {seen['low']:.2f} to"
        f" {seen['high']:.2f}: batch 1, {seen['threads']} threads, {seen['rounds']} interleaved"
        f" rounds, on {prose(facts.report['measured']['cpu']['name'])}.",
    ]


def _cpus(facts: Facts) -> list[str]:
    cpu = facts.report["measured"]["cpu"]
    return [
        f"Verdict and figures were seen on {prose(cpu['name'])} ({prose(cpu['isa'])},"
        f" {cpu['cores']} cores). {_elsewhere(facts)}",
        "Integer arithmetic differs between instruction sets, and so do quantized outputs, in few"
        " answers where nothing saturates. The verdict is therefore one for this instruction set;"
        " the speed is one for this CPU.",
    ]


def _quantized(facts: Facts) -> list[str]:
    report = facts.report
    int8, plan = report["int8_model"], facts.plan
    ranges = "" if plan.ranges is None else f", {plan.ranges} ranges"
    data = report["data"]
    rows = [
        f"- Engine: {plan.engine}, format {plan.format}, opset {int8['opset']}",
        f"- Weights: int8, {plan.scheme.weight_granularity.replace('_', ' ')};"
        f" activations: uint8{ranges}",
        f"- Convolutions in int8: {int8['convolutions']['int8']} of {int8['convolutions']['all']}",
        f"- Repairs: {', '.join(map(prose, plan.repairs)) or 'none'}",
        f"- Calibration images: {data['calibration']['images']}; search images:"
        f" {data['search']['images']}",
        f"- Float model: {code(report['float_model']['file'])}, sha256"
        f" {code(report['float_model']['sha256'])}",
        "- " + ", ".join(f"{prose(k)} {prose(v)}" for k, v in report["versions"].items()),
    ]
    if int8["stayed_float"]:
        some = ", ".join(code(name) for name in int8["stayed_float"][:10])
        more = len(int8["stayed_float"]) - 10
        rows.insert(4, f"- Layers left float: {some}{f' and {more} more' if more > 0 else ''}")
    return ["\n".join(rows)]


def _verify(facts: Facts) -> list[str]:
    source = (
        "from images that the releaser chose"
        if facts.samples.kind == "named"
        else "from synthetic images, whose answers mean nothing by themselves"
    )
    floats = f"{facts.float_file}" if facts.float_file else "FLOAT.onnx"
    commands = "\n".join(
        [
            "sha256sum -c SHA256SUMS",
            "quantize check .",
            "quantize verify . --images IMAGES --digest SHA256",
            f"quantize verify . --images IMAGES --float {floats} --digest SHA256",
        ]
    )
    return [
        f"```sh\n{commands}\n```",
        f"`check` runs the {len(facts.samples.images)} test data sets, made {source}, and compares"
        f" the outputs (rtol {RTOL:g}, atol {ATOL:g}) on {prose(facts.isa)}; elsewhere it compares"
        " the answers only. `verify` measures accuracy and speed on your images: with the float"
        " model it proves the drop, without it only the accuracy of this file. Exit code 0 says"
        " that the goal is met, 3 that it is not, 4 that these images are too few to tell.",
        "`--digest` takes the sha256 of `SHA256SUMS` that was published apart from these files."
        " **Without it only accidents are found**: whoever changes a file can change `SHA256SUMS`,"
        " too.",
    ]


def _references(facts: Facts) -> list[str]:
    return [
        "- T. Tango, Statistics in Medicine 17 (1998) 891-908: the interval of the drop\n"
        "- E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212: the interval of a share\n"
        "- [ONNX model zoo](https://github.com/onnx/models): the form of the test data and of"
        " `ONNX_HUB_MANIFEST.json`"
    ]
