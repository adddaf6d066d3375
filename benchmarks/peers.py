"""Who is compared: how each int8 file is made, in which environment, and what runs it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.cases import ROOT, Ready
from benchmarks.environments import (
    INC,
    NNCF,
    ONNX_NEURAL_COMPRESSOR,
    ONNXRUNTIME,
    PROJECT,
    Environment,
    InstallError,
    interpreter,
    reason,
)
from benchmarks.process_tree import Ended, run

CHILDREN = Path(__file__).parent / "children"
MAKE_SECONDS = 1800

RuntimeName = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Peer:
    """One way to an int8 file and the runtime that it is for.

    Attributes:
        key: of its files and rows.
        name: as tables call it.
        environment: where its file is made.
        maker: script below `children/`; empty for ours and for the float file.
        format: what the maker is asked for.
        suffix: of its file.
        runtime: what runs the file.
        rival: whether we are held against it.
        in_project: whether this project's own environment can make it, which spares an install.
    """

    key: str
    name: str
    environment: Environment = PROJECT
    maker: str = ""
    format: str = ""
    suffix: str = ".onnx"
    runtime: RuntimeName = "onnxruntime"
    rival: bool = True
    in_project: bool = False


OURS = Peer("ours", "quantize", rival=False, in_project=True)
AGAIN = Peer("ours-again", "quantize, loaded twice", rival=False, in_project=True)
"""The same file once more: how far its ratio is from 1 is what the method cannot see."""
FLOAT = Peer("float", "float32", rival=False, in_project=True)

PEERS = (
    OURS,
    AGAIN,
    FLOAT,
    Peer(
        *("onnxruntime", "onnxruntime `quantize_static`", ONNXRUNTIME, "by_onnxruntime"),
        in_project=True,
    ),
    Peer("inc-qdq", "INC 2.6, QDQ", INC, "by_inc", "QDQ", in_project=True),
    Peer("inc-qoperator", "INC 2.6, QOperator", INC, "by_inc", "QOperator", in_project=True),
    Peer("nncf-onnx", "NNCF 3.4, in onnxruntime", NNCF, "by_nncf", "onnx"),
    Peer(
        *("nncf-openvino", "NNCF 3.4, in OpenVINO", NNCF, "by_nncf", "openvino", ".xml"),
        runtime="openvino",
    ),
    Peer(
        *("onnx-neural-compressor", "onnx-neural-compressor 1.0", ONNX_NEURAL_COMPRESSOR),
        "by_onnx_neural_compressor",
    ),
    Peer("ours-openvino", "quantize, in OpenVINO", NNCF, runtime="openvino", rival=False),
)


@dataclass(frozen=True)
class Made:
    """A peer's file.

    Attributes:
        peer: whose.
        path: the file, or None where there is none.
        note: how it failed, or what is to be known about the file.
        seconds: it took; None where nothing was made for it.
    """

    peer: Peer
    path: Path | None
    note: str = ""
    seconds: float | None = None


def choose(asked: str, quick: bool) -> tuple[Peer, ...]:
    """The peers of a run.

    Args:
        asked: keys with commas between them, or `all`; ours and float are always there.
        quick: without `asked`, only those that need no further install.

    Raises:
        ValueError: a key is unknown.
    """
    if not asked:
        return tuple(peer for peer in PEERS if peer.in_project or not quick)
    keys = set(asked.split(",")) - {"all"}
    if unknown := keys - {peer.key for peer in PEERS}:
        known = ", ".join(peer.key for peer in PEERS if peer.rival)
        raise ValueError(f"--peers: {min(unknown)!r} is none of: {known}, all")
    everybody = "all" in asked.split(",")
    always = (OURS, AGAIN, FLOAT)
    return tuple(peer for peer in PEERS if everybody or peer.key in keys or peer in always)


def environment_of(peer: Peer, quick: bool) -> Environment:
    """Where a peer's file is made: in the project's own environment where the short form may."""
    return PROJECT if quick and peer.in_project else peer.environment


def make(peer: Peer, case: Ready, environments: Path, quick: bool) -> Made:
    """A peer's int8 file for a case; ours is made by `make_ours`.

    Args:
        peer: whose, with a maker.
        case: the float file and the calibration images.
        environments: folder of all environments.
        quick: see `environment_of`.
    """
    folder = case.folder / peer.key
    # Empty: a maker may stumble over what it left itself, such as weights beside the file.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    output = folder / f"int8{peer.suffix}"
    job = {
        "model": str(case.upgraded.resolve()),
        "calibration": str(case.calibration.resolve()),
        "input": case.input,
        "output": str(output.resolve()),
        "folder": str(folder.resolve()),
        "format": peer.format,
    }
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    try:
        python = interpreter(environment_of(peer, quick), environments)
    except InstallError as error:
        return Made(peer, None, str(error))
    script = CHILDREN / f"{peer.maker}.py"
    ended = run([str(python), str(script), str(file.resolve())], folder, MAKE_SECONDS)
    (folder / "log.txt").write_text(ended.out + ended.err)
    if ended.code == 0 and output.is_file():
        return Made(peer, output, "", ended.seconds)
    return _failed(peer, ended)


def make_ours(case: Ready) -> Made:
    """Our int8 file, by the command that a user calls."""
    output = case.folder / "ours.onnx"
    command = [sys.executable, "-m", "quantize", "tune", str(case.model)]
    ended = run(
        [*command, "--config", str(case.config), "-o", str(output), "--quiet", "--fresh"],
        ROOT,
        MAKE_SECONDS,
    )
    if ended.code == 0:
        return Made(OURS, output, "", ended.seconds)
    best = output.with_name(f"{output.name}.run") / "best.onnx"
    if ended.code in (3, 4) and best.is_file():
        note = f"exit {ended.code}: the best candidate, not released"
        return Made(OURS, best, note, ended.seconds)
    return _failed(OURS, ended)


def _failed(peer: Peer, ended: Ended) -> Made:
    late = f"not within {MAKE_SECONDS} s"
    why = late if ended.code is None else reason(ended.out + ended.err)
    return Made(peer, None, f"failed: {why}", ended.seconds)
