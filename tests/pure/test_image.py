"""Recipes, sources, digests and the store of images, on small trees in a temporary folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from martlet.errors import MartletError, NotFound, Refused
from martlet.image import layout, manifest, recipe, sources, store
from martlet.image.build import arguments
from martlet.image.recipe import File, Link, Pin, Recipe
from martlet.image.sources import Mirrors, Source
from martlet.model import ImageRef

DEB822 = """\
# the main archive
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: sid
Components: main
"""


@pytest.mark.parametrize("name", recipe.names())
def test_recipes_are_whole(name: str) -> None:
    found = recipe.load(name)
    assert found.suite
    assert found.packages
    paths = [item.path for item in found.files] + [item.path for item in found.links] + list(found.directories)
    assert all(path.startswith("/") and ".." not in PurePosixPath(path).parts for path in paths)
    assert all(item.text and not item.source for item in found.files)


def test_school_has_all_that_a_desktop_has() -> None:
    desktop, school = recipe.load("desktop"), recipe.load("school")
    assert set(desktop.packages) < set(school.packages)
    menus = [item.text for item in school.files if item.path.endswith("menu.xml")]
    assert len(menus) == 1
    assert "firefox" in menus[0]


def test_session_recipes_lead_users_and_names_to_where_the_agent_writes_them() -> None:
    links = {item.path: item.target for item in recipe.load("desktop").links}
    assert links["/var/lib/extrausers"] == "/run/martlet/extrausers"
    assert links["/etc/resolv.conf"] == "/run/martlet/resolv.conf"


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(NotFound, match="desktop"):
        recipe.load("dekstop")


def test_fingerprint_changes_with_the_recipe_and_with_what_it_uses() -> None:
    one = Recipe(name="a", packages=("x",))
    same = Recipe(name="a", packages=("x",))
    other = Recipe(name="a", packages=("y",))
    marks = {recipe.fingerprint(one), recipe.fingerprint(other), recipe.fingerprint(one, extra=b"lock")}
    assert recipe.fingerprint(one) == recipe.fingerprint(same)
    assert len(marks) == 3


def test_sources_in_both_forms() -> None:
    line = "deb [signed-by=/a.gpg arch=amd64] http://m/debian trixie main contrib # x\n#deb http://no/debian a main\n"
    assert list(sources.parse_lines(line)) == [
        Source(uri="http://m/debian", suite="trixie", components=("main", "contrib"))
    ]
    stanzas = list(sources.parse_stanzas(DEB822))
    assert [(item.uri, item.suite) for item in stanzas] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security/", "bookworm-security"),
    ]
    assert stanzas[0].components == ("main", "contrib")


def test_the_hosts_own_mirror_is_taken_and_foreign_archives_are_not() -> None:
    foreign = Source(uri="https://packages.example/apt", suite="bookworm", components=("main",))
    assert sources.choose([foreign, *sources.parse_stanzas(DEB822)]) == Mirrors(
        archive="http://mirror.example/debian", security="http://mirror.example/debian-security/"
    )
    with pytest.raises(Refused, match="mirror"):
        sources.choose([foreign])


def test_pins_let_nothing_else_in() -> None:
    wanted = Recipe(name="node", suite="trixie", pins=(Pin(suite="forky", packages=("criu", "libnet9")),))
    lines = sources.render_list(wanted, Mirrors(archive="http://m/debian")).splitlines()
    assert lines == ["deb http://m/debian trixie main", "deb [check-valid-until=no] http://m/debian forky main"]
    assert sources.render_preferences(wanted.pins) == (
        "Package: *\nPin: release n=forky\nPin-Priority: 100\n\n"
        "Package: criu libnet9\nPin: release n=forky\nPin-Priority: 990\n"
    )
    assert sources.render_preferences(()) == ""


def test_builders_command_line_quotes_its_folders(tmp_path: Path) -> None:
    tree = tmp_path / "a b" / "rootfs"
    argv = arguments(recipe.load("base"), tree, cache=tmp_path / "c'd", log=tmp_path / "log")
    hook = next(word for word in argv if word.startswith("--setup-hook="))
    assert f"'{tree.parent}'" in hook
    assert argv[-3:] == ["trixie", str(tree), str(tree.parent / "sources.list")]


def test_layout_replaces_what_packages_put_there(tmp_path: Path) -> None:
    for name in ("proc", "sys", "run", "home", "tmp", "var/tmp", "dev", "etc", "var/lib/extrausers"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run/leftover").touch()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    layout.write_files(tmp_path, [File(path="/etc/x/y", text="\nhello\n", mode=0o755)])
    layout.make_links(
        tmp_path, [Link(path="/var/lib/extrausers", target="/run/a"), Link(path="/etc/resolv.conf", target="/b")]
    )
    layout.empty(tmp_path / "run")
    assert (tmp_path / "etc/x/y").read_text() == "hello\n"
    assert (tmp_path / "etc/x/y").stat().st_mode & 0o777 == 0o755
    assert os.readlink(tmp_path / "var/lib/extrausers") == "/run/a"
    assert os.readlink(tmp_path / "etc/resolv.conf") == "/b"
    assert not list((tmp_path / "run").iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("content")
    os.link(root / "file", root / "sub/same")
    (root / "link").symlink_to("file")
    (root / "sub-link").symlink_to("sub")
    return root


def test_digest_depends_on_content_not_on_time(tree: Path) -> None:
    before = manifest.measure(tree)
    os.utime(tree / "file", (1, 1))
    assert manifest.measure(tree) == before
    assert before.digest.startswith("sha256:")
    assert before.bytes == len("content")


@pytest.mark.parametrize("change", ["content", "mode", "target", "name", "kind", "directory link"])
def test_digest_sees_every_change(tree: Path, change: str) -> None:
    before = manifest.measure(tree).digest
    match change:
        case "content":
            (tree / "file").write_text("Content")
        case "mode":
            (tree / "file").chmod(0o755)
        case "target":
            (tree / "link").unlink()
            (tree / "link").symlink_to("elif")
        case "name":
            (tree / "file").rename(tree / "file2")
        case "kind":
            (tree / "link").unlink()
            (tree / "link").mkdir()
        case "directory link":
            (tree / "sub-link").unlink()
            (tree / "sub-link").symlink_to(".")
    assert manifest.measure(tree).digest != before


def adopt(root: Path, digest: str, built_at: str) -> store.Image:
    folder = root / "base" / ".building"
    (folder / "rootfs").mkdir(parents=True)
    record = store.Record(name="base", digest=f"sha256:{digest * 64}", bytes=7, built_at=built_at, recipe="r")
    return store.adopt(folder, record)


def test_store_finds_the_newest_by_name_and_any_by_digest(tmp_path: Path) -> None:
    old = adopt(tmp_path, "a", "2026-01-01T00:00:00Z")
    new = adopt(tmp_path, "b", "2026-01-02T00:00:00Z")
    assert store.current(tmp_path, "base").digest == new.digest
    assert store.find(tmp_path, old.ref) == old
    assert [image.digest for image in store.all_images(tmp_path)] == [new.digest, old.digest]
    assert store.is_current(new)
    assert not store.is_current(old)


def test_store_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        store.current(tmp_path, "desktop")
    assert "martlet image build desktop" in caught.value.reasons[0].hint
    with pytest.raises(NotFound, match="with digest"):
        store.find(tmp_path, ImageRef(name="base", digest="sha256:" + "c" * 64))


def test_store_does_not_take_a_damaged_record_for_an_image(tmp_path: Path) -> None:
    image = adopt(tmp_path, "a", "2026-01-01T00:00:00Z")
    (image.rootfs.parent / "image.json").write_text("{")
    with pytest.raises(MartletError, match="damaged"):
        store.current(tmp_path, "base")


def test_a_build_that_ends_half_way_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "base" / ".building" / "rootfs").mkdir(parents=True)
    assert store.all_images(tmp_path) == []
    with pytest.raises(NotFound):
        store.current(tmp_path, "base")
