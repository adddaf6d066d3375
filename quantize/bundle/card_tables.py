"""The card's tables."""

from __future__ import annotations

from quantize.bundle.facts import Facts
from quantize.bundle.names import code


def accuracy_table(facts: Facts) -> str:
    """Float and int8 side by side."""
    report = facts.report
    seen, near = report["accuracy"], report["fidelity"]
    rows = []
    if seen is not None:
        for name, key in (("top-1", "top1"), ("top-5", "top5")):
            rows.append(
                f"| {name} | {100 * seen['float'][key]:.2f} % | {100 * seen['int8'][key]:.2f} % |"
            )
    low, high = near["agreement_interval"]
    sqnr = "no difference" if near["sqnr_db"] is None else f"{near['sqnr_db']:.1f} dB"
    rows.append(
        f"| equal answers | | {100 * near['agreement']:.2f} % ({100 * low:.2f} to"
        f" {100 * high:.2f}, 95 %) |"
    )
    rows.append(f"| output SQNR | | {sqnr} |")
    return _table("| | float | int8 |", rows)


def speed_table(facts: Facts) -> str:
    """Latency and size of both."""
    report = facts.report
    seen = report["measured"]["latency"]
    rows = [
        f"| latency, median | {seen['float_ms']:.2f} ms | {seen['int8_ms']:.2f} ms |",
        f"| size | {report['float_model']['bytes'] / 2**20:.2f} MiB |"
        f" {facts.model['verified']['bytes'] / 2**20:.2f} MiB |",
    ]
    return _table("| | float | int8 |", rows)


def files_table(facts: Facts) -> str:
    """What each file is for."""
    rows = [(facts.model["file"], "the int8 model")]
    if facts.with_preprocessing:
        rows.append((facts.with_preprocessing, "the same with the preprocessing in front"))
    if facts.float_file:
        rows.append((facts.float_file, "the float model"))
    rows += [
        ("report.html", "how it was made and how sure its figures are, to look at"),
        ("preprocess.json", "preprocessing and scores, for machines"),
        ("test_data_set_*", "inputs with the outputs of the int8 model"),
        (f"{facts.name}.tar.gz", "model and test data as the ONNX model zoo packs them"),
        ("ONNX_HUB_MANIFEST.json", "an entry for `onnx.hub`"),
        ("manifest.json", "everything above, for machines"),
        ("SHA256SUMS", "sha256 of every file"),
    ]
    return "\n".join(
        ["| file | what it is |", "| --- | --- |", *(f"| {code(n)} | {w} |" for n, w in rows)]
    )


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "| --- | --- | --- |", *rows])
