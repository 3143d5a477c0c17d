"""A small client of the remote framebuffer protocol (RFC 6143): look at a session's display, type into it.

Only the client's side; the server is the session's own Xtigervnc.
"""

from martlet.rfb.client import PORT, Display, Update, connect
from martlet.rfb.errors import DisplayClosed, DisplayError, DisplayGarbled, DisplayRefused, DisplayUnreachable
from martlet.rfb.screenshot import look, screenshot

__all__ = [
    "PORT",
    "Display",
    "DisplayClosed",
    "DisplayError",
    "DisplayGarbled",
    "DisplayRefused",
    "DisplayUnreachable",
    "Update",
    "connect",
    "look",
    "screenshot",
]
