"""`python -m martlet.agent`: the agent's command line."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import click

from martlet import config, log
from martlet.agent import daemon

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter when another wants it: in a freeze the default, 5 ms, is an age."""


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default=config.DEFAULT_PATH, show_default=True)
def main(path: Path) -> None:
    """Run this node's agent until SIGTERM; its sessions outlive it."""
    log.setup()
    sys.setswitchinterval(SWITCH_S)
    anyio.run(daemon.run, config.load(path))


if __name__ == "__main__":
    main()
