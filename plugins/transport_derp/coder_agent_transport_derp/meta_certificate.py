"""Fast start: a certificate behind the relay's own that says, as its name, which key the relay has.

A client that finds it in the TLS handshake sends its request and its login at once, and saves a round trip. It is
signed by nobody that a client trusts, and stands behind the chain, where validation does not look.

The name, ``derpkey`` and 64 hex digits, is longer than the 64 characters that X.509 allows: libraries refuse to build
it, so its DER is written here. Source: tailscale derp/derpserver/derpserver.go initMetacert, derphttp parseMetaCert
@de9ec7ee; RFC 5280, RFC 8410
"""

from __future__ import annotations

import base64
import re
import ssl
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coder_agent.base.keys import NodePublic
from coder_agent.protocols.derp.frames import PROTOCOL_VERSION

VALID = timedelta(days=30)
"""Before and after it was made (derpserver.go). Stock clients do not look."""
RENEW_SECONDS = 10 * 86400.0
"""Made anew so often, that it is never near its end."""
PREFIX = "derpkey"

_ED25519 = bytes.fromhex("06032b6570")
_COMMON_NAME = bytes.fromhex("0603550403")
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
_TRUE = b"\x01\x01\xff"
_SEQUENCE, _SET, _INTEGER, _BITS, _OCTETS, _UTF8, _UTC_TIME = 0x30, 0x31, 0x02, 0x03, 0x04, 0x0C, 0x17
_KEY = re.compile(re.escape(_COMMON_NAME) + rb"[\x0c\x13]." + PREFIX.encode() + rb"([0-9a-f]{64})", re.DOTALL)
_SERIAL = re.compile(re.escape(bytes((0xA0, 3, 2, 1, 2, 2, 1, PROTOCOL_VERSION))), re.DOTALL)
_SERIAL_WITHIN = 16
"""Two sequence heads of at most four bytes, then version and serial number."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def relay_key_in(chain: Iterable[bytes]) -> NodePublic | None:
    """The relay's key from the first such certificate (DER) in `chain` that is for our version of the protocol.

    X.509 libraries warn of that name or refuse it, so it is looked for in the bytes. Whoever can show a certificate in
    this handshake can as well say another key behind it: neither is more, or less, to be believed.
    """
    for der in chain:
        found = _KEY.search(der)
        if found is not None and _SERIAL.search(der, 0, _SERIAL_WITHIN) is not None:
            return NodePublic(bytes.fromhex(found[1].decode()))
    return None


def meta_certificate(relay: NodePublic, now: datetime) -> str:
    """The certificate for a relay with this key, as PEM, signed by a key that is thrown away."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # 4 MB, for servers with TLS only

    private = Ed25519PrivateKey.generate()
    algorithm = _der(_SEQUENCE, _ED25519)
    name = _name(PREFIX + relay.raw.hex())
    constraints = _der(_SEQUENCE, _BASIC_CONSTRAINTS, _TRUE, _der(_OCTETS, _der(_SEQUENCE)))
    content = _der(
        _SEQUENCE,
        _der(0xA0, _der(_INTEGER, b"\x02")),  # X.509 version 3
        _der(_INTEGER, bytes((PROTOCOL_VERSION,))),  # the serial number tells clients the protocol's version
        algorithm,
        name,
        _der(_SEQUENCE, _time(now - VALID), _time(now + VALID)),
        name,
        _der(_SEQUENCE, algorithm, _der(_BITS, b"\0" + private.public_key().public_bytes_raw())),
        _der(0xA3, _der(_SEQUENCE, constraints)),
    )
    whole = _der(_SEQUENCE, content, algorithm, _der(_BITS, b"\0" + private.sign(content)))
    text = base64.encodebytes(whole).decode()
    return f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"


def load_chain(context: ssl.SSLContext, cert_file: str, key_file: str, meta: str) -> None:
    """`context.load_cert_chain` of the chain in `cert_file` and `meta` behind it. Raises OSError, ssl.SSLError."""
    context.load_cert_chain(cert_file, key_file)  # whatever is wrong with the files is said about them
    chain = b"\n".join(_PEM.findall(Path(cert_file).read_bytes()))
    with tempfile.NamedTemporaryFile(suffix=".pem") as together:  # OpenSSL reads files only
        together.write(chain + b"\n" + meta.encode())
        together.flush()
        context.load_cert_chain(together.name, key_file)


def _name(text: str) -> bytes:
    return _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _COMMON_NAME, _der(_UTF8, text.encode()))))


def _time(when: datetime) -> bytes:
    return _der(_UTC_TIME, when.astimezone(UTC).strftime("%y%m%d%H%M%SZ").encode())  # until 2049 (RFC 5280 §4.1.2.5)


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + body
