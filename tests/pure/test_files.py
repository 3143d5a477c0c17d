"""Trees of files through a stream: what arrives is what was sent, to the name, the time and the hole; and nothing
arrives outside its folder."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.errors import ToolFailed
from martlet.move.files import BATCH_BYTES, INLINE_MAX_BYTES, Entry, Receiver, Sender, tree_bytes
from martlet.move.messages import Area, Kind
from martlet.wire import FRAME_MAX_BYTES, Channel

PIECE_BYTES = FRAME_MAX_BYTES - 8
EDGES = (0, 1, INLINE_MAX_BYTES - 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1)
NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))
EPOCH_NS = 1_000_000_000 * 1_700_000_000


class Frames:
    """The sending half of a channel, kept in a list; a frame that the real one would not carry is an error."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def send(self, kind: int, payload: bytes | bytearray | memoryview = b"") -> None:
        assert len(payload) <= FRAME_MAX_BYTES
        self.sent.append((kind, bytes(payload)))

    def send_value(self, kind: int, value: object) -> None:
        self.send(kind, msgspec.msgpack.encode(value))

    def deliver(self, receiver: Receiver) -> None:
        for kind, payload in self.sent:
            take = receiver.files if kind == Kind.FILES else receiver.data
            take(memoryview(payload))
        self.sent.clear()


def carried(source: Path, target: Path, **options: Any) -> Receiver:
    """Send the whole of `source`, and lay it out in `target`."""
    frames = Frames()
    sender = Sender(cast(Channel, frames))
    sender.send_tree(Area.PRIVATE, source, **options)
    sender.flush()
    receiver = Receiver({Area.PRIVATE: target})
    frames.deliver(receiver)
    receiver.finish()
    return receiver


def seen(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about every file that a program in a session could look at, its folder's size excepted."""
    found: dict[bytes, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(os.fsencode(top)):
        for path in [os.path.join(folder, name) for name in folders + files]:
            status = os.lstat(path)
            content: bytes = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
            who = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns)
            xattrs = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in attributes(path)]
            found[os.path.relpath(path, os.fsencode(top))] = (*who, links, content, xattrs)
    return found


