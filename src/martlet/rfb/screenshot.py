"""One picture of a display, as a PNG file.

Connects, looks once and leaves; sends no key and moves no pointer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from martlet.rfb.client import PORT, connect
from martlet.rfb.errors import DisplayUnreachable

if TYPE_CHECKING:
    from PIL.Image import Image


async def screenshot(host: str, port: int, path: str | os.PathLike[str], *, deadline_s: float = 15.0) -> None:
    """Write the display's picture to `path` as PNG; a file of that name is replaced as a whole.

    Raises:
        DisplayError: no picture could be had; nothing was written.
        OSError: `path` cannot be written.
    """
    image = await look(host, port, deadline_s=deadline_s)
    final = Path(path)
    half = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        image.save(half, format="PNG")
        half.replace(final)
    finally:
        half.unlink(missing_ok=True)


async def look(host: str, port: int = PORT, *, deadline_s: float = 15.0) -> Image:
    """The display as it is now, as a picture of Pillow.

    Raises:
        DisplayError: nobody answers within `deadline_s`, or the server misbehaves.
    """
    try:
        async with asyncio.timeout(deadline_s), connect(host, port, deadline_s=deadline_s) as display:
            async with contextlib.aclosing(display.updates()) as updates:
                async for update in updates:
                    if update.pixels and not update.resized:
                        break
            return display.framebuffer.image()
    except TimeoutError as error:
        raise DisplayUnreachable(f"no picture within {deadline_s:g} s", host=host, port=port) from error
