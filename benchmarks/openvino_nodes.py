"""Why is one int8 file faster in OpenVINO than another? What it makes of both, node by node.

    build/bench-envs/nncf/bin/python benchmarks/openvino_nodes.py ours.onnx theirs.xml --batch 8

It runs in NNCF's environment, because it needs openvino and numpy and nothing of this project.
First come whole runs of both files in turn, without counters; then, for each type of node and
precision that OpenVINO chose, how many there are in each file and how long they take together, the
largest difference first; last, every convolution and fully connected layer that is not in int8.
The images are noise, which takes as long as any other.
"""

import argparse
import math
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

WARM = 3
NOTHING = 0.5
"""Microseconds: what took less was done when the file was loaded."""
LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


@dataclass(frozen=True)
class Node:
    """A node as it is run.

    Attributes:
        name: OpenVINO's; that of the file's own node where it stands for one.
        type: such as Convolution.
        precision: what it computes in, such as u8 or bf16.
        microseconds: of one run, the median.
    """

    name: str
    type: str
    precision: str
    microseconds: float


class Compiled:
    """A file in OpenVINO's CPU plugin, with the settings that the benchmarks time it with.

    Args:
        path: .onnx or .xml.
        batch: images of one run.
        threads: of the runtime.
        counting: whether each node is timed, which slows the whole.
    """

    def __init__(self, path, batch, threads, counting):
        import numpy as np
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        shape = [batch, *(size.get_length() for size in list(model.input(0).partial_shape)[1:])]
        model.reshape(shape)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_HYPER_THREADING": True,
            "PERF_COUNT": counting,
        }
        self.model = core.compile_model(model, "CPU", settings)
        self.request = self.model.create_infer_request()
        self.images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def run(self):
        """Seconds of one run."""
        start = time.perf_counter()
        self.request.infer({0: self.images}, share_inputs=True)
        return time.perf_counter() - start

    def counted(self):
        """Microseconds of each node in one run, by its name."""
        self.run()
        return {
            node.node_name: node.real_time.total_seconds() * 1e6
            for node in self.request.profiling_info
        }

    def nodes(self, runs):
        """What is run, constants left out.

        Args:
            runs: what `counted` gave, run by run.
        """
        found = []
        for operation in self.model.get_runtime_model().get_ordered_ops():
            told, name = operation.get_rt_info(), operation.get_friendly_name()
            kind, precision = (str(told[key].value) for key in ("layerType", "runtimePrecision"))
            if kind != "Const":
                spent = statistics.median(run.get(name, 0.0) for run in runs)
                found.append(Node(name, kind, precision, spent))
        return found


def ratio(ours, theirs):
    """Median of theirs / ours, round by round, with the 95 % interval of that median.

    Args:
        ours: seconds of each round.
        theirs: of the same rounds.
    """
    rounds = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    away = math.ceil(0.98 * math.sqrt(len(rounds)))
    middle = len(rounds) // 2
    low, high = max(0, middle - away), min(len(rounds) - 1, middle + away)
    return statistics.median(rounds), rounds[low], rounds[high]


def differences(first, second):
    """(type, precision, count and microseconds of each), the largest difference in time first.

    Args:
        first: nodes of one file.
        second: of the other.
    """
    sums = defaultdict(lambda: [0, 0.0, 0, 0.0])
    for at, nodes in ((0, first), (2, second)):
        for node in nodes:
            one = sums[node.type, node.precision]
            one[at] += 1
            one[at + 1] += node.microseconds
    rows = [(*key, *figures) for key, figures in sums.items()]
    return sorted(rows, key=lambda row: (-abs(row[3] - row[5]), row[:2]))


def not_int8(nodes):
    """The layers that are not computed in int8.

    Args:
        nodes: of a file.
    """
    return [node for node in nodes if node.type in LAYERS and node.precision not in ("u8", "i8")]


def page(names, nodes, times):
    """The comparison as Markdown.

    Args:
        names: of both files.
        nodes: of both.
        times: seconds of whole runs of both, round by round.
    """
    (ours, theirs), middle, (value, low, high) = names, map(statistics.median, times), ratio(*times)
    first, second = (f"{1e3 * seconds:.3g} ms" for seconds in middle)
    lines = [
        f"`{ours}` {first}, `{theirs}` {second}: the first is {value:.3f} ({low:.3f} to"
        f" {high:.3f}) times as fast.",
        "",
        f"| node | precision | `{ours}`: nodes | µs | `{theirs}`: nodes | µs | difference, µs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, precision, count, spent, count2, spent2 in differences(*nodes):
        if max(spent, spent2) < NOTHING:
            continue
        difference = f"{spent - spent2:+.0f}"
        lines.append(
            f"| {kind} | {precision} | {count} | {spent:.0f} | {count2} | {spent2:.0f} |"
            f" {difference} |"
        )
    for name, found in zip(names, map(not_int8, nodes), strict=True):
        told = [f"{node.name} ({node.precision}, {node.microseconds:.0f} µs)" for node in found]
        lines += ["", f"`{name}`, layers that are not in int8: {', '.join(told) or 'none'}."]
    return "\n".join(lines)


def compare(paths, batch, threads, rounds):
    """Run both files and tell.

    Args:
        paths: of both.
        batch: images of one run.
        threads: of the runtime.
        rounds: whole runs of each.
    """
    times = _in_turn([Compiled(path, batch, threads, False).run for path in paths], rounds)
    counting = [Compiled(path, batch, threads, True) for path in paths]
    counts = _in_turn([file.counted for file in counting], rounds)
    nodes = [file.nodes(runs) for file, runs in zip(counting, counts, strict=True)]
    return page([_short(path) for path in paths], nodes, times)


def _in_turn(calls, rounds):
    """What each call gave, round by round."""
    given = [[] for _ in calls]
    for turn in range(WARM + rounds):
        for call, kept in zip(calls, given, strict=True):
            call()  # the other's turn emptied the caches
            last = call()
            if turn >= WARM:
                kept.append(last)
    return given


def _short(path):
    """A file with its folder, since the peers' files have one name."""
    return "/".join(path.parts[-2:])


def main(arguments=None):
    """Print the comparison; what cannot be read is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs=2, type=Path, help=".onnx or .xml")
    parser.add_argument("--batch", type=_positive, default=1)
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--rounds", type=_positive, default=50)
    asked = parser.parse_args(arguments)
    try:
        for path in asked.files:
            path.open("rb").close()
        print(compare(asked.files, asked.batch, asked.threads, asked.rounds))
    except (ImportError, OSError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        print(f"openvino_nodes: {told}", file=sys.stderr)
        return 2
    return 0


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
