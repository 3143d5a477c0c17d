"""The hold: frames for and from a session while it is frozen are kept and replayed, not dropped.

On each node a session has one port on the bridge. Shut, it forwards nothing; frames for the session's MAC then go to
a TAP beside it, and frames that the session still sends are seen by a packet socket. A frozen session's kernel would
otherwise acknowledge data that its copy will never have, and answer ARP for an address that is leaving.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from martlet.kernel import bridge, link, packet, sockets
from martlet.kernel.bridge import PortState
from martlet.kernel.namespace import Namespace, within
from martlet.kernel.packet import PacketSocket, Tap
from martlet.session.place import INNER_LINK, Place

HELD_MAX_BYTES = 32 * 1024 * 1024
POLL_MS = 20
DRAIN_TRIES = 20
DRAIN_STEP_S = 0.005


class Way(Enum):
    """Which way a frame was going."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame with its virtio-net header, and the way it was going."""

    way: Way
    data: bytes


class Injector:
    """Puts frames back: towards the session through its own port, and out of it through its own link."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inward = PacketSocket(place.port)
        self._outward = packet.packet_socket_in(place.net, INNER_LINK)

    def put(self, frame: Frame) -> None:
        (self._inward if frame.way is Way.IN else self._outward).send(frame.data)

    def announce(self) -> None:
        """Tell switches and peers where the session is now (gratuitous ARP)."""
        self._outward.send(packet.arp_announcement(self._place.spec.mac, self._place.spec.address))

    def close(self) -> None:
        self._inward.close()
        self._outward.close()


class Hold:
    """The hold at the node where the session runs when the move begins.

    `prepare` costs milliseconds and changes nothing that anybody sees; `shut` and `reopen` are quick. A thread of its
    own reads the frames and gives each to `forward` once there is one; until then, and always, it keeps them.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._undo = ExitStack()
        self._frames: list[Frame] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self._own: list[Frame] = []
        self._saved = False
        self._forward: Callable[[Frame], None] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pump, name=f"hold-{place.spec.id}", daemon=True)

    def prepare(self) -> None:
        """Make the TAP, its bridge port and the sockets.

        Raises:
            ToolFailed: a kernel interface said no; what was made is undone.
        """
        with self._undo as undo:
            self._tap = Tap(f"mh{self._place.spec.id}")
            undo.callback(self._tap.close)
            self._port = PacketSocket(self._place.port)
            undo.callback(self._port.close)
            self._injector = Injector(self._place)
            undo.callback(self._injector.close)
            self._diagnosis = within(Namespace.NET, self._place.net, sockets.Diagnosis)
            undo.callback(self._diagnosis.close)
            with link.links() as links:
                links.enslave(self._tap.name, bridge=self._place.config.network.bridge)
                links.up(self._tap.name)
            bridge.deliver_only_known(self._tap.name)
            self._undo = undo.pop_all()

    def shut(self) -> bool:
        """Start holding, connections not yet accepted drained first.

        Returns whether the listeners' queues were empty; if not, somebody's handshake never ended, or a process does
        not accept: those connections cannot be carried.
        """
        for _ in range(DRAIN_TRIES):
            self._close_gate()
            if not self._diagnosis.unaccepted():
                break
            self._open_gate(self._waiting())
            time.sleep(DRAIN_STEP_S)
        else:
            self._close_gate()
        self._thread.start()
        return not self._diagnosis.unaccepted()

    def saved(self) -> None:
        """The session's state has been saved: what its kernel sends from now on its copy will say by itself."""
        with self._lock:
            self._saved = True

    def forward_to(self, forward: Callable[[Frame], None]) -> None:
        """Give every frame kept so far, and every later one, to `forward`, in order."""
        with self._lock:
            for frame in self._frames:
                forward(frame)
            self._forward = forward

    def reopen(self) -> None:
        """The session goes on here: replay what was kept, and let frames pass again."""
        self._end_pump()
        self._open_gate([*self._frames, *self._own, *self._waiting()])

    def close(self) -> None:
        """Free everything. A port that is shut stays shut."""
        self._end_pump()
        self._undo.close()

    def _close_gate(self) -> None:
        self._port.listen()
        self._waiting()
        bridge.set_port_state(self._place.port, PortState.SHUT)
        bridge.point_mac(self._place.spec.mac, port=self._tap.name)

    def _open_gate(self, frames: list[Frame]) -> None:
        bridge.point_mac(self._place.spec.mac, port=self._place.port)
        bridge.set_port_state(self._place.port, PortState.OPEN)
        for frame in frames:
            self._injector.put(frame)
        while data := self._tap.receive():
            self._injector.put(Frame(way=Way.IN, data=data))

    def _waiting(self) -> list[Frame]:
        """What has come and was not read yet."""
        frames: list[Frame] = []
        while data := self._tap.receive():
            frames.append(Frame(way=Way.IN, data=data))
        while data := self._port.receive():
            frames.append(Frame(way=Way.OUT, data=data))
        return frames

    def _pump(self) -> None:
        poller = select.poll()
        poller.register(self._tap.fileno(), select.POLLIN)
        poller.register(self._port.fileno(), select.POLLIN)
        while not self._stop.is_set():
            if poller.poll(POLL_MS):
                with self._lock:
                    for frame in self._waiting():
                        self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        own = self._saved and frame.way is Way.OUT
        if self._forward is not None and not own:
            self._forward(frame)
        if self._bytes + len(frame.data) <= HELD_MAX_BYTES:
            self._bytes += len(frame.data)
            (self._own if own else self._frames).append(frame)

    def _end_pump(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
