"""`coder server` that takes a client for asleep after six seconds without a pong, not forty-five.

impatient_server.py server FLAGS…
"""

from __future__ import annotations

import sys

from coder_agent_server import listening

from coder_agent.cli.app import main

if __name__ == "__main__":
    listening.WEBSOCKET_PING_SECONDS, listening.WEBSOCKET_PONG_SECONDS = 2.0, 4.0
    sys.exit(main(sys.argv[1:]))
