"""In the client machine: stay connected to a session's display, ask for every update, type, and time the silences.

Commands are JSON objects, one a line, on standard input: `{"do": "mark", "name": …}` opens a window and prints its
longest silence once an update has come after its end (`{"do": "close"}`: the end is now), `{"do": "type", "text": …}`
presses keys at a person's pace, `{"do": "click"}` clicks, `{"do": "screenshot"}` prints the picture that the updates
have built as base64 PNG. The end of the input ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import sys
from typing import Any

from bench.programs.windows import MS, Window, now, say
from martlet.errors import MartletError
from martlet.rfb import Display, connect


class Program:
    """One display, the open windows, and the typing."""

    def __init__(self, display: Display, *, window_s: float, key_s: float, place: tuple[int, int]) -> None:
        self.display = display
        self.window_s = window_s
        self.key_s = key_s
        self.place = place
        self.windows: list[Window] = []
        self.last_ns = now()
        self.updates = 0
        self.keys: asyncio.Queue[str] = asyncio.Queue()

    async def watch(self) -> None:
        """Note each update; report the windows that it closes."""
        async with contextlib.aclosing(self.display.updates()) as updates:
            async for update in updates:
                for window in self.windows:
                    window.arrival(self.last_ns, update.at_ns)
                self.last_ns, self.updates = update.at_ns, self.updates + 1
                self.report()

    def report(self) -> None:
        for window in [window for window in self.windows if self.last_ns >= window.end_ns]:
            self.windows.remove(window)
            from_mark_ms = (window.longest[0] - window.start_ns) / MS
            say(
                {
                    "mark": window.name,
                    "gap_ms": round(window.longest_ms, 3),
                    "gap_from_mark_ms": round(from_mark_ms, 3),
                    "updates": window.arrivals,
                }
            )

    async def type(self) -> None:
        """Press what is queued, one key after the other, frozen server or not."""
        while True:
            await self.display.type_text(await self.keys.get())
            await asyncio.sleep(self.key_s)

    async def command(self) -> None:
        """Obey standard input to its end."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            await self.obey(json.loads(line))

    async def obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "mark":
                end_ns = now() + int(self.window_s * 1e9)
                self.windows.append(Window(name=order["name"], start_ns=now(), end_ns=end_ns))
            case "close":
                for window in self.windows:
                    window.end_ns = now()
            case "click":
                await self.display.click(*self.place)
            case "type":
                for character in order["text"]:
                    self.keys.put_nowait(character)
            case "screenshot":
                self.screenshot()

    def screenshot(self) -> None:
        picture = io.BytesIO()
        self.display.framebuffer.image().save(picture, format="PNG")
        say({"screenshot": base64.b64encode(picture.getvalue()).decode(), "updates": self.updates})


async def run(options: argparse.Namespace) -> None:
    async with connect(options.host, options.port) as display:
        program = Program(display, window_s=options.window_s, key_s=options.key_s, place=tuple(options.click))
        say({"ready": True, "width": display.framebuffer.width, "height": display.framebuffer.height})
        tasks = [asyncio.create_task(work()) for work in (program.watch, program.type, program.command)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
        say({"end": True, "updates": program.updates})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--window-s", type=float, default=5.0)
    parser.add_argument("--key-s", type=float, default=0.08, help="time between two keys")
    parser.add_argument("--click", type=int, nargs=2, default=(300, 250), help="where a click goes")
    try:
        asyncio.run(run(parser.parse_args()))
    except MartletError as error:
        say({"end": True, "error": error.message})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
