"""`python -m martlet.cli.man DIR`: writes a manual page (section 1) for every command, from its own help."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from martlet import __version__
from martlet.cli.main import martlet


def pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """The file name and text of the page of `command` and of each command below it."""
    yield f"{context.command_path.replace(' ', '-')}.1", page(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from pages(child, click.Context(child, info_name=name, parent=context))


def page(command: click.Command, context: click.Context) -> str:
    """One page in man(7)."""
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [
        f'.TH "{path.upper().replace(" ", "-")}" 1 "" "Martlet {__version__}"',
        *section("NAME", f"{path} - {command.get_short_help_str(limit=200)}"),
        *section("SYNOPSIS", usage),
        *section("DESCRIPTION", *description(command)),
    ]
    records = [record for item in command.get_params(context) if (record := item.get_help_record(context))]
    if records:
        lines += [".SH OPTIONS", *(line for term, text in records for line in (".TP", bold(term), escaped(text)))]
    return "\n".join(lines) + "\n"


def description(command: click.Command) -> list[str]:
    """The command's help, without click's marks."""
    return [line.replace("\b", "") for line in inspect.cleandoc(command.help or "").splitlines()]


def section(title: str, *lines: str) -> list[str]:
    return [f".SH {title}", *(escaped(line) if line else ".PP" for line in lines)]


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def escaped(text: str) -> str:
    """`text` with what roff would take for a command made harmless."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


def write(folder: Path) -> int:
    """Write all pages into `folder`; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    context = click.Context(martlet, info_name="martlet")
    return len([(folder / name).write_text(text) for name, text in pages(martlet, context)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m martlet.cli.man DIR")
    click.echo(f"{write(Path(sys.argv[1]))} pages")
