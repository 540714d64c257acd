"""One VOC annotation: from the bytes of an XML file to its size and its objects' corners, as written; and
from Annotations to an XML file.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ElementTree
from xml.sax.saxutils import escape

from detectors.annotations import Annotations
from detectors.data.checks import as_size, parse_number, written_number

CORNERS = ("xmin", "ymin", "xmax", "ymax")
DECLARATION = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")
OF_EXPAT = ("utf-8", "iso-8859-1", "us-ascii")
# Programs write these names and mean the larger set that Windows calls so.
LARGER_SETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "cp950",
}


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root element. ValueError says what is wrong.

    expat reads UTF-8, UTF-16 and Latin-1. Text in any other encoding is decoded first, as it declares.
    """
    declaration = DECLARATION.match(data.removeprefix(codecs.BOM_UTF8))
    encoding = declaration[1].decode() if declaration else "utf-8"
    try:
        return ElementTree.fromstring(data if encoding.lower() in OF_EXPAT else _decoded(data, encoding))
    except ElementTree.ParseError as error:
        _require_text(data, encoding)
        raise ValueError(f"not well-formed XML ({error})") from error


def _require_text(data: bytes, declared: str) -> None:
    """ValueError for bytes that are not text in the encoding that expat read; expat says "wrong token"."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        data.decode("utf-16" if marked else declared)
    except UnicodeDecodeError as error:
        raise ValueError(_not_text(declared, error)) from error


def _not_text(declared: str, error: UnicodeDecodeError) -> str:
    what = f"it is not {declared} text, as it declares ({error.reason} at byte {error.start})"
    return f"{what}; save it as UTF-8"


def _decoded(data: bytes, declared: str) -> str:
    if data.startswith(codecs.BOM_UTF8) or declared.lower().startswith("utf-16"):
        declared = "utf-8-sig"  # a mark outweighs the declaration, which was no UTF-16 if it could be read
    try:
        try:
            return data.decode(declared)
        except UnicodeDecodeError:
            return data.decode(LARGER_SETS.get(codecs.lookup(declared).name, declared))
    except LookupError as error:
        raise ValueError(f"not well-formed XML (unknown encoding: {declared}); save it as UTF-8") from error
    except UnicodeDecodeError as error:
        raise ValueError(_not_text(declared, error)) from error


def corners_of(element: ElementTree.Element, name: str) -> list[float]:
    """The corners of an <object>, as written. ValueError without a name, a box or a number.

    Only its direct children count: a person in VOC2007 has <part>s with names and boxes of their own.
    """
    if not name:
        raise ValueError("no <name>")
    box = element.find("bndbox")
    if box is None:
        raise ValueError("no <bndbox>")
    return [_number(box, corner) for corner in CORNERS]  # by name: VOC2012 writes xmax first


def _number(parent: ElementTree.Element, tag: str) -> float:
    text = parent.findtext(tag)
    try:
        return parse_number(text or "")
    except ValueError:
        what = f"no <{tag}>" if text is None else f"<{tag}> is {text[:40]!r}, not a number"
        raise ValueError(what) from None


def size_of(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width); None if <size> is missing, zero or invalid, as some tools write it.

    The caller then reads the size from the image's header.
    """
    size = root.find("size")
    try:
        return None if size is None else as_size(_number(size, "height"), _number(size, "width"))
    except ValueError:
        return None


def annotation_xml(annotations: Annotations, index: int, file_name: str) -> str:
    """The annotation of image `index`. Corners are 1-based, and the last pixel belongs to the box.

    Whole numbers are written as such, others as fractions: rounding to whole pixels would move the box.
    """
    objects = []
    for row in range(len(annotations.labels))[annotations.rows(index)]:
        xmin, ymin, xmax, ymax = annotations.boxes_original[row].tolist()
        numbers = zip(CORNERS, (xmin + 1, ymin + 1, xmax, ymax), strict=True)
        box = "".join(f"<{corner}>{written_number(value)}</{corner}>" for corner, value in numbers)
        name = escape(annotations.class_names[annotations.labels[row]])
        difficult = f"<difficult>{int(annotations.difficult[row])}</difficult>"
        objects.append(f"  <object><name>{name}</name>{difficult}<bndbox>{box}</bndbox></object>\n")
    height, width = annotations.sizes[index].tolist()
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    head = f"<annotation>\n  <filename>{escape(file_name)}</filename>\n  {size}\n"
    return f"{head}{''.join(objects)}</annotation>\n"
