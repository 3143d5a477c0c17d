"""Renders the configuration of nats-server: mutual TLS, one user per certificate, permissions per role.

Writes no file and starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from martlet.bus.names import (
    EVENTS_STREAM,
    Bucket,
    Role,
    agent_subject,
    event_subject,
    inbox_prefix,
    load_subject,
    presence_key,
)
from martlet.bus.transport import ALL_LOGS
from martlet.errors import UsageError

ANSWER_WITHIN = "30m"
"""An order may take as long as the longest move; its answer is accepted until then."""


def render(*, listen: str, store_dir: Path, ca: Path, cert: Path, key: Path, identities: Sequence[str]) -> str:
    """The text of nats.conf for one server.

    Args:
        listen: `ADDRESS:PORT`.
        store_dir: where JetStream keeps its files.
        ca, cert, key: the server's own; its certificate carries `names.SERVER_IDENTITY` as a DNS name.
        identities: DNS names of the clients' certificates: `agent.NODE`, `mother.NODE`, `admin`.

    Raises:
        UsageError: an identity is of no known role.
    """
    document = {
        "listen": listen,
        "max_payload": 4 * 1024 * 1024,
        "max_pending": 64 * 1024 * 1024,
        "ping_interval": "5s",
        "write_deadline": "5s",
        "jetstream": {
            "store_dir": str(store_dir),
            "max_memory_store": 16 * 1024 * 1024,
            "max_file_store": 1024 * 1024 * 1024,
            "sync_interval": "always",
        },
        "tls": {
            "ca_file": str(ca),
            "cert_file": str(cert),
            "key_file": str(key),
            "verify_and_map": True,
            "timeout": 5,
        },
        "authorization": {
            "timeout": 10,
            "users": [{"user": who, "permissions": permissions(who)} for who in identities],
        },
    }
    return json.dumps(document, indent=2) + "\n"


def permissions(who: str) -> dict[str, Any]:
    """What `who` may publish and subscribe to.

    Raises:
        UsageError: `who` is of no known role.
    """
    role, _, node = who.partition(".")
    match role:
        case Role.ADMIN if not node:
            return {"publish": [">"], "subscribe": [">"]}
        case Role.MOTHER if node:
            return _with_answers(publish=_mother_publishes(who), subscribe=["martlet.>", _inbox(who)])
        case Role.AGENT if node:
            subscribe = [agent_subject(node, "*"), "martlet.changed.>", _inbox(who)]
            return _with_answers(publish=_agent_publishes(who, node), subscribe=subscribe)
        case _:
            raise UsageError(f"'{who}' is no identity of the bus; one is 'agent.NODE', 'mother.NODE' or 'admin'")


def _mother_publishes(who: str) -> list[str]:
    return ["martlet.agent.*.*", event_subject(who), "$KV.>", *_log_verbs(), *_upkeep_verbs()]


def _agent_publishes(who: str, node: str) -> list[str]:
    shared = [f"$KV.{bucket}.*" for bucket in (Bucket.SESSIONS, Bucket.OWNERS, Bucket.ADDRESSES)]
    own = [f"$KV.{Bucket.NODES}.{node}", f"$KV.{Bucket.LEASES}.{presence_key(node)}"]
    return [load_subject(node), event_subject(who), *shared, *own, *_log_verbs()]


def _log_verbs() -> list[str]:
    """Make a missing log and read it; not change or delete it."""
    verbs = ("STREAM.CREATE", "STREAM.INFO", "STREAM.MSG.GET")
    return [f"$JS.API.{verb}.{log.name}" for log in ALL_LOGS for verb in verbs]


def _upkeep_verbs() -> list[str]:
    return [f"$JS.API.STREAM.PURGE.{log.name}" for log in ALL_LOGS if log.name != EVENTS_STREAM]


def _inbox(who: str) -> str:
    return f"{inbox_prefix(who)}.>"


def _with_answers(*, publish: list[str], subscribe: list[str]) -> dict[str, Any]:
    return {"publish": publish, "subscribe": subscribe, "allow_responses": {"max": 1, "expires": ANSWER_WITHIN}}
