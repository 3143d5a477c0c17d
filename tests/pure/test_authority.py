"""Certificates of a cluster: they hold what the bus and the doors of agents look at, and verify in TLS."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from martlet.authority import Authority, Identity, write


@pytest.fixture(scope="module")
def signer() -> Authority:
    return Authority.create("test")


def context(purpose: ssl.Purpose, folder: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def shake(server: Path, client: Path, name: str) -> None:
    """A whole TLS handshake in memory, each side verifying the other."""
    c2s, s2c = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = context(ssl.Purpose.SERVER_AUTH, client).wrap_bio(s2c, c2s, server_hostname=name)
    there = context(ssl.Purpose.CLIENT_AUTH, server).wrap_bio(c2s, s2c, server_side=True)
    waiting = [here, there]
    for _ in range(6):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not waiting


def issued(folder: Path, identity: Identity) -> Path:
    write(folder, identity)
    return folder


def test_the_identity_is_the_first_name(signer: Authority) -> None:
    made = signer.issue("agent.node1", names=["node1", "agent.node1"], addresses=["10.77.0.11"])
    names = x509.load_pem_x509_certificate(made.cert).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["agent.node1", "node1"]
    assert names.value.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.77.0.11")]


def test_both_sides_accept_each_other(signer: Authority, tmp_path: Path) -> None:
    one = issued(tmp_path / "1", signer.issue("agent.node1", names=["node1"], addresses=["10.77.0.11"]))
    two = issued(tmp_path / "2", signer.issue("agent.node2"))
    for name in ("agent.node1", "node1", "10.77.0.11"):
        shake(one, two, name)


def test_a_stranger_and_a_wrong_name_are_refused(signer: Authority, tmp_path: Path) -> None:
    one = issued(tmp_path / "1", signer.issue("agent.node1"))
    stranger = issued(tmp_path / "2", Authority.create("test").issue("agent.node2"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(one, stranger, "agent.node1")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(one, one, "agent.node2")


def test_keys_are_private_and_an_authority_can_be_kept(signer: Authority, tmp_path: Path) -> None:
    again = Authority.load(ca=signer.ca_pem, key=signer.key_pem)
    folder = issued(tmp_path / "t", again.issue("admin"))
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    shake(folder, issued(tmp_path / "u", signer.issue("agent.node1")), "admin")
