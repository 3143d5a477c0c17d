"""Logging for the daemons: one line an event on stderr, which systemd or the lab's supervisor keeps.

Only sets logging up; what to log is the caller's business. Commands for people do not log, they print.
"""

from __future__ import annotations

import logging
import os
import sys


def setup(*, level: str | None = None) -> None:
    """Log to stderr at `level` (default: `MARTLET_LOG` or INFO)."""
    logging.basicConfig(
        stream=sys.stderr,
        level=(level or os.environ.get("MARTLET_LOG") or "INFO").upper(),
        format="%(asctime)s.%(msecs)03d %(levelname).1s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for noisy in ("nats", "pyroute2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every TLS connection that ends
