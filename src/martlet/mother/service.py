"""What the leading mother answers: `MotherVerb`, each verb one method.

Decides with `policy` and `picture`; orders the agents; touches no node itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import anyio

from martlet.bus.client import Bus
from martlet.bus.names import agent_subject, mother_subject
from martlet.bus.orders import (
    AdmitOrder,
    AgentVerb,
    KillOrder,
    LogChunk,
    LogOrder,
    MigrateOrder,
    MotherVerb,
    Order,
    SessionOrder,
    StartOrder,
)
from martlet.errors import MartletError, NobodyThere, NotFound, Refused, Unreachable
from martlet.model import (
    Movability,
    MoveReport,
    NodeState,
    NodeVerdict,
    NodeView,
    ProcessInfo,
    Reason,
    SessionRecord,
    SessionView,
    StartRequest,
)
from martlet.mother import picture as views
from martlet.mother.watching import Watcher
from martlet.policy.placement import Placement, objections, place

logger = logging.getLogger(__name__)

A = TypeVar("A")
NOTHING = type(None)

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 60.0
MOVE_DEADLINE_S = 1500.0
"""Below the time within which the server lets an answer through (`bus.server.ANSWER_WITHIN`)."""
ASK_DEADLINE_S = 10.0
SETTLE_S = 5.0
"""How long a session counts as pending after it has started: until its node's load shows it."""
AGENT_ENDED = Reason(
    code="agent_ended",
    text="its agent ended, or could not be reached, before it answered; what it was doing is settled when it is back",
    hint="'martlet session list' shows what became of it",
)
ID_FIRST = "abcdefghjkmnpqrstuvwxyz"
ID_REST = ID_FIRST + "23456789"


