"""The sessions of this node: which there are, how they are born and how they end, with the store kept true.

Every path out gives back what was claimed: address, records, place.
"""

from __future__ import annotations

import ipaddress
import logging
import pwd
from collections.abc import Iterator
from contextlib import AsyncExitStack

import anyio

from martlet.bus.client import Bus
from martlet.bus.events import now
from martlet.bus.names import Bucket
from martlet.bus.orders import StartOrder
from martlet.config import Network
from martlet.errors import Conflict, NotFound, Refused
from martlet.image import store as images
from martlet.kernel import link
from martlet.model import (
    DisplayAccess,
    ImageRef,
    Ownership,
    Reason,
    SessionRecord,
    SessionSpec,
    SessionState,
)
from martlet.move.context import Context
from martlet.move.events import event
from martlet.session import launch
from martlet.session import place as places
from martlet.session.place import Place

logger = logging.getLogger(__name__)


class Registry:
    """The sessions here. `epochs` holds those that this node owns; their places are on disk."""

    def __init__(self, context: Context, bus: Bus) -> None:
        self._context = context
        self._bus = bus
        self._sessions = bus.table(Bucket.SESSIONS, SessionRecord)
        self._owners = bus.table(Bucket.OWNERS, Ownership)
        self._addresses = bus.table(Bucket.ADDRESSES, str)
        self._busy: set[str] = set()
        self.epochs: dict[str, int] = {}

    async def adopt(self) -> None:
        """After a start of the agent: find what runs here and what the store says of it."""
        here = {place.spec.id for place in places.find_all(self._context.config, self._context.hierarchies)}
        for session, owner in (await self._owners.all()).items():
            if owner.node != self._context.me:
                continue
            if session in here:
                self.epochs[session] = owner.epoch
            elif session not in self._context.marks:
                await self._mark_lost(session)

    def owned(self) -> Iterator[Place]:
        """The places of the sessions that this node owns."""
        for place in places.find_all(self._context.config, self._context.hierarchies):
            if place.spec.id in self.epochs:
                yield place

    def find(self, session: str) -> Place:
        """One session's place.

        Raises:
            NotFound: it is not here.
        """
        for place in places.find_all(self._context.config, self._context.hierarchies):
            if place.spec.id == session:
                return place
        raise NotFound(f"there is no session {session} on {self._context.me}")

    def find_still(self, session: str) -> Place:
        """One session's place, while it is not moving.

        Raises:
            NotFound: it is not here. Refused: it is moving.
        """
        self._not_moving(session)
        return self.find(session)

    async def start(self, order: StartOrder) -> SessionRecord:
        """Claim, build, start, record; on failure all of it is taken back.

        Raises:
            Refused: no such user or image, no address, not movable by design.
        """
        request = order.request
        user, image = self._user(request.user), self._image(request.image or ("base" if request.argv else "desktop"))
        if request.display_access is DisplayAccess.GATEWAY:
            raise Refused("this cluster has no gateway", reasons=[NO_GATEWAY])
        async with AsyncExitStack() as undo:
            address = await self._claim(order.id)
            undo.push_async_callback(self._addresses.delete, _key(address))
            spec = SessionSpec(
                id=order.id,
                user=request.user,
                uid=user.pw_uid,
                gid=user.pw_gid,
                home=user.pw_dir,
                group=request.group,
                image=ImageRef(name=image.name, digest=image.digest),
                argv=request.argv,
                address=address,
                mac=link.mac_of(address),
                created_at=now(),
                display=request.display,
                display_access=request.display_access,
            )
            place = self._context.place(spec)
            self._busy.add(spec.id)
            undo.callback(self._busy.discard, spec.id)
            await self._sessions.put(spec.id, SessionRecord(spec=spec, state=SessionState.STARTING))
            undo.push_async_callback(self._sessions.delete, spec.id)
            await self._owners.create(spec.id, Ownership(node=self._context.me, epoch=1))
            undo.push_async_callback(self._owners.delete, spec.id)
            undo.push_async_callback(anyio.to_thread.run_sync, places.destroy, place)
            await anyio.to_thread.run_sync(places.build, place, image.rootfs)
            await launch.start(place)
            record = SessionRecord(spec=spec, state=SessionState.RUNNING, started_at=now())
            await self._sessions.put(spec.id, record)
            undo.pop_all()
        self._busy.discard(spec.id)
        self.epochs[spec.id] = 1
        text = f"{spec.id} of {spec.user} started"
        self._context.tell(event("started", text, session=spec.id, node=self._context.me))
        return record

    async def stop(self, session: str) -> None:
        """End a session and give everything back.

        Raises:
            NotFound: it is not here.
            Refused: it is moving.
        """
        self._not_moving(session)
        try:
            place = self.find(session)
        except NotFound:
            if session not in await self._owners.keys():
                raise
            await self._forget(session)
            return
        self._busy.add(session)
        try:
            record = await self._sessions.get(session)
            if record is not None:
                await self._sessions.put(session, _with_state(record.value, SessionState.STOPPING))
            await launch.stop(place)
            await self._forget(session)
        finally:
            self._busy.discard(session)
        self._context.tell(event("stopped", f"{session} was stopped", session=session, node=self._context.me))

    async def reap(self) -> None:
        """Clear away sessions whose processes have all ended by themselves."""
        for place in list(self.owned()):
            session = place.spec.id
            if session in self._busy or session in self._context.marks or place.group.processes():
                continue
            await anyio.to_thread.run_sync(places.destroy, place)
            await self._forget(session)
            self._context.tell(event("ended", f"{session} ended", session=session, node=self._context.me))

    def moved_in(self, session: str, epoch: int) -> None:
        self.epochs[session] = epoch

    def moved_out(self, session: str) -> None:
        self.epochs.pop(session, None)

    def _not_moving(self, session: str) -> None:
        if session in self._context.marks:
            raise Refused(f"the session {session} is moving; try again when the move is over")

    async def _forget(self, session: str) -> None:
        record = await self._sessions.get(session)
        self.epochs.pop(session, None)
        await self._owners.delete(session)
        if record is not None:
            await self._sessions.delete(session)
            await self._addresses.delete(_key(record.value.spec.address))

    async def _mark_lost(self, session: str) -> None:
        record = await self._sessions.get(session)
        if record is not None and record.value.state is not SessionState.LOST:
            await self._sessions.put(session, _with_state(record.value, SessionState.LOST))
            text = f"{session} is lost: {self._context.me} was to run it and does not"
            self._context.tell(event("lost", text, session=session, node=self._context.me))

    async def _claim(self, session: str) -> str:
        """An address of the pool, ours from now on."""
        taken = set(await self._addresses.keys())
        for address in pool(self._context.config.network):
            if _key(address) in taken:
                continue
            try:
                await self._addresses.create(_key(address), session)
            except Conflict:
                continue
            return address
        network = self._context.config.network
        text = f"all addresses from {network.pool_first} to {network.pool_last} are given out"
        hint = "stop sessions, or enlarge network.pool_last"
        raise Refused("no free address", reasons=[Reason(code="no_address", text=text, hint=hint)])

    def _user(self, name: str) -> pwd.struct_passwd:
        try:
            user = pwd.getpwnam(name)
        except KeyError as error:
            reason = Reason(code="no_user", text=f"{self._context.me} does not know the user '{name}'")
            raise Refused(f"no user '{name}'", reasons=[reason]) from error
        if user.pw_uid == 0:
            raise Refused("sessions do not run as root", reasons=[Reason(code="root", text="choose a user")])
        return user

    def _image(self, name: str) -> images.Image:
        try:
            return images.current(self._context.config.paths.images, name)
        except NotFound as error:
            text = f"{self._context.me} has not the image '{name}'"
            reason = Reason(code="image_missing", text=text, hint=f"'martlet image build {name}' builds it")
            raise Refused(error.message, reasons=[reason]) from error


NO_GATEWAY = Reason(code="no_gateway", text="no gateway runs in this cluster", hint="use --display-access direct")


def pool(network: Network) -> Iterator[str]:
    """The addresses that may be given to sessions, in order."""
    first, last = (int(ipaddress.IPv4Address(text)) for text in (network.pool_first, network.pool_last))
    for number in range(first, last + 1):
        if number & 0xFF not in (0, 0xFF):
            yield str(ipaddress.IPv4Address(number))


def _key(address: str) -> str:
    return address.replace(".", "-")


def _with_state(record: SessionRecord, state: SessionState) -> SessionRecord:
    return SessionRecord(spec=record.spec, state=state, started_at=record.started_at)
