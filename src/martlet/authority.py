"""A cluster's own certificate authority, and the identities it signs: `agent.NODE`, `mother.NODE`, `admin`.

Makes PEM texts and writes them where told; knows neither the bus nor how certificates are checked.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 3650
CLOCK_SLACK = timedelta(days=1)
"""A certificate counts from a day before it was made, for machines whose clocks are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate, its private key and the authority's certificate, all PEM."""

    ca: bytes
    cert: bytes
    key: bytes


class Authority:
    """Signs identities of one cluster. Its own key lives in this object only, unless `key_pem` is kept."""

    def __init__(self, *, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, cluster: str) -> Authority:
        """A new authority for `cluster`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"Martlet cluster {cluster}")
        builder = _builder(subject=name, issuer=name, key=key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(certificate=builder.sign(key, hashes.SHA256()), key=key)

    @classmethod
    def load(cls, *, ca: bytes, key: bytes) -> Authority:
        """The authority that was kept as two PEM texts.

        Raises:
            ValueError: they are not a certificate and a private key.
        """
        private = serialization.load_pem_private_key(key, password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an elliptic curve key")
        return cls(certificate=x509.load_pem_x509_certificate(ca), key=private)

    @property
    def ca_pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self._key)

    def issue(self, identity: str, *, names: Sequence[str] = (), addresses: Sequence[str] = ()) -> Identity:
        """A certificate for `identity`, good as client and as server, that also answers to `names` and `addresses`.

        `identity` stands first among the DNS names: the bus takes its user from there.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject=_name(identity), issuer=self._certificate.subject, key=key)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys([identity, *names])]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return Identity(ca=self.ca_pem, cert=signed.public_bytes(serialization.Encoding.PEM), key=_key_pem(key))


def write(folder: Path, identity: Identity) -> None:
    """Write `ca.pem`, `cert.pem` and `key.pem` into `folder`; the key is for its owner's eyes only."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(identity.ca)
    (folder / "cert.pem").write_bytes(identity.cert)
    with open(folder / "key.pem", "wb", opener=_private) as file:
        file.write(identity.key)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _builder(*, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
