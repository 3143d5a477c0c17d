"""The mother daemon: `python -m martlet.mother --config FILE`. Waits for the lease of leadership, leads while it holds.

A mother that does not lead does nothing and answers nobody.
"""

from __future__ import annotations

import argparse
import logging
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from martlet import config, log
from martlet.bus.client import Bus, connect
from martlet.bus.events import now
from martlet.bus.names import LEADER_KEY, Role
from martlet.errors import MartletError, Unreachable
from martlet.model import Event
from martlet.mother.service import Mother, serve
from martlet.mother.watching import Watcher, watching

logger = logging.getLogger(__name__)

TIDY_S = 3600.0


async def run(settings: config.Config) -> None:
    """Lead whenever the lease is ours, until SIGTERM or SIGINT."""
    async with connect(settings, Role.MOTHER) as bus, anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        await bus.ensure_stores()
        logger.info("mother %s waits for leadership", bus.who)

        async def during(term: int) -> None:
            await lead(bus, term)

        await bus.lease(LEADER_KEY).hold(during)


async def lead(bus: Bus, term: int) -> None:
    """Lead with `term` until cancelled."""
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(watching(bus))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(tidy, watcher)
        await serve(bus, Mother(bus, watcher, term=term), stack)
        text = f"{bus.who} leads with term {term}"
        logger.info(text)
        await bus.events.publish(Event(time=now(), kind="mother_leads", text=text, data={"term": term}))
        await anyio.sleep_forever()


async def tidy(watcher: Watcher) -> None:
    """Each hour, drop the marks of sessions that ended long ago."""
    while True:
        for table in (watcher.sessions, watcher.owners):
            try:
                if count := await table.forget_deleted(older_s=TIDY_S):
                    logger.info("dropped %d marks of ended sessions from '%s'", count, table.bucket)
            except Unreachable as error:
                logger.warning("'%s' not tidied: %s", table.bucket, error)
        await anyio.sleep(TIDY_S)


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("%s: ending", number.name)
            scope.cancel()
            return


def main() -> int:
    """Run the daemon; returns the exit code."""
    parser = argparse.ArgumentParser(prog="martlet.mother", description="Martlet's mother: leads the cluster.")
    parser.add_argument("--config", type=Path, default=config.DEFAULT_PATH, help="this machine's configuration")
    arguments = parser.parse_args()
    log.setup()
    code = 0
    try:
        anyio.run(run, config.load(arguments.config))
    except* MartletError as group:
        for error in group.exceptions:
            logger.error("%s", error)
        code = 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())
