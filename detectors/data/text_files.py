"""Text files that a user hands in: class names, split lists, cfgs, JSON. XML names its own encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from detectors.data.files import require_regular

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, *, what: str) -> str:
    """The content of a text file in UTF-8, or in the encoding that its byte-order mark names.

    what: the kind of file, for messages, such as "split list". The text has no mark; its lines end in \\n.
    FileNotFoundError if there is no such file; ValueError if it cannot be read, is not a regular file (a FIFO
    would block), or is not text in these encodings.
    """
    try:
        require_regular(path)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such {what}") from error
    except OSError as error:
        raise ValueError(f"{path}: the {what} cannot be read ({error.strerror})") from error
    return decode_text(data, path, what=what)


def decode_text(data: bytes, path: Path, *, what: str) -> str:
    """read_text() for bytes that were read already; `path` is for messages."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the {what} is not {encoding.upper().removesuffix('-SIG')} text "
            f"({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path}: the {what} contains zero bytes; save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