class Mother:
    """The verbs of a mother that leads with `term`."""

    def __init__(self, bus: Bus, watcher: Watcher, *, term: int) -> None:
        self._bus = bus
        self._watcher = watcher
        self._term = term
        self._pending: Counter[str] = Counter()

    async def start(self, request: StartRequest, _: Order) -> SessionView:
        """Start a session on the node asked for, or on the best that takes it."""
        request = with_defaults(request)
        session = new_id(taken=self._watcher.picture().sessions)
        refusals: list[Reason] = []
        for node in self._start_nodes(request):
            try:
                return await self._start_on(node, StartOrder(id=session, request=replace(request, node=node)))
            except (Refused, NobodyThere) as error:
                logger.info("start %s: not on %s: %s", session, node, error.message)
                refusals += error.reasons or (Reason(code="refused", text=f"{node}: {error.message}"),)
        raise Refused("no node takes the session", reasons=each_once(refusals))

    async def stop(self, order: SessionOrder, _: Order) -> None:
        """Stop a session on its owner."""
        await self._order(await self._owner(order.session), AgentVerb.STOP, order, NOTHING, STOP_DEADLINE_S)

    async def sessions(self, _body: None, _: Order) -> list[SessionView]:
        """All sessions."""
        return views.session_views(self._watcher.picture())

    async def nodes(self, _body: None, _: Order) -> list[NodeView]:
        """All nodes."""
        return views.node_views(self._watcher.picture())

    async def migrate(self, order: MigrateOrder, _: Order) -> MoveReport:
        """Move a session to the node asked for, or to the best that admits it."""
        source = await self._owner(order.session)
        self._need_up(source)
        target = order.to or await self._admitting(order.session, source)
        self._need_target(order.session, source=source, target=target)
        logger.info("move %s: %s -> %s, %s", order.session, source, target, "asked" if order.to else "chosen")
        with self._on_its_way(target):
            return await self._order(source, AgentVerb.MIGRATE, replace(order, to=target), MoveReport, MOVE_DEADLINE_S)

    async def why(self, order: SessionOrder, _: Order) -> Movability:
        """Whether a session can move, and what each other node says as a target."""
        source = await self._owner(order.session)
        said = await self._order(source, AgentVerb.WHY, order, Movability, ASK_DEADLINE_S)
        others = sorted(set(self._watcher.picture().nodes) - {source})
        verdicts = await of_each(others, lambda node: self._verdict(node, order.session, source))
        return replace(said, nodes=tuple(verdicts))

    async def processes(self, _body: None, _: Order) -> list[ProcessInfo]:
        """Every process of every session on the nodes that answer."""
        picture = self._watcher.picture()
        found = await of_each(sorted(picture.present & set(picture.nodes)), self._processes_of)
        return [process for part in found for process in part]

    async def kill(self, order: KillOrder, _: Order) -> None:
        """Signal a process of a session."""
        await self._order(await self._owner(order.session), AgentVerb.KILL, order, NOTHING, ASK_DEADLINE_S)

    async def log(self, order: LogOrder, _: Order) -> LogChunk:
        """A piece of a session's log."""
        return await self._order(await self._owner(order.session), AgentVerb.LOG, order, LogChunk, ASK_DEADLINE_S)

    async def _start_on(self, node: str, order: StartOrder) -> SessionView:
        with self._on_its_way(node):
            record = await self._order(node, AgentVerb.START, order, SessionRecord, START_DEADLINE_S)
        logger.info("start %s: runs on %s for %s", order.id, node, order.request.user)
        view = views.session_view(self._watcher.picture(), record)
        return replace(view, node=node, state=record.state, epoch=max(view.epoch, 1))

    def _start_nodes(self, request: StartRequest) -> tuple[str, ...]:
        placement = self._placement()
        if request.node:
            self._need_known(request.node)
            verdict = next(each for each in placement.verdicts if each.name == request.node)
            if not verdict.ok:
                raise Refused(f"{request.node} does not take the session", reasons=verdict.reasons)
            return (request.node,)
        if not placement.order:
            raise Refused("no node takes the session", reasons=placement.refusals or (NO_NODES,))
        return placement.order

    def _placement(self, *, need_bytes: int | None = None, source: str = "") -> Placement:
        candidates = views.candidates(self._watcher.picture(), self._pending)
        if need_bytes is None:
            return place(candidates, source=source)
        return place(candidates, need_bytes=need_bytes, source=source)

    async def _admitting(self, session: str, source: str) -> str:
        load = views.last_load(self._watcher.picture(), session)
        placement = self._placement(need_bytes=load.memory_bytes if load else None, source=source)
        refusals = list(placement.refusals)
        for name in placement.order:
            verdict = await self._verdict(name, session, source)
            if verdict.ok:
                return name
            refusals += verdict.reasons
        raise Refused(f"no node takes session {session}", reasons=each_once(refusals))

    async def _verdict(self, node: str, session: str, source: str) -> NodeVerdict:
        """What `node` says to `session` as its target; not answering is a no with a reason."""
        if views.node_state(self._watcher.picture(), node) is NodeState.DOWN:
            return NodeVerdict(name=node, ok=False, reasons=(_down(node),))
        try:
            load = views.last_load(self._watcher.picture(), session)
            order = AdmitOrder(session=session, source=source, memory_bytes=load.memory_bytes if load else 0)
            return await self._order(node, AgentVerb.ADMIT, order, NodeVerdict, ASK_DEADLINE_S)
        except MartletError as error:
            reasons = error.reasons or (Reason(code="no_answer", text=f"{node}: {error.message}"),)
            return NodeVerdict(name=node, ok=False, reasons=reasons)

    async def _processes_of(self, node: str) -> list[ProcessInfo]:
        try:
            return await self._order(node, AgentVerb.PROCESSES, None, list[ProcessInfo], ASK_DEADLINE_S)
        except MartletError as error:
            logger.warning("processes of %s left out: %s", node, error.message)
            return []

    async def _owner(self, session: str) -> str:
        """The node that owns `session`, from the store itself. Raises NotFound."""
        owner = await self._watcher.owners.get(session)
        if owner is None:
            raise NotFound(f"there is no session '{session}'; 'martlet session list' shows them")
        return owner.value.node

    def _need_known(self, node: str) -> None:
        known = sorted(self._watcher.picture().nodes)
        if node not in known:
            raise NotFound(f"there is no node '{node}'; known are {', '.join(known) or 'none'}")

    def _need_up(self, source: str) -> None:
        if views.node_state(self._watcher.picture(), source) is NodeState.DOWN:
            raise Refused(f"the session's node {source} is down", reasons=[_down(source)])

    def _need_target(self, session: str, *, source: str, target: str) -> None:
        """Refuse a target that is unknown, where the session already is, or not up; the rest the agents check."""
        self._need_known(target)
        candidate = next(each for each in views.candidates(self._watcher.picture(), {}) if each.facts.node == target)
        reasons = objections(candidate, need_bytes=0, source=source)
        if reasons:
            raise Refused(f"session {session} cannot move to {target}", reasons=reasons)

    async def _order(self, node: str, verb: AgentVerb, body: object, answer: type[A], deadline_s: float) -> A:
        """The agent's answer.

        Raises:
            MartletError: what the agent raised. Unreachable: no answer, or it ended with the order in its hands.
        """

        async def gone() -> MartletError:
            await self._watcher.until_gone(node)
            return Unreachable(f"the agent of {node} ended in the middle of '{verb}'", reasons=[AGENT_ENDED])

        ask = self._bus.ask(agent_subject(node, verb), body, answer, deadline_s, term=self._term)
        return await self._bus.ask_while(gone, ask)

    @contextmanager
    def _on_its_way(self, node: str) -> Iterator[None]:
        """Count a session as pending on `node`, until the node's load has had time to show it."""
        self._pending[node] += 1
        try:
            yield
        finally:
            asyncio.get_running_loop().call_later(SETTLE_S, self._forget_pending, node)

    def _forget_pending(self, node: str) -> None:
        self._pending[node] -= 1


