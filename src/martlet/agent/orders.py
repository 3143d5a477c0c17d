"""The orders an agent takes over the bus, each verb one method. Checks who leads, then calls what does it."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from martlet.agent.registry import Registry
from martlet.bus.client import Bus
from martlet.bus.names import Bucket, agent_subject
from martlet.bus.orders import (
    AdmitOrder,
    AgentVerb,
    KillOrder,
    LogChunk,
    LogOrder,
    MigrateOrder,
    Order,
    SessionOrder,
    StartOrder,
)
from martlet.errors import NotFound, Refused
from martlet.kernel import proc
from martlet.model import (
    Movability,
    MoveOutcome,
    MoveReport,
    NodeFacts,
    NodeRecord,
    NodeVerdict,
    ProcessInfo,
    SessionRecord,
    SessionState,
)
from martlet.move import check, source, target
from martlet.move.context import Context
from martlet.move.events import event
from martlet.move.source import Outgoing
from martlet.session import inspect
from martlet.session.place import Place

logger = logging.getLogger(__name__)

B = TypeVar("B")
LOG_CHUNK_BYTES = 256 * 1024
MOVES_AT_ONCE = 64


class Orders:
    """The verbs of one agent."""

    def __init__(self, context: Context, bus: Bus, registry: Registry) -> None:
        self._context = context
        self._bus = bus
        self._registry = registry
        self._term = 0
        self._moves = anyio.CapacityLimiter(MOVES_AT_ONCE)

    async def serve(self) -> None:
        """Begin to take orders."""
        await self._on(AgentVerb.START, StartOrder, self.start)
        await self._on(AgentVerb.STOP, SessionOrder, self.stop)
        await self._on(AgentVerb.MIGRATE, MigrateOrder, self.migrate)
        await self._on(AgentVerb.WHY, SessionOrder, self.why)
        await self._on(AgentVerb.ADMIT, AdmitOrder, self.admit)
        await self._on(AgentVerb.PROCESSES, type(None), self.processes)
        await self._on(AgentVerb.KILL, KillOrder, self.kill)
        await self._on(AgentVerb.LOG, LogOrder, self.log)

    async def _on(self, verb: AgentVerb, shape: type[B], do: Callable[[B], Awaitable[Any]]) -> None:
        async def handle(body: B, order: Order) -> Any:
            self._obey(order)
            return await do(body)

        await self._bus.serve(agent_subject(self._context.me, verb), shape, handle)

    def _obey(self, order: Order) -> None:
        """An order of a mother that has been followed by another is not obeyed. Term 0 is a person's."""
        if order.term and order.term < self._term:
            raise Refused(f"{order.sender} led with term {order.term}, but term {self._term} has been seen")
        self._term = max(self._term, order.term)

    async def start(self, order: StartOrder) -> SessionRecord:
        return await self._registry.start(order)

    async def stop(self, order: SessionOrder) -> None:
        await self._registry.stop(order.session)

    async def migrate(self, order: MigrateOrder) -> MoveReport:
        """Move a session out. A second order for one that is moving is refused."""
        place = self._registry.find(order.session)
        if order.to == self._context.me:
            raise Refused(f"the session {order.session} is on {order.to} already")
        if order.session in self._context.marks:
            in_doubt = self._context.marks[order.session] is SessionState.IN_DOUBT
            raise Refused(f"the session {order.session} is {'in doubt' if in_doubt else 'moving'} already")
        self._context.marks[order.session] = SessionState.MOVING
        unsettled = False
        try:
            facts = await self._facts_of(order.to)
            outgoing = Outgoing(move=secrets.token_hex(6), place=place, target=facts, mode=order.mode)
            report = await anyio.to_thread.run_sync(source.move_out, self._context, outgoing, limiter=self._moves)
            unsettled = report.outcome is MoveOutcome.IN_DOUBT
        finally:
            if not unsettled:  # else the settlement takes the mark away when it has ended
                self._context.marks.pop(order.session, None)
        self._tell(report)
        return report

    async def why(self, order: SessionOrder) -> Movability:
        place = self._registry.find(order.session)
        reasons = await anyio.to_thread.run_sync(source.objections, self._context, place)
        return Movability(session=order.session, movable=not reasons, reasons=tuple(reasons))

    async def admit(self, order: AdmitOrder) -> NodeVerdict:
        record = await self._bus.table(Bucket.SESSIONS, SessionRecord).get(order.session)
        if record is None:
            raise NotFound(f"there is no session {order.session}")
        wanted = check.Wanted(
            spec=record.value.spec,
            source=await self._facts_of(order.source),
            memory_bytes=order.memory_bytes,
            private_bytes=0,
        )
        return await anyio.to_thread.run_sync(target.admit, self._context, wanted)

    async def processes(self, _: None) -> list[ProcessInfo]:
        return await anyio.to_thread.run_sync(self._processes)

    async def kill(self, order: KillOrder) -> None:
        """Signal one process of a session by the pid that the session sees; 0 is its first process."""
        place = self._registry.find(order.session)
        wanted = order.pid or 1
        for task in proc.read_all(place.group.processes()):
            if task.pid == wanted:
                os.kill(task.host_pid, signal.Signals(order.signal))
                return
        raise NotFound(f"the session {order.session} has no process {wanted}")

    async def log(self, order: LogOrder) -> LogChunk:
        place = self._registry.find(order.session)
        text, next_offset = inspect.read_log(place, offset=order.offset, limit_bytes=LOG_CHUNK_BYTES)
        return LogChunk(text=text, next_offset=next_offset)

    async def _facts_of(self, node: str) -> NodeFacts:
        record = await self._bus.table(Bucket.NODES, NodeRecord).get(node)
        if record is None:
            raise NotFound(f"there is no node {node}")
        return record.value.facts

    def _processes(self) -> list[ProcessInfo]:
        return [info for place in self._registry.owned() for info in self._of_place(place)]

    def _of_place(self, place: Place) -> list[ProcessInfo]:
        tasks = proc.read_all(place.group.processes())
        return [
            ProcessInfo(
                node=self._context.me,
                session=place.spec.id,
                user=place.spec.user,
                pid=task.pid,
                host_pid=task.host_pid,
                threads=task.threads,
                cpu_pct=round(100.0 * task.cpu_ticks / proc.CLOCK_TICKS / max(task.age_s, 0.01), 1),
                rss_bytes=task.rss_bytes,
                command=task.command,
            )
            for task in tasks
        ]

    def _tell(self, report: MoveReport) -> None:
        if report.outcome is MoveOutcome.MOVED:
            text = f"{report.session} moved from {report.from_} to {report.to}, frozen {report.freeze_ms:.0f} ms"
        else:
            why = "; ".join(reason.text for reason in report.reasons)
            verb = "stayed on" if report.outcome is MoveOutcome.STAYED else "is in doubt, frozen on"
            text = f"{report.session} {verb} {report.from_}: {why}"
        data = {"freeze_ms": report.freeze_ms, "total_ms": report.total_ms, "to": report.to, "bytes": report.bytes}
        self._context.tell(event(report.outcome, text, session=report.session, node=report.from_, **data))
