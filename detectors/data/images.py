"""From a file to pixels: decoding at full or reduced size, and errors that say what is wrong with a file."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from detectors.annotations import Annotations
from detectors.data.files import require_regular
from detectors.data.image_cache import ImageCache
from detectors.data.image_headers import PIXEL_LIMIT, pillow_reader, stated_size
from detectors.data.problems import Problem

# Pixels by which a file may differ from its annotation, because tools that shrink images round differently.
SIZE_TOLERANCE = 1
DIVISORS = (8, 4, 2)  # a JPEG's 8 x 8 blocks can be decoded to 1 x 1, 2 x 2 or 4 x 4


class ImageError(ValueError):
    """A file that cannot be used. It travels from a worker process without the worker's traceback."""

    def __init__(self, path: str, what: str, kind: str = "broken-image"):
        super().__init__(path, what, kind)  # these three are pickled

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"

    @property
    def problem(self) -> Problem:
        path, what, kind = self.args
        return Problem(kind, path, what, image=path)


class Decoded(NamedTuple):
    image: np.ndarray  # (h, w, 3) uint8 RGB
    divisor: int  # one pixel covers divisor x divisor pixels of the file: 1, 2, 4 or 8
    size_original: tuple[int, int]  # (height, width) of the file


class ImageReader:
    """Reads the images of Annotations by row: decodes them, checks their sizes, and fills the cache, if any.

    reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size if that is enough. It cannot be combined with a
    cache, whose images must be usable at every size. max_pixels: of a file; a larger one is an ImageError.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        cache: ImageCache | None = None,
        reduced: bool = False,
        max_pixels: int = PIXEL_LIMIT,
    ):
        if cache is not None and reduced:
            raise ValueError(
                "data.reduced_decode=true: a cache holds whole images; "
                "set data.image_cache=none, or data.reduced_decode=false"
            )
        self.annotations = annotations
        self.cache = cache
        self.reduced = reduced
        self.max_pixels = max_pixels

    def read(self, row: int, wanted: tuple[float, float] | None = None) -> Decoded:
        """wanted: the (height, width) in pixels that suffices; None: full size. ImageError names the file."""
        path = self.annotations.paths[row]
        height, width = self.annotations.sizes[row].tolist()
        image = self.cache.get(row) if self.cache else None
        if image is not None:
            return Decoded(image, 1, image.shape[:2])
        divisor = divisor_for((height, width), wanted) if self.reduced and wanted else 1
        decoded = read_reduced(path, divisor, self.max_pixels) if divisor > 1 else None
        if decoded is None:
            image = read_image(path, self.max_pixels)
            decoded = Decoded(image, 1, image.shape[:2])
        check_size(decoded.size_original, (height, width), path)
        if self.cache is not None:
            self.cache.put(row, decoded.image)
        return decoded


def read_image(path: str, max_pixels: int = PIXEL_LIMIT) -> np.ndarray:
    """(h, w, 3) uint8 RGB; a grey image has three equal channels. Of an animation, the first frame.

    The camera's orientation tag is ignored: boxes refer to the stored pixels. torchvision decodes JPEG and
    PNG as fast as OpenCV, and refuses a truncated file where OpenCV fills the rest with grey. Pillow decodes
    BMP, TIFF, GIF and WebP. ImageError names the file.
    """
    data = _bytes(path, max_pixels)
    try:
        pixels = _pixels_by_pillow(data)
        if pixels is None:
            pixels = decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    except Exception as error:  # Pillow raises exceptions of any type for a damaged file
        reason = (str(error) or "out of memory").splitlines()[0] if len(data) else "the file is empty"
        raise _undecodable(path, reason) from error
    if not pixels.size:
        raise _undecodable(path, "it has no pixels")
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels  # 16 bits per channel


def _pixels_by_pillow(data: np.ndarray) -> np.ndarray | None:
    """(h, w, 3) uint8, or uint16 of a file with 16 bits per channel; None for a format of torchvision's."""
    reader = pillow_reader(data[:4].tobytes())
    if reader is None:
        return None
    image = reader(io.BytesIO(data.tobytes()), "")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers; save it with 8 bits per channel")
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[..., None].repeat(3, axis=2)
    return np.array(image.convert("RGB"))


def divisor_for(size: tuple[int, int], wanted: tuple[float, float]) -> int:
    """The largest of 8, 4, 2, 1 by which `size` can be divided and still is at least `wanted`.

    Both are (height, width).
    """
    for divisor in DIVISORS:
        if size[0] // divisor >= wanted[0] and size[1] // divisor >= wanted[1]:
            return divisor
    return 1


def read_reduced(path: str, divisor: int, max_pixels: int = PIXEL_LIMIT) -> Decoded | None:
    """A JPEG at 1/divisor of its size, each side rounded up.

    Pixel (i, j) covers the square of divisor x divisor pixels that starts at (i, j) * divisor. Boxes are
    therefore divided by exactly `divisor`, even where a side was rounded.

    None for anything but a grey or RGB JPEG (CMYK, PNG), and for one that is too large for Pillow: use
    read_image. Pillow, like torchvision, refuses a truncated file. ImageError names the file.
    """
    data = _bytes(path, max_pixels)
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as image:
            if image.mode not in ("L", "RGB"):
                return None
            width, height = image.size
            image.draft("RGB", (width // divisor, height // divisor))
            pixels = np.array(image.convert("RGB"))
    except (Image.UnidentifiedImageError, Image.DecompressionBombError):
        return None
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise _undecodable(path, str(error).splitlines()[0]) from error
    return Decoded(pixels, divisor, (height, width))


def check_size(size: tuple[int, int], annotated: tuple[int, int], path: str) -> None:
    """size: of the file; annotated: of its annotation; both (height, width).

    ImageError if they differ by more than SIZE_TOLERANCE.
    """
    rows, columns = size
    height, width = annotated
    if max(abs(rows - height), abs(columns - width)) <= SIZE_TOLERANCE:
        return
    what = f"the image is {columns} x {rows} (width x height), its annotation says {width} x {height}"
    if annotated == (columns, rows):
        what += "; the sides are swapped, so the boxes may belong to the image turned upright"
    raise ImageError(path, what, "size-differs")


def _bytes(path: str, max_pixels: int) -> np.ndarray:
    """(n,) uint8, the content of the file. ImageError, without opening or decoding what is refused."""
    try:
        require_regular(path)
        with open(path, "rb") as file:
            size = stated_size(file)
            file.seek(0)
            data = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        kind = "missing-image" if isinstance(error, FileNotFoundError) else "broken-image"
        raise ImageError(path, f"the image cannot be read ({error.strerror})", kind) from error
    if size is not None and size[0] * size[1] > max_pixels:
        what = f"the image has {size[1]} x {size[0]} pixels, more than data.max_pixels={max_pixels}"
        raise ImageError(path, what, "too-large")
    return data


def _undecodable(path: str, reason: str) -> ImageError:
    return ImageError(path, f"the image cannot be decoded ({reason})")
