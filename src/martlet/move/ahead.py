"""Sends criu's page images while criu still writes them, so that the copy and the dump share the freeze.

criu writes `pages-N.img` one after another and only ever appends. Everything else waits for the end of the dump.
"""

from __future__ import annotations

import threading
from pathlib import Path

from martlet.errors import MartletError
from martlet.move.files import Sender
from martlet.move.messages import Area

POLL_S = 0.002
LEAST_BYTES = 512 * 1024
"""What is sent at a time while the dump goes on; less is not worth a frame."""


class SendAhead:
    """A thread that follows a folder of images from `start` to `finish`."""

    def __init__(self, sender: Sender, images: Path) -> None:
        self._sender = sender
        self._images = images
        self._sent: dict[Path, int] = {}
        self._ended = threading.Event()
        self._failure: MartletError | None = None
        self._thread = threading.Thread(target=self._follow, name="send-ahead", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Calling it twice, or before `start`, is fine."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self) -> None:
        """After the dump: send what is left of all images.

        Raises:
            MartletError: the stream broke.
        """
        self.stop()
        if self._failure is not None:
            raise self._failure
        for path in self._pages():
            self._send(path, least_bytes=1)
        self._sender.send_tree(Area.IMAGES, self._images, skip=self._is_done)

    def _is_done(self, name: bytes) -> bool:
        return name.endswith(b".log") or name.startswith(b"pages-")

    def _follow(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                pages = self._pages()
                for path in pages:
                    self._send(path, least_bytes=1 if path != pages[-1] else LEAST_BYTES)
        except MartletError as error:
            self._failure = error

    def _pages(self) -> list[Path]:
        """Page images in the order in which criu writes them."""
        return sorted(self._images.glob("pages-*.img"), key=lambda path: int(path.stem.partition("-")[2]))

    def _send(self, path: Path, *, least_bytes: int) -> None:
        size, sent = path.stat().st_size, self._sent.get(path, 0)
        if size - sent >= least_bytes:
            self._sender.send_part(Area.IMAGES, self._images, path, start=sent, end=size)
            self._sent[path] = size
