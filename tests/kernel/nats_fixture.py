"""A real nats-server with mutual TLS on a free loopback port, for the tests: start, stop, freeze, restart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

from martlet.bus import server
from martlet.bus.names import SERVER_IDENTITY
from martlet.config import Bus, Config, Node, Tls

IDENTITIES = ("admin", "agent.n1", "agent.n2", "mother.n1", "mother.n2")
BUILT = Path("/var/cache/martlet/images/node/current/rootfs/usr/sbin/nats-server")


def find_server() -> str:
    """The nats-server to test with: `MARTLET_NATS_SERVER`, PATH, or the one in the built node image."""
    found = os.environ.get("MARTLET_NATS_SERVER") or shutil.which("nats-server") or str(BUILT)
    if not Path(found).is_file():
        raise RuntimeError("no nats-server: build the node image, or name one in MARTLET_NATS_SERVER")
    return found


@dataclass(slots=True)
class NatsServer:
    """A server of its own with its folder; `process` is None while it is stopped."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen([find_server(), "-c", str(self.folder / "nats.conf")], stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "nats.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def config(self, identity: str) -> Config:
        """The configuration of the machine that is `identity`."""
        _, _, node = identity.partition(".")
        return Config(
            node=Node(name=node),
            bus=Bus(urls=(f"tls://127.0.0.1:{self.port}",)),
            tls=Tls(
                ca=self.folder / "ca.pem",
                cert=self.folder / f"{identity}.pem",
                key=self.folder / f"{identity}.key",
            ),
        )


def prepare(folder: Path, *, identities: Sequence[str] = IDENTITIES) -> NatsServer:
    """Certificates and configuration of a server in `folder`; not started."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in (SERVER_IDENTITY, *identities):
        leaf = authority.issue_cert(name)
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = server.render(
        listen=f"127.0.0.1:{port}",
        store_dir=folder / "store",
        ca=folder / "ca.pem",
        cert=folder / f"{SERVER_IDENTITY}.pem",
        key=folder / f"{SERVER_IDENTITY}.key",
        identities=identities,
    )
    (folder / "nats.conf").write_text(text)
    return NatsServer(folder=folder, port=port)
