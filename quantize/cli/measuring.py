"""Commands that run models on images: verify, evaluate, benchmark, predict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from quantize.cli.options import (
    AnyModel,
    AsJson,
    ConfigFile,
    Labels,
    Location,
    Names,
    Overrides,
    Quiet,
    configuration,
    seconds,
)
from quantize.cli.printing import progress, say, show

if TYPE_CHECKING:
    from quantize.config import Config
    from quantize.plan import Latency


def verify(
    model: Annotated[Path, typer.Argument(help="The float ONNX file, or a release bundle.")],
    int8_model: Annotated[Path | None, typer.Argument(help="The int8 ONNX file.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file, for two models.", metavar="FILE")
    ] = None,
    overrides: Overrides = None,
    dataset_location: Location = None,
    label_path: Labels = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="For a bundle: folder of images.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Its file of `name label` lines.")
    ] = None,
    float_model: Annotated[
        Path | None, typer.Option("--float", help="For a bundle: the float model.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Published sha256 of SHA256SUMS.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Two models: compute known float answers again.")
    ] = False,
    cpus: Annotated[
        list[str] | None,
        typer.Option("--cpu", help="Emulate this CPU, too, such as haswell."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time for the emulated CPUs; default 5m.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--add-to", help="Two models: into this run's report.", metavar="RUN"),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two files on the holdout images, or prove a release bundle on your own images.

    Exit codes as for tune; 2 for a bundle that was changed.
    """
    on = _asked_elsewhere(cpus or [], budget, run)
    if int8_model is None:
        if images is None or config or overrides or dataset_location or label_path or run:
            raise typer.BadParameter("two models take --config, a bundle takes --images")
        _verify_bundle(model, (images, labels, float_model, digest), on, as_json, quiet)
    if config is None or images or labels or float_model or digest:
        raise typer.BadParameter("two models take --config, a bundle takes --images")
    settings = configuration(config, overrides, dataset_location, label_path)
    if on.names or run or settings.evaluation.cpus:
        _verify_on((model, int8_model), settings, on, as_json, quiet)
    from quantize import measure
    from quantize.report.verdict import verdict_lines, verdict_to_json

    with progress(quiet or as_json) as on_progress:
        seen = measure.verify(model, int8_model, settings, fresh=fresh, on_progress=on_progress)
    say(verdict_to_json(seen), verdict_lines(seen), as_json)
    raise typer.Exit(seen.exit_code)


@dataclass(frozen=True)
class _Elsewhere:
    """Processors to emulate, seconds for them or None, and a run to tell of it or None."""

    names: list[str]
    seconds: int | None
    run: Path | None


def _asked_elsewhere(cpus: list[str], budget: str | None, run: Path | None) -> _Elsewhere:
    names = [name.strip() for given in cpus for name in given.split(",") if name.strip()]
    if budget and not names:
        raise typer.BadParameter("it is for the emulated CPUs of --cpu", param_hint="--budget")
    return _Elsewhere(names, seconds(budget) if budget else None, run)


def _verify_on(
    models: tuple[Path, Path], settings: Config, on: _Elsewhere, as_json: bool, quiet: bool
) -> NoReturn:
    from quantize import portability
    from quantize.report.adding import add_to, check_addable

    names = on.names or settings.evaluation.cpus
    limit = on.seconds or settings.evaluation.cpus_timeout
    if on.run:
        check_addable(on.run, *models, settings, names)
    with progress(quiet or as_json) as on_progress:
        seen = portability.verify_on(
            *models, settings, names, budget=limit, on_progress=on_progress
        )
    if on.run:
        add_to(on.run, models[1], seen)
    show(seen, as_json)
    raise typer.Exit(seen.exit_code)


def _verify_bundle(
    bundle: Path,
    given: tuple[Path, Path | None, Path | None, str | None],
    on: _Elsewhere,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    from quantize.bundle.proving import verify_bundle
    from quantize.portability import BUDGET_S

    images, labels, float_model, digest = given
    with progress(quiet or as_json) as on_progress:
        proof = verify_bundle(
            bundle,
            images,
            labels=labels,
            float_model=float_model,
            digest=digest,
            cpus=on.names,
            budget=on.seconds or BUDGET_S,
            on_progress=on_progress,
        )
    show(proof, as_json)
    raise typer.Exit(proof.exit_code)


def evaluate(
    model: AnyModel,
    config: ConfigFile,
    overrides: Overrides = None,
    dataset_location: Location = None,
    label_path: Labels = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Top-1 and top-5 of one model on all evaluation images."""
    from quantize import measure
    from quantize.errors import DataError

    settings = configuration(config, overrides, dataset_location, label_path)
    with progress(quiet or as_json) as on_progress:
        seen = measure.evaluate(model, settings, on_progress=on_progress)
    if not seen.labelled:
        raise DataError("the evaluation images have no labels", "give labels, or use verify")
    top1, top5 = seen.accuracy(1), seen.accuracy(5)
    content = {"model": model.name, "images": seen.images, "top1": top1, "top5": top5}
    lines = [
        f"images {seen.images}",
        f"top-1  {100 * top1:.2f} %",
        f"top-5  {100 * top5:.2f} %",
    ]
    say(content, lines, as_json)


def benchmark(
    float_model: Annotated[Path, typer.Argument(help="The ONNX file.")],
    int8_model: Annotated[Path | None, typer.Argument(help="The int8 file to compare.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file with evaluation.performance.")
    ] = None,
    overrides: Overrides = None,
    dataset_location: Location = None,
    label_path: Labels = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Batch-1 latency: of one file, or of float and int8 interleaved with their ratio."""
    from quantize import measure
    from quantize.report.verdict import latency_lines, latency_to_json

    settings = None
    if config is not None:
        settings = configuration(config, overrides, dataset_location, label_path)
    with progress(quiet or as_json) as on_progress:
        if int8_model is None:
            alone = measure.benchmark_one(float_model, settings)
            show(alone, as_json)
            return
        seen: Latency = measure.benchmark(
            float_model, int8_model, settings, on_progress=on_progress
        )
    say(latency_to_json(seen), latency_lines(seen), as_json)


def predict(
    model: AnyModel,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    config: ConfigFile,
    names: Names = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The five best classes of each image, with probabilities."""
    from quantize import classify

    known = classify.read_names(names) if names else None
    answers = classify.predict(model, images, configuration(config, overrides), known)
    content = {
        "model": model.name,
        "images": [
            {"image": str(path), "classes": [asdict(guess) for guess in answer]}
            for path, answer in zip(images, answers, strict=True)
        ],
    }
    lines = []
    for path, answer in zip(images, answers, strict=True):
        lines.append(str(path))
        lines += [f"  {100 * g.probability:6.2f} %  {g.name}" for g in answer]
    say(content, lines, as_json)
