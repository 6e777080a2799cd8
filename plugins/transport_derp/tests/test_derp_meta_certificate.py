"""The certificate for fast start, read by OpenSSL and by another X.509 library."""

from __future__ import annotations

import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from coder_agent_transport_derp.meta_certificate import load_chain, meta_certificate
from cryptography import x509

from coder_agent.base.keys import NodePublic

KEY = NodePublic(bytes(range(1, 33)))
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PEM = meta_certificate(KEY, NOW)


def test_it_says_what_stock_clients_look_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name is longer than X.509 allows
        found = x509.load_pem_x509_certificate(PEM.encode())
        (name,) = found.subject
        assert name.value == "derpkey" + KEY.raw.hex()
        assert found.issuer == found.subject
    assert found.serial_number == 2
    assert found.version is x509.Version.v3
    assert found.not_valid_before_utc == NOW - timedelta(days=30)
    assert found.not_valid_after_utc == NOW + timedelta(days=30)
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    found.verify_directly_issued_by(found)


def test_it_stands_behind_the_chain_and_does_not_disturb_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    load_chain(context, str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"), PEM)
    authority.configure_trust(trusting)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there, server_hostname="localhost")
    server = context.wrap_bio(there, back, server_side=True)
    for _ in range(2):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert client.version() == "TLSv1.3"
    chain = [one.public_bytes() for one in client._sslobj.get_unverified_chain()]  # type: ignore[attr-defined]
    assert [ssl.PEM_cert_to_DER_cert(pem) for pem in chain[1:]] == [ssl.PEM_cert_to_DER_cert(PEM)]
