"""What a move needs of the agent it runs in, and where its things are on a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from martlet.config import Config
from martlet.kernel.cgroup import Group, Hierarchies
from martlet.model import Event, NodeFacts, NodeState, Ownership, SessionSpec, SessionState
from martlet.session.place import Place


class Owners(Protocol):
    """The store's owner records, blocking, for a worker thread."""

    def read(self, session: str) -> tuple[Ownership, int]:
        """The record and its revision. It may be stale: decide nothing by it that a swap does not confirm.

        Raises:
            NotFound, Unreachable
        """

    def swap(self, session: str, ownership: Ownership, revision: int) -> int:
        """Replace the record if it is still at `revision`; the new revision.

        Raises:
            Conflict: somebody else replaced it.
            Unreachable: no answer; it may or may not be done.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One node, as its moves see it.

    `rootfs` finds an image or raises NotFound; `tell` records an event; `arrived` is told of a session that was
    committed to this node, with its epoch, `departed` of one that runs elsewhere now; `marks` holds the sessions that
    are moving or in doubt here: no other order touches them.
    """

    config: Config
    hierarchies: Hierarchies
    facts: Callable[[], NodeFacts]
    state: Callable[[], NodeState]
    rootfs: Callable[[SessionSpec], Path]
    owners: Owners
    tell: Callable[[Event], None]
    arrived: Callable[[str, int], None]
    departed: Callable[[str], None]
    marks: dict[str, SessionState]

    @property
    def me(self) -> str:
        return self.config.node.name

    @property
    def journals(self) -> Path:
        return self.config.paths.state / "moves"

    def images(self, move: str) -> Path:
        """Where criu's images of a move are: memory-backed, gone when the move is over."""
        return self.config.paths.run / "moves" / move / "images"

    def group(self, move: str) -> Group:
        """The cgroup of a move: what works for it dies with it."""
        return self.moves_group.child(move)

    @property
    def sessions_group(self) -> Group:
        return self.hierarchies.group(self.config.sessions.cgroup)

    @property
    def working_groups(self) -> tuple[Group, ...]:
        """Where criu may be at work: it saves from a move's group, and restores in the session's."""
        return (self.sessions_group, self.moves_group)

    @property
    def moves_group(self) -> Group:
        return self.hierarchies.group(f"{self.config.sessions.cgroup}-moves")

    def place(self, spec: SessionSpec) -> Place:
        return Place(spec=spec, config=self.config, hierarchies=self.hierarchies)
