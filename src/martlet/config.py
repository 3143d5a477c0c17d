"""The settings of a machine, declared once: type, default, unit, help. Parser, `config show` and manual use this.

Reads `/etc/martlet/config.toml`; decides nothing.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from martlet.errors import UsageError

DEFAULT_PATH = Path("/etc/martlet/config.toml")
MiB = 1024 * 1024
GiB = 1024 * MiB


def setting(default: Any, help: str) -> Any:
    """A setting with its default and the sentence that the manual prints."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str = setting("", "this machine's name in the cluster")
    address: str = setting("", "this machine's address on the sessions' LAN, without prefix length")
    door_port: int = setting(7411, "TCP port on which agents take streams of moves, exec and logs (mutual TLS)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    urls: tuple[str, ...] = setting(("tls://127.0.0.1:4222",), "NATS servers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    ca: Path = setting(Path("/etc/martlet/tls/ca.pem"), "certificate of the cluster's authority")
    cert: Path = setting(Path("/etc/martlet/tls/cert.pem"), "this identity's certificate")
    key: Path = setting(Path("/etc/martlet/tls/key.pem"), "this identity's private key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    bridge: str = setting("martlet0", "bridge on which sessions and the node's LAN port meet")
    subnet: str = setting("10.77.0.0/16", "the sessions' LAN")
    pool_first: str = setting("10.77.1.1", "first address given to sessions")
    pool_last: str = setting("10.77.3.254", "last address given to sessions")
    gateway: str = setting("", "default route of sessions; none when empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    state: Path = setting(Path("/var/lib/martlet"), "journals and what outlives a boot")
    run: Path = setting(Path("/run/martlet"), "sessions, moves and what does not outlive a boot; memory-backed")
    images: Path = setting(Path("/var/lib/martlet/images"), "images, one folder each")
    homes: Path = setting(Path("/home"), "homes, on storage shared by all nodes at this same path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    cgroup: str = setting("martlet", "cgroup under which sessions and moves live, in every hierarchy")
    memory_bytes: int = setting(8 * GiB, "memory limit of one session, private files included")
    private_bytes: int = setting(2 * GiB, "limit of a session's /tmp, /run, /dev/shm and /var/tmp together")
    processes: int = setting(4096, "limit of processes and threads in one session")
    log_bytes: int = setting(1 * MiB, "a session's log is cut to half of this when it grows beyond it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one machine, by table of the file."""

    cluster: str = "martlet"
    node: Node = Node()
    bus: Bus = Bus()
    tls: Tls = Tls()
    network: Network = Network()
    paths: Paths = Paths()
    sessions: Sessions = Sessions()


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read `path`.

    Raises:
        UsageError: the file is missing, is not TOML, or holds an unknown key or a wrong type; names the place.
    """
    try:
        data = tomllib.loads(path.read_text())
        reject_unknown(Config, data, where="")
        return msgspec.convert(data, Config, dec_hook=_decode)
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def reject_unknown(shape: type, data: dict[str, Any], *, where: str) -> None:
    """Raise ValueError for a key of `data` that `shape` does not have; a misspelt setting must not be ignored."""
    known = {item.name: item for item in fields(shape)}
    for key, value in data.items():
        if key not in known:
            raise ValueError(f"unknown setting '{where}{key}'; known here: {', '.join(known)}")
        if isinstance(value, dict):
            reject_unknown(type(known[key].default), value, where=f"{where}{key}.")


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"no decoder for {kind}")
