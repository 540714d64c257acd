"""Decodes JPEG files to exactly the bytes that Darknet sees, with the arithmetic of its decoder, stb_image.

Other decoders (libjpeg, used by PIL, OpenCV and torchvision) round colours differently, by up to 3 levels of
255, which changes a network's scores in the third digit. Only sequential files are decoded, the kind that
cameras and data sets produce; for all others `decode` raises UnsupportedJpeg. This file reads the codes
(ITU T.81); jpeg_pixels.py turns coefficients into pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.darknet.jpeg_pixels import enlarge, inverse_transform, to_rgb

MAX_SCAN_BYTES = 1 << 20  # the tables of all bit positions take about 150 times as much memory
MAX_PIXELS = 1 << 26
SOF_SEQUENTIAL = (0xC0, 0xC1)
SOF_OTHERS = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def _zigzag_key(position: int) -> tuple[int, int]:
    """Diagonals in turn; odd ones run down, even ones up."""
    row, column = divmod(position, 8)
    diagonal = row + column
    return diagonal, row if diagonal % 2 else column


# For each coefficient in the order of the file, its position in the 8 x 8 block.
ZIGZAG = np.array(sorted(range(64), key=_zigzag_key))


class UnsupportedJpeg(ValueError):
    """The file must be read by another decoder."""


@dataclass
class _Component:
    """One colour plane."""

    identifier: int
    across: int  # sampling factors
    down: int
    quantizer: int
    size: tuple[int, int] = (0, 0)  # (rows, columns) of the plane without padding
    blocks: tuple[int, int] = (0, 0)  # (rows, columns) of 8 x 8 blocks, padded to whole MCUs
    dc_table: int = 0
    ac_table: int = 0
    positions: list[int] = field(default_factory=list)  # block * 64 + index in the order of the file
    values: list[int] = field(default_factory=list)  # the coefficients there, still quantized


class _Image:
    """The tables and planes of a file, filled segment by segment."""

    def __init__(self) -> None:
        self.size = (0, 0)
        self.components: list[_Component] = []
        self.quantizers: dict[int, np.ndarray] = {}
        self.codes: dict[int, np.ndarray] = {}
        self.restart_interval = 0  # MCUs; 0 for none
        self.scanned: set[int] = set()  # identifiers of the components read so far

    def frame(self, body: bytes) -> None:
        """SOF0 and SOF1: image size and components."""
        colours = body[5] if len(body) >= 6 else 0
        if self.components or body[0] != 8 or colours not in (1, 3) or len(body) != 6 + 3 * colours:
            raise UnsupportedJpeg("not 8 bits in 1 or 3 colours")
        height = body[1] << 8 | body[2]
        width = body[3] << 8 | body[4]
        if not 0 < height * width <= MAX_PIXELS:
            raise UnsupportedJpeg(f"{width} x {height} pixels")
        self.size = (height, width)
        for n in range(6, len(body), 3):
            identifier, factors, quantizer = body[n : n + 3]
            self.components.append(_Component(identifier, factors >> 4, factors & 15, quantizer))
        self._set_plane_sizes()

    def _set_plane_sizes(self) -> None:
        if not all(1 <= factor <= 4 for c in self.components for factor in (c.across, c.down)):
            raise UnsupportedJpeg("sampling factors outside 1 to 4")
        if any(self.across % c.across or self.down % c.down for c in self.components):
            raise UnsupportedJpeg("sampling factors that do not divide one another")
        height, width = self.size
        for c in self.components:
            c.size = (_ceil_div(height * c.down, self.down), _ceil_div(width * c.across, self.across))
            mcu_rows = _ceil_div(height, 8 * self.down)
            mcu_columns = _ceil_div(width, 8 * self.across)
            c.blocks = (mcu_rows * c.down, mcu_columns * c.across)

    @property
    def across(self) -> int:
        return max(c.across for c in self.components)

    @property
    def down(self) -> int:
        return max(c.down for c in self.components)

    def quantization(self, body: bytes) -> None:
        """DQT: quantization tables."""
        start = 0
        while start < len(body):
            dtype = ">u2" if body[start] >> 4 else "u1"
            table = np.frombuffer(body, dtype, 64, start + 1)
            self.quantizers[body[start] & 15] = table.astype(np.int32)
            start += 1 + table.nbytes

    def huffman(self, body: bytes) -> None:
        """DHT: Huffman tables, from the next 16 bits to code length (high byte) and symbol; 0 for no code."""
        start = 0
        while start < len(body):
            lengths = np.frombuffer(body, np.uint8, 16, start + 1)
            symbols = np.frombuffer(body, np.uint8, int(lengths.sum()), start + 17)
            width = np.repeat(np.arange(1, 17), lengths)
            entries = np.repeat(width << 8 | symbols, 1 << (16 - width))
            if len(entries) > 1 << 16:
                raise UnsupportedJpeg("a Huffman table with too many codes")
            self.codes[body[start]] = np.pad(entries, (0, (1 << 16) - len(entries))).astype(np.int32)
            start += 17 + len(symbols)

    def scan(self, body: bytes, data: bytes) -> None:
        """SOS and the entropy-coded data after it."""
        components = []
        for n in range(1, 1 + 2 * body[0], 2):
            component = next((c for c in self.components if c.identifier == body[n]), None)
            if component is None or component.identifier in self.scanned:
                raise UnsupportedJpeg("a scan of a colour that is not in the frame, or was scanned before")
            component.dc_table = body[n + 1] >> 4
            component.ac_table = 0x10 | body[n + 1] & 15
            self.scanned.add(component.identifier)
            components.append(component)
        blocks = self._blocks(components)
        blocks_per_mcu = sum(c.across * c.down for c in components) if len(components) > 1 else 1
        interval = self.restart_interval * blocks_per_mcu
        for n, part in enumerate(_split_at_restarts(data)):
            self._decode_blocks(part, blocks[n * interval : (n + 1) * interval] if interval else blocks)

    def _blocks(self, components: list[_Component]) -> list[tuple[_Component, int]]:
        """The blocks of a scan in the order of the file: component, and index of the block in its plane."""
        first = components[0]
        if len(components) == 1:
            rows, columns = (_ceil_div(side, 8) for side in first.size)
            return [(first, r * first.blocks[1] + k) for r in range(rows) for k in range(columns)]
        blocks = []
        for row in range(first.blocks[0] // first.down):  # MCUs
            for column in range(first.blocks[1] // first.across):
                for c in components:
                    start = row * c.down * c.blocks[1] + column * c.across
                    blocks += [
                        (c, start + y * c.blocks[1] + x) for y in range(c.down) for x in range(c.across)
                    ]
        return blocks

    def _decode_blocks(self, data: bytes, blocks: list[tuple[_Component, int]]) -> None:
        """Decodes the bits between two restart markers.

        The tables hold the code that starts at each bit, so this is the only loop over codes.
        """
        windows = _windows(data)
        components = {id(c): c for c, _ in blocks}.values()
        table_numbers = {n for c in components for n in (c.dc_table, c.ac_table)}
        tables = {n: _lookup(windows, self.codes[n]).data for n in table_numbers}
        dc_values = {id(c): 0 for c in components}
        bit = 0
        for component, block in blocks:
            entry = tables[component.dc_table][bit]
            bit += entry & 31 or _raise_unknown_code()
            dc_values[id(component)] += (entry >> 13) - 32768
            component.positions.append(block * 64)
            component.values.append(dc_values[id(component)])
            bit = _decode_ac(tables[component.ac_table], bit, block, component)

    def planes(self) -> list[np.ndarray]:
        """Each component's (rows, columns) uint8, without padding."""
        return [self._plane(c) for c in self.components]

    def _plane(self, c: _Component) -> np.ndarray:
        rows, columns = c.blocks
        coefficients = np.zeros(rows * columns * 64, np.int32)
        coefficients[c.positions] = c.values
        coefficients = coefficients.reshape(-1, 64) * self.quantizers[c.quantizer]
        coefficients = coefficients.astype(np.int16).astype(np.int32)
        blocks = np.zeros_like(coefficients)
        blocks[:, ZIGZAG] = coefficients
        pixels = inverse_transform(blocks.reshape(-1, 8, 8)).reshape(rows, columns, 8, 8)
        return pixels.transpose(0, 2, 1, 3).reshape(rows * 8, columns * 8)[: c.size[0], : c.size[1]]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _decode_ac(table: memoryview, bit: int, block: int, component: _Component) -> int:
    """Decodes a block's 63 AC coefficients from `bit` on. Returns the bit after them."""
    positions = component.positions
    values = component.values
    n = 1
    while n < 64:
        entry = table[bit]
        bit += entry & 31 or _raise_unknown_code()
        if entry & 0x1E00:
            n += entry >> 5 & 15
            positions.append(block * 64 + min(n, 63))
            values.append((entry >> 13) - 32768)
            n += 1
        elif entry & 0x1E0 == 0x1E0:
            n += 16  # 16 zeros, and the block goes on
        else:
            break
    return bit


