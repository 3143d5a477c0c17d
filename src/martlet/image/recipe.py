"""Reads the recipes of images: which suite, which packages, which files. Builds nothing.

A recipe is one TOML file in `recipes/`; with `parent` it takes over the parent's suite, packages, files and links
and adds its own. The tables are structs of msgspec, because those refuse a misspelt key wherever it stands.
"""

from __future__ import annotations

import hashlib
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable

import msgspec

from martlet.errors import NotFound, UsageError

BUILDER = 1
"""Counted up when the builder itself changes what comes out of an unchanged recipe."""


class Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packages taken from another suite, which otherwise gives nothing."""

    suite: str
    packages: tuple[str, ...]


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the image: its text here, or `source`, the name of a file next to the recipes."""

    path: str
    text: str = ""
    source: str = ""
    mode: int = 0o644


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A symbolic link of the image; it replaces what the packages put there."""

    path: str
    target: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image, `parent` already taken in by `load`. `directories` are made empty, root's, mode 0755."""

    name: str
    suite: str = ""
    parent: str = ""
    packages: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    directories: tuple[str, ...] = ()
    python_packages: bool = False


def names() -> list[str]:
    """The names of all recipes, sorted."""
    found = (item.name for item in _folder().iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load(name: str) -> Recipe:
    """The recipe `name`, whole: parents merged in, the text of every file in place.

    Raises:
        NotFound: there is no such recipe.
        UsageError: the recipe is not what a recipe may be; says where.
    """
    recipe = _parse(name)
    return merge(load(recipe.parent), recipe) if recipe.parent else recipe


def merge(parent: Recipe, child: Recipe) -> Recipe:
    """`child` with all that `parent` has; for the same path the child's file or link counts."""
    return Recipe(
        name=child.name,
        suite=child.suite or parent.suite,
        packages=tuple(dict.fromkeys(parent.packages + child.packages)),
        pins=parent.pins + child.pins,
        files=tuple({item.path: item for item in parent.files + child.files}.values()),
        links=tuple({item.path: item for item in parent.links + child.links}.values()),
        directories=tuple(dict.fromkeys(parent.directories + child.directories)),
        python_packages=parent.python_packages or child.python_packages,
    )


def fingerprint(recipe: Recipe, *, extra: bytes = b"") -> str:
    """A hash of all that the builder works from; the same means that there is nothing to build."""
    text = msgspec.json.encode((BUILDER, recipe), order="deterministic")
    return hashlib.sha256(text + extra).hexdigest()


def _parse(name: str) -> Recipe:
    if name not in names():
        raise NotFound(f"there is no image recipe '{name}'; there are: {', '.join(names())}")
    try:
        data = tomllib.loads(_read(f"{name}.toml"))
        return _with_texts(msgspec.convert({"name": name, **data}, Recipe))
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"the image recipe '{name}.toml': {error}") from error


def _with_texts(recipe: Recipe) -> Recipe:
    files = (msgspec.structs.replace(item, text=_text(item), source="") for item in recipe.files)
    return msgspec.structs.replace(recipe, files=tuple(files))


def _text(item: File) -> str:
    return _read(f"files/{item.source}") if item.source else item.text


def _read(path: str) -> str:
    return _folder().joinpath(path).read_text()


def _folder() -> Traversable:
    return resources.files("martlet.image.recipes")
