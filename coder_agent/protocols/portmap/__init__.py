"""Asking the home router to open a port: NAT-PMP, PCP and UPnP-IGD, without their sockets.

`natpmp` and `pcp` hold the datagrams, `epoch` notices that a gateway restarted, `dialog` knows which datagram answers
what. UPnP is `ssdp` (who is there), `igd` (what the device describes), `soap` (calling it) and `safe_xml` (reading what
a stranger on the LAN wrote). `mapping` is the state machine over all of them: what to ask next, when to renew, what is
lost; `values` are its words. Everything that comes in is untrusted; datagram parsers return `Dropped(reason)` and never
raise.
"""
