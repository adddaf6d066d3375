"""The command line: the only package that prints or exits, a file for each family of commands.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Annotated, NoReturn

import typer

from quantize import __version__
from quantize.cli import (
    converting,
    getting,
    looking,
    measuring,
    recording,
    releasing,
    trying,
    tuning,
)
from quantize.cli.printing import complain, open_streams, say, standard_output
from quantize.console import PlainFormatter
from quantize.errors import Interrupted, QuantizeError

_COMMANDS = (  # in the order of --help
    tuning.tune,
    measuring.verify,
    releasing.release,
    releasing.check,
    recording.track,
    tuning.apply,
    converting.convert,
    measuring.evaluate,
    measuring.benchmark,
    measuring.predict,
    looking.inspect,
    looking.explain,
    looking.report,
    getting.fetch,
    getting.prepare_imagenet,
    trying.demo,
)
_CONTINUED = frozenset({"tune", "fetch", "prepare-imagenet"})
"""Commands that go on where they were interrupted; the others start over."""

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
for command in _COMMANDS:
    app.command()(command)


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    open_streams()
    try:
        code = _run()
    except Interrupted as stop:
        complain(f"quantize: {stop}{'; the same command continues' if _continued() else ''}")
        code = stop.exit_code
    sys.exit(code)


def _run() -> int | str | None:
    """Run the command; what it exits with is settled then, whoever still asks to stop."""
    for request in _STOPS:
        signal.signal(request, _stop)
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        with standard_output():
            app()
    except SystemExit as done:
        return done.code
    except QuantizeError as error:
        complain(f"quantize: error: {error}")
        return error.exit_code
    finally:
        _ignore_stops()
    return 0


def _continued() -> bool:
    """Whether the command goes on when it is called again; the first word is its name."""
    words = sys.argv[1:]
    name = next((word for word in words if not word.startswith("-")), "")
    return name in _CONTINUED and "--dry-run" not in words


def _stop(request: int, _frame: object) -> None:
    _ignore_stops()  # once is enough: the way out must not be cut short
    raise Interrupted(128 + request)


def _ignore_stops() -> None:
    """For good: the interpreter, as it ends, gives up every handler but this one."""
    for request in _STOPS:
        signal.signal(request, signal.SIG_IGN)


def _version(asked: bool) -> None:
    if asked:
        say({}, [f"quantize {__version__}"], as_json=False)
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
