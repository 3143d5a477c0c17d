"""`python -m martlet.agent`: the agent's command line."""

from __future__ import annotations

from pathlib import Path

import anyio
import click

from martlet import config, log
from martlet.agent import daemon


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default=config.DEFAULT_PATH, show_default=True)
def main(path: Path) -> None:
    """Run this node's agent until SIGTERM; its sessions outlive it."""
    log.setup()
    anyio.run(daemon.run, config.load(path))


if __name__ == "__main__":
    main()
