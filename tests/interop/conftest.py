"""What several foreign judges need."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme

from coder_agent.base.derp_map import DerpNode
from coder_agent.testing.netns import Host
from coder_agent.testing.processes import run_program
from coder_agent.testing.stock_program import StockSite, find_stock_coder, open_stock_site


@pytest.fixture(scope="session")
def stock_coder() -> str:
    """The path of a stock Coder."""
    program = find_stock_coder()
    if program is None:
        pytest.skip("needs a stock Coder: run scripts/stock_coder")
    return program


@pytest.fixture(scope="session")
def stock_site(stock_coder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockSite]:
    """Our server, with the stock CLI and the stock agent beside ours."""
    with open_stock_site(stock_coder, tmp_path_factory.mktemp("stock-site")) as site:
        yield site


@contextmanager
def run_server(directory: Path, address: str = "127.0.0.1", host: Host | None = None) -> Iterator[DerpNode]:
    """A `coder server` with TLS and STUN at `address`, of a namespace if given; yields its relay as a map has it."""
    certificate = trustme.CA().issue_cert(address)
    cert, key = directory / "cert.pem", directory / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    command = (str(Path(sys.executable).with_name("coder")), "server", "--data-dir", str(directory / "data"))
    tls = ("--tls-enable", "--tls-address", f"{address}:0", "--tls-cert-file", str(cert), "--tls-key-file", str(key))
    rest = ("--http-address", "", "--stun-address", f"{address}:0")
    env = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    with run_program(*command, *tls, *rest, host=host, env=env) as server:
        port = int(server.wait_for(r"HTTPS listener at https://[\d.]+:(\d+)")[1])
        stun = int(server.wait_for(r"STUN responder at udp port (\d+)")[1])
        yield DerpNode(
            "1a", 1, address, ipv4=address, ipv6="none", stun_port=stun, derp_port=port, insecure_for_tests=True
        )
        assert "Traceback" not in server.stop()


@pytest.fixture(scope="session")
def embedded_relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DerpNode]:
    """The relay of a server on loopback that all tests share."""
    with run_server(tmp_path_factory.mktemp("coder-server")) as relay:
        yield relay


@pytest.fixture
def start_server(tmp_path: Path) -> Callable[[Host], AbstractContextManager[DerpNode]]:
    """A server on a machine of the laboratory."""
    directory = tmp_path / "coder-server"
    directory.mkdir()
    return lambda host: run_server(directory, host.address4, host)
