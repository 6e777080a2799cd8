"""The coder server: what users and workspaces meet behind the access URL.

Lives here: the HTTP API, sign-in, the store, the coordination and agent RPC endpoints, the doors to the embedded relay
and STUN. Not here: protocols (coder_agent.protocols), who may see whom (coder_agent.coordination), relaying itself
(a `coder_relay_backends` plugin). Read app.py first.
"""
