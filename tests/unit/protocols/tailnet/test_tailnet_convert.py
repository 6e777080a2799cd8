"""Messages of the control plane: golden bytes, round trips, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.coordinate import PeerRequest, PeerResponse, PeerUpdate, UpdateKind
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.base.node import Node
from coder_agent.errors import RemoteProtocolError
from coder_agent.protocols.tailnet.convert import (
    MAX_ENDPOINTS,
    derp_map_from_proto,
    derp_map_to_proto,
    node_from_proto,
    node_to_proto,
    request_from_proto,
    request_to_proto,
    response_from_proto,
    response_to_proto,
    uuid_from_proto,
)
from coder_agent.protocols.tailnet.proto import agent_pb2, tailnet_pb2

PEER = UUID("22222222-2222-4222-8222-222222222222")
NODE = Node(
    id=5,
    key=NodePublic(bytes(range(32))),
    disco=DiscoPublic(b"\xab" * 32),
    preferred_derp=999,
    addresses=(IPv6Network("fd7a:115c:a1e0::1/128"),),
    allowed_ips=(IPv6Network("fd7a:115c:a1e0::1/128"),),
    endpoints=(AddrPort("192.0.2.1", 41641), AddrPort("2001:db8::1", 41641)),
    derp_latency={"999-v4": 0.029},
    derp_forced_websocket={999: "status 404"},
    as_of=1_700_000_000.25,
)


def test_a_node_on_the_wire() -> None:
    message = node_to_proto(NODE)
    assert message.key == b"np" + bytes(range(32))
    assert message.disco == "discokey:" + "ab" * 32
    assert list(message.addresses) == ["fd7a:115c:a1e0::1/128"]
    assert list(message.endpoints) == ["192.0.2.1:41641", "[2001:db8::1]:41641"]
    assert (message.as_of.seconds, message.as_of.nanos) == (1_700_000_000, 250_000_000)
    assert node_from_proto(message) == NODE


def test_field_numbers_are_those_of_stock_peers() -> None:
    """A small node, byte by byte: numbers and types as in tailnet.proto."""
    key = NodePublic(b"\x11" * 32)
    node = Node(id=5, key=key, disco=DiscoPublic(b"\x22" * 32), preferred_derp=999, endpoints=(AddrPort("1.2.3.4", 5),))
    golden = (
        "0805"  # 1: id
        + "1200"  # 2: as_of, zero
        + "1a22" + b"np".hex() + "11" * 32  # 3: key
        + "2249" + (b"discokey:" + b"22" * 32).hex()  # 4: disco
        + "28e707"  # 5: preferred_derp
        + "5209" + b"1.2.3.4:5".hex()  # 10: endpoints
    )  # fmt: skip
    assert node_to_proto(node).SerializeToString(deterministic=True).hex() == golden


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (request_to_proto(PeerRequest(add_tunnel=PEER)), "1a120a10" + PEER.hex),
        (request_to_proto(PeerRequest(remove_tunnel=PEER)), "22120a10" + PEER.hex),
        (request_to_proto(PeerRequest(disconnect=True)), "1200"),
        (request_to_proto(PeerRequest(ready_for_handshake=(PEER,))), "2a120a10" + PEER.hex),
        (
            response_to_proto(PeerResponse((PeerUpdate(PEER, UpdateKind.LOST, None, "r"),))),
            "0a17" + "0a10" + PEER.hex + "1803" + "220172",
        ),
        (response_to_proto(PeerResponse(error="no")), "12026e6f"),
        (derp_map_to_proto(DerpMap()), "0a00"),
    ],
)
def test_small_messages_byte_by_byte(message: tailnet_pb2.CoordinateRequest, golden: str) -> None:
    assert message.SerializeToString(deterministic=True).hex() == golden


keys = st.binary(min_size=32, max_size=32)
networks = st.builds(lambda raw: IPv6Network(IPv6Address(raw)), st.binary(min_size=16, max_size=16))
hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
nodes = st.builds(
    Node,
    id=st.integers(0, 2**63 - 1),
    key=st.builds(NodePublic, keys),
    disco=st.builds(DiscoPublic, keys),
    preferred_derp=st.integers(0, 2**31 - 1),
    addresses=st.lists(networks, max_size=3).map(tuple),
    allowed_ips=st.lists(networks, max_size=3).map(tuple),
    endpoints=st.lists(st.builds(AddrPort.of, hosts, st.integers(0, 65535)), max_size=5).map(tuple),
    derp_latency=st.dictionaries(st.text(max_size=8), st.floats(0, 10), max_size=3),
    derp_forced_websocket=st.dictionaries(st.integers(1, 70_000), st.text(max_size=9), max_size=3),
    as_of=st.integers(0, 2**33).map(float),
)
uuids = st.uuids()


@given(nodes)
def test_nodes_round_trip(node: Node) -> None:
    wire = node_to_proto(node).SerializeToString()
    assert node_from_proto(tailnet_pb2.Node.FromString(wire)) == node


@given(
    st.builds(
        PeerRequest,
        update_self=st.none() | nodes,
        add_tunnel=st.none() | uuids,
        remove_tunnel=st.none() | uuids,
        disconnect=st.booleans(),
        ready_for_handshake=st.lists(uuids, max_size=3).map(tuple),
    )
)
def test_requests_round_trip(request: PeerRequest) -> None:
    wire = request_to_proto(request).SerializeToString()
    assert request_from_proto(tailnet_pb2.CoordinateRequest.FromString(wire)) == request


updates = st.one_of(
    st.builds(PeerUpdate, uuids, st.just(UpdateKind.NODE), nodes, st.text(max_size=5)),
    st.builds(
        PeerUpdate,
        uuids,
        st.sampled_from([k for k in UpdateKind if k is not UpdateKind.NODE]),
        st.none(),
        st.text(max_size=5),
    ),
)


@given(st.builds(PeerResponse, st.lists(updates, max_size=3).map(tuple), st.text(max_size=20)))
def test_responses_round_trip(response: PeerResponse) -> None:
    wire = response_to_proto(response).SerializeToString()
    assert response_from_proto(tailnet_pb2.CoordinateResponse.FromString(wire)) == response


def test_a_request_cut_anywhere_raises_nothing_unexpected() -> None:
    wire = request_to_proto(PeerRequest(update_self=NODE, add_tunnel=PEER)).SerializeToString()
    refused = 0
    for cut in range(len(wire)):
        try:
            request_from_proto(tailnet_pb2.CoordinateRequest.FromString(wire[:cut]))
        except (DecodeError, RemoteProtocolError):
            refused += 1
    assert refused > len(wire) // 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key": bytes(34)}, "'np'"),
        ({"key": b"np" + bytes(31)}, "'np'"),
        ({"disco": "nodekey:" + "00" * 32}, "discokey"),
        ({"addresses": ["10.0.0.1/32"]}, "cannot be read"),
        ({"allowed_ips": ["::/0", "junk"]}, "cannot be read"),
    ],
)
def test_nodes_that_cannot_be_read_are_refused(changes: dict[str, object], problem: str) -> None:
    message = node_to_proto(replace(NODE, addresses=(), allowed_ips=()))
    message.MergeFrom(tailnet_pb2.Node(**changes))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match=problem):
        node_from_proto(message)


def test_endpoints_that_cannot_be_read_are_left_out_and_the_rest_is_bounded() -> None:
    message = node_to_proto(replace(NODE, endpoints=()))
    message.endpoints.extend(["junk", "1.2.3.4:70000", "::1:5", "1.2.3.4:5"])
    assert node_from_proto(message).endpoints == (AddrPort("1.2.3.4", 5),)
    message.endpoints.extend(["1.2.3.4:6"] * 1000)
    assert len(node_from_proto(message).endpoints) == MAX_ENDPOINTS


def test_a_nonsensical_time_counts_as_none() -> None:
    message = node_to_proto(NODE)
    message.as_of.seconds = 2**62
    again = node_from_proto(message)
    assert again.as_of == 0.0
    node_to_proto(again)


def test_one_unreadable_update_does_not_cost_the_others() -> None:
    message = response_to_proto(PeerResponse((PeerUpdate(PEER, UpdateKind.LOST),)))
    message.peer_updates.add(id=PEER.bytes, kind=tailnet_pb2.CoordinateResponse.PeerUpdate.NODE)
    message.peer_updates.add(id=b"short", kind=tailnet_pb2.CoordinateResponse.PeerUpdate.LOST)
    message.peer_updates.add(id=PEER.bytes)
    assert response_from_proto(message).updates == (PeerUpdate(PEER, UpdateKind.LOST),)


@pytest.mark.parametrize("raw", [b"", bytes(15), bytes(17)])
def test_ids_have_16_bytes(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="16 bytes"):
        uuid_from_proto(raw)


def test_relay_maps_round_trip_and_always_have_home_params() -> None:
    derp_map = DerpMap(
        regions={
            999: DerpRegion(
                999,
                "coder",
                "Embedded",
                (
                    DerpNode(
                        "999b",
                        999,
                        "coder.example",
                        cert_name="c",
                        ipv4="192.0.2.1",
                        ipv6="none",
                        stun_port=-1,
                        stun_only=True,
                        derp_port=8443,
                        insecure_for_tests=True,
                        force_http=True,
                        stun_test_ip="192.0.2.2",
                        can_port_80=True,
                    ),
                    DerpNode("999c", 999, "other.example"),
                ),
                embedded_relay=True,
                avoid=True,
            )
        },
        region_score={999: 0.5},
    )
    message = derp_map_to_proto(derp_map)
    assert derp_map_from_proto(message) == derp_map
    assert derp_map_to_proto(DerpMap()).HasField("home_params")
    message.regions[999].region_id = 5
    with pytest.raises(RemoteProtocolError, match="filed under"):
        derp_map_from_proto(message)


def test_every_field_we_list_has_its_number() -> None:
    """The numbers that the notes on the stock agent.proto give, for messages that we only pass on."""

    def numbers(message: type[object]) -> dict[str, int]:
        fields = message.DESCRIPTOR.fields  # type: ignore[attr-defined]
        return {f.name: f.number for f in fields}

    manifest = numbers(agent_pb2.Manifest)
    assert (manifest["derp_map"], manifest["owner_username"], manifest["workspace_id"]) == (9, 13, 14)
    assert (manifest["agent_name"], manifest["workspace_name"], manifest["secrets"]) == (15, 16, 19)
    assert numbers(agent_pb2.BatchUpdateMetadataRequest) == {"metadata": 2}
    assert numbers(agent_pb2.Stats)["session_count_ssh"] == 11
    assert dict(agent_pb2.Lifecycle.State.items())["OFF"] == 9
    assert numbers(tailnet_pb2.TelemetryEvent)["client_version"] == 19


def test_the_generated_modules_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """`scripts/genproto` was run after the last change."""
    folder = Path(tailnet_pb2.__file__).parent
    root = folder.parents[3]
    names = [str((folder / name).relative_to(root)) for name in ("tailnet.proto", "agent.proto")]
    out = tmp_path / "set"
    with_include = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), f"--descriptor_set_out={out}", *names]
    subprocess.run(with_include, check=True)
    for made, module in zip(FileDescriptorSet.FromString(out.read_bytes()).file, (tailnet_pb2, agent_pb2), strict=True):
        ours = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(ours)
        for file in (made, ours):
            file.ClearField("source_code_info")
            _strip_json_names(file)
        assert ours == made


def _strip_json_names(file: object) -> None:
    stack = list(file.message_type)  # type: ignore[attr-defined]
    while stack:
        message = stack.pop()
        stack += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
