"""The certificates that this system trusts, in a file that Java reads.

A JRE out of a package brings a list of its own and knows nothing of a CA that a company's network has added to the
system. `artifacts` writes such a file for each download with that JRE; one made by the system reads the system's list.
"""

import hashlib
import ssl
import struct
from pathlib import Path

_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_SEAL = b"Mighty Aphrodite"  # the format's own: before the digest that ends the file
_PASSWORD = "changeit"  # noqa: S105 - Java's default; certificates are no secrets


def write_trust_store(path: Path) -> bool:
    """Writes all certificates of the system's store as a Java key store (JKS); False where the system has none."""
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
