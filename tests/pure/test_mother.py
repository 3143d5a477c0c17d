"""The mother over the bus's twin, with agents on paper: they answer, but run nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
import pytest

from martlet.bus.client import Bus, attached
from martlet.bus.lease import LeaseRecord
from martlet.bus.memory import Broker
from martlet.bus.names import Bucket, agent_subject, load_subject, mother_subject, presence_key
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
from martlet.bus.transport import Subscription
from martlet.errors import NotFound, Refused, Unreachable
from martlet.model import (
    ImageRef,
    Movability,
    MoveMode,
    MoveOutcome,
    MoveReport,
    NodeFacts,
    NodeLoad,
    NodeRecord,
    NodeState,
    NodeVerdict,
    NodeView,
    Ownership,
    Pressure,
    ProcessInfo,
    Reason,
    SessionRecord,
    SessionSpec,
    SessionState,
    SessionView,
    StartRequest,
)
from martlet.mother.__main__ import lead
from martlet.mother.service import each_once

pytestmark = pytest.mark.anyio

GiB = 1 << 30
NOTHING = type(None)
TERM = 5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(slots=True)
class PaperAgent:
    """An agent that keeps the store as a real one does, and says what it is told to say."""

    bus: Bus
    name: str
    refuses: bool = False
    pressure_pct: float = 0.0
    terms: list[int] = field(default_factory=list)
    killed: list[KillOrder] = field(default_factory=list)
    served: list[Subscription] = field(default_factory=list)

    async def join(self, *, state: NodeState = NodeState.UP) -> None:
        shapes = {
            AgentVerb.START: StartOrder,
            AgentVerb.STOP: SessionOrder,
            AgentVerb.MIGRATE: MigrateOrder,
            AgentVerb.WHY: SessionOrder,
            AgentVerb.ADMIT: AdmitOrder,
            AgentVerb.PROCESSES: NOTHING,
            AgentVerb.KILL: KillOrder,
            AgentVerb.LOG: LogOrder,
        }
        for verb, shape in shapes.items():
            self.served.append(await self.bus.serve(agent_subject(self.name, verb), shape, getattr(self, verb)))
        facts = NodeFacts(
            node=self.name,
            address="10.77.0.11",
            door_port=7411,
            version="0",
            protocol=1,
            kernel="6",
            cores=4,
            memory_bytes=32 * GiB,
        )
        await self.bus.table(Bucket.NODES, NodeRecord).put(self.name, NodeRecord(facts=facts, state=state))
        leases = self.bus.table(Bucket.LEASES, LeaseRecord)
        await leases.put(presence_key(self.name), LeaseRecord(holder=f"agent.{self.name}", token="t"))
        await self.report()

    async def report(self) -> None:
        load = NodeLoad(
            node=self.name,
            at="",
            cpu_pct=1.0,
            memory_bytes=32 * GiB,
            memory_free_bytes=30 * GiB,
            pressure=Pressure(cpu=self.pressure_pct),
        )
        await self.bus.publish(load_subject(self.name), load)

    async def start(self, order: StartOrder, envelope: Order) -> SessionRecord:
        self.terms.append(envelope.term)
        if self.refuses:
            raise Refused("no", reasons=[Reason(code="no_address", text=f"{self.name} has no address")])
        request = order.request
        spec = SessionSpec(
            id=order.id,
            user=request.user,
            uid=1,
            gid=1,
            home="/",
            group=request.group,
            image=ImageRef(name=request.image, digest="d"),
            argv=request.argv,
            address="10.77.1.1",
            mac="",
            created_at="t",
        )
        record = SessionRecord(spec=spec, state=SessionState.RUNNING, started_at="t")
        await self.bus.table(Bucket.SESSIONS, SessionRecord).create(order.id, record)
        await self.bus.table(Bucket.OWNERS, Ownership).create(order.id, Ownership(node=self.name, epoch=1))
        return record

    async def stop(self, order: SessionOrder, _: Order) -> None:
        await self.bus.table(Bucket.SESSIONS, SessionRecord).delete(order.session)
        await self.bus.table(Bucket.OWNERS, Ownership).delete(order.session)

    async def migrate(self, order: MigrateOrder, _: Order) -> MoveReport:
        await self.bus.table(Bucket.OWNERS, Ownership).put(order.session, Ownership(node=order.to, epoch=2))
        return MoveReport(
            session=order.session, from_=self.name, to=order.to, mode=order.mode, outcome=MoveOutcome.MOVED
        )

    async def why(self, order: SessionOrder, _: Order) -> Movability:
        return Movability(session=order.session, movable=True)

    async def admit(self, order: AdmitOrder, _: Order) -> NodeVerdict:
        reasons = (Reason(code="no_image", text=f"{self.name} lacks the image"),) if self.refuses else ()
        return NodeVerdict(name=self.name, ok=not self.refuses, reasons=reasons)

    async def processes(self, _body: None, _: Order) -> list[ProcessInfo]:
        return [
            ProcessInfo(
                node=self.name,
                session="s",
                user="u",
                pid=1,
                host_pid=2,
                threads=1,
                cpu_pct=0.0,
                rss_bytes=1,
                command="c",
            )
        ]

    async def kill(self, order: KillOrder, _: Order) -> None:
        self.killed.append(order)

    async def log(self, order: LogOrder, _: Order) -> LogChunk:
        return LogChunk(text="hello", next_offset=order.offset + 5)


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with attached(Broker(), who="admin") as bus:
        await bus.ensure_stores()
        yield bus


@pytest.fixture
async def agents(bus: Bus) -> AsyncIterator[dict[str, PaperAgent]]:
    found = {name: PaperAgent(bus=bus, name=name) for name in ("n1", "n2", "n3")}
    for agent in found.values():
        await agent.join()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead, bus, TERM)
        await anyio.wait_all_tasks_blocked()
        for agent in found.values():
            await agent.report()
        yield found
        tasks.cancel_scope.cancel()


async def start(bus: Bus, **wanted: object) -> SessionView:
    request = replace(StartRequest(user="ada"), **wanted)  # type: ignore[arg-type]
    return await bus.ask(mother_subject(MotherVerb.START), request, SessionView)


async def test_start_places_on_the_least_pressed(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    for name in ("n1", "n3"):
        agents[name].pressure_pct = 50.0
        await agents[name].report()
    view = await start(bus)
    assert (view.node, view.state, view.image, view.epoch) == ("n2", SessionState.RUNNING, "desktop", 1)
    assert agents["n2"].terms == [TERM]


async def test_a_command_runs_on_base(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    view = await start(bus, argv=("sleep", "1"), node="n3")
    assert (view.node, view.image, view.command) == ("n3", "base", "sleep 1")


async def test_a_storm_spreads(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(start, bus)
    assert [len(agent.terms) for agent in agents.values()] == [10, 10, 10]


async def test_start_goes_on_to_the_next_node_that_takes_it(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    agents["n1"].refuses = agents["n2"].refuses = True
    assert (await start(bus)).node == "n3"
    agents["n3"].refuses = True
    with pytest.raises(Refused) as caught:
        await start(bus)
    assert [reason.code for reason in caught.value.reasons] == ["no_address"] * 3


async def test_a_reason_that_several_nodes_give_in_the_same_words_is_said_once() -> None:
    one, other = Reason(code="no_address", text="none is free"), Reason(code="down", text="n2 is down")
    assert each_once([one, other, one]) == [one, other]


async def test_start_passes_by_a_node_whose_agent_has_just_died(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    await agents["n1"].served[0].stop()
    assert (await start(bus)).node == "n2"


async def test_start_on_a_node_that_is_not_up_is_refused(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    await agents["n1"].join(state=NodeState.DRAINING)
    await anyio.wait_all_tasks_blocked()
    with pytest.raises(Refused) as caught:
        await start(bus, node="n1")
    assert caught.value.reasons[0].code == "node_draining"
    with pytest.raises(NotFound):
        await start(bus, node="n9")


async def test_list_follows_the_store(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    view = await start(bus, node="n1")
    await anyio.wait_all_tasks_blocked()
    listed = await bus.ask(mother_subject(MotherVerb.SESSIONS), None, list[SessionView])
    assert [(each.id, each.node) for each in listed] == [(view.id, "n1")]
    nodes = await bus.ask(mother_subject(MotherVerb.NODES), None, list[NodeView])
    assert [(each.name, each.state, each.sessions) for each in nodes] == [
        ("n1", NodeState.UP, 1),
        ("n2", NodeState.UP, 0),
        ("n3", NodeState.UP, 0),
    ]
    await bus.ask(mother_subject(MotherVerb.STOP), SessionOrder(session=view.id), NOTHING)
    await anyio.wait_all_tasks_blocked()
    assert await bus.ask(mother_subject(MotherVerb.SESSIONS), None, list[SessionView]) == []


async def test_migrate_to_a_named_node_and_back_at_once(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    session = (await start(bus, node="n1")).id
    for source, target in (("n1", "n2"), ("n2", "n1"), ("n1", "n3")):
        order = MigrateOrder(session=session, to=target, mode=MoveMode.STOP_COPY)
        report = await bus.ask(mother_subject(MotherVerb.MIGRATE), order, MoveReport)
        assert (report.from_, report.to) == (source, target)


async def test_migrate_without_a_target_takes_one_that_admits(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    session = (await start(bus, node="n1")).id
    agents["n2"].refuses = True
    report = await bus.ask(mother_subject(MotherVerb.MIGRATE), MigrateOrder(session=session), MoveReport)
    assert report.to == "n3"
    agents["n1"].refuses = True
    with pytest.raises(Refused) as caught:
        await bus.ask(mother_subject(MotherVerb.MIGRATE), MigrateOrder(session=session), MoveReport)
    assert {reason.code for reason in caught.value.reasons} == {"no_image", "already_there"}


async def test_migrate_to_where_it_is_refused(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    session = (await start(bus, node="n1")).id
    with pytest.raises(Refused) as caught:
        await bus.ask(mother_subject(MotherVerb.MIGRATE), MigrateOrder(session=session, to="n1"), MoveReport)
    assert [reason.code for reason in caught.value.reasons] == ["already_there"]


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        (MotherVerb.STOP, SessionOrder(session="x")),
        (MotherVerb.MIGRATE, MigrateOrder(session="x")),
        (MotherVerb.WHY, SessionOrder(session="x")),
        (MotherVerb.KILL, KillOrder(session="x")),
        (MotherVerb.LOG, LogOrder(session="x")),
    ],
)
async def test_unknown_sessions(bus: Bus, agents: dict[str, PaperAgent], verb: MotherVerb, body: object) -> None:
    with pytest.raises(NotFound):
        await bus.ask(mother_subject(verb), body, NOTHING)


async def test_why_asks_the_owner_and_every_other_node(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    session = (await start(bus, node="n1")).id
    agents["n2"].refuses = True
    said = await bus.ask(mother_subject(MotherVerb.WHY), SessionOrder(session=session), Movability)
    assert said.movable
    assert [(verdict.name, verdict.ok) for verdict in said.nodes] == [("n2", False), ("n3", True)]


async def test_processes_kill_and_log(bus: Bus, agents: dict[str, PaperAgent]) -> None:
    found = await bus.ask(mother_subject(MotherVerb.PROCESSES), None, list[ProcessInfo])
    assert [process.node for process in found] == ["n1", "n2", "n3"]
    session = (await start(bus, node="n2")).id
    order = KillOrder(session=session, pid=3, signal=9)
    await bus.ask(mother_subject(MotherVerb.KILL), order, NOTHING)
    assert agents["n2"].killed == [order]
    assert (await bus.ask(mother_subject(MotherVerb.LOG), LogOrder(session=session), LogChunk)).text == "hello"


async def test_who_does_not_lead_does_not_answer(bus: Bus) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead, bus, TERM)
        await anyio.wait_all_tasks_blocked()
        assert await bus.ask(mother_subject(MotherVerb.NODES), None, list[NodeView]) == []
        tasks.cancel_scope.cancel()
    with pytest.raises(Unreachable):
        await bus.ask(mother_subject(MotherVerb.NODES), None, list[NodeView])
