"""The verb `release`: a finished run becomes a folder and two archives that prove themselves.

    run -> model -> test data -> preprocess.json -> archive -> card -> manifest -> SHA256SUMS

Everything is made in a temporary folder beside the output, then renamed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.bundle import facts as told
from quantize.bundle.archive import pack
from quantize.bundle.card import card
from quantize.bundle.contract import PREPROCESS, expanded
from quantize.bundle.facts import Facts, hub_entry, manifest
from quantize.bundle.front import with_preprocessing as put_in_front
from quantize.bundle.model import (
    parse,
    refuse_external,
    refuse_places,
    stamped,
    unstamped_sha256,
)
from quantize.bundle.names import dataset_id, license_id, release_name
from quantize.bundle.placing import MANIFEST, archive_of, check_archive, check_target, swap
from quantize.bundle.samples import Samples, named, synthetic
from quantize.bundle.source import Source, open_run
from quantize.bundle.sums import listed, write_sums
from quantize.bundle.tensor import write_sets
from quantize.checked_json import to_json
from quantize.errors import OutputError
from quantize.files import TEMPORARY, cannot_write, sha256
from quantize.graph import io
from quantize.plan_json import plan_of
from quantize.runtime import Session, cpu

HUB_MANIFEST = "ONNX_HUB_MANIFEST.json"
CARD = "README.md"


@dataclass(frozen=True)
class Released:
    """What a release wrote.

    Attributes:
        folder: the bundle.
        archive: `<name>-bundle.tar.gz` beside it, with all of it.
        name: of the release.
        digest: sha256 of SHA256SUMS, to be published apart from the bundle.
        outcome: of the run: met, unmet or undecided.
    """

    folder: Path
    archive: Path
    name: str
    digest: str
    outcome: str

    def to_json(self) -> dict[str, str]:
        """All of it as JSON values."""
        return {
            "bundle": str(self.folder),
            "archive": str(self.archive),
            "name": self.name,
            "digest": self.digest,
            "outcome": self.outcome,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        return [
            f"bundle     {self.folder}",
            f"archive    {self.archive}",
            f"digest     {self.digest}",
            "           publish this sha256 of SHA256SUMS apart from the files",
        ]


def release(  # noqa: PLR0913 - each is one option of the command
    run: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    samples: Sequence[str | Path] = (),
    license: str | None = None,
    dataset: str | None = None,
    include_float: bool = False,
    with_preprocessing: bool = False,
    allow_unmet: bool = False,
    force: bool = False,
) -> Released:
    """Pack a finished run so that anybody can prove it again.

    Args:
        run: the run folder.
        model: the float model that was tuned.
        output: the folder to make; the archive of all of it comes to lie beside it.
        name: of the release; None: the float file's with `-int8`.
        samples: images for the test data; none: synthetic ones.
        license: SPDX identifier of the model's licence.
        dataset: name of the data set that accuracy was measured on.
        include_float: whether the float model goes along.
        with_preprocessing: whether to make a second file that takes images as decoded.
        allow_unmet: release a run that did not meet its goal.
        force: replace an older release at `output`, whole or not at all.

    Raises:
        UnmetError: the goal was not met.
        QuantizeError: run, model, samples or output cannot be used; nothing is written then.
    """
    output = Path(output)
    check_target(output, force=force)
    source = open_run(Path(run), Path(model), allow_unmet=allow_unmet)
    wanted = release_name(name, source.report.at("float_model", "file").text())
    known = license_id(license), dataset_id(dataset) or told.dataset_of(source.config)
    check_archive(archive_of(output, wanted), force=force)
    chosen = _samples(source, [Path(sample) for sample in samples])
    try:
        room = Path(tempfile.mkdtemp(dir=output.parent, prefix=TEMPORARY))
    except OSError as error:
        raise cannot_write(output, error) from error
    try:
        folder = room / wanted
        folder.mkdir()
        facts = _write_model(folder, source, wanted, known, chosen)
        facts = _write_extras(folder, source, facts, include_float, with_preprocessing)
        digest = _write_texts(folder, facts)
        archive = room / "archive"
        pack({f"{wanted}/{file}": folder / file for file in listed(folder)}, archive)
        swap(((folder, output), (archive, archive_of(output, wanted))), room)
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return Released(output, archive_of(output, wanted), wanted, digest, source.outcome)


def _samples(source: Source, paths: list[Path]) -> Samples:
    pipeline, size = source.contract.pipeline(), source.contract.size
    return named(paths, pipeline, size) if paths else synthetic(pipeline, size)


def _write_model(
    folder: Path,
    source: Source,
    name: str,
    known: tuple[str | None, str | None],
    samples: Samples,
) -> Facts:
    """The int8 file, its test data and preprocess.json; returns what is known by then."""
    content = stamped(source.best, told.stamp(source))
    file = folder / f"{name}.onnx"
    file.write_bytes(content)
    verified = unstamped_sha256(content, len(source.best))
    if verified != source.report.at("int8_model", "sha256").digest():
        raise OutputError("the shipped file is not the verified one", "report this defect")
    best = parse(source.best, "best.onnx")
    refuse_places(best, "best.onnx", "rename it in the float model and tune again")
    isa = cpu().isa
    write_sets(folder, Session(content, name=file.name), samples.images, isa)
    (folder / PREPROCESS).write_bytes(to_json(source.contract.to_json()))
    return Facts(
        name=name,
        license=known[0],
        dataset=known[1],
        report=json.loads(json.dumps(source.report.value)),
        plan=plan_of(source.report.at("int8_model", "plan")),
        contract=source.contract,
        ports=source.ports,
        samples=samples,
        isa=isa,
        timing=told.timing_of_run(source.config),
        model={
            **_entry(file),
            "file": file.name,
            "verified": {"sha256": verified, "bytes": len(source.best)},
        },
        with_preprocessing=f"{name}-with-preprocessing.onnx",
        float_file=f"{name}-float.onnx",
    )


def _write_extras(
    folder: Path, source: Source, facts: Facts, include_float: bool, with_preprocessing: bool
) -> Facts:
    """The files that were asked for."""
    asked = {"float_file": include_float, "with_preprocessing": with_preprocessing}
    facts = told.without(facts, [key for key, wanted in asked.items() if not wanted])
    if facts.float_file:
        refuse_external(source.model, "save it as one file, or release without --include-float")
        refuse_places(
            parse(source.model.read_bytes(), source.model.name),
            f"the float model {source.model.name}",
            "release without --include-float, or clear its descriptions and tune again",
        )
        shutil.copyfile(source.model, folder / facts.float_file)
    if facts.with_preprocessing:
        best = parse((folder / facts.model["file"]).read_bytes(), facts.model["file"])
        joined = put_in_front(best, expanded(source.contract.pipeline()), source.contract.size)
        content = io.to_bytes(joined)
        Session(content, name=facts.with_preprocessing)  # it has to load
        (folder / facts.with_preprocessing).write_bytes(content)
    return facts


def _write_texts(folder: Path, facts: Facts) -> str:
    """The zoo's archive, and what tells of the files; returns the digest."""
    zoo = folder / f"{facts.name}.tar.gz"
    members = [name for name in listed(folder) if name.startswith("test_data_set_")]
    pack({f"{facts.name}/{m}": folder / m for m in (facts.model["file"], *members)}, zoo)
    hub = hub_entry(facts, {**_entry(zoo), "file": zoo.name})
    (folder / HUB_MANIFEST).write_bytes(_list_json(hub))
    for name, text in _pages(facts).items():
        (folder / name).write_text(text, encoding="utf-8")
    files = {name: _entry(folder / name) for name in sorted(listed(folder))}
    (folder / MANIFEST).write_bytes(to_json(manifest(facts, files, hub)))
    return write_sums(folder)


def _pages(facts: Facts) -> dict[str, str]:
    """Name -> text of every page that people read."""
    from quantize.report.page import PAGE, page  # matplotlib and Jinja2 only when they are used

    return {CARD: card(facts), PAGE: page(facts.report)}


def _list_json(hub: dict[str, Any]) -> bytes:
    return (json.dumps([hub], indent=2) + "\n").encode("ascii")


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}
