"""JPEG files decoded to the very bytes that Darknet sees: the arithmetic of stb_image, which it reads images with.

Other decoders (libjpeg, and with it PIL, OpenCV and torchvision) round colours otherwise, by up to three levels of 255, and a network's
scores move in the third digit. Only the sequential files that cameras and data sets have are decoded here; for any other kind `decode`
raises UnsupportedJpeg. This file reads the codes (ITU T.81), darknet_pixels.py turns coefficients into pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.darknet.jpeg_pixels import enlarge, inverse_transform, to_rgb

LARGEST_SCAN = 1 << 20  # bytes; the tables of all bit positions take about 150 times as much memory
MOST_PIXELS = 1 << 26
# Place in the 8 x 8 block of each coefficient in the order of the file.
ZIGZAG = np.array(
    sorted(range(64), key=lambda n: (n // 8 + n % 8, n // 8 if (n // 8 + n % 8) % 2 else n % 8))
)
SOF_SEQUENTIAL, SOF_OTHERS = (0xC0, 0xC1), (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


class UnsupportedJpeg(ValueError):
    """This file must be read by another decoder."""


@dataclass
class _Component:
    """One colour plane."""

    identifier: int
    across: int  # sampling factors
    down: int
    quantizer: int
    size: tuple[int, int] = (0, 0)  # (rows, columns) of the plane without its margin
    blocks: tuple[int, int] = (0, 0)  # (rows, columns) of 8 x 8 blocks, whole MCUs
    dc_table: int = 0
    ac_table: int = 0
    places: list[int] = field(default_factory=list)  # block * 64 + number in the order of the file
    values: list[int] = field(default_factory=list)  # the coefficients there, not yet multiplied


class _Image:
    """The tables and planes of a file as its segments are read."""

    def __init__(self) -> None:
        self.size = (0, 0)
        self.components: list[_Component] = []
        self.quantizers: dict[int, np.ndarray] = {}
        self.codes: dict[int, np.ndarray] = {}
        self.restart = 0
        self.scanned: set[int] = set()

    def frame(self, body: bytes) -> None:
        """SOF0 and SOF1."""
        if (
            self.components
            or body[0] != 8
            or len(body) < 6
            or len(body) != 6 + 3 * body[5]
            or body[5] not in (1, 3)
        ):
            raise UnsupportedJpeg("not 8 bits in 1 or 3 colours")
        self.size = (body[1] << 8 | body[2], body[3] << 8 | body[4])
        if not 0 < self.size[0] * self.size[1] <= MOST_PIXELS:
            raise UnsupportedJpeg(f"{self.size[1]} x {self.size[0]} pixels")
        for n in range(6, len(body), 3):
            identifier, factors, quantizer = body[n : n + 3]
            self.components.append(_Component(identifier, factors >> 4, factors & 15, quantizer))
        if not all(1 <= factor <= 4 for c in self.components for factor in (c.across, c.down)):
            raise UnsupportedJpeg("sampling factors outside 1 to 4")
        if any(self.across % c.across or self.down % c.down for c in self.components):
            raise UnsupportedJpeg("sampling factors that do not divide one another")
        for c in self.components:
            c.size = (-(-self.size[0] * c.down // self.down), -(-self.size[1] * c.across // self.across))
            c.blocks = (
                -(-self.size[0] // (8 * self.down)) * c.down,
                -(-self.size[1] // (8 * self.across)) * c.across,
            )

    @property
    def across(self) -> int:
        return max(c.across for c in self.components)

    @property
    def down(self) -> int:
        return max(c.down for c in self.components)

    def quantization(self, body: bytes) -> None:
        """DQT"""
        place = 0
        while place < len(body):
            wide, number = body[place] >> 4, body[place] & 15
            dtype = ">u2" if wide else "u1"
            table = np.frombuffer(body, dtype, 64, place + 1)
            self.quantizers[number] = table.astype(np.int32)
            place += 1 + table.nbytes

    def huffman(self, body: bytes) -> None:
        """DHT: a table from the next 16 bits to the length of the code (high byte) and its symbol; 0 for no code."""
        place = 0
        while place < len(body):
            lengths = np.frombuffer(body, np.uint8, 16, place + 1)
            symbols = np.frombuffer(body, np.uint8, int(lengths.sum()), place + 17)
            width = np.repeat(np.arange(1, 17), lengths)
            entries = np.repeat(width << 8 | symbols, 1 << (16 - width))
            if len(entries) > 1 << 16:
                raise UnsupportedJpeg("a Huffman table with too many codes")
            self.codes[body[place]] = np.pad(entries, (0, (1 << 16) - len(entries))).astype(np.int32)
            place += 17 + len(symbols)

    def scan(self, body: bytes, data: bytes) -> None:
        """SOS and the bits behind it."""
        chosen = []
        for n in range(1, 1 + 2 * body[0], 2):
            component = next((c for c in self.components if c.identifier == body[n]), None)
            if component is None or component.identifier in self.scanned:
                raise UnsupportedJpeg("a scan of a colour that the frame has not, or twice")
            component.dc_table, component.ac_table = body[n + 1] >> 4, 0x10 | body[n + 1] & 15
            self.scanned.add(component.identifier)
            chosen.append(component)
        blocks = self._blocks(chosen)
        every = self.restart * sum(c.across * c.down for c in chosen) if len(chosen) > 1 else self.restart
        for n, part in enumerate(_restarts(data)):
            self._segment(part, blocks[n * every : (n + 1) * every] if every else blocks)

    def _blocks(self, chosen: list[_Component]) -> list[tuple[_Component, int]]:
        """The blocks of a scan in the order of the file: component and number of the block in its plane."""
        if len(chosen) == 1:
            (c,) = chosen
            rows, columns = (-(-side // 8) for side in c.size)
            return [(c, r * c.blocks[1] + k) for r in range(rows) for k in range(columns)]
        mcus = (chosen[0].blocks[0] // chosen[0].down, chosen[0].blocks[1] // chosen[0].across)
        found = []
        for row in range(mcus[0]):
            for column in range(mcus[1]):
                for c in chosen:
                    first = row * c.down * c.blocks[1] + column * c.across
                    found += [
                        (c, first + y * c.blocks[1] + x) for y in range(c.down) for x in range(c.across)
                    ]
        return found

    def _segment(self, data: bytes, blocks: list[tuple[_Component, int]]) -> None:
        """Decodes the bits between two restarts. The one loop over codes; what they mean is known for every bit already."""
        window = _windows(data)
        components = {id(c): c for c, _ in blocks}.values()
        tables = {
            n: memoryview(_entries(window, self.codes[n]))
            for n in {n for c in components for n in (c.dc_table, c.ac_table)}
        }
        before = {id(c): 0 for c in components}
        bit = 0
        for component, block in blocks:
            codes, places, values = tables[component.ac_table], component.places, component.values
            entry = tables[component.dc_table][bit]
            bit += entry & 31 or _broken()
            before[id(component)] += (entry >> 13) - 32768
            places.append(block * 64)
            values.append(before[id(component)])
            n = 1
            while n < 64:
                entry = codes[bit]
                bit += entry & 31 or _broken()
                if entry & 0x1E00:
                    n += entry >> 5 & 15
                    places.append(block * 64 + min(n, 63))
                    values.append((entry >> 13) - 32768)
                    n += 1
                elif entry & 0x1E0 == 0x1E0:
                    n += 16  # a run of zeros that goes on
                else:
                    break

    def planes(self) -> list[np.ndarray]:
        """Each component's (rows, columns) uint8, without margin."""
        found = []
        for c in self.components:
            rows, columns = c.blocks
            numbers = np.zeros(rows * columns * 64, np.int32)
            numbers[c.places] = c.values
            numbers = (
                (numbers.reshape(-1, 64) * self.quantizers[c.quantizer]).astype(np.int16).astype(np.int32)
            )
            blocks = np.zeros_like(numbers)
            blocks[:, ZIGZAG] = numbers
            pixels = inverse_transform(blocks.reshape(-1, 8, 8)).reshape(rows, columns, 8, 8)
            found.append(
                pixels.transpose(0, 2, 1, 3).reshape(rows * 8, columns * 8)[: c.size[0], : c.size[1]]
            )
        return found


