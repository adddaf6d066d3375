"""Commands for release bundles: release, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli.options import AsJson, Run
from quantize.cli.printing import show


def release(
    run: Run,
    model: Annotated[Path, typer.Option("--model", help="The float ONNX file.", metavar="FILE")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", metavar="DIR")],
    name: Annotated[str | None, typer.Option("--name", help="Default: <model>-int8.")] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option("--samples", help="An image for the test data; may be repeated."),
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="SPDX identifier of the model's licence.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="What the images are, such as cifar10.")
    ] = None,
    include_float: Annotated[
        bool, typer.Option("--include-float", help="Pack the float model, too.")
    ] = False,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Also a model that takes uint8 images.")
    ] = False,
    allow_unmet: Annotated[
        bool, typer.Option("--allow-unmet", help="Even if the goal was not met.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an older release.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack a finished run so that anybody can prove it again: docs/bundle.md.

    Exit codes: 0 written, 2 bad input, 3 the run did not meet its goal.
    """
    from quantize.bundle import writing

    made = writing.release(
        run,
        model,
        output,
        name=name,
        samples=samples or (),
        license=license_id,
        dataset=dataset,
        include_float=include_float,
        with_preprocessing=with_preprocessing,
        allow_unmet=allow_unmet,
        force=force,
    )
    show(made, as_json)


def check(
    bundle: Annotated[Path, typer.Argument(help="A release folder or one of its archives.")],
    as_json: AsJson = False,
) -> None:
    """Run the test data of a release bundle; exit 3 if the outputs differ."""
    from quantize.bundle.checking import check_bundle

    seen = check_bundle(bundle)
    show(seen, as_json)
    raise typer.Exit(seen.exit_code)
