"""The hold at the node where a session arrives: what is to be replayed waits until its port opens.

What criu itself makes the session's kernel send while it restores (window probes) is kept with the rest.
"""

from __future__ import annotations

import threading
import time

from martlet.kernel.packet import PacketSocket
from martlet.move.hold import Frame, Injector, Way
from martlet.session import place as places
from martlet.session.place import Place

ANNOUNCE_AT_S = (0.02, 0.1, 0.25)


class Landing:
    """Made when the place is built and its port is shut; `take` and `open` may come from different threads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._injector = Injector(place)
        self._port = PacketSocket(place.port)
        self._port.listen()
        self._lock = threading.Lock()
        self._waiting: list[Frame] = []
        self._is_open = False
        self._announcing: threading.Thread | None = None

    def take(self, frame: Frame) -> None:
        """A frame from the source: kept until the port is open, injected at once after that."""
        with self._lock:
            if not self._is_open:
                self._waiting.append(frame)
                return
        self._injector.put(frame)

    def open(self) -> None:
        """Open the port, say on the LAN where the session is, and replay what waits."""
        with self._lock:
            while data := self._port.receive():
                self._waiting.append(Frame(way=Way.OUT, data=data))
            places.open_port(self._place)
            self._injector.announce()
            for frame in self._waiting:
                self._injector.put(frame)
            self._waiting.clear()
            self._is_open = True
        self._announcing = threading.Thread(target=self._announce_again, daemon=True)
        self._announcing.start()

    def close(self) -> None:
        if self._announcing is not None:
            self._announcing.join()
        self._injector.close()
        self._port.close()

    def _announce_again(self) -> None:
        begin = time.monotonic()
        for at_s in ANNOUNCE_AT_S:
            time.sleep(max(0.0, begin + at_s - time.monotonic()))
            self._injector.announce()
