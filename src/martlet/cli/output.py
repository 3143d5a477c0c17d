"""How results and failures are shown: tables for people, JSON for programs, one way for all commands.

Results go to stdout, everything else to stderr. Knows no command.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import click
import msgspec

from martlet.errors import MartletError
from martlet.model import Reason

F = TypeVar("F", bound=Callable[..., Any])

PIPE_WIDTH = 10_000
"""Columns of a table that no terminal limits: nothing is cut for a program that reads it."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def output_option(command: F) -> F:
    """Give `command` the option `--output table|json`, passed to it as `output: Output`."""
    option = click.option(
        "--output",
        type=click.Choice([each.value for each in Output]),
        default=Output.TABLE.value,
        show_default=True,
        callback=lambda _context, _option, value: Output(value),
        help="A table for people or JSON for programs.",
    )
    return option(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table: its title, how a cell is made of an item, and whether it is a number."""

    title: str
    cell: Callable[[Any], str]
    number: bool = False


def show_list(items: Sequence[object], columns: Sequence[Column], output: Output) -> None:
    """Print `items` as a table with `columns` or as a JSON array."""
    if output is Output.JSON:
        print_json(items)
    else:
        print_table(items, columns)


def show_one(item: object, columns: Sequence[Column], output: Output) -> None:
    """Print one thing as lines of name and value, or as a JSON object."""
    if output is Output.JSON:
        print_json(item)
        return
    width = max(len(column.title) for column in columns)
    for column in columns:
        click.echo(f"{column.title.ljust(width)}  {one_line(column.cell(item))}".rstrip())


def print_json(value: object) -> None:
    """Print `value` as indented JSON, with the keys that programs know."""
    click.echo(msgspec.json.format(msgspec.json.encode(outside(value)), indent=2))


def outside(value: object) -> Any:
    """`value` as plain data under its outside names: `from_` is written `from`."""
    return _renamed(msgspec.to_builtins(value))


def print_table(items: Iterable[object], columns: Sequence[Column]) -> None:
    """Print a table on stdout, cut to the terminal's width if there is one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", no_wrap=True)
    for item in items:
        table.add_row(*(Text(one_line(column.cell(item))) for column in columns))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(width=PIPE_WIDTH, highlight=False, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_failure(error: MartletError, output: Output) -> None:
    """Tell people on stderr what failed, why, and what to do; and programs as an object on stdout."""
    if output is Output.JSON:
        print_json({"error": error.message, "reasons": [msgspec.to_builtins(reason) for reason in error.reasons]})
    click.echo(f"martlet: {error.message}", err=True)
    for reason in error.reasons:
        click.echo(f"  - {reason_line(reason)}", err=True)


def reason_line(reason: Reason) -> str:
    """A reason as one line: what, and what to do about it."""
    return f"{reason.text} ({reason.hint})" if reason.hint else reason.text


def one_line(text: str) -> str:
    """`text` on one line and harmless to a terminal: a session's command line may hold anything."""
    return "".join(letter if letter.isprintable() else "\N{MIDDLE DOT}" for letter in " ".join(text.split()))


def human_bytes(count: float) -> str:
    """`count` bytes with a binary unit and up to three digits: `1.5 GiB`."""
    power = 0
    while abs(count) >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.0f} {UNITS[power]}" if power == 0 or abs(count) >= 100 else f"{count:.3g} {UNITS[power]}"


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {"from" if key == "from_" else key: _renamed(item) for key, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value
