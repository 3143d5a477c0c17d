"""Builds images from recipes with mmdebstrap: in a temporary name, renamed when whole. Keeps what it downloaded.

A build that was interrupted leaves no image behind, only packages that the next build need not fetch again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

from martlet import process
from martlet.errors import NotFound, Refused, ToolFailed
from martlet.image import layout, manifest, recipe, sources, store
from martlet.kernel import namespace
from martlet.model import Reason

Report = Callable[[str], None]
BUILD_DEADLINE_S = 3600.0
SITE_PACKAGES = "opt/martlet/site-packages"
PYTHON = "3.13"
"""The Python of the node image's suite."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
ARCHIVES = "var/cache/apt/archives"
LEAN = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*")


async def build(name: str, *, root: Path = store.HOST_ROOT, report: Report) -> store.Image:
    """Build the image `name` unless its recipe is unchanged; `report` is told what goes on, in short sentences.

    Raises:
        NotFound: there is no such recipe.
        Refused: this host lacks what building needs; all reasons at once.
        ToolFailed: mmdebstrap or pip failed.
    """
    wanted = recipe.load(name)
    mark = recipe.fingerprint(wanted, extra=_requirements().read_bytes() if wanted.python_packages else b"")
    (root / name).mkdir(parents=True, exist_ok=True)
    async with _alone(root / name, report):
        if (image := _present(root, name)) and image.recipe == mark:
            report(f"image {name}: unchanged")
            return image
        _check()
        return await _build(wanted, root=root, mark=mark, report=report)


async def _build(wanted: recipe.Recipe, *, root: Path, mark: str, report: Report) -> store.Image:
    folder, cache = root / wanted.name / ".building", root / ".packages"
    _clear(folder, cache)
    folder.mkdir(parents=True)
    tree = folder / "rootfs"
    await _bootstrap(wanted, tree, cache=cache, report=report)
    layout.finish(tree, wanted)
    if wanted.python_packages:
        report(f"image {wanted.name}: installing Martlet's Python packages")
        await _install_python_packages(tree)
    report(f"image {wanted.name}: computing the digest")
    measured = await asyncio.to_thread(manifest.measure, tree)
    record = store.Record(name=wanted.name, digest=measured.digest, bytes=measured.bytes, built_at=_now(), recipe=mark)
    image = store.adopt(folder, record)
    _clear(folder, cache)
    report(f"image {wanted.name}: built, {measured.bytes / 1e6:.0f} MB, digest {store.short(measured.digest)}")
    return image


async def _bootstrap(wanted: recipe.Recipe, tree: Path, *, cache: Path, report: Report) -> None:
    work = tree.parent
    mirrors = sources.read()
    (work / "sources.list").write_text(sources.render_list(wanted, mirrors))
    (work / "preferences").write_text(sources.render_preferences(wanted.pins))
    log = work / "log"
    log.touch()
    follower = asyncio.create_task(_follow(log, f"image {wanted.name}: ", report))
    try:
        argv = arguments(wanted, tree, cache=cache, log=log)
        await process.run(*argv, deadline_s=BUILD_DEADLINE_S, env={"TMPDIR": "/tmp"})
    except ToolFailed as error:
        tail = log.read_text(errors="replace")[-process.TAIL_BYTES :]
        raise ToolFailed(f"mmdebstrap could not build the image '{wanted.name}'", tail=tail or error.tail) from error
    finally:
        follower.cancel()


