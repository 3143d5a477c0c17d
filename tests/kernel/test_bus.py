"""The bus against a real nats-server over mutual TLS, and its twin in memory against the same expectations."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio
import pytest
from nats_fixture import NatsServer, prepare

from martlet.bus.client import Bus, attached, connect
from martlet.bus.lease import LeaseRecord
from martlet.bus.memory import Broker
from martlet.bus.names import LEADER_KEY, LEASE_S, Bucket, Role, agent_subject, identity, presence_key
from martlet.bus.orders import AgentVerb, Order, SessionOrder
from martlet.errors import Conflict, MartletError, NobodyThere, NotFound, Refused, TooSlow, Unreachable
from martlet.model import Event, Ownership, Reason

pytestmark = [pytest.mark.anyio, pytest.mark.kernel]

NOTHING = type(None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = prepare(tmp_path)
    server.start()
    yield server
    server.kill()


class Cluster(Protocol):
    """Either kind of bus: `join` connects one more identity."""

    def join(self, role: Role, node: str = "") -> AbstractAsyncContextManager[Bus]: ...


class Real:
    def __init__(self, server: NatsServer) -> None:
        self._server = server

    @asynccontextmanager
    async def join(self, role: Role, node: str = "") -> AsyncIterator[Bus]:
        config = self._server.config(identity(role, node))
        async with connect(config, role, deadline_s=10) as bus:
            yield bus


class Twin:
    def __init__(self) -> None:
        self._broker = Broker()

    @asynccontextmanager
    async def join(self, role: Role, node: str = "") -> AsyncIterator[Bus]:
        async with attached(self._broker, who=identity(role, node)) as bus:
            yield bus


@pytest.fixture(params=["nats", "twin"])
async def cluster(request: pytest.FixtureRequest) -> Cluster:
    made: Cluster = Twin() if request.param == "twin" else Real(request.getfixturevalue("nats_server"))
    async with made.join(Role.MOTHER, "n1") as bus:
        await bus.ensure_stores()
        await bus.ensure_stores()
    return made


@pytest.fixture
async def bus(cluster: Cluster) -> AsyncIterator[Bus]:
    async with cluster.join(Role.AGENT, "n1") as joined:
        yield joined


def owner(node: str = "n1", epoch: int = 1) -> Ownership:
    return Ownership(node=node, epoch=epoch)


class TestTable:
    """Compare-and-swap, deletion, snapshot and watch are the same on the server and on the twin."""

    async def test_create_get_swap(self, bus: Bus) -> None:
        table = bus.table(Bucket.OWNERS, Ownership)
        assert await table.get("s1") is None
        first = await table.create("s1", owner())
        assert await table.get("s1") == (owner(), first)
        second = await table.swap("s1", owner("n2", 2), first)
        assert second > first
        assert await table.get("s1") == (owner("n2", 2), second)

    async def test_one_swap_wins_on_a_revision(self, bus: Bus) -> None:
        table = bus.table(Bucket.OWNERS, Ownership)
        revision = await table.create("s1", owner())
        won: list[int] = []

        async def swap(epoch: int) -> None:
            try:
                await table.swap("s1", owner("n2", epoch), revision)
                won.append(epoch)
            except Conflict:
                return

        async with anyio.create_task_group() as tasks:
            for epoch in range(10):
                tasks.start_soon(swap, epoch)
        assert len(won) == 1
        stored = await table.get("s1")
        assert stored is not None
        assert stored.value.epoch == won[0]

    async def test_create_twice_conflicts(self, bus: Bus) -> None:
        table = bus.table(Bucket.OWNERS, Ownership)
        await table.create("s1", owner())
        with pytest.raises(Conflict):
            await table.create("s1", owner("n2"))

    async def test_delete_and_create_again(self, bus: Bus) -> None:
        table = bus.table(Bucket.OWNERS, Ownership)
        revision = await table.create("s1", owner())
        with pytest.raises(Conflict):
            await table.delete("s1", revision=revision + 7)
        await table.delete("s1", revision=revision)
        assert await table.get("s1") is None
        with pytest.raises(Conflict):
            await table.swap("s1", owner(), revision)
        await table.create("s1", owner("n2"))
        assert await table.keys() == ["s1"]

    async def test_snapshot_then_watch_misses_nothing(self, bus: Bus) -> None:
        table = bus.table(Bucket.OWNERS, Ownership)
        for number in range(5):
            await table.put(f"s{number}", owner(epoch=number))
        await table.delete("s0")
        snapshot = await table.snapshot()
        assert sorted(snapshot.values) == ["s1", "s2", "s3", "s4"]
        await table.put("s9", owner())
        await table.delete("s1")
        async with table.watch(after=snapshot.revision) as changes:
            assert (await anext(changes))[:2] == ("s9", owner())
            assert (await anext(changes))[:2] == ("s1", None)

    async def test_watch_wakes_at_once(self, bus: Bus) -> None:
        table = bus.table(Bucket.OWNERS, Ownership)
        async with table.watch() as changes, anyio.create_task_group() as tasks:

            async def later() -> None:
                await anyio.sleep(0.1)
                await table.put("s1", owner())

            tasks.start_soon(later)
            begun = time.monotonic()
            assert (await anext(changes)).key == "s1"
            assert time.monotonic() - begun < 0.6

    async def test_forget_deleted(self, cluster: Cluster) -> None:
        async with cluster.join(Role.MOTHER, "n1") as bus:
            table = bus.table(Bucket.OWNERS, Ownership)
            await table.put("s1", owner())
            await table.put("s2", owner())
            await table.delete("s1")
            assert await table.forget_deleted(older_s=60) == 0
            assert await table.forget_deleted(older_s=0) == 1
            assert await table.forget_deleted(older_s=0) == 0
            assert await table.all() == {"s2": owner()}


class TestOrders:
    """Requests and their answers, good and bad."""

    async def test_answer_and_term(self, bus: Bus, cluster: Cluster) -> None:
        async def echo(body: SessionOrder, order: Order) -> list[object]:
            return [body.session, order.term, order.sender]

        await bus.serve(agent_subject("n1", AgentVerb.WHY), SessionOrder, echo)
        async with cluster.join(Role.MOTHER, "n1") as mother:
            await anyio.sleep(0.05)
            subject = agent_subject("n1", AgentVerb.WHY)
            said = await mother.ask(subject, SessionOrder(session="s1"), list[object], term=7)
        assert said == ["s1", 7, "mother.n1"]

    @pytest.mark.parametrize("raised", [Refused, NotFound, MartletError])
    async def test_errors_travel(self, bus: Bus, cluster: Cluster, raised: type[MartletError]) -> None:
        reason = Reason(code="because", text="it is so", hint="change it")

        async def refuse(_body: None, _order: Order) -> None:
            raise raised("no", reasons=[reason])

        await bus.serve(agent_subject("n1", AgentVerb.STOP), NOTHING, refuse)
        async with cluster.join(Role.MOTHER, "n1") as mother:
            await anyio.sleep(0.05)
            with pytest.raises(raised) as caught:
                await mother.ask(agent_subject("n1", AgentVerb.STOP), None, NOTHING)
        assert (caught.value.message, caught.value.reasons) == ("no", (reason,))

    async def test_defect_and_wrong_shape_are_answers(self, bus: Bus, cluster: Cluster) -> None:
        async def broken(_body: SessionOrder, _order: Order) -> None:
            raise ZeroDivisionError("oh")

        await bus.serve(agent_subject("n1", AgentVerb.STOP), SessionOrder, broken)
        async with cluster.join(Role.MOTHER, "n1") as mother:
            await anyio.sleep(0.05)
            with pytest.raises(MartletError, match="ZeroDivisionError"):
                await mother.ask(agent_subject("n1", AgentVerb.STOP), SessionOrder(session="s"), NOTHING)
            with pytest.raises(MartletError, match="shape"):
                await mother.ask(agent_subject("n1", AgentVerb.STOP), 5, NOTHING)

    async def test_slow_handlers_do_not_block_others(self, bus: Bus, cluster: Cluster) -> None:
        async def slow(body: float, _order: Order) -> float:
            await anyio.sleep(body)
            return body

        await bus.serve(agent_subject("n1", AgentVerb.LOG), float, slow)
        async with cluster.join(Role.MOTHER, "n1") as mother:
            await anyio.sleep(0.05)
            begun = time.monotonic()
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(mother.ask, agent_subject("n1", AgentVerb.LOG), 0.3, float)
            assert time.monotonic() - begun < 1.5

    async def test_nobody_there_is_quick_and_silence_ends_at_the_deadline(self, bus: Bus, cluster: Cluster) -> None:
        async def silent(_body: None, _order: Order) -> None:
            await anyio.sleep_forever()

        async with cluster.join(Role.MOTHER, "n1") as mother:
            begun = time.monotonic()
            with pytest.raises(NobodyThere):
                await mother.ask(agent_subject("n9", AgentVerb.STOP), None, NOTHING, 30)
            with pytest.raises(NobodyThere):
                await mother.tell(agent_subject("n9", AgentVerb.STOP), None)
            assert time.monotonic() - begun < 1
            await bus.serve(agent_subject("n1", AgentVerb.STOP), NOTHING, silent)
            await anyio.sleep(0.05)
            with pytest.raises(TooSlow):
                await mother.ask(agent_subject("n1", AgentVerb.STOP), None, NOTHING, 0.2)
            await mother.tell(agent_subject("n1", AgentVerb.STOP), None)

    async def test_stopped_service_answers_no_more(self, bus: Bus, cluster: Cluster) -> None:
        async def fine(_body: None, _order: Order) -> None:
            return None

        served = await bus.serve(agent_subject("n1", AgentVerb.STOP), NOTHING, fine)
        async with cluster.join(Role.MOTHER, "n1") as mother:
            await anyio.sleep(0.05)
            await mother.ask(agent_subject("n1", AgentVerb.STOP), None, NOTHING)
            await served.stop()
            await anyio.sleep(0.05)
            with pytest.raises(Unreachable):
                await mother.ask(agent_subject("n1", AgentVerb.STOP), None, NOTHING)


class TestEvents:
    """The record keeps order, is bounded in what it returns, and can be followed."""

    async def test_history_and_follow(self, bus: Bus) -> None:
        for number in range(5):
            await bus.events.publish(Event(time="t", kind="k", text=str(number)))
        assert [event.text for event in await bus.events.history(3)] == ["2", "3", "4"]
        async with bus.events.follow(last=1) as feed:
            assert (await anext(feed)).text == "4"
            await bus.events.publish(Event(time="t", kind="k", text="5"))
            assert (await anext(feed)).text == "5"


class TestLeases:
    """A lease has one holder, ends when it is not renewed, and is given back."""

    async def test_given_back_and_taken_by_the_next(self, cluster: Cluster) -> None:
        terms: list[tuple[str, int]] = []

        async with cluster.join(Role.MOTHER, "n1") as one, cluster.join(Role.MOTHER, "n2") as two:

            async def lead(bus: Bus, scope: anyio.CancelScope) -> None:
                async def during(term: int) -> None:
                    terms.append((bus.who, term))
                    await anyio.sleep_forever()

                with scope:
                    await bus.lease(LEADER_KEY).hold(during)

            first, second = anyio.CancelScope(), anyio.CancelScope()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lead, one, first)
                await anyio.sleep(0.5)
                tasks.start_soon(lead, two, second)
                await anyio.sleep(1.0)
                assert [who for who, _ in terms] == ["mother.n1"]
                first.cancel()
                await anyio.sleep(1.5)
                assert [who for who, _ in terms] == ["mother.n1", "mother.n2"]
                assert terms[1][1] > terms[0][1]
                second.cancel()

    async def test_expires_without_renewal(self, bus: Bus) -> None:
        table = bus.table(Bucket.LEASES, LeaseRecord)
        key = presence_key("n1")
        await table.create(key, LeaseRecord(holder="agent.n1", token="x"))
        await anyio.sleep(LEASE_S - 1)
        assert key in await table.all()
        await anyio.sleep(3)
        assert key not in await table.all()
        assert await table.get(key) is None

    async def test_renewed_for_longer_than_its_time(self, bus: Bus) -> None:
        lost: list[int] = []

        async def during(_term: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                lost.append(1)

        lease = bus.lease(presence_key("n1"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lease.hold, during)
            await anyio.sleep(LEASE_S + 2)
            assert lease.held
            assert not lost
            tasks.cancel_scope.cancel()
        assert await bus.table(Bucket.LEASES, LeaseRecord).get(presence_key("n1")) is None

    async def test_lost_when_somebody_else_has_it(self, bus: Bus) -> None:
        ended = anyio.Event()

        async def during(_term: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        key = presence_key("n1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.lease(key).hold, during)
            await anyio.sleep(0.5)
            await bus.table(Bucket.LEASES, LeaseRecord).put(key, LeaseRecord(holder="agent.other", token="y"))
            with anyio.fail_after(LEASE_S):
                await ended.wait()
            tasks.cancel_scope.cancel()


class TestOutage:
    """The server stops, dies and comes back; nothing is applied behind a caller's back."""

    async def test_nothing_is_sent_late(self, nats_server: NatsServer) -> None:
        async with connect(nats_server.config("agent.n1"), Role.AGENT, deadline_s=10) as bus:
            await bus.ensure_stores()
            table = bus.table(Bucket.OWNERS, Ownership)
            revision = await table.create("s1", owner())
            nats_server.kill()
            await anyio.sleep(0.3)
            begun = time.monotonic()
            for epoch in range(5):
                with pytest.raises(Unreachable):
                    await table.swap("s1", owner("n2", 10 + epoch), revision)
            assert time.monotonic() - begun < 1
            nats_server.start()
            await reconnected(bus)
            await anyio.sleep(1.0)
            assert await table.get("s1") == (owner(), revision)
            assert await table.swap("s1", owner("n2", 2), revision) > revision

    async def test_frozen_server_that_dies_applies_nothing(self, nats_server: NatsServer) -> None:
        async with connect(nats_server.config("agent.n1"), Role.AGENT, deadline_s=10) as bus:
            await bus.ensure_stores()
            table = bus.table(Bucket.OWNERS, Ownership)
            revision = await table.create("s1", owner())
            nats_server.signal(signal.SIGSTOP)
            with pytest.raises(Unreachable):
                await table.swap("s1", owner("n2", 2), revision)
            nats_server.kill()
            nats_server.start()
            await reconnected(bus)
            await anyio.sleep(1.0)
            assert await table.get("s1") == (owner(), revision)

    async def test_unknown_outcome_is_settled_by_another_swap(self, nats_server: NatsServer) -> None:
        """A frozen server that wakes may still apply the swap that nobody waits for: another swap settles it."""
        async with connect(nats_server.config("agent.n1"), Role.AGENT, deadline_s=10) as bus:
            await bus.ensure_stores()
            table = bus.table(Bucket.OWNERS, Ownership)
            revision = await table.create("s1", owner())
            nats_server.signal(signal.SIGSTOP)
            with pytest.raises(Unreachable):
                await table.swap("s1", owner("n2", 2), revision)
            nats_server.signal(signal.SIGCONT)
            await reconnected(bus)
            try:
                settled = await table.swap("s1", owner("n1", 2), revision)
                expected = owner("n1", 2)
            except Conflict:
                found = await table.get("s1")
                assert found is not None
                settled, expected = found.revision, owner("n2", 2)
            await anyio.sleep(1.0)
            assert await table.get("s1") == (expected, settled)

    async def test_lease_is_given_up_before_the_store_gives_it_away(self, nats_server: NatsServer) -> None:
        terms: list[int] = []
        lost_at: list[float] = []

        async def during(term: int) -> None:
            terms.append(term)
            try:
                await anyio.sleep_forever()
            finally:
                lost_at.append(time.monotonic())

        async with connect(nats_server.config("mother.n1"), Role.MOTHER, deadline_s=10) as bus:
            await bus.ensure_stores()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.lease(LEADER_KEY).hold, during)
                await anyio.sleep(0.5)
                nats_server.kill()
                killed_at = time.monotonic()
                await anyio.sleep(LEASE_S + 0.5)
                assert lost_at
                assert lost_at[0] - killed_at <= LEASE_S
                nats_server.start()
                with anyio.fail_after(10):
                    while len(terms) < 2:
                        await anyio.sleep(0.1)
                assert terms[1] > terms[0]
                tasks.cancel_scope.cancel()

    async def test_watch_goes_on_after_a_restart(self, nats_server: NatsServer) -> None:
        async with connect(nats_server.config("agent.n1"), Role.AGENT, deadline_s=10) as bus:
            await bus.ensure_stores()
            table = bus.table(Bucket.OWNERS, Ownership)
            async with table.watch() as changes:
                await table.put("s1", owner())
                assert (await anext(changes)).key == "s1"
                nats_server.kill()
                nats_server.start()
                await reconnected(bus)
                await table.put("s2", owner())
                with anyio.fail_after(5):
                    assert (await anext(changes)).key == "s2"


