"""Commands that make int8 models: tune, apply."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantize.cli.options import (
    AsJson,
    ConfigFile,
    FloatModel,
    Labels,
    Location,
    Overrides,
    Quiet,
    configuration,
)
from quantize.cli.printing import progress, say

if TYPE_CHECKING:
    from quantize.pipeline import Result


def tune(
    model: FloatModel,
    config: ConfigFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the int8 file goes.", metavar="FILE")
    ],
    overrides: Overrides = None,
    dataset_location: Location = None,
    label_path: Labels = None,
    quant_format: Annotated[
        str | None, typer.Option("--quant-format", help="default, QDQ or QOperator.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time limit such as 90s, 20m or 2h.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every input, print the price, stop.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--release", help="If the goal is met, a release bundle.", metavar="DIR"),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Quantize a model, prove what it costs, exit 0 only if the goal is met.

    Exit codes: 0 met, 2 bad input, 3 not met or too slow, 4 undecided, 130/143 interrupted.
    """
    started = time.monotonic()  # the budget is for imports, too
    from quantize import pipeline, price

    settings = configuration(
        config, overrides, dataset_location, label_path, quant_format=quant_format, budget=budget
    )
    with progress(quiet or as_json) as on_progress:
        if dry_run:
            found = price.dry_run(model, settings, output, on_progress=on_progress)
            say(found.to_json(), ["every input is fine", *found.lines()], as_json)
            return
        told = on_progress.tell if on_progress else None
        result = pipeline.tune(
            model,
            settings,
            output,
            fresh=fresh,
            bundle=bundle,
            started=started,
            on_progress=on_progress,
            on_price=lambda found: told(found.lines()) if told else None,
        )
    say(*_of_result(result), as_json)
    raise typer.Exit(result.exit_code)


def _of_result(result: Result) -> tuple[dict[str, Any], list[str]]:
    """What `tune` prints, for machines and for people."""
    from quantize.report.summary import summary

    files = {"output": str(result.output) if result.output else None, "run": str(result.run)}
    lines = [
        f"files      {result.output or 'no output, since the goal is not met'}",
        f"           {result.run}/report.json",
        *summary(result.report).splitlines(),
    ]
    if result.released:
        files |= result.released.to_json()
        lines[2:2] = result.released.lines()
    return {**result.report, "files": files}, lines


def apply(
    model: FloatModel,
    plan: Annotated[Path, typer.Option("--plan", help="plan.json of a run, perhaps edited.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the int8 file goes.")],
    encodings: Annotated[
        Path | None, typer.Option("--encodings", help="encodings.npz of the run: the same bytes.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Without encodings: says which images.")
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Write the int8 model of one plan: no search, no verdict."""
    from quantize import rebuild

    wanted = rebuild.read_plan(plan)
    given = rebuild.read_encodings(encodings, wanted) if encodings else None
    settings = configuration(config, overrides) if config else None
    with progress(quiet) as on_progress:
        made = rebuild.apply(
            model, wanted, output, encodings=given, config=settings, on_progress=on_progress
        )
    say({"output": str(made)}, [f"files      {made}"], as_json=False)
