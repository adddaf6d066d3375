"""The command line: the only file that prints or exits.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from quantize import __version__
from quantize.console import PlainFormatter, ProgressPrinter, printable
from quantize.errors import Interrupted, QuantizeError
from quantize.report.values import finite

if TYPE_CHECKING:
    from quantize.config import Config
    from quantize.pipeline import Result
    from quantize.plan import Latency

_STOPS = (signal.SIGINT, signal.SIGTERM)

app = typer.Typer(
    name="quantize",
    help="Turn a trained float ONNX image classifier into a verified, fast int8 one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    for request in _STOPS:
        signal.signal(request, _stop)
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        app()
    except QuantizeError as error:
        _complain(f"quantize: error: {error}")
        sys.exit(error.exit_code)
    except Interrupted as stop:
        _complain(f"quantize: {stop}; the same command continues")
        sys.exit(stop.exit_code)
    sys.exit(0)


def _stop(request: int, _frame: object) -> None:
    for every in _STOPS:  # once is enough: the way out must not be cut short
        signal.signal(every, signal.SIG_IGN)
    raise Interrupted(128 + request)


def _complain(line: str) -> None:
    with suppress(OSError):  # nobody may be listening any more
        print(printable(line), file=sys.stderr, flush=True)


def _version(asked: bool) -> None:
    if asked:
        print(f"quantize {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
) -> None:
    if verbose:
        logging.getLogger().setLevel(logging.INFO)


@app.command()
def tune(
    model: Annotated[Path, typer.Argument(help="The float ONNX file.")],
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
    from quantize import pipeline, price

    settings = _config(config, overrides, budget)
    settings = settings.with_flags(dataset_location, label_path, quant_format)
    with _progress(quiet or as_json) as on_progress:
        if dry_run:
            found = price.dry_run(model, settings, output, on_progress=on_progress)
            _say(found.to_json(), ["every input is fine", *found.lines()], as_json)
            return
        told = on_progress.tell if on_progress else None
        result = pipeline.tune(
            model,
            settings,
            output,
            fresh=fresh,
            bundle=bundle,
            on_progress=on_progress,
            on_price=lambda found: told(found.lines()) if told else None,
        )
    _say(*_of_result(result), as_json)
    raise typer.Exit(result.verdict.exit_code)


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


@app.command()
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
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two files on the holdout images, or prove a release bundle on your own images.

    Exit codes as for tune; 2 for a bundle that was changed.
    """
    if int8_model is None:
        if images is None or config or overrides or dataset_location or label_path:
            raise typer.BadParameter("two models take --config, a bundle takes --images")
        _verify_bundle(model, (images, labels, float_model, digest), as_json, quiet)
    if config is None or images or labels or float_model or digest:
        raise typer.BadParameter("two models take --config, a bundle takes --images")
    from quantize import measure
    from quantize.report.verdict import verdict_lines, verdict_to_json

    settings = _config(config, overrides).with_flags(dataset_location, label_path, None)
    with _progress(quiet or as_json) as on_progress:
        seen = measure.verify(model, int8_model, settings, on_progress=on_progress)
    _say(verdict_to_json(seen), verdict_lines(seen), as_json)
    raise typer.Exit(seen.exit_code)


def _verify_bundle(
    bundle: Path,
    given: tuple[Path, Path | None, Path | None, str | None],
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    from quantize.bundle.proving import verify_bundle

    images, labels, float_model, digest = given
    with _progress(quiet or as_json) as on_progress:
        proof = verify_bundle(
            bundle,
            images,
            labels=labels,
            float_model=float_model,
            digest=digest,
            on_progress=on_progress,
        )
    _say(proof.to_json(), proof.lines(), as_json)
    raise typer.Exit(proof.exit_code)


@app.command()
def release(
    run: Annotated[Path, typer.Argument(help="A run folder, such as int8.onnx.run.")],
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
    _say(made.to_json(), made.lines(), as_json)


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="A release folder or one of its archives.")],
    as_json: AsJson = False,
) -> None:
    """Run the test data of a release bundle; exit 3 if the outputs differ."""
    from quantize.bundle.checking import check_bundle

    seen = check_bundle(bundle)
    _say(seen.to_json(), seen.lines(), as_json)
    raise typer.Exit(seen.exit_code)


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="The float ONNX file.")],
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
    settings = _config(config, overrides) if config else None
    with _progress(quiet) as on_progress:
        made = rebuild.apply(
            model, wanted, output, encodings=given, config=settings, on_progress=on_progress
        )
    _say({"output": str(made)}, [f"files      {made}"], as_json=False)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A float or int8 ONNX file.")],
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

    settings = _config(config, overrides).with_flags(dataset_location, label_path, None)
    with _progress(quiet or as_json) as on_progress:
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
    _say(content, lines, as_json)