def arguments(wanted: recipe.Recipe, tree: Path, *, cache: Path, log: Path) -> list[str]:
    """mmdebstrap's command line. Packages are hard-linked from and to `cache`; its hooks see the tree as `$1`."""
    work, kept = shlex.quote(str(tree.parent)), shlex.quote(str(cache))
    fetch = (
        f'mkdir -p {kept} "$1/{ARCHIVES}" "$1/etc/apt/preferences.d" && cp {work}/preferences '
        f'"$1/etc/apt/preferences.d/martlet" && cp -al {kept}/. "$1/{ARCHIVES}/"'
    )
    keep = f'find "$1/{ARCHIVES}" -maxdepth 1 -name "*.deb" -exec cp -alf -t {kept} {{}} +'
    return [
        "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", f"--logfile={log}",
        '--aptopt=Apt::Install-Recommends "false"', "--skip=download/empty,essential/unlink",
        *(f"--dpkgopt=path-exclude={path}" for path in LEAN),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--setup-hook={fetch}", f"--customize-hook={keep}",
        f"--include={','.join(wanted.packages)}",
        wanted.suite, str(tree), str(tree.parent / "sources.list"),
    ]  # fmt: skip


async def _install_python_packages(tree: Path) -> None:
    """Martlet's own dependencies, by hash, for the node's Python; then compiled and imported by it as a proof."""
    target = tree / SITE_PACKAGES
    await process.run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check",
        "--require-hashes", "--requirement", str(_requirements()), "--only-binary=:all:", "--implementation=cp",
        f"--python-version={PYTHON}", *(f"--platform={name}" for name in PLATFORMS), f"--target={target}",
        deadline_s=600, env=_pip_environment(),
    )  # fmt: skip
    imports = "import anyio, click, cryptography.x509, msgspec, nats, PIL.Image, pyroute2, rich, pycriu, seccomp"
    inside = ("chroot", str(tree), "/usr/bin/env", f"PYTHONPATH=/{SITE_PACKAGES}", "python3")
    await process.run(*inside, "-m", "compileall", "-q", f"/{SITE_PACKAGES}", deadline_s=300)
    await process.run(*inside, "-B", "-c", imports)


def _check() -> None:
    reasons = []
    if os.geteuid() != 0:
        reasons.append(Reason(code="not_root", text="building an image needs root", hint="run it with sudo"))
    if shutil.which("mmdebstrap", path=process.PATH) is None:
        hint = "install the Debian package 'mmdebstrap' (make setup does)"
        reasons.append(Reason(code="tool_missing", text="the program 'mmdebstrap' is not installed", hint=hint))
    if reasons:
        raise Refused("images cannot be built on this machine", reasons=reasons)


@contextlib.asynccontextmanager
async def _alone(home: Path, report: Report) -> AsyncIterator[None]:
    """One builder an image at a time; a second one waits and then finds the work done."""
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"image {home.name}: waiting for another build of it")
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield


async def _follow(log: Path, prefix: str, report: Report) -> None:
    """Report mmdebstrap's own steps (its `I: …` lines) as they appear in its log."""
    with log.open(errors="replace") as file:
        while True:
            for line in file.read().splitlines():
                if line.startswith("I: "):
                    report(prefix + line.removeprefix("I: ").removesuffix("..."))
            await asyncio.sleep(0.2)


def _clear(folder: Path, cache: Path) -> None:
    """Remove a build's folder; whole packages that an interrupted build fetched are kept for the next one.

    What a killed mmdebstrap left mounted there (the host's `/dev`, `/sys`) is unmounted first, never deleted into.
    """
    namespace.unmount_below(folder)
    cache.mkdir(parents=True, exist_ok=True)
    for package in (folder / "rootfs" / ARCHIVES).glob("*.deb"):
        with contextlib.suppress(FileExistsError):
            os.link(package, cache / package.name)
    if folder.exists():
        shutil.rmtree(folder)


def _present(root: Path, name: str) -> store.Image | None:
    try:
        return store.current(root, name)
    except NotFound:
        return None


def _requirements() -> Path:
    """The lock file of the checkout that this runs from."""
    path = Path(__file__).resolve().parents[3] / "requirements" / "runtime.lock"
    if not path.exists():
        raise NotFound(f"{path} is missing: the node image is built from a checkout of Martlet")
    return path


def _pip_environment() -> dict[str, str]:
    """pip keeps the settings that the caller has for it: index, certificates, proxy."""
    prefixes = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    return {key: value for key, value in os.environ.items() if key.startswith(prefixes)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
