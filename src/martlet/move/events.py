"""Events as moves tell them: one constructor, so that all have a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from martlet.model import Event


def now() -> str:
    """The time as every part writes it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(kind: str, text: str, *, session: str = "", node: str = "", **data: Any) -> Event:
    return Event(time=now(), kind=kind, text=text, session=session, node=node, data=data)