@app.command()
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
        settings = _config(config, overrides).with_flags(dataset_location, label_path, None)
    with _progress(quiet or as_json) as on_progress:
        if int8_model is None:
            alone = measure.benchmark_one(float_model, settings)
            _say(alone.to_json(), alone.lines(), as_json)
            return
        seen: Latency = measure.benchmark(
            float_model, int8_model, settings, on_progress=on_progress
        )
    _say(latency_to_json(seen), latency_lines(seen), as_json)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A float or int8 ONNX file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    config: ConfigFile,
    names: Annotated[
        Path | None, typer.Option("--names", help="Class names, one a line (synset.txt).")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The five best classes of each image, with probabilities."""
    from quantize import classify

    known = classify.read_names(names) if names else None
    answers = classify.predict(model, images, _config(config, overrides), known)
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
    _say(content, lines, as_json)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")], as_json: AsJson = False
) -> None:
    """What a model file is: inputs, opset, operators, and how much of it is int8."""
    from quantize import inspection

    seen = inspection.inspect(model)
    _say(seen.to_json(), seen.lines(), as_json)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A run folder, such as int8.onnx.run.")],
    other: Annotated[Path | None, typer.Argument(help="Another one, to compare with.")] = None,
    names: Annotated[
        Path | None, typer.Option("--names", help="Class names, one a line (synset.txt).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a run found: rungs, worst layers, changed images; or two runs side by side."""
    from quantize import explanation

    found = explanation.explain(run, other)
    known = None
    if names is not None:
        from quantize.classify import read_names

        known = read_names(names)
    _say(found.to_json(), found.lines(known), as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, such as int8.onnx.run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: report.html in it.", metavar="FILE"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Show changed images from this folder.", metavar="DIR"),
    ] = None,
    names: Annotated[
        Path | None, typer.Option("--names", help="Class names, one a line (synset.txt).")
    ] = None,
) -> None:
    """Write the page of a finished run again: with class names, with small pictures."""
    from quantize.classify import read_names
    from quantize.report import rendering

    known = read_names(names) if names else None
    made = rendering.render(run, output, names=known, images=images)
    _say({"output": str(made)}, [f"files      {made}"], as_json=False)


@app.command()
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


def _config(path: Path, overrides: list[str] | None, budget: str | None = None) -> Config:
    from quantize.config import load_config

    extra = [] if budget is None else [f"tuning.exit_policy.timeout={_seconds(budget)}"]
    return load_config(path, [*(overrides or []), *extra])


def _seconds(budget: str) -> int:
    """`90`, `90s`, `20m`, `2h` as whole seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (budget[:-1], budget[-1]) if budget[-1:] in units else (budget, "s")
    try:
        seconds = int(float(number) * units[unit])
    except (ValueError, OverflowError):
        seconds = 0
    if seconds < 1:
        raise typer.BadParameter(
            f"{budget!r} is no time; write 90s, 20m or 2h", param_hint="--budget"
        )
    return seconds


@contextmanager
def _progress(quiet: bool) -> Iterator[ProgressPrinter | None]:
    if quiet:
        yield None
        return
    with ProgressPrinter() as printer:
        yield printer


def _say(content: Any, lines: list[str], as_json: bool) -> None:
    """Print for machines or for people."""
    try:
        if as_json:
            print(json.dumps(finite(content), indent=2, allow_nan=False))
        else:
            print("\n".join(map(printable, lines)))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head -1` has what it wants; the exit code is still ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
