"""Certificates of a server of the tests, by an authority that is made for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Signer = tuple[x509.Certificate, EllipticCurvePrivateKey]


def make(authority: Path, server: Path, address: str = "127.0.0.1") -> None:
    """Write an authority's certificate, and the key and certificate that it gives a server, as PEM."""
    # By its name its certificate is found among those that a client trusts.
    signer = _signed(f"authority {uuid4()}", None)
    authority.write_bytes(signer[0].public_bytes(Encoding.PEM))
    certificate, key = _signed(address, signer)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    server.write_bytes(secret + certificate.public_bytes(Encoding.PEM))


def _signed(name: str, by: Signer | None) -> Signer:
    """A certificate and its key; signed by itself, and fit to sign others, where nobody is named."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by[0].subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    if by:
        address = x509.IPAddress(ip_address(name))
        made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return made.sign(by[1] if by else key, SHA256()), key
