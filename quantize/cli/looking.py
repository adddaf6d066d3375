"""Commands that look at files: inspect, explain, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli.options import AsJson, Names, Run
from quantize.cli.printing import say, show


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")], as_json: AsJson = False
) -> None:
    """What a model file is: inputs, opset, operators, and how much of it is int8."""
    from quantize import inspection

    seen = inspection.inspect(model)
    show(seen, as_json)


def explain(
    run: Run,
    other: Annotated[Path | None, typer.Argument(help="Another one, to compare with.")] = None,
    names: Names = None,
    as_json: AsJson = False,
) -> None:
    """What a run found: rungs, worst layers, changed images; or two runs side by side."""
    from quantize import explanation

    found = explanation.explain(run, other)
    known = None
    if names is not None:
        from quantize.classify import read_names

        known = read_names(names)
    say(found.to_json(), found.lines(known), as_json)


def report(
    run: Run,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: report.html in it.", metavar="FILE"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Show changed images from this folder.", metavar="DIR"),
    ] = None,
    names: Names = None,
) -> None:
    """Write the page of a finished run again: with class names, with small pictures."""
    from quantize.classify import read_names
    from quantize.report import rendering

    known = read_names(names) if names else None
    made = rendering.render(run, output, names=known, images=images)
    say({"output": str(made)}, [f"files      {made}"], as_json=False)