class TestPermissions:
    """An identity may do what its role needs, and nothing in another's name."""

    async def test_an_agent_cannot_serve_as_another(self, nats_server: NatsServer) -> None:
        cluster = Real(nats_server)

        async def impostor(_body: None, _order: Order) -> None:
            return None

        async with cluster.join(Role.AGENT, "n2") as agent, cluster.join(Role.MOTHER, "n1") as mother:
            await agent.serve(agent_subject("n1", AgentVerb.STOP), NOTHING, impostor)
            await anyio.sleep(0.2)
            with pytest.raises(Unreachable):
                await mother.ask(agent_subject("n1", AgentVerb.STOP), None, NOTHING, 2)

    async def test_an_agent_cannot_order_another(self, nats_server: NatsServer) -> None:
        cluster = Real(nats_server)
        heard: list[object] = []

        async def take(_body: None, order: Order) -> None:
            heard.append(order)

        async with cluster.join(Role.AGENT, "n1") as agent, cluster.join(Role.AGENT, "n2") as other:
            await agent.serve(agent_subject("n1", AgentVerb.STOP), NOTHING, take)
            await anyio.sleep(0.1)
            with pytest.raises(Unreachable):
                await other.ask(agent_subject("n1", AgentVerb.STOP), None, NOTHING, 1)
        assert not heard

    async def test_an_agent_cannot_take_anothers_presence(self, nats_server: NatsServer) -> None:
        async with Real(nats_server).join(Role.AGENT, "n2") as agent:
            await agent.ensure_stores()
            leases = agent.table(Bucket.LEASES, LeaseRecord)
            await leases.put(presence_key("n2"), LeaseRecord(holder="agent.n2", token="t"))
            with pytest.raises(Unreachable):
                await leases.put(LEADER_KEY, LeaseRecord(holder="agent.n2", token="t"))

    async def test_without_a_certificate_of_the_cluster_nobody_enters(
        self, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        strange = prepare(tmp_path_factory.mktemp("strange"))
        strange.port = nats_server.port
        with pytest.raises(Unreachable):
            async with connect(strange.config("admin"), Role.ADMIN, deadline_s=2):
                pass

    async def test_an_identity_that_the_server_does_not_know_is_refused(self, tmp_path: Path) -> None:
        server = prepare(tmp_path, identities=("admin", "agent.n1"))
        text = (tmp_path / "nats.conf").read_text().replace('"agent.n1"', '"agent.n8"')
        (tmp_path / "nats.conf").write_text(text)
        server.start()
        try:
            with pytest.raises(Unreachable, match="Authorization"):
                async with connect(server.config("agent.n1"), Role.AGENT, deadline_s=2):
                    pass
        finally:
            server.kill()


async def reconnected(bus: Bus) -> None:
    """Wait until the store answers again."""
    with anyio.fail_after(40):
        while True:
            try:
                await bus.table(Bucket.OWNERS, Ownership).get("none")
                return
            except Unreachable:
                await anyio.sleep(0.1)
