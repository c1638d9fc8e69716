"""The certificates that this machine trusts, for Python and for Java.

`python -m medallion_platform.certificates FOLDER` packs them for Java, and prints the file's path.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import sys
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

_LOG = logging.getLogger(__name__)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def java_truststore(folder: Path) -> Path | None:
    """A file below `folder` with this machine's certificates for Java; None if there are no certificates.

    Raises:
        OSError: it cannot be written there.
    """
    files = list(_certificate_files())
    # Whole seconds: a layer of an image keeps no more of a time.
    seen = sha256(repr([(str(f), int(f.stat().st_mtime), f.stat().st_size) for f in files]).encode())
    path = folder / f"certificates-{seen.hexdigest()[:16]}.p12"
    if not path.exists():
        written = _pack_truststore(files)
        if written is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(written)
        part.replace(path)
    return path


def tls_context() -> ssl.SSLContext:
    """The TLS context for clients in Python, with the same certificates."""
    first, *others = _certificate_files()
    context = ssl.create_default_context(cafile=first)
    for file in others:
        context.load_verify_locations(file)
    return context


def _certificate_files() -> Iterator[Path]:
    """The files that hold this machine's certificates: `SSL_CERT_FILE`, `SSL_CERT_DIR`, else the system's."""
    found = ssl.get_default_verify_paths()
    if found.cafile:
        yield Path(found.cafile)
    elif found.capath and (files := sorted(f for f in Path(found.capath).iterdir() if f.is_file())):
        yield from files
    else:  # a Python that knows of no certificates, as on some Macs
        import certifi

        yield Path(certifi.where())


def _pack_truststore(files: list[Path]) -> bytes | None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12
    from cryptography.utils import CryptographyDeprecationWarning
    from cryptography.x509 import load_pem_x509_certificate

    # Some authorities' certificates are odd; that is for whoever keeps them, not for who runs a refresh.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    held: dict[bytes, pkcs12.PKCS12Certificate] = {}
    for file in files:
        for pem in _CERTIFICATE.findall(file.read_bytes()):
            digest = sha256(pem).hexdigest().encode()
            try:
                held[digest] = pkcs12.PKCS12Certificate(load_pem_x509_certificate(pem), digest)
            except ValueError as error:
                _LOG.info("%s: a certificate is left out: %s", file, error)
    return pkcs12.serialize_java_truststore(list(held.values()), NoEncryption()) if held else None


if __name__ == "__main__":
    print(java_truststore(Path(sys.argv[1])) or sys.exit("there are no certificates"))