def decode(data: bytes) -> np.ndarray:
    """The bytes of a JPEG file -> (H, W, 3) uint8 RGB. UnsupportedJpeg for other kinds and damaged files."""

    image = _Image()
    try:
        is_ycbcr = _read(image, data)
        planes = image.planes()
    except UnsupportedJpeg:
        raise
    except (IndexError, KeyError, ValueError) as error:
        raise UnsupportedJpeg("the file is damaged") from error
    factors = [(image.down // c.down, image.across // c.across) for c in image.components]
    planes = [enlarge(plane, image.size, factor) for plane, factor in zip(planes, factors, strict=True)]
    if len(planes) == 1:
        return np.repeat(planes[0][..., None], 3, -1)
    return to_rgb(*planes) if is_ycbcr else np.stack(planes, -1)


def _read(image: _Image, data: bytes) -> bool:
    """Reads the segments into `image`. Returns whether three planes are Y, Cb and Cr rather than RGB."""
    if data[:2] != b"\xff\xd8":
        raise UnsupportedJpeg("not a JPEG file")
    jfif = False
    adobe = None  # its colour transform
    position = 2
    while len(image.scanned) < len(image.components) or not image.components:
        while data[position] != 0xFF or data[position + 1] in (0x00, 0xFF):
            position += 1
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        position += 4 + len(body)
        if marker in SOF_SEQUENTIAL:
            image.frame(body)
        elif marker in SOF_OTHERS or marker == 0xD9:
            raise UnsupportedJpeg("not sequential, or ends too soon")
        elif marker == 0xC4:
            image.huffman(body)
        elif marker == 0xDB:
            image.quantization(body)
        elif marker == 0xDD:
            image.restart_interval = int.from_bytes(body[:2], "big")
        elif marker == 0xE0:
            jfif = jfif or body[:5] == b"JFIF\0"
        elif marker == 0xEE and body[:5] == b"Adobe":
            adobe = body[11]
        elif marker == 0xDA:
            end = _scan_end(data, position)
            image.scan(body, data[position:end])
            position = end
    identifiers = bytes(c.identifier for c in image.components)
    return not (identifiers == b"RGB" or (adobe == 0 and not jfif))


def _scan_end(data: bytes, start: int) -> int:
    """The end of a scan's data: the first marker that is not a restart marker."""
    end = data.find(b"\xff", start)
    while 0 <= end < len(data) - 1:
        if data[end + 1] != 0 and not 0xD0 <= data[end + 1] <= 0xD7:
            break
        end = data.find(b"\xff", end + 2)
    if end < 0:
        end = len(data)
    if end - start > MAX_SCAN_BYTES:
        raise UnsupportedJpeg(f"a scan of more than {MAX_SCAN_BYTES} bytes")
    return end


def _split_at_restarts(data: bytes) -> list[bytes]:
    """The parts between restart markers, without the zero byte that follows each 0xFF."""
    parts = []
    start = 0
    position = data.find(b"\xff")
    while position >= 0:
        if data[position + 1 : position + 2] != b"\0":
            parts.append(data[start:position])
            start = position + 2
        position = data.find(b"\xff", position + 2)
    parts.append(data[start:])
    return [part.replace(b"\xff\0", b"\xff") for part in parts]


def _windows(data: bytes) -> np.ndarray:
    """The 16 bits that start at each bit of the data, zero-padded at the end."""
    padded = np.frombuffer(data + bytes(8), np.uint8).astype(np.uint32)
    words = padded[:-3] << 16 | padded[1:-2] << 8 | padded[2:-1]  # 24 bits from each byte on
    return ((words[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)) & 0xFFFF).astype(np.uint16).reshape(-1)


def _lookup(windows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """One Huffman table's code at each bit, packed from the lowest bit on:
    bits used (5 bits, 0 for no code), run (4), size (4), value + 32768.

    For a DC table, run is 0 and value is the difference from the previous block.
    """
    symbols = codes[windows]
    length = symbols >> 8
    size = symbols & 15
    value_start = np.minimum(np.arange(len(windows)) + length, len(windows) - 1)
    value = windows[value_start].astype(np.int32) >> (16 - size)
    value = np.where(value < (1 << size >> 1), value - (1 << size) + 1, value)
    bits_used = np.where(length > 0, length + size, 0)
    return (bits_used | (symbols & 0xF0) << 1 | size << 9 | (value + 32768) << 13).astype(np.int32)


def _raise_unknown_code() -> int:
    raise UnsupportedJpeg("a code that no table has")
