"""`track`: a finished run in an MLflow tracking store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli.options import AsJson, Run
from quantize.cli.printing import show


def track(
    run: Run,
    uri: Annotated[
        str,
        typer.Option(
            "--uri",
            envvar="MLFLOW_TRACKING_URI",
            help="Of the store, such as sqlite:///mlflow.db.",
            metavar="URI",
        ),
    ],
    experiment: Annotated[
        str, typer.Option("--experiment", help="Made where there is none.", metavar="NAME")
    ] = "quantize",
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="A release of the run, to go along.", metavar="BUNDLE"),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Default: of the bundle, or the float file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record a finished run in an MLflow tracking store: docs/tracking.md.

    Exit codes: 0 recorded, whatever the verdict; 2 bad input, or the store cannot be used.
    """
    from quantize.tracking import recording

    made = recording.track(run, uri=uri, experiment=experiment, bundle=bundle, name=name)
    show(made, as_json)
