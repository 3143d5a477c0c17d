"""`martlet config`: the settings of a machine, as declared in `martlet.config`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import click

from martlet import config as settings
from martlet.cli.output import Column, Output, output_option, show_list

COLUMNS = [
    Column(title="SETTING", cell=lambda row: row.name),
    Column(title="VALUE", cell=lambda row: str(row.value)),
    Column(title="DEFAULT", cell=lambda row: "" if row.value == row.default else str(row.default)),
    Column(title="WHAT IT IS", cell=lambda row: row.help),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: its dotted name, its value here, its default, and what it is."""

    name: str
    value: Any
    default: Any
    help: str


@click.group("config")
def command() -> None:
    """Show the settings of this machine.

    \b
    Example:
      martlet config show
    """


@command.command("show")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=settings.DEFAULT_PATH,
    show_default=True,
    help="The configuration to read; the defaults are shown when the default file is missing.",
)
@output_option
def show(*, file: Path, output: Output) -> None:
    """List every setting with its value, its default where it differs, and what it is."""
    missing = file == settings.DEFAULT_PATH and not file.exists()
    found = settings.Config() if missing else settings.load(file)
    show_list(list(rows(found, settings.Config())), COLUMNS, output)


def rows(found: Any, default: Any, *, prefix: str = "") -> Iterator[Row]:
    """The settings of `found`, table by table, in the order of their declaration."""
    for item in fields(found):
        value, usual = getattr(found, item.name), getattr(default, item.name)
        if is_dataclass(value):
            yield from rows(value, usual, prefix=f"{prefix}{item.name}.")
        else:
            help_text = item.metadata.get("help", "the cluster's name")
            yield Row(name=f"{prefix}{item.name}", value=plain(value), default=plain(usual), help=help_text)


def plain(value: Any) -> Any:
    """A path as text, a tuple as a list."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
