"""Finds the Debian mirror in the host's own apt sources and renders apt's files for an image. Asks no network.

Understands both forms of sources.list(5): one line a source, and deb822 stanzas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import Refused
from martlet.image.recipe import Pin, Recipe
from martlet.model import Reason

APT = Path("/etc/apt")
PINNED_OUT, PINNED_IN = 100, 990
"""Priorities of apt_preferences(5): never chosen over the main suite; chosen over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    uri: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """Where Debian's packages, and its security updates, come from on this host. `security` may be empty."""

    archive: str
    security: str = ""


def read() -> Mirrors:
    """The mirrors that this host itself uses.

    Raises:
        Refused: no source of this host looks like a Debian archive.
    """
    lists = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*.list"))]
    stanzas = sorted((APT / "sources.list.d").glob("*.sources"))
    found = [item for path in lists if path.exists() for item in parse_lines(path.read_text())]
    found += [item for path in stanzas for item in parse_stanzas(path.read_text())]
    return choose(found)


def choose(sources: Iterable[Source]) -> Mirrors:
    """The first archive among `sources`, and the first security archive."""
    main = [item for item in sources if "main" in item.components]
    archive = [item.uri for item in main if re.search(r"/debian(\.list|/|$)", item.uri)]
    security = [item.uri for item in main if "debian-security" in item.uri]
    if not archive:
        hint = "add a Debian mirror whose address ends in /debian to /etc/apt/sources.list"
        reason = Reason(code="no_mirror", text="no source under /etc/apt is a Debian archive", hint=hint)
        raise Refused("images are built from the Debian mirror of this host, and there is none", reasons=[reason])
    return Mirrors(archive=archive[0], security=security[0] if security else "")


def parse_lines(text: str) -> Iterator[Source]:
    """The `deb` lines of a sources.list file."""
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 4 and words[0] == "deb":
            yield Source(uri=words[1], suite=words[2], components=tuple(words[3:]))


def parse_stanzas(text: str) -> Iterator[Source]:
    """The enabled `deb` sources of a deb822 file, one for each pair of address and suite."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri=uri, suite=suite, components=components)


def render_list(recipe: Recipe, mirrors: Mirrors) -> str:
    """The sources.list of an image. Suites taken in by pins may be past their date on a mirror; the main one not."""
    lines = [f"deb {mirrors.archive} {recipe.suite} main"]
    if mirrors.security:
        lines.append(f"deb {mirrors.security} {recipe.suite}-security main")
    extra = sorted({pin.suite for pin in recipe.pins})
    lines += [f"deb [check-valid-until=no] {mirrors.archive} {suite} main" for suite in extra]
    return "\n".join(lines) + "\n"


def render_preferences(pins: Sequence[Pin]) -> str:
    """apt_preferences(5) for `pins`: their suites give nothing but the packages named. Empty without pins."""
    stanzas = [_stanza("*", suite, PINNED_OUT) for suite in sorted({pin.suite for pin in pins})]
    stanzas += [_stanza(" ".join(pin.packages), pin.suite, PINNED_IN) for pin in pins]
    return "\n\n".join(stanzas) + "\n" if stanzas else ""


def _stanza(packages: str, suite: str, priority: int) -> str:
    return f"Package: {packages}\nPin: release n={suite}\nPin-Priority: {priority}"


def _fields(stanza: str) -> dict[str, str]:
    lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
    folded = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
    pairs = (line.partition(":") for line in folded.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}
