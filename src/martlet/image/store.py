"""Where images are kept and how they are found: `ROOT/NAME/DIGEST12/{rootfs/,image.json}`. Builds nothing.

`ROOT/NAME/current` points to the newest; older ones stay, because a running session may stand on one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from martlet.errors import MartletError, NotFound
from martlet.model import ImageRef, Reason

HOST_ROOT = Path("/var/cache/martlet/images")
"""Where a host keeps the images it builds; on a node the place is `config.paths.images`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image that is there, whole. `rootfs` is its root directory."""

    name: str
    digest: str
    rootfs: Path
    bytes: int
    built_at: str
    recipe: str = ""

    @property
    def ref(self) -> ImageRef:
        return ImageRef(name=self.name, digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What image.json holds. `recipe` is the fingerprint of what it was built from."""

    name: str
    digest: str
    bytes: int
    built_at: str
    recipe: str


def short(digest: str) -> str:
    """The name of an image's folder: twelve digits of its digest."""
    return digest.removeprefix("sha256:")[:12]


def current(root: Path, name: str) -> Image:
    """The newest image `name` under `root`.

    Raises:
        NotFound: there is none; says how to build it.
    """
    try:
        return read((root / name / "current").resolve(strict=True))
    except FileNotFoundError as error:
        hint = f"run 'martlet image build {name}' on the machine that keeps the images"
        reason = Reason(code="image_missing", text=f"{root / name} holds no image", hint=hint)
        raise NotFound(f"the image '{name}' is not there", reasons=[reason]) from error


def find(root: Path, ref: ImageRef) -> Image:
    """The image with exactly this digest.

    Raises:
        NotFound: this machine does not have it.
    """
    try:
        image = read(root / ref.name / short(ref.digest))
    except FileNotFoundError:
        image = None
    if image is None or image.digest != ref.digest:
        hint = f"copy the image from a node that has it to {root / ref.name}"
        reason = Reason(code="image_missing", text=f"no '{ref.name}' with digest {ref.digest}", hint=hint)
        raise NotFound(f"the image '{ref.name}' with digest {short(ref.digest)} is not there", reasons=[reason])
    return image


def all_images(root: Path) -> list[Image]:
    """Every image under `root`, by name, the current one of a name first, then by age."""
    folders = [path.parent for path in root.glob("*/*/image.json") if not path.parent.is_symlink()]
    whole = [read(folder) for folder in folders if not folder.name.startswith(".")]
    newest = {image.rootfs.parent for image in whole if is_current(image)}
    by_age = sorted(whole, key=lambda image: image.built_at, reverse=True)
    return sorted(by_age, key=lambda image: (image.name, image.rootfs.parent not in newest))


def read(folder: Path) -> Image:
    """The image in `folder`.

    Raises:
        FileNotFoundError: there is none.
        MartletError: its record cannot be read.
    """
    path = folder / "image.json"
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.DecodeError as error:
        raise MartletError(f"{path} is damaged ({error}); remove {folder} and build the image again") from error
    return Image(
        name=record.name,
        digest=record.digest,
        rootfs=folder / "rootfs",
        bytes=record.bytes,
        built_at=record.built_at,
        recipe=record.recipe,
    )


def adopt(folder: Path, record: Record) -> Image:
    """Make the whole tree in `folder` (next to the others) the current image; from here on it is found."""
    home = folder.parent
    (folder / "image.json").write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    place = home / short(record.digest)
    if not place.exists():
        folder.rename(place)
    fresh = home / ".current"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(place.name)
    os.replace(fresh, home / "current")
    return read(place)


def is_current(image: Image) -> bool:
    """Whether new sessions get this image and not another one of its name."""
    link = image.rootfs.parent.parent / "current"
    return link.is_symlink() and link.resolve() == image.rootfs.parent.resolve()
