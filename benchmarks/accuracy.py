"""Part 3: what each file answers on the same holdout, beside the speed that goes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Ready
from benchmarks.latency import Servers
from benchmarks.peers import Made
from benchmarks.servers import ServerError
from benchmarks.standing import Span, decibels, decibels_difference, share_difference

BATCH = 16


def measure(
    case: Ready, files: Sequence[Made], servers: Servers, threads: int
) -> list[dict[str, Any]]:
    """A row for each file but the float one and the copy of ours.

    Args:
        case: the holdout.
        files: of the peers, the float one among them.
        servers: one for each runtime.
        threads: of the runtimes.
    """
    scores: dict[str, NDArray[np.float32]] = {}
    failed: dict[str, str] = {}
    for made in files:
        key = made.peer.key
        if key == "ours-again":
            continue
        try:
            scores[key] = _scores(case, made, servers, threads)
        except ServerError as error:
            failed[key] = str(error)
    labels = np.load(case.labels, allow_pickle=False)
    rows = []
    for made in files:
        key = made.peer.key
        if key in ("float", "ours-again"):
            continue
        row: dict[str, Any] = {
            "id": f"accuracy/{case.case.key}/{key}",
            "case": case.case.key,
            "peer": key,
            "rival": made.peer.rival,
        }
        if "float" in failed or key in failed:
            rows.append(row | {"failed": failed.get(key, f"float32 {failed.get('float')}")})
        else:
            rows.append(row | figures(scores, key, labels, trained=case.case.trained))
    return rows


def figures(
    scores: Mapping[str, NDArray[np.float32]],
    key: str,
    labels: NDArray[np.int64],
    *,
    trained: bool,
) -> dict[str, Any]:
    """What one file's scores say.

    Args:
        scores: float32 [N,K] of every file that ran, by peer; `float` and maybe `ours` among them.
        key: whose figures.
        labels: int64 [N].
        trained: whether the labels mean anything to the model.
    """
    exact = scores["float"].argmax(axis=1)
    answers = {name: found.argmax(axis=1) for name, found in scores.items()}
    noise = {name: _noise(scores["float"], found) for name, found in scores.items()}
    signal = np.square(scores["float"].astype(np.float64)).sum(axis=1)
    found: dict[str, Any] = {
        "images": len(labels),
        "agreement": float((answers[key] == exact).mean()),
        "sqnr_db": _finite(decibels(signal, noise[key])),
    }
    if trained:
        drop = share_difference(exact == labels, answers[key] == labels)
        found |= {"float_top1": float((exact == labels).mean()), "drop": drop.to_json()}
    if key != "ours" and "ours" in scores:
        against = {"agreement": share_difference(answers["ours"] == exact, answers[key] == exact)}
        if noise["ours"].all() and noise[key].all():
            against["sqnr_db"] = decibels_difference(noise["ours"], noise[key])
        if trained:
            right = answers["ours"] == labels, answers[key] == labels
            against["top1"] = share_difference(*right)
        found["against"] = {name: _told(span) for name, span in against.items()}
    return found


def _told(span: Span) -> dict[str, Any]:
    return {**span.to_json(), "standing": span.standing(0.0)}


def _noise(exact: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    noise: NDArray[np.float64] = np.square(exact.astype(np.float64) - found).sum(axis=1)
    return noise


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _scores(case: Ready, made: Made, servers: Servers, threads: int) -> NDArray[np.float32]:
    """The file's scores of the holdout, float32 [M,K].

    Raises:
        ServerError: there is no file, or its runtime failed.
    """
    if made.path is None:
        raise ServerError(made.note)
    server = servers.get(made.peer.runtime)
    if server is None:
        raise ServerError(f"failed: {made.peer.runtime} is not installed")
    target = Path(case.folder, f"scores-{made.peer.key}.npy").resolve()
    try:
        server.ask(
            "load",
            key=made.peer.key,
            path=str(made.path.resolve()),
            threads=threads,
            images=str(case.calibration.resolve()),
            batch=BATCH,
        )
        images = str(case.holdout.resolve())
        server.ask("predict", key=made.peer.key, images=images, scores=str(target))
        server.ask("drop")
    except ServerError as error:
        raise ServerError(f"failed: {error}") from error
    found: NDArray[np.float32] = np.load(target, allow_pickle=False)
    target.unlink()
    if not np.isfinite(found).all():
        raise ServerError("failed: it gives NaN or infinity")
    return found
