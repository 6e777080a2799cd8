"""An echo over QUIC by aioquic: a server with a certificate of its own, and a client that says whether it came back.

quic_echo.py serve FOLDER       makes FOLDER/cert.pem; prints {"event": "listening", "port": …}
quic_echo.py ask PORT SIZE      sends SIZE bytes on one stream, compares; prints {"event": "echoed", "bytes": …}
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ALPN = ["echo"]


def say(event: str, **facts: object) -> None:
    """Tell the test."""
    print(json.dumps({"event": event, **facts}), flush=True)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back."""

    async def echo() -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.write_eof()

    tasks.add(asyncio.ensure_future(echo()))


tasks: set[asyncio.Future[None]] = set()


async def run_server(folder: Path) -> None:
    """Serve until killed."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(*certificate(folder))
    server = await serve("127.0.0.1", 0, configuration=configuration, stream_handler=answer)
    assert server._transport is not None
    say("listening", port=server._transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


async def ask(port: int, size: int) -> None:
    """One stream there and back."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE)
    data = os.urandom(size)
    async with connect("127.0.0.1", port, configuration=configuration) as protocol:
        reader, writer = await protocol.create_stream()
        writer.write(data)
        writer.write_eof()
        back = await reader.read()
    say("echoed", bytes=len(back), same=back == data)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    asyncio.run(run_server(Path(rest[0])) if role == "serve" else ask(int(rest[0]), int(rest[1])))
