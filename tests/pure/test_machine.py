"""The state machine of a move, cut after every step on either side or both, and recovered: pure.

The world below is the protocol of a move as a list of steps over three values (source, target, store). Recovery in it
takes every decision from `machine.decide`, the same function that the agents use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from martlet.model import Ownership
from martlet.move import machine
from martlet.move.machine import LEGAL, Act, Copy, Evidence, IllegalStep, Phase, Side

EPOCH = 7
ROUNDS = 20


@dataclass
class Node:
    name: str
    side: Side
    phase: Phase
    copy: Copy
    frozen: bool = False
    running: bool = False
    up: bool = True

    def to(self, phase: Phase) -> None:
        self.phase = machine.step(self.phase, phase)


@dataclass
class Store:
    owner: Ownership = field(default_factory=lambda: Ownership(node="a", epoch=EPOCH))
    revision: int = 40
    up: bool = True

    def swap(self, owner: Ownership, revision: int) -> bool:
        assert self.up
        if revision != self.revision:
            return False
        self.owner, self.revision = owner, self.revision + 1
        return True


class World:
    """One move from `a` to `b`. Invariant after every step: at most one copy runs."""

    def __init__(self) -> None:
        self.a = Node(name="a", side=Side.SOURCE, phase=Phase.ASKED, copy=Copy.WHOLE, running=True)
        self.b = Node(name="b", side=Side.TARGET, phase=Phase.ASKED, copy=Copy.NONE)
        self.store = Store()
        self.permit = 0

    def steps(self) -> list[Callable[[], None]]:
        return [
            self.prepare, self.copied, self.freeze, self.send, self.permit_, self.hear_permit, self.restore,
            self.commit, self.note_commit, self.resume, self.hear_commit, self.hear_resume, self.discard, self.close,
        ]  # fmt: skip

    def prepare(self) -> None:
        self.b.to(Phase.PREPARED)
        self.a.to(Phase.PREPARED)

    def copied(self) -> None:
        self.a.to(Phase.COPIED)
        self.b.to(Phase.COPIED)

    def freeze(self) -> None:
        self.a.to(Phase.FROZEN)
        self.a.frozen, self.a.running = True, False

    def send(self) -> None:
        self.b.to(Phase.FROZEN)
        self.b.copy = Copy.HALF_BUILT

    def permit_(self) -> None:
        self.a.to(Phase.PERMITTED)
        self.permit = self.store.revision

    def hear_permit(self) -> None:
        self.b.to(Phase.PERMITTED)

    def restore(self) -> None:
        self.b.copy, self.b.frozen = Copy.WHOLE, True

    def commit(self) -> None:
        assert self.store.swap(Ownership(node="b", epoch=EPOCH + 1), self.permit)

    def note_commit(self) -> None:
        self.b.to(Phase.COMMITTED)

    def resume(self) -> None:
        self.b.to(Phase.RESUMED)
        self.b.frozen, self.b.running = False, True

    def hear_commit(self) -> None:
        self.a.to(Phase.COMMITTED)

    def hear_resume(self) -> None:
        self.a.to(Phase.RESUMED)

    def discard(self) -> None:
        self.a.copy, self.a.frozen = Copy.NONE, False
        self.a.to(Phase.DONE)

    def close(self) -> None:
        self.b.to(Phase.DONE)

    def recover(self, node: Node) -> Act:
        """One round of recovery on one node: observe, decide, act."""
        owner: Ownership | None = None
        refused = resumed = False
        if node is self.a and node.phase in (Phase.PERMITTED, Phase.COMMITTED, Phase.RESUMED):
            refused, resumed = self.ask_target()
            owner = None if refused or resumed else self.take_back()
        elif node is self.b and node.phase is Phase.PERMITTED:
            owner = self.find_owner()
        act = machine.decide(
            Evidence(
                side=node.side,
                me=node.name,
                source="a",
                epoch=EPOCH,
                phase=node.phase,
                copy=node.copy,
                owner=owner,
                refused=refused,
                resumed=resumed,
            )
        ).act
        self.do(node, act)
        self.check()
        return act

    def ask_target(self) -> tuple[bool, bool]:
        if not self.b.up:
            return False, False
        return self.b.phase is Phase.ABANDONED, self.b.phase in (Phase.RESUMED, Phase.DONE)

    def take_back(self) -> Ownership | None:
        if not self.store.up:
            return None
        self.store.swap(Ownership(node="a", epoch=EPOCH + 1), self.permit or self.store.revision)
        return self.store.owner

    def find_owner(self) -> Ownership | None:
        if not self.store.up:
            return None
        mine = "b" if self.b.copy is Copy.WHOLE else "a"
        self.store.swap(Ownership(node=mine, epoch=EPOCH + 1), self.permit)
        return self.store.owner

    def do(self, node: Node, act: Act) -> None:
        match act:
            case Act.GO_ON:
                node.frozen, node.running, node.phase = False, True, Phase.ABANDONED
            case Act.DISCARD:
                node.copy, node.frozen, node.running, node.phase = Copy.NONE, False, False, Phase.DONE
            case Act.REFUSE:
                node.copy, node.frozen, node.running, node.phase = Copy.NONE, False, False, Phase.ABANDONED
            case Act.RESUME:
                node.frozen, node.running, node.phase = False, True, Phase.DONE
            case Act.GIVE_BACK:
                self.store.swap(Ownership(node="a", epoch=self.store.owner.epoch + 1), self.store.revision)
                self.do(node, Act.REFUSE)
            case _:
                pass

    def check(self) -> None:
        assert not (self.a.running and self.b.running), "two copies run"

    def settled(self) -> bool:
        return self.a.phase in machine.CLOSED and self.b.phase in machine.CLOSED


CUTS = range(len(World().steps()) + 1)
ORDERS = [("a", "b"), ("b", "a")]


def cut(at: int) -> World:
    world = World()
    for step in world.steps()[:at]:
        step()
        world.check()
    return world


def settle(world: World, order: tuple[str, str]) -> None:
    for _ in range(ROUNDS):
        for name in order:
            node = getattr(world, name)
            if node.up:
                world.recover(node)


def assert_runs_once(world: World) -> None:
    running = [node.name for node in (world.a, world.b) if node.running]
    assert running == [world.store.owner.node]
    assert world.settled()


@pytest.mark.parametrize("order", ORDERS, ids="".join)
@pytest.mark.parametrize("at", CUTS)
def test_cut_after_every_step_it_runs_exactly_once_where_the_store_says(at: int, order: tuple[str, str]) -> None:
    world = cut(at)
    settle(world, order)
    assert_runs_once(world)


@pytest.mark.parametrize("order", ORDERS, ids="".join)
@pytest.mark.parametrize("at", CUTS)
def test_a_lost_copy_at_the_target_is_given_back(at: int, order: tuple[str, str]) -> None:
    world = cut(at)
    if world.b.phase not in (Phase.RESUMED, Phase.DONE):
        world.b.copy, world.b.frozen = Copy.NONE, False
    settle(world, order)
    assert_runs_once(world)


@pytest.mark.parametrize("at", CUTS)
def test_before_the_commit_the_source_goes_on_without_the_target(at: int) -> None:
    world = cut(at)
    committed = world.store.owner.node == "b"
    world.b.up = False
    settle(world, ("a", "b"))
    if committed:
        assert not world.a.running, "the target may be running it"
    else:
        assert world.a.running


@pytest.mark.parametrize("at", CUTS)
def test_without_store_nobody_thaws_on_a_guess_and_it_ends_when_the_store_answers(at: int) -> None:
    world = cut(at)
    world.store.up = False
    before = world.store.owner
    settle(world, ("a", "b"))
    world.check()
    world.store.up = True
    assert world.store.owner == before
    settle(world, ("a", "b"))
    assert_runs_once(world)


@pytest.mark.parametrize("at", CUTS)
def test_recovering_twice_changes_nothing(at: int) -> None:
    world = cut(at)
    settle(world, ("a", "b"))
    before = (world.store.owner, world.a, world.b)
    settle(world, ("b", "a"))
    assert (world.store.owner, world.a, world.b) == before


@pytest.mark.parametrize(
    ("from_", "to"), [pair for pair in itertools.product(Phase, Phase) if pair[1] not in LEGAL[pair[0]]]
)
def test_illegal_steps_are_errors_that_name_both_ends(from_: Phase, to: Phase) -> None:
    with pytest.raises(IllegalStep) as caught:
        machine.step(from_, to)
    assert (caught.value.from_, caught.value.to) == (from_, to)


def test_without_the_permit_rule_two_copies_would_run() -> None:
    """The check has teeth: a source that goes on by itself after the permit is caught."""
    world = cut(10)
    world.do(world.a, Act.GO_ON)
    with pytest.raises(AssertionError, match="two copies"):
        world.check()
