"""The seam between Martlet and NATS: messages, requests, and append-only logs with compare-and-swap.

Shapes and one Protocol; `nats.py` is the real thing and `memory.py` its twin for tests. Knows no verb and no record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from martlet.bus.names import EVENTS_STREAM, EVENTS_SUBJECT, LEASE_S, Bucket

MiB = 1024 * 1024
STORE_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a subscription delivers; `reply` is empty when nobody waits for an answer."""

    subject: str
    data: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a log. `revision` grows over the whole log; `deleted` marks the end of its subject.

    `age_s` is how long ago it was written, by the store's clock and ours; only marks of deletion carry it.
    """

    subject: str
    data: bytes
    revision: int
    deleted: bool = False
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A stream of JetStream, as it is made. A key-value bucket is a log that keeps the last entry of each subject."""

    name: str
    subject: str
    last_only: bool
    max_bytes: int
    max_age_s: float = 0.0


class Subscription(Protocol):
    async def stop(self) -> None:
        """Deliver nothing more. Safe to call twice and without a connection."""


class Transport(Protocol):
    """All that Martlet asks of a message server. Every method raises Unreachable when the server does not answer."""

    async def broken(self) -> None:
        """Wait until this connection can never work again."""

    async def request(self, subject: str, data: bytes, *, deadline_s: float) -> bytes:
        """Send and wait for one answer. Raises NobodyThere at once when nobody serves `subject`, else TooSlow."""

    async def publish(self, subject: str, data: bytes) -> None:
        """Send without an answer; nothing is kept for later while there is no connection."""

    async def subscribe(self, subject: str, deliver: Callable[[Message], None]) -> Subscription:
        """Call `deliver`, which must not block, with each message on `subject` (`*` and a last `>` are wild)."""

    async def ensure(self, log: Log) -> None:
        """Make `log` unless it is there."""

    async def append(
        self, log: Log, subject: str, data: bytes, *, expect: int | None = None, deleted: bool = False
    ) -> int:
        """Add an entry and return its revision.

        With `expect`, only while the last entry of `subject` has that revision (0: there is none), else Conflict.
        Unreachable means that the outcome is unknown.
        """

    async def last(self, log: Log, subject: str) -> Entry | None:
        """The newest entry of `subject`, as the log's leader has it."""

    async def after(self, log: Log, revision: int) -> Entry | None:
        """The first entry with a revision above `revision`, as the log's leader has it."""

    async def newest(self, log: Log) -> int:
        """The revision given last in `log`; 0 before the first."""

    async def forget(self, log: Log, subject: str, *, through: int) -> None:
        """Remove the entries of `subject` up to and with revision `through`; newer ones stay."""


def bucket_log(bucket: Bucket) -> Log:
    """The log behind a key-value bucket, named as NATS's own tools name it."""
    return Log(
        name=f"KV_{bucket}",
        subject=f"$KV.{bucket}.>",
        last_only=True,
        max_bytes=64 * MiB,
        max_age_s=LEASE_S if bucket is Bucket.LEASES else 0.0,
    )


EVENTS_LOG = Log(
    name=EVENTS_STREAM, subject=EVENTS_SUBJECT, last_only=False, max_bytes=256 * MiB, max_age_s=30 * 86400.0
)
ALL_LOGS = (*(bucket_log(bucket) for bucket in Bucket), EVENTS_LOG)
