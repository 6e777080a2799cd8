"""TCP/IP inside the process: IPv6 only, burst-oriented, no I/O.

Start with stack.py (the face), then tcp.py and arrival.py (one connection), sender.py and receiver.py (its halves).
segmenter.py and merger.py are where the speed comes from: TCP sees runs of bytes, never single bulk segments.
"""

from .config import StackConfig
from .listening import SynRequest
from .stack import Stack
from .states import State
from .tcp import TcpConnection

__all__ = ["Stack", "StackConfig", "State", "SynRequest", "TcpConnection"]
