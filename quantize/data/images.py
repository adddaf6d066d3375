"""The only door to Pillow: files become uint8 RGB arrays, and arrays PNG or JPEG.

Files are data, not trusted: seven formats are opened, sizes are checked before pixels are decoded,
and whatever a decoder trips over becomes an `UnreadableImage`.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
from PIL import (  # importing a plugin registers its format
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from quantize.errors import DataError
from quantize.files import cannot_write

if TYPE_CHECKING:
    from typing import IO, Any

    from numpy.typing import NDArray

DECODER = f"Pillow {PIL.__version__}"
"""Another one may give other pixels for the same file."""

MAX_PIXELS = 100_000_000
"""The largest image that is decoded, in pixels."""

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of the files that folders of images are read for."""

_SMALL = 1 << 16
"""Bytes of a file that is read at once: its decoder asks for some at a time."""

_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        GifImagePlugin.GifImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)

# EXIF tag 0x0112: how the stored rows and columns have to be turned to stand upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(DataError):  # noqa: N818 - it is counted more often than raised to the user
    """One image cannot be decoded.

    Args:
        name: the file name.
        reason: why, a few words.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = " ".join(reason.split())
        super().__init__(
            f"image {name} cannot be read: {self.reason}", "replace the file or remove it"
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.reason)


def decode(source: Path) -> NDArray[np.uint8]:
    """Decode one image file the way a person sees it.

    The EXIF orientation is applied, greyscale becomes three equal channels, transparency is
    dropped, 16-bit samples keep their upper eight bits, and of animations the first frame counts.

    Args:
        source: a JPEG, PNG, WebP, BMP, TIFF, GIF or PPM file of at most `MAX_PIXELS`.

    Returns:
        uint8 [H,W,3] RGB, read-only.

    Raises:
        UnreadableImage: the file is missing, empty, truncated, too large or no such image.
    """
    try:
        with _open_regular(source) as file:
            return _decode(file, source.name)
    except UnreadableImage:
        raise
    except MemoryError:
        raise UnreadableImage(source.name, "not enough memory to decode it") from None
    except OSError as error:
        raise UnreadableImage(source.name, error.strerror or str(error)) from error
    except Exception as error:  # decoders meet hostile bytes: any failure is the file's
        reason = str(error) or type(error).__name__
        raise UnreadableImage(source.name, f"damaged ({reason})") from error


def encode_png(array: NDArray[np.uint8], path: Path) -> None:
    """Write an image as PNG; not flushed to the disk, which would cost more than the encoding.

    Args:
        array: uint8 [H,W,3] RGB or [H,W] grey.
        path: the file to write; its folder exists.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        Image.fromarray(array).save(path, format="PNG")
    except OSError as error:
        raise cannot_write(path, error) from error


def encode_thumbnail(array: NDArray[np.uint8], side: int) -> bytes:
    """A small JPEG of an image: nothing but its pixels.

    Args:
        array: uint8 [H,W,3] RGB.
        side: most pixels of its width and height; a smaller image keeps its size.
    """
    small = Image.fromarray(array)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=80)
    return file.getvalue()


def pillow_bilinear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize as Pillow does: bilinear, with the filter widened when shrinking (antialiased).

    Args:
        image: uint8 [H,W,3].
        height: rows wanted.
        width: columns wanted.

    Returns:
        uint8 [height,width,3].
    """
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _open_regular(source: Path) -> IO[bytes]:
    """Open a regular file for reading; a pipe or a device could block for ever."""
    seen = source.stat()
    if stat.S_ISDIR(seen.st_mode):
        raise UnreadableImage(source.name, "it is a folder")
    if not stat.S_ISREG(seen.st_mode):
        raise UnreadableImage(source.name, "it is no regular file")
    if seen.st_size > _SMALL:
        return source.open("rb")
    with source.open("rb", buffering=0) as file:
        return io.BytesIO(file.read(seen.st_size))


def _decode(file: IO[bytes], name: str) -> NDArray[np.uint8]:
    """Decode an open file to uint8 [H,W,3]."""
    with _open_image(file, name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnreadableImage(
                name, f"{width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels"
            )
        image.load()
        # Asked after load(): Pillow turns TIFF files itself while loading, and clears the tag.
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
        upright = image if turn is None else image.transpose(turn)
        return _to_rgb(upright, name, tiff=image.format == "TIFF")


def _open_image(file: IO[bytes], name: str) -> Image.Image:
    """Read the header with the first of the allowed formats that knows it.

    `Image.open` would do the same, but warns above a size of its own; silencing a warning is not
    safe in threads, so the registered openers are asked directly.
    """
    prefix = file.read(16)
    if not prefix:
        raise UnreadableImage(name, "the file is empty")
    if prefix.startswith(b"version https://"):
        raise UnreadableImage(name, "it is a Git LFS pointer; fetch the file with git lfs pull")
    for known in _FORMATS:
        factory, accepts = Image.OPEN[known]
        if accepts is not None and accepts(prefix) is True:
            file.seek(0)
            # Without a name: given one, Pillow maps that path, which is another file's elsewhere.
            return factory(file, "")
    raise UnreadableImage(name, "not a JPEG, PNG, WebP, BMP, TIFF, GIF or PPM file")


def _to_rgb(image: Image.Image, name: str, *, tiff: bool) -> NDArray[np.uint8]:
    """Any Pillow mode -> uint8 [H,W,3]."""
    if image.mode == "F" or (image.mode == "I" and tiff):
        raise UnreadableImage(name, "32-bit samples have no fixed scale")
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.mode in ("P", "PA"):
        # By way of RGBA, since Pillow warns about palettes with transparency otherwise.
        image = image.convert("RGBA")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.height, rgb.width, 3)


def _from_16_bit(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit samples [H,W] -> uint8 [H,W,3] by their upper eight bits, as for 16-bit RGB."""
    upper: NDArray[np.uint8] = (grey >> 8).astype(np.uint8)
    return np.repeat(upper[:, :, np.newaxis], 3, axis=2)
