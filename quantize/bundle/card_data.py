"""The card's front matter: YAML that is written here, each text a JSON string in it."""

from __future__ import annotations

from typing import Any

from quantize.bundle.facts import Facts
from quantize.bundle.names import release_name, scalar


def front_matter(facts: Facts) -> str:
    """YAML between two lines of `---`, as model hubs read it."""
    lines = [
        "---",
        f"license: {scalar(facts.license or 'unknown')}",
        "library_name: onnx",
        "pipeline_tag: image-classification",
        f"base_model: {scalar(_base(facts))}",
        "base_model_relation: quantized",
        "tags:",
        *(f"- {tag}" for tag in ("onnx", "onnxruntime", "int8", "quantized", "vision")),
        "datasets:",
        f"- {scalar(facts.dataset or 'imagefolder')}",
        "metrics:",
        "- accuracy",
        *_model_index(facts),
        "---",
    ]
    return "\n".join(lines)


def _base(facts: Facts) -> str:
    """The float model, named as hubs name models."""
    return release_name(None, facts.report["float_model"]["file"]).removesuffix("-int8")


def _model_index(facts: Facts) -> list[str]:
    holdout = facts.report["data"]["holdout"]
    called = facts.dataset or "images in folders"
    dataset = f"{called}, {holdout['images']} images, sha256 {holdout['sha256'][:16]}"
    lines = [
        "model-index:",
        f"- name: {scalar(facts.name)}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      type: {scalar(facts.dataset or 'imagefolder')}",
        f"      name: {scalar(dataset)}",
        "    metrics:",
    ]
    for kind, name, value in _metrics(facts.report):
        lines += [f"    - type: {kind}", f"      name: {scalar(name)}", f"      value: {value:.6f}"]
    return lines


def _metrics(report: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(type, name, value): shares as ratios, the drop in points."""
    found = [("agreement", "equal answers of int8 and float", report["fidelity"]["agreement"])]
    seen = report["accuracy"]
    if seen is None:
        return found
    return [
        ("accuracy", "top-1, int8", seen["int8"]["top1"]),
        ("accuracy", "top-5, int8", seen["int8"]["top5"]),
        ("accuracy", "top-1, float", seen["float"]["top1"]),
        ("accuracy_drop", "top-1 drop in points", seen["drop_points"]),
        *found,
    ]
