"""The examples of docs/python.md, as programs and in a Jupyter kernel (nbclient), against a real server and agent."""

from __future__ import annotations

import re
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient

from coder_agent.testing.deployment import Deployment

notebooks: Any = import_module("nbformat.v4")  # it has no types
pytestmark = [pytest.mark.foreign]
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text("utf-8")
PRINTED = {
    "A first look": r"42\n\n(direct|relayed)\n",
    "Without an event loop": r"hello  there\n\nb'HTTP/1\.1 200 .*the page'\n",
    "Notebooks": r"0\n",
    "TCP and UDP": r"b'HTTP/1\.1 200 .*the page'\nb'are you there\?'\n",
    "HTTP": r"200 the page\n",
    "A local port": r"http://127\.0\.0\.1:\d+\nb'the page'\n",
    "Commands": r"apple\npear\n\n3 b'no luck\\n'\nb'hello world\\n'\n0\n-15\n",
    "Paths and events": r"True\n.+\n(direct|relayed) \S+\n",
    "Serving into the tunnel": r"b'good morning\\n'\n",
    "Time-outs and cancellation": r"True (direct|relayed)\n",
}
"""What the examples of each section print. Every section with examples is here."""


def sections() -> dict[str, list[str]]:
    """Title → examples."""
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    found = {
        title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"the page")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def web_port() -> Iterator[int]:
    """A web server in the workspace."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    """A UDP program in the workspace that sends back what comes; an empty datagram ends it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def echo() -> None:
        while True:
            data, address = sock.recvfrom(65536)
            if not data:
                return
            sock.sendto(data, address)

    thread = threading.Thread(target=echo)
    thread.start()
    yield sock.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(b"", sock.getsockname())
    thread.join()
    sock.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server, a user, a workspace with its agent; programs of both are on one machine."""
    with Deployment(tmp_path_factory.mktemp("jupyter")) as deployment:
        # a short path: Unix sockets have 100 bytes
        deployment.extra["CODER_AGENT_PORTS_DIR"] = str(deployment.folder / "p")
        deployment.start_server()
        deployment.sign_in()
        deployment.start_agent(deployment.create("dev"))
        yield deployment


@pytest.fixture
def examples(web_port: int, echo_port: int) -> dict[str, list[str]]:
    """The examples with the ports that there are."""
    ports = {"8080": str(web_port), "9999": str(echo_port)}
    return {
        title: [re.sub(r"\b(8080|9999)\b", lambda found: ports[found[1]], block) for block in blocks]
        for title, blocks in sections().items()
    }


def test_every_section_is_judged() -> None:
    assert list(sections()) == list(PRINTED)


@pytest.mark.parametrize("title", PRINTED)
def test_as_a_program(title: str, examples: dict[str, list[str]], place: Deployment, tmp_path: Path) -> None:
    body = textwrap.indent("\n".join(examples[title]), "    ")
    program = tmp_path / "example.py"
    program.write_text(f"import asyncio\n\n\nasync def main() -> None:\n{body}\n\nasyncio.run(main())\n", "utf-8")
    done = place.user.run(sys.executable, "-W", "error", str(program), env=place.extra)
    assert done.code == 0, str(done)
    assert re.fullmatch(PRINTED[title], done.out, re.DOTALL), done.out
    assert done.err == ""


@pytest.fixture(scope="module")
def kernel(place: Deployment) -> Iterator[NotebookClient]:
    """A Jupyter kernel as the user, and the notebook that nbclient hands to it. The kernel "python3" is this venv's."""
    client = NotebookClient(notebooks.new_notebook(), timeout=60, kernel_name="python3")
    with client.setup_kernel(env=place.user.environ(place.extra), cwd=str(place.user.folder)):
        yield client


def run_cell(client: NotebookClient, source: str) -> str:
    """What a cell prints. Raises nbclient's CellExecutionError if it raises."""
    cell = notebooks.new_code_cell(source)
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1)
    printed = [output for output in cell.outputs if output.output_type == "stream"]
    assert [output.text for output in printed if output.name == "stderr"] == []
    return "".join(output.text for output in printed)


@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
@pytest.mark.parametrize("title", PRINTED)
def test_in_a_kernel(title: str, examples: dict[str, list[str]], kernel: NotebookClient) -> None:
    printed = "".join(run_cell(kernel, block) for block in examples[title])
    assert re.fullmatch(PRINTED[title], printed, re.DOTALL), printed
