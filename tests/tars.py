"""Small tar files, honest and other."""

import io
import tarfile


def member(name, content=b"x", kind=tarfile.REGTYPE, link=""):
    """One entry for `tar_bytes`."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = len(content) if kind == tarfile.REGTYPE else 0
    return made, content


def tar_bytes(*entries, form=tarfile.USTAR_FORMAT):
    """A tar of `member`s, or of name -> content."""
    if len(entries) == 1 and isinstance(entries[0], dict):
        entries = [member(name, content) for name, content in entries[0].items()]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return made.getvalue()
