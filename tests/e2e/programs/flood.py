"""Many connections at once, all held until each is decided.

flood.py serve                  echoes on a port of loopback, which it tells
flood.py connect PORT COUNT     opens COUNT connections, says a byte on each, and tells how many were answered, how many
                                were reset, and how many did neither in PATIENCE
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter

PATIENCE = 100.0


def tell(event: str, **facts: object) -> None:
    """One line for whoever started this."""
    print(json.dumps({"event": event, **facts}), flush=True)


async def serve() -> None:
    """Until killed."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=4096)
    tell("listening", port=server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def connect(port: int, count: int) -> None:
    """All at once; nobody leaves before everybody knows."""
    found: Counter[str] = Counter()
    held: list[asyncio.StreamWriter] = []

    async def one() -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                held.append(writer)
                writer.write(b"x")
                found["answered" if await reader.read(1) == b"x" else "ended"] += 1
        except ConnectionError:
            found["reset"] += 1
        except TimeoutError:
            found["hanging"] += 1

    await asyncio.gather(*(one() for _ in range(count)))
    tell("decided", **found)
    for writer in held:
        writer.close()


def main() -> None:
    """By the first word."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        asyncio.run(connect(int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
