"""The command that tries everything out: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for its files.", metavar="DIR")
    ] = Path("quantize-demo"),
) -> None:
    """Run the main job on a small network and real handwritten digits that come along."""
    import shlex

    from quantize.demo.run import command, run

    print(f"$ {shlex.join(command(output))}", flush=True)
    raise typer.Exit(run(output))
