"""Opening a bundle that nobody vouches for: a folder, the bundle archive or the zoo's archive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantize.bundle.archive import unpack
from quantize.bundle.contract import PREPROCESS, Contract, read_contract
from quantize.bundle.model import refuse_external, unstamped_sha256
from quantize.bundle.placing import MANIFEST
from quantize.bundle.sums import SUMS, check_sums, listed
from quantize.checked_json import Value, read_json
from quantize.errors import BundleError
from quantize.files import is_file, is_folder, is_there

SCHEMA_VERSION = 1
LARGEST_JSON = 16 << 20
_SUFFIXES = (".tar.gz", ".tgz")
_CURE = "fetch the bundle again"


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle whose files are what SHA256SUMS lists.

    Attributes:
        path: as it was named.
        folder: where its files are.
        model: the int8 file.
        manifest: or None for the zoo's archive, which has none.
        contract: preprocessing and scores, or None likewise.
    """

    path: Path
    folder: Path
    model: Path
    manifest: Value | None
    contract: Contract | None

    def described(self) -> tuple[Value, Contract]:
        """Manifest and contract.

        Raises:
            BundleError: the zoo's archive has neither.
        """
        if self.manifest is None or self.contract is None:
            raise BundleError(
                f"{self.path} holds model and test data only",
                "name the bundle's folder or its -bundle.tar.gz",
            )
        return self.manifest, self.contract


@contextmanager
def opened(path: Path, digest: str | None = None) -> Iterator[Bundle]:
    """Open a bundle; what was unpacked is gone afterwards.

    Args:
        path: a folder or an archive.
        digest: the published sha256 of SHA256SUMS, or None.

    Raises:
        BundleError: it is none, it is unsafe, or a file is missing, added or changed.
    """
    if is_folder(path):
        yield _bundle(path, path, digest)
        return
    if not is_file(path) or not path.name.endswith(_SUFFIXES):
        raise BundleError(
            f"{path} is no bundle" + ("" if is_there(path) else ": it does not exist"),
            "name a release folder or its .tar.gz",
        )
    with tempfile.TemporaryDirectory(prefix="quantize.") as room:
        yield _bundle(path, unpack(path, Path(room)), digest)


def _bundle(path: Path, folder: Path, digest: str | None) -> Bundle:
    if not is_folder(path) and not is_there(folder / SUMS):
        return _zoo(path, folder, digest)
    check_sums(folder, digest)
    manifest = _described(folder / MANIFEST)
    if manifest.at("schema_version").count() != SCHEMA_VERSION:
        raise manifest.at("schema_version").wrong(f"{SCHEMA_VERSION}, which this package reads")
    name = manifest.at("model", "file").text()
    if name not in listed(folder):
        raise manifest.at("model", "file").wrong("a file of the bundle")
    model = folder / name
    refuse_external(model)
    verified = manifest.at("model", "verified")
    seen = unstamped_sha256(model.read_bytes(), verified.at("bytes").count())
    if seen != verified.at("sha256").digest():
        raise BundleError(f"{name} is not the verified model", _CURE)
    return Bundle(path, folder, model, manifest, read_contract(_described(folder / PREPROCESS)))


def _described(path: Path) -> Value:
    return read_json(path, LARGEST_JSON, BundleError, _CURE)


def _zoo(path: Path, folder: Path, digest: str | None) -> Bundle:
    """The zoo's form: one model and its test data."""
    if digest is not None:
        raise BundleError(
            f"{path} has no {SUMS}, so --digest says nothing of it",
            "name the bundle's folder or its -bundle.tar.gz",
        )
    models = [name for name in listed(folder) if name.endswith(".onnx")]
    if len(models) != 1:
        raise BundleError(f"{path} holds {len(models)} models, not one", "name a release bundle")
    refuse_external(folder / models[0])
    return Bundle(path, folder, folder / models[0], None, None)
