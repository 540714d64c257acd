"""From a file to pixels: decoding, whole or at a fraction of the size, and what is wrong with a file that cannot be used."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from detectors.annotations import Annotations
from detectors.data.image_cache import ImageCache
from detectors.data.problems import Problem

SIZE_TOLERANCE = (
    1  # pixels by which a file may differ from its annotation: tools that shrink images round differently
)
DIVISORS = (8, 4, 2)  # a JPEG's blocks of 8 x 8 can be decoded to 1 x 1, 2 x 2 or 4 x 4


class ImageError(ValueError):
    """A file that cannot be used. It crosses from a worker as it is, without the worker's traceback around it."""

    def __init__(self, path: str, what: str, kind: str = "broken-image"):
        super().__init__(path, what, kind)  # pickled as these three

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"

    @property
    def problem(self) -> Problem:
        path, what, kind = self.args
        return Problem(kind, path, what, image=path)


class Decoded(NamedTuple):
    image: np.ndarray  # (h, w, 3) uint8 RGB
    divisor: int  # pixels of the file, along a side, that one of these covers: 1, or 2, 4, 8
    size_original: tuple[int, int]  # (height, width) of the file


class ImageReader:
    """The images of Annotations, by their row: decoded, checked against their annotation, kept if there is a cache.

    reduced: a JPEG of which fewer pixels are wanted is decoded at 1/2, 1/4 or 1/8 of its size. It excludes a cache, whose images must
    serve every size.
    """

    def __init__(self, annotations: Annotations, *, cache: ImageCache | None = None, reduced: bool = False):
        if cache is not None and reduced:
            raise ValueError(
                "data.reduced_decode=true: a cache holds whole images; set data.image_cache=none, or data.reduced_decode=false"
            )
        self.annotations, self.cache, self.reduced = annotations, cache, reduced

    def read(self, row: int, wanted: tuple[float, float] | None = None) -> Decoded:
        """wanted: (height, width), pixels that are enough; None wants all. ImageError names the file."""
        path, (height, width) = self.annotations.paths[row], self.annotations.sizes[row].tolist()
        if (image := self.cache.get(row) if self.cache else None) is not None:
            return Decoded(image, 1, image.shape[:2])
        divisor = divisor_for((height, width), wanted) if self.reduced and wanted else 1
        decoded = read_reduced(path, divisor) if divisor > 1 else None
        if decoded is None:
            image = read_image(path)
            decoded = Decoded(image, 1, image.shape[:2])
        check_size(decoded.size_original, (height, width), path)
        if self.cache is not None:
            self.cache.put(row, decoded.image)
        return decoded


def read_image(path: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB, grey images in three equal channels. The camera's orientation tag is ignored: boxes refer to the stored pixels.

    Decoded by torchvision, which is as quick as OpenCV, and refuses a file that ends too soon where OpenCV makes up the rest in grey.
    Of an animation, the first picture. Raises ImageError that names the file.
    """
    data = _bytes(path)
    try:
        image = decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error) or "no memory").splitlines()[0] if len(data) else "the file is empty"
        raise _undecodable(path, reason) from error
    image = image[0] if image.ndim == 4 else image
    if not image.numel():
        raise _undecodable(path, "it has no pixels")
    pixels = image.permute(1, 2, 0).numpy()
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels  # 16-bit PNG


def divisor_for(size: tuple[int, int], wanted: tuple[float, float]) -> int:
    """The largest of 8, 4, 2, 1 that leaves an image of `size` at least the pixels `wanted`, both (height, width)."""
    enough = (n for n in DIVISORS if size[0] // n >= wanted[0] and size[1] // n >= wanted[1])
    return next(enough, 1)


def read_reduced(path: str, divisor: int) -> Decoded | None:
    """A JPEG at 1/divisor of its size, each side rounded up: pixel (i, j) stands for the square of divisor x divisor pixels from (i, j) *
    divisor on, so that boxes are divided by `divisor` exactly, whatever the rounding.

    None for what is no grey or colour JPEG (CMYK, PNG): it is to be read whole. Decoded by Pillow, which like torchvision refuses a file
    that ends too soon. Raises ImageError that names the file.
    """
    data = _bytes(path)
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as image:
            if image.mode not in ("L", "RGB"):
                return None
            width, height = image.size
            image.draft("RGB", (width // divisor, height // divisor))
            pixels = np.array(image.convert("RGB"))
    except Image.UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        raise _undecodable(path, str(error).splitlines()[0]) from error
    return Decoded(pixels, divisor, (height, width))


def check_size(found: tuple[int, int], annotated: tuple[int, int], path: str) -> None:
    """Both (height, width). ImageError if they differ by more than rounding."""
    if max(abs(found[0] - annotated[0]), abs(found[1] - annotated[1])) <= SIZE_TOLERANCE:
        return
    (height, width), (rows, columns) = annotated, found
    why = (
        "; the two sides are swapped, so the boxes may belong to the image turned upright"
        if annotated == (columns, rows)
        else ""
    )
    what = f"the image is {columns} x {rows} (width x height), its annotation says {width} x {height}{why}"
    raise ImageError(path, what, "size-differs")


def _bytes(path: str) -> np.ndarray:
    """(n,) uint8, the file."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = f"the image cannot be read ({error.strerror})"
        raise ImageError(path, what, "missing-image" if missing else "broken-image") from error


def _undecodable(path: str, reason: str) -> ImageError:
    return ImageError(path, f"the image cannot be decoded ({reason}); restore the file, or leave it out")
