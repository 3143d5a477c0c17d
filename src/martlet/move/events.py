"""Events as moves tell them: one constructor, so that all have a time."""

from __future__ import annotations

from typing import Any

from martlet.bus.events import now
from martlet.model import Event


def event(kind: str, text: str, *, session: str = "", node: str = "", **data: Any) -> Event:
    """An event of this moment."""
    return Event(time=now(), kind=kind, text=text, session=session, node=node, data=data)
