"""Commands for what comes from elsewhere: fetch, prepare-imagenet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli.options import AsJson, Quiet
from quantize.cli.printing import progress, say, show


def fetch(
    name: Annotated[
        str | None, typer.Argument(help="Such as resnet50-v1-12.", show_default=False)
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="https address, folder or file instead of the zoo's; may be repeated.",
            metavar="URL|PATH",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where a copy goes.", metavar="FILE"),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Default: the user's cache folder.", metavar="DIR"),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the models' names.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Get a model of the ONNX model zoo: the published bytes, or nothing.

    It is kept in $QUANTIZE_CACHE, else $XDG_CACHE_HOME/quantize, else
    ~/.cache/quantize; a second call needs no network.
    Exit codes: 0 there, 2 no source gives it, 130/143 interrupted; a rerun continues.
    """
    from quantize.zoo.table import TABLE, find

    if show == (name is not None):
        raise typer.BadParameter("name a model, or ask for --list")
    if name is None:
        rows = [{"name": e.name, "bytes": e.size, "sha256": e.sha256} for e in TABLE]
        say(
            {"models": rows},
            [f"{e.name:<22}{e.size / 1e6:>7.1f} MB  {e.sha256}" for e in TABLE],
            as_json,
        )
        return
    from quantize.zoo import fetching

    entry = find(name)
    with progress(quiet or as_json) as on_progress:
        made = fetching.fetch(
            name, sources=sources or (), output=output, cache=cache, on_progress=on_progress
        )
    content = {"name": entry.name, "path": str(made), "bytes": entry.size, "sha256": entry.sha256}
    say(content, [f"files      {made}", f"sha256     {entry.sha256}"], as_json)


def prepare_imagenet(
    tar: Annotated[Path, typer.Argument(help="ILSVRC2012_img_val.tar.")],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels",
            help="imagenet_val_maps.pklz, or a val.txt of `name label` lines.",
            metavar="FILE",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for val and val.txt.", metavar="DIR")
    ],
    train: Annotated[
        Path | None,
        typer.Option("--train", help="ILSVRC2012_img_train.tar, too.", metavar="FILE"),
    ] = None,
    synset: Annotated[
        Path | None,
        typer.Option(
            "--synset", help="For a val.txt; default: synset.txt beside it.", metavar="FILE"
        ),
    ] = None,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Compare with the published sha1 first.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Unpack ImageNet's images into class folders; a second call keeps what is right.

    Exit codes: 0 all there, 2 bad input, 130/143 interrupted; a rerun continues.
    """
    from quantize.imagenet import preparing

    with progress(quiet or as_json) as on_progress:
        made = preparing.prepare_imagenet(
            tar,
            labels,
            output,
            train=train,
            synset=synset,
            checksum=checksum,
            on_progress=on_progress,
        )
    show(made, as_json)
