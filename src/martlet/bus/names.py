"""Every subject, bucket and stream name on the bus, in one place.

A cluster has a NATS account of its own, so names carry no cluster prefix.
"""

from __future__ import annotations

from enum import StrEnum


class Bucket(StrEnum):
    """Key-value buckets. Keys: session id, session id, address with `-` for `.`, node name, see `Lease`."""

    SESSIONS = "sessions"
    OWNERS = "owners"
    ADDRESSES = "addresses"
    NODES = "nodes"
    LEASES = "leases"


LEADER_KEY = "leader"
LEASE_S = 5.0
"""Seconds after which an unrenewed lease is gone; renewed every third of it."""

EVENTS_STREAM = "EVENTS"
EVENTS_SUBJECT = "martlet.events.>"
LOAD_SUBJECT = "martlet.load.*"


def presence_key(node: str) -> str:
    return f"presence.{node}"


def agent_subject(node: str, verb: str) -> str:
    return f"martlet.agent.{node}.{verb}"


def mother_subject(verb: str) -> str:
    return f"martlet.mother.{verb}"


def load_subject(node: str) -> str:
    return f"martlet.load.{node}"


def event_subject(source: str) -> str:
    return f"martlet.events.{source}"


class Role(StrEnum):
    """Who connects to the bus; with the node's name this is the DNS name in its certificate."""

    ADMIN = "admin"
    AGENT = "agent"
    MOTHER = "mother"


SERVER_IDENTITY = "bus"
"""DNS name in the certificate of every NATS server; clients accept no other."""


def identity(role: Role, node: str = "") -> str:
    """The name under which `role` on `node` is known to the bus: `agent.NODE`, `mother.NODE` or `admin`."""
    return str(role) if role is Role.ADMIN else f"{role}.{node}"


def inbox_prefix(who: str) -> str:
    """Where the answers to `who` arrive; nobody else may listen there."""
    return f"_INBOX.{who}"


def changed_subject(log: str) -> str:
    """The server publishes under this after it has stored an entry in `log`; a wake-up, not the news itself."""
    return f"martlet.changed.{log}.>"
