"""What can go wrong with a display, each error with the host and port it happened on.

Only the error classes; the modules that meet the trouble raise them.
"""

from __future__ import annotations

from martlet.errors import MartletError, Unreachable


class DisplayError(MartletError):
    """Base: `host` and `port` name the RFB server; the message says what failed."""

    def __init__(self, message: str, *, host: str, port: int) -> None:
        super().__init__(f"display {host}:{port}: {message}")
        self.host = host
        self.port = port


class DisplayUnreachable(DisplayError, Unreachable):
    """Nobody answered, or not in time."""


class DisplayClosed(DisplayError):
    """The server ended the connection, perhaps in the middle of a message."""


class DisplayRefused(DisplayError):
    """The server does not let this client in: another protocol, a password, or its own reason."""


class DisplayGarbled(DisplayError):
    """The server sent what RFC 6143 does not allow or what was not asked for."""
