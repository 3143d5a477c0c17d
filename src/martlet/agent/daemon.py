"""The agent's life: connect, recover, then hold the lease, take orders, keep the door and report, until SIGTERM.

Only puts the parts together; each task has an owner here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path

import anyio

from martlet.agent import door, execute, facts
from martlet.agent.load import Sampler
from martlet.agent.orders import Orders
from martlet.agent.owners import BlockingOwners
from martlet.agent.registry import Registry
from martlet.bus import client
from martlet.bus.client import Bus
from martlet.bus.names import Bucket, Role, load_subject, presence_key
from martlet.config import Config
from martlet.errors import Unreachable
from martlet.image import store
from martlet.kernel import memory
from martlet.kernel.cgroup import Hierarchies
from martlet.model import Event, NodeFacts, NodeRecord, NodeState, Ownership, SessionSpec, SessionState
from martlet.move import messages, recovery, target
from martlet.move.context import Context
from martlet.move.journal import Journal
from martlet.session import inspect, remote
from martlet.wire import Channel

logger = logging.getLogger(__name__)

SAMPLE_S = 1.0
FINISH_MOVES_S = 30.0
RECOVER_AGAIN_S = 5.0
AGENTS = frozenset({"agent"})
PEOPLE = frozenset({"admin"})


async def run(config: Config) -> None:
    """Be this node's agent until SIGTERM or SIGINT. Sessions run on."""
    if fault := memory.stay_resident():
        logger.warning("a busy disk may make moves wait: %s", fault)
    marks: dict[str, SessionState] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_signal, tasks.cancel_scope, marks)
        async with client.connect(config, Role.AGENT) as bus:
            await bus.ensure_stores()
            agent = await Agent.make(config, bus, marks)
            await agent.run()
    # Threads of moves may be waiting for the store; their state is on disk, so they need not be waited for.
    logging.shutdown()
    os._exit(0)


