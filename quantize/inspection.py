"""The verb `inspect`: what a model file is, without any images."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.errors import ModelError
from quantize.files import sha256
from quantize.graph import io
from quantize.graph.coverage import Coverage, coverage
from quantize.graph.view import View, dims, opset
from quantize.probe import shapes_of


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        path: the file.
        sha256: of its bytes.
        size: in bytes.
        opset: version of ai.onnx.
        inputs: (name, shape), None for an open size; likewise outputs.
        operators: (operator, how often), most frequent first.
        parameters: elements of all constants.
        coverage: int8 share, or None where the model does not run.
        problem: why it does not run, or empty.
    """

    path: Path
    sha256: str
    size: int
    opset: int
    inputs: tuple[tuple[str, list[int | None] | None], ...]
    outputs: tuple[tuple[str, list[int | None] | None], ...]
    operators: tuple[tuple[str, int], ...]
    parameters: int
    coverage: Coverage | None
    problem: str

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        seen = self.coverage
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "bytes": self.size,
            "opset": self.opset,
            "inputs": [{"name": name, "shape": shape} for name, shape in self.inputs],
            "outputs": [{"name": name, "shape": shape} for name, shape in self.outputs],
            "operators": dict(self.operators),
            "parameters": self.parameters,
            "int8_share_of_multiply_adds": seen.int8_share if seen else None,
            "multiply_adds": sum(x.multiply_adds for x in seen.layers) if seen else None,
            "stayed_float": list(seen.stayed_float) if seen else None,
            "problem": self.problem or None,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        known = [f"{name} {count}" for name, count in self.operators]
        lines = [
            f"model      {self.path.name}, {self.size / 2**20:.2f} MiB, opset {self.opset}",
            *(f"input      {name} {_shape(shape)}" for name, shape in self.inputs),
            *(f"output     {name} {_shape(shape)}" for name, shape in self.outputs),
            f"operators  {', '.join(known)}",
            f"parameters {self.parameters:,}",
        ]
        if self.coverage is None:
            return [*lines, f"it does not run: {self.problem}"]
        total = sum(layer.multiply_adds for layer in self.coverage.layers)
        lines.append(
            f"arithmetic {total / 1e6:,.1f} million multiply-adds for one image,"
            f" {100 * self.coverage.int8_share:.1f} % of them int8"
        )
        stayed = self.coverage.stayed_float
        if stayed and self.coverage.int8_share > 0:
            lines.append(f"float      {', '.join(stayed)}")
        return lines


def inspect(path: Path) -> Inspection:
    """Read a model file and look at it.

    Raises:
        ModelError: the file cannot be read as a model.
    """
    model = io.load(path)
    view = View(model.graph)
    counts = Counter(
        f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        for node in model.graph.node
    )
    covered, problem = None, ""
    try:
        covered = coverage(model, lambda names: shapes_of(model, names))
    except ModelError as error:
        problem = str(error)
    return Inspection(
        path=path,
        sha256=sha256(path),
        size=path.stat().st_size,
        opset=opset(model),
        inputs=tuple((value.name, dims(value)) for value in view.inputs),
        outputs=tuple((value.name, dims(value)) for value in model.graph.output),
        operators=tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(math.prod(t.dims) for t in model.graph.initializer),
        coverage=covered,
        problem=problem,
    )


def _shape(shape: list[int | None] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
