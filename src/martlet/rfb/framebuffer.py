"""The picture that a client keeps of a display: rows of blue, green, red, unused bytes.

Knows rectangles, not sockets; a rectangle outside the screen is a ValueError, never a silent cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from martlet.rfb.protocol import PIXEL_BYTES, Rectangle

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 7680 * 4320
"""A larger screen than this (8K) is taken for damage, so that a bad length cannot eat the memory."""


class Framebuffer:
    """A screen of `width` by `height` pixels; `data` holds its rows from the top, black at first."""

    def __init__(self, *, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.data = bytearray()
        self.resize(width=width, height=height)

    def resize(self, *, width: int, height: int) -> None:
        """Start again, black, in another size (RFC 6143 section 7.8.2 leaves the content undefined)."""
        if not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"a screen of {width}x{height} pixels")
        self.width, self.height = width, height
        self.data = bytearray(width * height * PIXEL_BYTES)

    def check(self, area: Rectangle) -> None:
        """Raise ValueError unless `area` lies on the screen."""
        if area.x + area.width > self.width or area.y + area.height > self.height:
            place = f"{area.width}x{area.height} at {area.x},{area.y}"
            raise ValueError(f"a rectangle of {place} on a screen of {self.width}x{self.height}")

    def put(self, area: Rectangle, pixels: bytes) -> None:
        """Section 7.7.1 (Raw): `pixels` are the rows of `area`, `PIXEL_BYTES` each pixel."""
        self.check(area)
        row_bytes = area.width * PIXEL_BYTES
        for row in range(area.height):
            start = self._offset(area.x, area.y + row)
            self.data[start : start + row_bytes] = pixels[row * row_bytes : (row + 1) * row_bytes]

    def copy(self, area: Rectangle, *, from_x: int, from_y: int) -> None:
        """Section 7.7.2 (CopyRect): as if all of the source were read before any of `area` is written."""
        self.check(area)
        source = Rectangle(x=from_x, y=from_y, width=area.width, height=area.height, encoding=area.encoding)
        self.put(area, self.cut(source))

    def cut(self, area: Rectangle) -> bytes:
        """The rows of `area`."""
        self.check(area)
        row_bytes = area.width * PIXEL_BYTES
        starts = (self._offset(area.x, area.y + row) for row in range(area.height))
        return b"".join(bytes(self.data[start : start + row_bytes]) for start in starts)

    def image(self) -> Image:
        """The screen as a picture of Pillow."""
        from PIL import Image

        return Image.frombuffer("RGB", (self.width, self.height), bytes(self.data), "raw", "BGRX", 0, 1)

    def _offset(self, x: int, y: int) -> int:
        return (y * self.width + x) * PIXEL_BYTES
