"""The verb `report`: the page of a finished run, written again, with names and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantize.errors import OutputError
from quantize.files import check_writable, is_there, write_atomic
from quantize.report.page import PAGE, page
from quantize.report.reading import account_of, read_report
from quantize.report.thumbnails import thumbnails


def render(
    run: Path,
    output: Path | None = None,
    *,
    names: Sequence[str] | None = None,
    images: Path | None = None,
) -> Path:
    """Write the page of a run.

    Args:
        run: a run folder, or its report.json.
        output: the file to write, by default `report.html` beside report.json.
        names: class names by index, or None.
        images: folder of the evaluation images, for thumbnails of those that changed their
            answer, or None for none.

    Returns:
        The file written.

    Raises:
        RunFolderError: no run, an unfinished one, an older version's, or a damaged report.
        DataError: none of the images is in the folder.
        OutputError: the page cannot be written, or would replace the report.
    """
    found = read_report(run)
    target = output or found.file.with_name(PAGE)
    check_writable(target)
    if is_there(target) and target.samefile(found.file):
        raise OutputError(f"output {target} is the report itself", "name another file")
    pictures = thumbnails(images, account_of(found, found.file.name).changes) if images else None
    text = page(found.value, found.file, names=names, thumbnails=pictures)
    write_atomic(target, text.encode())
    return target
