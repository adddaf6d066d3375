"""The benchmark suite: `make bench`, `make bench-quick`.

    python -m benchmarks [--quick] [--peers KEYS] [--only TEXT] [--write-readme]
    python -m benchmarks --from docs/benchmarks.json --write-readme     # the pages again, no run

It ends by itself, prints the tables, and leaves results.json and results.md in the output folder.
Whatever a peer cannot do is a row that says so; only a failure of our own makes it exit with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import causes, page
from benchmarks.cases import ROOT
from benchmarks.suite import PARTS, Plan, Suite, our_failures
from benchmarks.tables import MarkerError
from quantize.files import write_atomic


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="minutes: does all of it run?")
    parser.add_argument("--peers", default="", help="keys with commas, or all")
    parser.add_argument("--only", default="", help="cases whose key contains this")
    parser.add_argument("--parts", default=",".join(PARTS), help="of: %(default)s")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    parser.add_argument("--environments", type=Path, default=Path("build/bench-envs"))
    parser.add_argument("--from", dest="source", type=Path, help="results to print, nothing is run")
    parser.add_argument(
        "--write-readme", action="store_true", help="docs/benchmarks.* and the part in README.md"
    )
    return parser.parse_args()


def _results(asked: argparse.Namespace) -> dict[str, Any]:
    if asked.source:
        content = json.loads(asked.source.read_text())
        if not isinstance(content, dict) or not content.keys() >= {"machine", "latency"}:
            raise ValueError(f"{asked.source.name} holds no results of this suite")
        return content
    plan = Plan(
        quick=asked.quick,
        peers=asked.peers,
        only=asked.only,
        parts=tuple(asked.parts.split(",")),
        shared=asked.shared.resolve(),
        output=asked.output.resolve(),
        environments=asked.environments.resolve(),
        said=" ".join(sys.argv[1:]),
    )
    return Suite(plan).run(lambda line: print(line, file=sys.stderr, flush=True))


def main() -> int:
    """Measure or read, print, write."""
    asked = _arguments()
    try:
        results, known = _results(asked), causes.load()
        whole = page.whole(results, known)
        print(whole)
        if asked.write_readme:
            page.publish(results, known, ROOT)
    except (OSError, ValueError, MarkerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    if not asked.source:
        write_atomic(asked.output / "results.md", f"{whole}\n".encode())
    ours = our_failures(results)
    for line in ours:
        print(f"benchmarks: {line}", file=sys.stderr)
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