def decode(data: bytes) -> np.ndarray:
    """The bytes of a JPEG file -> (H, W, 3) uint8 RGB. UnsupportedJpeg for one of another kind, or a damaged one."""
    image = _Image()
    try:
        coloured = _read(image, data)
        planes = image.planes()
    except (IndexError, KeyError, ValueError) as error:
        raise (
            error if isinstance(error, UnsupportedJpeg) else UnsupportedJpeg("the file is damaged")
        ) from error
    factors = [(image.down // c.down, image.across // c.across) for c in image.components]
    planes = [enlarge(plane, image.size, factor) for plane, factor in zip(planes, factors, strict=True)]
    if len(planes) == 1:
        return np.repeat(planes[0][..., None], 3, -1)
    return to_rgb(*planes) if coloured else np.stack(planes, -1)


def _read(image: _Image, data: bytes) -> bool:
    """Walks through the segments. Whether three planes are luminance and two colour differences, rather than RGB."""
    if data[:2] != b"\xff\xd8":
        raise UnsupportedJpeg("not a JPEG file")
    place, jfif, adobe = 2, False, None
    while len(image.scanned) < len(image.components) or not image.components:
        while data[place] != 0xFF or data[place + 1] in (0x00, 0xFF):
            place += 1
        marker = data[place + 1]
        body = data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")]
        place += 4 + len(body)
        if marker in SOF_SEQUENTIAL:
            image.frame(body)
        elif marker in SOF_OTHERS or marker == 0xD9:
            raise UnsupportedJpeg("not sequential, or ends too soon")
        elif marker == 0xC4:
            image.huffman(body)
        elif marker == 0xDB:
            image.quantization(body)
        elif marker == 0xDD:
            image.restart = int.from_bytes(body[:2], "big")
        elif marker == 0xE0:
            jfif = jfif or body[:5] == b"JFIF\0"
        elif marker == 0xEE and body[:5] == b"Adobe":
            adobe = body[11]
        elif marker == 0xDA:
            end = _scan_end(data, place)
            image.scan(body, data[place:end])
            place = end
    names = bytes(c.identifier for c in image.components)
    return not (names == b"RGB" or (adobe == 0 and not jfif))


def _scan_end(data: bytes, place: int) -> int:
    """Where the bits of a scan end: at the first marker that is no restart."""
    first = place
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        if data[place + 1] != 0 and not 0xD0 <= data[place + 1] <= 0xD7:
            break
        place += 2
    place = len(data) if place < 0 else place
    if place - first > LARGEST_SCAN:
        raise UnsupportedJpeg(f"a scan of more than {LARGEST_SCAN} bytes")
    return place


def _restarts(data: bytes) -> list[bytes]:
    """The parts between restart markers, without the zero that follows each 0xFF."""
    found, first, place = [], 0, 0
    while (place := data.find(b"\xff", place)) >= 0:
        if data[place + 1 : place + 2] != b"\0":
            found.append(data[first:place])
            first = place + 2
        place += 2
    return [part.replace(b"\xff\0", b"\xff") for part in (*found, data[first:])]


def _windows(data: bytes) -> np.ndarray:
    """The 16 bits that begin at each bit of the data; zeros follow its end."""
    padded = np.frombuffer(data + bytes(8), np.uint8).astype(np.uint32)
    words = padded[:-3] << 16 | padded[1:-2] << 8 | padded[2:-1]  # 24 bits from each byte
    return ((words[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)) & 0xFFFF).astype(np.uint16).reshape(-1)


def _entries(window: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What one Huffman table finds at each bit position: bits taken (5 bits, 0 for no code), run (4), size (4), value + 32768.

    For a DC table the run is 0 and the value the difference to the block before.
    """
    found = codes[window]
    length, size = found >> 8, found & 15
    after = np.minimum(np.arange(len(window)) + length, len(window) - 1)
    value = window[after].astype(np.int32) >> (16 - size)
    value = np.where(value < (1 << size >> 1), value - (1 << size) + 1, value)
    taken = np.where(length > 0, length + size, 0)
    return (taken | (found & 0xF0) << 1 | size << 9 | (value + 32768) << 13).astype(np.int32)


def _broken() -> int:
    raise UnsupportedJpeg("a code that no table has")
