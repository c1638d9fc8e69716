"""What driver and executors trust each other by, for tests."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from medallion_platform.spark.kubernetes import CERTIFICATE, KEY, SECRET
from medallion_platform_tests.chart.rendering import render


def make_secrets(folder: Path, secret: str) -> Path:
    """A folder with a secret, and a key with a certificate that is its own authority."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spark")]), datetime.now(UTC)
    signed = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = signed.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    (folder / CERTIFICATE).write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / SECRET).write_text(secret)
    return folder


def made_by_the_chart(folder: Path) -> Path:
    """The same, as the chart makes it when it is installed."""
    made = next(m for m in render() if m["kind"] == "Secret" and "data" in m)
    folder.mkdir()
    for name, value in made["data"].items():
        (folder / name).write_bytes(base64.b64decode(value))
    return folder