def attributes(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    return source, target


def test_every_kind_of_file_arrives(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folders
    (source / "empty").mkdir()
    inner = source / "folder/inner"
    inner.mkdir(parents=True)
    (inner / "text").write_text("a line\n")
    (inner / "text").chmod(0o4711)
    (source / "relative").symlink_to("folder/inner/text")
    (source / "dangling").symlink_to("/no/such/place")
    os.mkfifo(source / "fifo", 0o622)
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(source)  # its name has at most 107 bytes
        bound.bind("socket")
    if os.geteuid() == 0:
        os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.chown(inner / "text", 2001, 2002)
        os.lchown(source / "dangling", 2001, 2002)
    inner.chmod(0o1777)
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.utime(path, ns=(0, EPOCH_NS + number), follow_symlinks=False)
    carried(source, target)
    assert seen(target) == seen(source)


@given(tree=st.dictionaries(NAMES, st.tuples(st.booleans(), st.sampled_from(EDGES)), max_size=6))
@settings(deadline=None, max_examples=30)
def test_any_names_and_sizes_arrive(tree: dict[bytes, tuple[bool, int]]) -> None:
    with tempfile.TemporaryDirectory() as top:
        source, target = Path(top, "source"), Path(top, "target")
        source.mkdir()
        target.mkdir()
        for name, (inside, size) in tree.items():
            path = os.path.join(os.fsencode(source), name)
            if inside:
                os.mkdir(path)
                path = os.path.join(path, name)
            Path(os.fsdecode(path)).write_bytes((name * size)[:size])
        receiver = carried(source, target)
        assert seen(target) == seen(source)
        assert receiver.bytes >= sum(size for _, size in tree.values())


def test_holes_stay_holes(folders: tuple[Path, Path]) -> None:
    source, target = folders
    size = 64 << 20
    with (source / "sparse").open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"in the middle")
    (source / "hollow").touch()
    os.truncate(source / "hollow", size)
    receiver = carried(source, target)
    assert seen(target) == seen(source)
    assert receiver.bytes < 1 << 20
    assert tree_bytes(target) < 4 << 20


def test_two_names_of_one_file_stay_one_file(folders: tuple[Path, Path]) -> None:
    source, target = folders
    (source / "later").mkdir()
    (source / "a").write_bytes(b"x" * (INLINE_MAX_BYTES + 1))
    (source / "later/b").hardlink_to(source / "a")
    receiver = carried(source, target)
    assert (target / "a").samefile(target / "later/b")
    assert seen(target) == seen(source)
    assert receiver.bytes < 2 * INLINE_MAX_BYTES


def test_extended_attributes_arrive(folders: tuple[Path, Path]) -> None:
    source, target = folders
    (source / "file").touch()
    with suppress(OSError):  # where the file system has none, none can be lost
        os.setxattr(source / "file", "user.note", b"\0kept")
    carried(source, target)
    assert seen(target) == seen(source)


def test_what_is_to_be_skipped_is(folders: tuple[Path, Path]) -> None:
    source, target = folders
    (source / "keep").touch()
    (source / "drop").touch()
    carried(source, target, skip=lambda name: name == b"drop")
    assert [path.name for path in target.iterdir()] == ["keep"]


def test_a_file_that_grows_arrives_in_parts(folders: tuple[Path, Path]) -> None:
    source, target = folders
    path, frames, sent = source / "pages-1.img", Frames(), 0
    sender, receiver = Sender(cast(Channel, frames)), Receiver({Area.IMAGES: target})
    for part in (b"1" * 5000, b"2" * (PIECE_BYTES + 7), b"3"):
        with path.open("ab") as file:
            file.write(part)
        sender.send_part(Area.IMAGES, source, path, start=sent, end=sent + len(part))
        sent += len(part)
        frames.deliver(receiver)
    receiver.finish()
    assert (target / path.name).read_bytes() == path.read_bytes()


def test_frames_stay_small_whatever_is_in_an_entry(folders: tuple[Path, Path]) -> None:
    source, target = folders
    for number in range(2 * BATCH_BYTES // 1000):
        (source / f"{number:04}").symlink_to("x" * 4000)
    carried(source, target)
    assert seen(target) == seen(source)


def entry(**changes: Any) -> Entry:
    usual: dict[str, Any] = {"area": int(Area.PRIVATE), "path": b"file", "mode": stat.S_IFREG | 0o644, "size": 0}
    owner = {"uid": os.getuid(), "gid": os.getgid(), "mtime_ns": 0}
    return Entry(**usual | owner | {"data": b""} | changes)


@pytest.mark.parametrize(
    "bad",
    [
        {"path": b"/tmp/out"},
        {"path": b"../out"},
        {"path": b"in/../../out"},
        {"area": int(Area.IMAGES)},
        {"area": 77},
        {"link": b"../secret"},
        {"link": b"/etc/passwd"},
    ],
    ids=str,
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "secret").write_text("not the session's")
    frames = Frames()
    frames.send_value(Kind.FILES, [entry(**bad)])
    with pytest.raises(ToolFailed, match="leads out"):
        frames.deliver(Receiver({Area.PRIVATE: target}))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["secret", "target"]


def test_a_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    frames = Frames()
    frames.send_value(Kind.FILES, [entry(mode=stat.S_IFLNK | 0o777, link=b"../out"), entry(data=b"no")])
    with pytest.raises(ToolFailed, match="cannot make"):
        frames.deliver(Receiver({Area.PRIVATE: target}))
    assert not (tmp_path / "out").exists()


def test_a_frame_that_holds_no_entries_is_damage(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="damaged"):
        Receiver({Area.PRIVATE: tmp_path}).files(memoryview(msgspec.msgpack.encode({"no": "entries"})))