class Agent:
    """One agent. Made by `make`, which has probed the node and written its record."""

    def __init__(
        self, config: Config, bus: Bus, known: NodeFacts, state: NodeState, marks: dict[str, SessionState]
    ) -> None:
        self._config, self._bus, self._facts, self._state = config, bus, known, state
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.context = Context(
            config=config,
            hierarchies=Hierarchies.find(),
            facts=lambda: self._facts,
            state=lambda: self._state,
            rootfs=self._rootfs,
            owners=BlockingOwners(bus.table(Bucket.OWNERS, Ownership)),
            tell=self._tell,
            arrived=self._arrived,
            departed=self._departed,
            marks=marks,
        )
        self.registry = Registry(self.context, bus)

    @classmethod
    async def make(cls, config: Config, bus: Bus, marks: dict[str, SessionState]) -> Agent:
        known = await anyio.to_thread.run_sync(facts.probe, config)
        for fault in known.faults:
            logger.warning("%s; %s", fault.text, fault.hint)
        nodes = bus.table(Bucket.NODES, NodeRecord)
        before = await nodes.get(config.node.name)
        state = before.value.state if before is not None else NodeState.UP
        await nodes.put(config.node.name, NodeRecord(facts=known, state=state))
        return cls(config, bus, known, state, marks)

    async def run(self) -> None:
        """Serve. Moves that were cut are recovered beside that, each marked so that no order touches its session."""
        self._make_folders()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send_events)
            for book in list(recovery.open_journals(self.context)):
                self.context.marks[book.spec.id] = SessionState.MOVING
                tasks.start_soon(self._recover, book)
            await self.registry.adopt()
            tasks.start_soon(self._watch_own_state)
            tasks.start_soon(door.stand_open, self._config, self._services())
            await Orders(self.context, self._bus, self.registry).serve()
            tasks.start_soon(self._report)
            tasks.start_soon(self._bus.lease(presence_key(self.context.me)).hold, _forever)
            logger.info("agent of %s serves", self.context.me)

    def _services(self) -> dict[str, door.Service]:
        return {
            messages.PURPOSE_MOVE: door.Service(serve=self._take_in, roles=AGENTS),
            messages.PURPOSE_VERDICT: door.Service(serve=self._answer, roles=AGENTS),
            remote.PURPOSE_EXEC: door.Service(serve=self._execute, roles=PEOPLE),
        }

    def _take_in(self, channel: Channel) -> None:
        target.take_in(self.context, channel)

    def _arrived(self, session: str, epoch: int) -> None:
        self._loop.call_soon_threadsafe(self.registry.moved_in, session, epoch)

    def _departed(self, session: str) -> None:
        self._loop.call_soon_threadsafe(self.registry.moved_out, session)

    def _answer(self, channel: Channel) -> None:
        target.answer(self.context, channel)

    def _execute(self, channel: Channel) -> None:
        execute.serve(channel, self.registry.find_still)

    async def _recover(self, book: Journal) -> None:
        while True:
            try:
                await anyio.to_thread.run_sync(recovery.recover, self.context, book, abandon_on_cancel=True)
                break
            except Exception:  # the top of a task: one move that cannot be settled must not end the agent
                logger.exception("the cut move %s of %s could not be recovered; trying again", book.move, book.spec.id)
                self.context.marks[book.spec.id] = SessionState.IN_DOUBT
                await anyio.sleep(RECOVER_AGAIN_S)
        await self.registry.adopt()

    async def _report(self) -> None:
        """Each second: clear away what has ended, sample, publish."""
        sampler = Sampler(self.context.me, self._facts.cores, self.context.hierarchies)
        while True:
            await anyio.sleep(SAMPLE_S)
            try:
                await self.registry.reap()
                owned = [
                    (place, self.registry.epochs[place.spec.id], self._state_of(place.spec.id))
                    for place in self.registry.owned()
                ]
                for place, _, _ in owned:
                    inspect.cut_log(place, limit_bytes=self._config.sessions.log_bytes)
                load = await anyio.to_thread.run_sync(sampler.sample, owned)
                await self._bus.publish(load_subject(self.context.me), load)
            except Unreachable as error:
                logger.warning("load was not reported: %s", error)

    def _state_of(self, session: str) -> SessionState:
        return self.context.marks.get(session, SessionState.RUNNING)

    async def _watch_own_state(self) -> None:
        """Follow what the administrator wants of this node (draining, up)."""
        nodes = self._bus.table(Bucket.NODES, NodeRecord)
        async with nodes.watch() as changes:
            async for change in changes:
                if change.key == self.context.me and change.value is not None:
                    self._state = change.value.state

    async def _send_events(self) -> None:
        while True:
            await self._bus.events.publish(await self._events.get())

    def _tell(self, event: Event) -> None:
        logger.info("%s: %s", event.kind, event.text)
        if threading.current_thread() is threading.main_thread():
            self._events.put_nowait(event)
        else:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _rootfs(self, spec: SessionSpec) -> Path:
        return store.find(self._config.paths.images, spec.image).rootfs

    def _make_folders(self) -> None:
        for folder in (self._config.paths.run / "sessions", self._config.paths.run / "moves", self.context.journals):
            folder.mkdir(parents=True, exist_ok=True)
        self.context.sessions_group.create()
        self.context.moves_group.create()


async def _forever(_: int) -> None:
    await anyio.sleep_forever()


async def _until_signal(scope: anyio.CancelScope, marks: dict[str, SessionState]) -> None:
    """End on a signal; moves under way are let come to their end first, or their sessions would wait, frozen, for the
    next start of the agent. A second signal ends at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        number = await anext(aiter(signals))
        logger.info("ending on %s; sessions run on", signal.Signals(number).name)
        with anyio.move_on_after(FINISH_MOVES_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_empty, marks, tasks.cancel_scope)
                await anext(aiter(signals))
                tasks.cancel_scope.cancel()
        scope.cancel()


async def _until_empty(marks: dict[str, SessionState], scope: anyio.CancelScope) -> None:
    while marks:
        await anyio.sleep(0.02)
    scope.cancel()
