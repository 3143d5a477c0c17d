"""The store's owner records for worker threads: the bus lives in the event loop, moves in threads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from martlet.bus.store import Table
from martlet.errors import NotFound
from martlet.model import Ownership

T = TypeVar("T")


class BlockingOwners:
    """`move.context.Owners` over a table of the bus. Made inside the event loop that the bus lives in."""

    def __init__(self, table: Table[Ownership]) -> None:
        self._table = table
        self._token = anyio.lowlevel.current_token()

    def read(self, session: str) -> tuple[Ownership, int]:
        stored = self._call(lambda: self._table.get(session))
        if stored is None:
            raise NotFound(f"the store has no session {session}")
        return stored.value, stored.revision

    def swap(self, session: str, ownership: Ownership, revision: int) -> int:
        return self._call(lambda: self._table.swap(session, ownership, revision))

    def _call(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return anyio.from_thread.run(call, token=self._token)
