"""`martlet image`: build the images that nodes and sessions run on, and list them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import click

from martlet.cli.output import Column, Output, human_bytes, output_option, show_list
from martlet.cli.progress import progress
from martlet.image import build as builder
from martlet.image import recipe, store

ALL = "all"
COLUMNS = [
    Column(title="NAME", cell=lambda view: view.name),
    Column(title="DIGEST", cell=lambda view: store.short(view.digest)),
    Column(title="SIZE", cell=lambda view: human_bytes(view.bytes), number=True),
    Column(title="BUILT", cell=lambda view: view.built_at),
    Column(title="CURRENT", cell=lambda view: "yes" if view.current else "no"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageView:
    """An image as `image list` shows it; `current` is the one that new sessions get."""

    name: str
    digest: str
    bytes: int
    built_at: str
    path: str
    current: bool


@click.group("image")
def command() -> None:
    """Build and list the images that nodes and sessions run on.

    \b
    Example:
      martlet image build desktop
    """


_root = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=store.HOST_ROOT,
    show_default=True,
    help="Where images are kept.",
)


@command.command("build")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_root
@output_option
def build(*, names: tuple[str, ...], root: Path, output: Output) -> None:
    """Build the images NAME..., or all, from Debian packages; what is unchanged is not built again.

    \b
    Example:
      martlet image build base desktop
    """
    wanted = recipe.names() if ALL in names else list(dict.fromkeys(names))
    for name in wanted:
        recipe.load(name)
    with progress("building images") as report:
        built = [asyncio.run(builder.build(name, root=root, report=report)) for name in wanted]
    show_list([view(image) for image in built], COLUMNS, output)


@command.command("list")
@_root
@output_option
def list_(*, root: Path, output: Output) -> None:
    """List the images on this machine, old ones included."""
    show_list([view(image) for image in store.all_images(root)], COLUMNS, output)


def view(image: store.Image) -> ImageView:
    """What is shown of `image`."""
    return ImageView(
        name=image.name,
        digest=image.digest,
        bytes=image.bytes,
        built_at=image.built_at,
        path=str(image.rootfs),
        current=store.is_current(image),
    )