NO_NODES = Reason(code="no_nodes", text="no node has joined the cluster", hint="start martlet-agent on a server")

SHAPES: dict[MotherVerb, Any] = {
    MotherVerb.START: StartRequest,
    MotherVerb.STOP: SessionOrder,
    MotherVerb.SESSIONS: NOTHING,
    MotherVerb.NODES: NOTHING,
    MotherVerb.MIGRATE: MigrateOrder,
    MotherVerb.WHY: SessionOrder,
    MotherVerb.PROCESSES: NOTHING,
    MotherVerb.KILL: KillOrder,
    MotherVerb.LOG: LogOrder,
}
"""The shape of the body that each verb takes; the method of the verb's name answers it."""


async def serve(bus: Bus, mother: Mother, stack: AsyncExitStack) -> None:
    """Answer every verb until `stack` is closed."""
    for verb, shape in SHAPES.items():
        subscription = await bus.serve(mother_subject(verb), shape, getattr(mother, verb))
        stack.push_async_callback(subscription.stop)


def with_defaults(request: StartRequest) -> StartRequest:
    """The image is `desktop`, or `base` with a command, unless the request names one."""
    return replace(request, image=request.image or ("base" if request.argv else "desktop"))


def new_id(*, taken: Container[str]) -> str:
    """A short name for a session that is not in `taken`, easy to read aloud and to type."""
    while True:
        name = secrets.choice(ID_FIRST) + "".join(secrets.choice(ID_REST) for _ in range(5))
        if name not in taken:
            return name


async def of_each(nodes: Iterable[str], call: Callable[[str], Awaitable[A]]) -> list[A]:
    """The results of `call` for all `nodes`, asked at once, in their order."""
    names = list(nodes)
    results: dict[str, A] = {}

    async def run(node: str) -> None:
        results[node] = await call(node)

    async with anyio.create_task_group() as tasks:
        for node in names:
            tasks.start_soon(run, node)
    return [results[node] for node in names]


def each_once(reasons: Iterable[Reason]) -> list[Reason]:
    """Reasons in their order; one that several nodes gave in the same words stands for all of them."""
    return list(dict.fromkeys(reasons))


def _down(node: str) -> Reason:
    return Reason(code="node_down", text=f"{node} is down: its agent does not answer", hint=f"start {node}")
