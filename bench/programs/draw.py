"""In a terminal of the desktop: a clock with milliseconds, a moving bar, and each typed key with its time of arrival.

Draws about fifty times a second until `q` with Control or the end of the terminal; stores nothing.
"""

from __future__ import annotations

import datetime
import math
import os
import select
import sys
import termios
import time
import tty
from collections import deque

PERIOD_S = 0.02
HOME, CLEAR, CLEAR_LINE, HIDE, SHOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[?25l", "\x1b[?25h"
BOLD, BLUE, PLAIN = "\x1b[1m", "\x1b[44m", "\x1b[0m"
QUIT = "\x11"


def bar(seconds: float, width: int) -> str:
    """A block that swings from side to side once in four seconds."""
    place = round((width - 8) * (0.5 - 0.5 * math.cos(seconds * math.pi / 2)))
    return " " * place + BLUE + " " * 8 + PLAIN


def frame(
    now: datetime.datetime, seconds: float, number: int, keys: deque[tuple[str, str]], text: str, width: int
) -> str:
    """One picture, as the lines to write from the terminal's top left corner."""
    lines = [
        f"{BOLD}Martlet{PLAIN}: this desktop moves between servers while it draws",
        "",
        f"  {BOLD}{now:%H:%M:%S}.{now.microsecond // 1000:03d}{PLAIN}   picture {number}   running {seconds:7.2f} s",
        "",
        bar(seconds, width),
        "",
        "Typed, with the time of arrival:",
        *(f"  {time_text}  {key}" for time_text, key in keys),
        "",
        f"> {text[-(width - 4) :]}",
    ]
    return HOME + "".join(f"{line}{CLEAR_LINE}\r\n" for line in lines)


def draw() -> None:
    keys: deque[tuple[str, str]] = deque([("", "")] * 8, maxlen=8)
    text, number, start_s = "", 0, time.monotonic()
    sys.stdout.write(CLEAR + HIDE)
    while True:
        if select.select([sys.stdin], [], [], PERIOD_S)[0]:
            typed = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
            if not typed or QUIT in typed:
                return
            arrived = f"{datetime.datetime.now():%H:%M:%S.%f}"[:-3]
            keys.extend((arrived, repr(character)) for character in typed)
            text = (text + typed.replace("\r", " "))[-1000:]
        number += 1
        width = os.get_terminal_size().columns
        sys.stdout.write(frame(datetime.datetime.now(), time.monotonic() - start_s, number, keys, text, width))
        sys.stdout.flush()


def main() -> None:
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        draw()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write(SHOW + PLAIN + "\r\n")


if __name__ == "__main__":
    main()
