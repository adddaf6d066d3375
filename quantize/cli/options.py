"""The options that commands share, and how they become values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quantize.config import Config

FloatModel = Annotated[Path, typer.Argument(help="The float ONNX file.")]
AnyModel = Annotated[Path, typer.Argument(help="A float or int8 ONNX file.")]
Run = Annotated[Path, typer.Argument(help="A run folder, such as int8.onnx.run.")]
ConfigFile = Annotated[
    Path, typer.Option("--config", help="YAML file: data, preprocessing, goal.", metavar="FILE")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override one key, such as tuning.speed_floor=1.5.", metavar="KEY=VALUE"
    ),
]
Location = Annotated[
    str | None,
    typer.Option("--dataset-location", help="ImageNet folder, instead of the YAML's dataset."),
]
Labels = Annotated[
    str | None,
    typer.Option("--label-path", help="Label file; default: val.txt beside the folder."),
]
Names = Annotated[
    Path | None, typer.Option("--names", help="Class names, one a line (synset.txt).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def configuration(
    path: Path,
    overrides: list[str] | None,
    dataset_location: str | None = None,
    label_path: str | None = None,
    *,
    quant_format: str | None = None,
    budget: str | None = None,
) -> Config:
    """The settings: the file, overridden by `--set`, overridden by the options of their own."""
    from quantize.config import load_config

    extra = [] if budget is None else [f"tuning.exit_policy.timeout={seconds(budget)}"]
    settings = load_config(path, [*(overrides or []), *extra])
    return settings.with_flags(dataset_location, label_path, quant_format)


def seconds(budget: str) -> int:
    """`90`, `90s`, `20m`, `2h` as whole seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (budget[:-1], budget[-1]) if budget[-1:] in units else (budget, "s")
    try:
        whole = int(float(number) * units[unit])
    except (ValueError, OverflowError):
        whole = 0
    if whole < 1:
        raise typer.BadParameter(
            f"{budget!r} is no time; write 90s, 20m or 2h", param_hint="--budget"
        )
    return whole
