"""The CA certificates that this system trusts, as a trust store for Java.

A JRE from a Python package has a list of its own, without a CA that a company's network added to the system. For each
download with such a JRE `artifacts` writes a trust store; the system's own Java reads the system's list by itself.
"""

import hashlib
import ssl
import struct
from pathlib import Path

_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_SEAL = b"Mighty Aphrodite"  # part of the JKS format: precedes the digest at the file's end
_PASSWORD = "changeit"  # noqa: S105 - Java's default; certificates are not secret


def write_trust_store(path: Path) -> bool:
    """Writes all certificates of the system's store as a Java key store (JKS); False when it has none."""
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not certificates:
        return False
    data = struct.pack(">III", _MAGIC, _VERSION, len(certificates))
    for number, certificate in enumerate(certificates):
        data += struct.pack(">I", _TRUSTED) + _text(f"ca-{number}") + struct.pack(">Q", 0)
        data += _text("X.509") + struct.pack(">I", len(certificate)) + certificate
    seal = hashlib.sha1(_PASSWORD.encode("utf-16-be") + _SEAL + data, usedforsecurity=False).digest()
    path.write_bytes(data + seal)
    return True


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()
