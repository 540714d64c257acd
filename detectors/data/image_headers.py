"""The size of an image from its header, before it is decoded, and the largest number of pixels decoded."""

from __future__ import annotations

import os
import re
import struct
from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from detectors.data.files import require_regular

# The number at which Pillow, too, refuses an image: 13,377 x 13,377. A file of some kilobytes can hold a
# thousand times its length in pixels, and each takes three bytes once decoded. data.max_pixels changes it.
PIXEL_LIMIT = 178_956_970
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")  # of the images in data sets
ORIENTATION = 0x0112  # EXIF tag; 1 is upright, and 5 to 8 swap the sides
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of segments with a size
JPEG_STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
JPEG_END = 0xD9
PIECE = 256  # bytes that are searched for a marker at a time; markers mostly follow each other


class StoredTiff(TiffImageFile):
    """A TIFF's pixels as they are stored; Pillow would turn them as the camera's orientation tag says."""

    def __init__(self, *args):
        super().__init__(*args)
        if self.getexif().pop(ORIENTATION, 1) in (5, 6, 7, 8):
            # Newer Pillow gives the size of the turned image, older that of the stored one.
            self._size = self.tag_v2[IMAGEWIDTH], self.tag_v2[IMAGELENGTH]


# Beginning of a file -> the class that reads it. Pillow's own choice by Image.open would try formats that
# start other programs (EPS), and has a limit on the size that data.max_pixels could not raise.
PILLOW_READERS: dict[bytes, type[ImageFile]] = {
    b"BM": BmpImageFile,
    b"II": StoredTiff,
    b"MM": StoredTiff,
    b"GIF8": GifImageFile,
    b"RIFF": WebPImageFile,
}


def pillow_reader(start: bytes) -> type[ImageFile] | None:
    """The class that reads a file that begins so; None for JPEG, PNG and unknown formats.

    Its objects hold the size and are not decoded yet. It raises exceptions of any type for a damaged file.
    """
    return next((reader for begin, reader in PILLOW_READERS.items() if start.startswith(begin)), None)


def header_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) from an image file's header, without decoding it.

    The camera's orientation tag is ignored, as in images.py. ValueError if the header cannot be read.
    """
    size = None
    reason = "its header states no size"
    try:
        require_regular(path)
        with open(path, "rb") as file:
            size = stated_size(file)
    except OSError as error:
        reason = error.strerror or str(error)
    if size is None:
        raise ValueError(f"its annotation has no size, and the image cannot be opened ({reason})")
    return size


def stated_size(file: BinaryIO) -> tuple[int, int] | None:
    """(height, width) in the header; None if it has none, or for another format. Moves the position."""
    start = file.read(24)
    if start.startswith(PNG_START):
        width, height = struct.unpack(">2I", start[16:24].ljust(8, b"\0"))
    elif start.startswith(JPEG_START):
        height, width = _jpeg_size(file)
    else:
        height, width = _pillow_size(file)
    return (height, width) if height > 0 and width > 0 else None


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) of the first frame; zeros without one. Skips bytes between segments, as libjpeg."""
    position = len(JPEG_START)
    while True:
        file.seek(position)
        piece = file.read(PIECE)
        marker = JPEG_MARKER.search(piece)
        if marker is None:
            if len(piece) < 2:
                return 0, 0
            position += len(piece) - 1  # the last byte may begin a marker
            continue
        code = marker[1][0]
        position += marker.end()
        file.seek(position)
        if code in JPEG_FRAMES:
            fields = file.read(7)  # length, bits, height, width
            return struct.unpack(">2H", fields[3:]) if len(fields) == 7 else (0, 0)
        if code == JPEG_END:
            return 0, 0
        if code not in JPEG_STANDALONE:
            position += int.from_bytes(file.read(2), "big")


def _pillow_size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) as Pillow reads it; zeros for a file that it cannot read."""
    file.seek(0)
    reader = pillow_reader(file.read(4))
    file.seek(0)
    try:
        image = reader(file, "") if reader else None
    except Exception:  # the decoder reports the same file, with its reason
        return 0, 0
    return (image.height, image.width) if image else (0, 0)
