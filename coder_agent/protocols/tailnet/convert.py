"""Between the protobuf messages of the control plane and our values.

From the wire everything is checked: RemoteProtocolError says what is wrong, and nothing half-read is kept. Single
endpoints that do not parse are left out, for a peer of another make may know address forms that we do not.

Source: coder/coder tailnet/convert.go, tailnet/proto/tailnet.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network
from uuid import UUID

from ...base.addresses import AddrPort
from ...base.coordinate import PeerRequest, PeerResponse, PeerUpdate, UpdateKind
from ...base.derp_map import DerpMap, DerpNode, DerpRegion
from ...base.keys import DiscoPublic, NodePublic
from ...base.node import Node
from ...errors import RemoteProtocolError
from .proto import tailnet_pb2 as pb

KEY_PREFIX = b"np"
"""Before the 32 bytes of a node key in its binary form (tailscale types/key/node.go, MarshalBinary)."""
MAX_ENDPOINTS = 128
"""Endpoints kept of one node; a real one has a few dozen at most, and each costs a ping."""
_MICRO = 1_000_000
_YEAR_10000 = 253_402_300_800 - 1  # Unix seconds; google.protobuf.Timestamp ends there


def uuid_from_proto(raw: bytes) -> UUID:
    """16 raw bytes as a UUID. Raises RemoteProtocolError."""
    if len(raw) != 16:
        raise RemoteProtocolError(f"an id has 16 bytes, not {len(raw)}")
    return UUID(bytes=raw)


# ---------------------------------------------------------------- nodes


def node_to_proto(node: Node) -> pb.Node:
    """The wire form of a node."""
    message = pb.Node(
        id=node.id,
        key=KEY_PREFIX + node.key.raw,
        disco=str(node.disco),
        preferred_derp=node.preferred_derp,
        derp_latency=dict(node.derp_latency),
        derp_forced_websocket=dict(node.derp_forced_websocket),
        addresses=[str(a) for a in node.addresses],
        allowed_ips=[str(a) for a in node.allowed_ips],
        endpoints=[str(e) for e in node.endpoints],
    )
    message.as_of.FromMicroseconds(round(node.as_of * _MICRO))
    return message


def node_from_proto(message: pb.Node) -> Node:
    """A node from the wire. Raises RemoteProtocolError for bad keys and addresses."""
    raw = message.key
    if not raw.startswith(KEY_PREFIX) or len(raw) != len(KEY_PREFIX) + 32:
        raise RemoteProtocolError("a node key is 'np' and 32 bytes")
    try:
        return Node(
            id=message.id,
            key=NodePublic(raw[len(KEY_PREFIX) :]),
            disco=DiscoPublic.parse(message.disco),
            preferred_derp=message.preferred_derp,
            addresses=tuple(IPv6Network(a) for a in message.addresses),
            allowed_ips=tuple(IPv6Network(a) for a in message.allowed_ips),
            endpoints=tuple(_endpoints(message.endpoints)),
            derp_latency=dict(message.derp_latency),
            derp_forced_websocket=dict(message.derp_forced_websocket),
            as_of=_seconds(message.as_of.seconds, message.as_of.nanos),
        )
    except ValueError as exc:
        raise RemoteProtocolError(f"a node that cannot be read: {exc}") from exc


def _seconds(seconds: int, nanos: int) -> float:
    """A time stamp from a stranger: nonsense (outside the years that can be written again) counts as not given."""
    return seconds + nanos / 1e9 if 0 <= seconds < _YEAR_10000 and 0 <= nanos < 1_000_000_000 else 0.0


def _endpoints(texts: Iterable[str]) -> list[AddrPort]:
    found: list[AddrPort] = []
    for text in texts:
        try:
            found.append(AddrPort.parse(text))
        except ValueError:
            continue
        if len(found) == MAX_ENDPOINTS:
            break
    return found


# ---------------------------------------------------------------- coordination


def request_to_proto(request: PeerRequest) -> pb.CoordinateRequest:
    """The wire form of a request."""
    message = pb.CoordinateRequest()
    if request.update_self is not None:
        message.update_self.node.CopyFrom(node_to_proto(request.update_self))
    if request.add_tunnel is not None:
        message.add_tunnel.id = request.add_tunnel.bytes
    if request.remove_tunnel is not None:
        message.remove_tunnel.id = request.remove_tunnel.bytes
    if request.disconnect:
        message.disconnect.SetInParent()
    for peer in request.ready_for_handshake:
        message.ready_for_handshake.add(id=peer.bytes)
    return message


def request_from_proto(message: pb.CoordinateRequest) -> PeerRequest:
    """A request from the wire. Raises RemoteProtocolError."""
    return PeerRequest(
        update_self=node_from_proto(message.update_self.node) if message.HasField("update_self") else None,
        add_tunnel=uuid_from_proto(message.add_tunnel.id) if message.HasField("add_tunnel") else None,
        remove_tunnel=uuid_from_proto(message.remove_tunnel.id) if message.HasField("remove_tunnel") else None,
        disconnect=message.HasField("disconnect"),
        ready_for_handshake=tuple(uuid_from_proto(r.id) for r in message.ready_for_handshake),
    )


def response_to_proto(response: PeerResponse) -> pb.CoordinateResponse:
    """The wire form of a response."""
    message = pb.CoordinateResponse(error=response.error)
    for update in response.updates:
        wire = message.peer_updates.add(
            id=update.id.bytes,
            kind=pb.CoordinateResponse.PeerUpdate.Kind.ValueType(update.kind),
            reason=update.reason,
        )
        if update.node is not None:
            wire.node.CopyFrom(node_to_proto(update.node))
    return message


def response_from_proto(message: pb.CoordinateResponse) -> PeerResponse:
    """A response from the wire. Updates that cannot be read, or are of a kind that we do not know, are left out: one
    peer's nonsense, which a server may pass on unread, must not cost us the others.
    """
    updates = [_update_from_proto(update) for update in message.peer_updates]
    return PeerResponse(tuple(u for u in updates if u is not None), message.error)


def _update_from_proto(message: pb.CoordinateResponse.PeerUpdate) -> PeerUpdate | None:
    try:
        kind = UpdateKind(message.kind)
        node = node_from_proto(message.node) if kind is UpdateKind.NODE else None
        return PeerUpdate(uuid_from_proto(message.id), kind, node, message.reason)
    except (ValueError, RemoteProtocolError):
        return None


# ---------------------------------------------------------------- relay map


def derp_map_to_proto(derp_map: DerpMap) -> pb.DERPMap:
    """The wire form of a relay map. `home_params` is always there: stock readers dereference it unchecked."""
    message = pb.DERPMap(home_params=pb.DERPMap.HomeParams(region_score=dict(derp_map.region_score)))
    for region_id, region in derp_map.regions.items():
        wire = message.regions[region_id]
        wire.region_id = region.region_id
        wire.embedded_relay = region.embedded_relay
        wire.region_code = region.region_code
        wire.region_name = region.region_name
        wire.avoid = region.avoid
        wire.nodes.extend(_derp_node_to_proto(node) for node in region.nodes)
    return message


def _derp_node_to_proto(node: DerpNode) -> pb.DERPMap.Region.Node:
    return pb.DERPMap.Region.Node(
        name=node.name,
        region_id=node.region_id,
        host_name=node.host_name,
        cert_name=node.cert_name,
        ipv4=node.ipv4,
        ipv6=node.ipv6,
        stun_port=node.stun_port,
        stun_only=node.stun_only,
        derp_port=node.derp_port,
        insecure_for_tests=node.insecure_for_tests,
        force_http=node.force_http,
        stun_test_ip=node.stun_test_ip,
        can_port_80=node.can_port_80,
    )


def derp_map_from_proto(message: pb.DERPMap) -> DerpMap:
    """A relay map from the wire. Raises RemoteProtocolError if a region's key is not its id."""
    regions: dict[int, DerpRegion] = {}
    for region_id, wire in message.regions.items():
        if region_id != wire.region_id:
            raise RemoteProtocolError(f"relay region {wire.region_id} is filed under {region_id}")
        regions[region_id] = DerpRegion(
            region_id=region_id,
            region_code=wire.region_code,
            region_name=wire.region_name,
            nodes=tuple(_derp_node_from_proto(node) for node in wire.nodes),
            embedded_relay=wire.embedded_relay,
            avoid=wire.avoid,
        )
    return DerpMap(regions=regions, region_score=dict(message.home_params.region_score))


def _derp_node_from_proto(wire: pb.DERPMap.Region.Node) -> DerpNode:
    return DerpNode(
        name=wire.name,
        region_id=wire.region_id,
        host_name=wire.host_name,
        cert_name=wire.cert_name,
        ipv4=wire.ipv4,
        ipv6=wire.ipv6,
        stun_port=wire.stun_port,
        stun_only=wire.stun_only,
        derp_port=wire.derp_port,
        insecure_for_tests=wire.insecure_for_tests,
        force_http=wire.force_http,
        stun_test_ip=wire.stun_test_ip,
        can_port_80=wire.can_port_80,
    )
