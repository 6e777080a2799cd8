"""UPnP without a network: XML of strangers, descriptions, SOAP, and conversations with routers of every kind."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.errors import RemoteProtocolError
from coder_agent.protocols.portmap import safe_xml, soap
from coder_agent.protocols.portmap.igd import IP_1, IP_2, PPP_1, Service, Target, on_gateway, parse_description
from coder_agent.protocols.portmap.upnp import Request, Response, UpnpClient, UpnpFailed
from coder_agent.protocols.portmap.values import Site, UpnpGrant

T = TypeVar("T")
SITE = Site("192.168.1.1", "192.168.1.10", 41641)
SOURCE = Target(5000, "/rootDesc.xml")
V1 = Service(IP_1, Target(5000, "/ctl/IPConn"))
V2 = Service(IP_2, Target(5000, "/ctl/IPConn"))


def description(*services: tuple[str, str], base: str = "") -> bytes:
    """A device description with these (type, control URL)."""
    listed = "".join(
        f"<service><serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>" for kind, url in services
    )
    url_base = f"<URLBase>{base}</URLBase>" if base else ""
    return (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{url_base}<device><deviceList><device>'
        f"<serviceList>{listed}</serviceList></device></deviceList></device></root>"
    ).encode()


def envelope(body: str) -> bytes:
    """A SOAP envelope."""
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def fault(code: int) -> Response:
    """An error of UPnP."""
    detail = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode></UPnPError>'
    return Response(500, envelope(f"<s:Fault><detail>{detail}</detail></s:Fault>"))


def done(action: str, **values: str) -> Response:
    """The answer to an action."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return Response(200, envelope(f'<u:{action}Response xmlns:u="x">{inner}</u:{action}Response>'))


class Router:
    """Answers what `rules` say per action, and remembers what it was asked."""

    def __init__(self, **rules: Callable[[dict[str, str]], Response | None]) -> None:
        self.rules = {"GetExternalIPAddress": address_is("203.0.113.7"), **rules}
        self.asked: list[tuple[str, dict[str, str]]] = []

    def answer(self, request: Request) -> Response | None:
        action = request.headers["SOAPAction"].strip('"').rpartition("#")[2]
        call = next(element for element in safe_xml.parse(request.body).walk() if element.name == action)
        values = {child.name: child.text for child in call.children}
        self.asked.append((action, values))
        rule = self.rules.get(action)
        return rule(values) if rule else done(action)

    def actions(self) -> list[str]:
        return [action for action, _ in self.asked]


def address_is(address: str) -> Callable[[dict[str, str]], Response]:
    return lambda values: done("GetExternalIPAddress", NewExternalIPAddress=address)


def talk(conversation: Generator[Request, Response | None, T], answer: Callable[[Request], Response | None]) -> T:
    """Have a conversation to its end."""
    try:
        request = next(conversation)
        while True:
            request = conversation.send(answer(request))
    except StopIteration as end:
        result: T = end.value
        return result


def client() -> UpnpClient:
    return UpnpClient(SITE, lambda size: bytes(size - 1) + b"\x07")


# ------------------------------------------------------------ XML

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<root>&b;&b;&b;</root>"
)


@pytest.mark.parametrize(
    "document",
    [
        BOMB,
        b'<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd"><root/>',
        b"<a>" * 40 + b"</a>" * 40,
        b"<a>" + b"<b/>" * 3000 + b"</a>",
        b"<a>" + b"x" * safe_xml.MAX_SIZE + b"</a>",
        b"<a>",
        b"<a>&unknown;</a>",
        b'<?xml version="1.0" encoding="no-such"?><a/>',
        b"",
    ],
    ids=["bomb", "external", "deep", "many", "huge", "open", "entity", "encoding", "empty"],
)
def test_hostile_xml_is_refused(document: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        safe_xml.parse(document)


@given(st.binary(max_size=200))
def test_junk_raises_nothing_else(document: bytes) -> None:
    for data in (document, b"<a>" + document + b"</a>"):
        try:
            safe_xml.parse(data)
        except RemoteProtocolError:
            continue


# ------------------------------------------------------------ descriptions


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://192.168.1.1:5000/rootDesc.xml", Target(5000, "/rootDesc.xml")),
        ("http://10.9.9.9:5000/x?y=1", Target(5000, "/x?y=1")),  # another host: the gateway is asked instead
        ("http://192.168.1.1", Target(80, "/")),
    ],
)
def test_only_port_and_path_of_a_location_count(url: str, target: Target) -> None:
    assert on_gateway(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "http://router.example/x",
        "https://192.168.1.1/x",
        "ftp://192.168.1.1/x",
        "http://192.168.1.1:0/x",
        "http://192.168.1.1:99999/x",
        "http://[fe80::1]/x",
        "http://192.168.1.1/a b",
        "http://192.168.1.1/\x7f",
        "http://192.168.1.1/" + "x" * 600,
        "/relative",
        "",
        "http://[",
    ],
)
def test_locations_that_no_gateway_has_are_refused(url: str) -> None:
    with pytest.raises(RemoteProtocolError):
        on_gateway(url)


def test_services_come_in_order_of_preference_and_stay_on_the_gateway() -> None:
    document = description(
        (PPP_1, "/ppp"),
        (IP_1, "ctl"),
        (IP_2, "http://192.0.2.99:8080/evil"),
        ("urn:x:service:Other:1", "/o"),
        (IP_1, ""),
    )
    assert parse_description(document, Target(5000, "/dir/root.xml")) == [
        Service(IP_2, Target(8080, "/evil")),
        Service(IP_1, Target(5000, "/dir/ctl")),
        Service(PPP_1, Target(5000, "/ppp")),
    ]


def test_url_base_moves_relative_addresses() -> None:
    document = description((IP_1, "ctl"), base="http://192.168.1.1:8080/upnp/")
    assert parse_description(document, SOURCE) == [Service(IP_1, Target(8080, "/upnp/ctl"))]


@pytest.mark.parametrize(
    ("response", "word"),
    [
        (None, "no-description"),
        (Response(301, b""), "no-description"),
        (Response(200, b"nonsense"), "bad-description"),
        (Response(200, BOMB), "bad-description"),
        (Response(200, description()), "no-service"),
    ],
)
def test_a_device_without_a_service_has_its_word(response: Response | None, word: str) -> None:
    with pytest.raises(UpnpFailed) as failed:
        talk(client().services(["http://192.168.1.1:5000/rootDesc.xml"]), lambda request: response)
    assert failed.value.word == word


def test_the_second_device_helps_where_the_first_does_not() -> None:
    def answer(request: Request) -> Response | None:
        return Response(200, description((IP_1, "/ctl/IPConn"))) if request.target.port == 5000 else None

    locations = ["http://router.example/", "http://192.168.1.1:4000/", "http://192.168.1.1:5000/"]
    assert talk(client().services(locations), answer) == [V1]
    with pytest.raises(UpnpFailed, match="no-device"):
        talk(client().services([]), answer)


# ------------------------------------------------------------ SOAP


def test_a_call_has_its_envelope() -> None:
    headers, body = soap.encode_call(
        V1, "AddPortMapping", [("NewRemoteHost", ""), ("NewPortMappingDescription", "a<b")]
    )
    assert headers["SOAPAction"] == '"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping"'
    assert b"<NewRemoteHost></NewRemoteHost><NewPortMappingDescription>a&lt;b</NewPortMappingDescription>" in body
    assert b'<u:AddPortMapping xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">' in body


@pytest.mark.parametrize(
    ("status", "document", "code"),
    [(500, fault(718).body, 718), (200, fault(402).body, 402), (500, b"<x/>", 0), (500, fault(10**9).body, 0)],
)
def test_faults_carry_their_code(status: int, document: bytes, code: int) -> None:
    with pytest.raises(soap.SoapFault) as raised:
        soap.parse_answer(status, document, "AddPortMapping")
    assert raised.value.code == code


@pytest.mark.parametrize(("status", "document"), [(302, b""), (200, b"<x/>"), (200, b""), (200, BOMB)])
def test_what_is_no_soap_answer_is_refused(status: int, document: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        soap.parse_answer(status, document, "AddPortMapping")


# ------------------------------------------------------------ conversations


def test_igd_1_adds_the_wanted_port() -> None:
    router = Router()
    mapped = talk(client().map([V1], 50000, 7200), router.answer)
    assert mapped.service == V1
    assert mapped.grant == UpnpGrant(AddrPort("203.0.113.7", 50000), 7200)
    action, values = router.asked[0]
    assert action == "AddPortMapping"
    assert list(values) == [
        "NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort", "NewInternalClient", "NewEnabled",
        "NewPortMappingDescription", "NewLeaseDuration",
    ]  # fmt: skip
    assert values["NewProtocol"] == "UDP"
    assert values["NewInternalPort"] == "41641"
    assert values["NewLeaseDuration"] == "7200"


def test_igd_2_chooses_a_port_itself() -> None:
    router = Router(AddAnyPortMapping=lambda values: done("AddAnyPortMapping", NewReservedPort="50123"))
    assert talk(client().map([V2], 50000, 7200), router.answer).grant.external.port == 50123
    assert "AddPortMapping" not in router.actions()


def test_igd_2_without_add_any_is_asked_the_old_way() -> None:
    router = Router(AddAnyPortMapping=lambda values: fault(401))
    assert talk(client().map([V2], 50000, 7200), router.answer).grant.external.port == 50000


@pytest.mark.parametrize("reserved", ["", "0", "70000", "x", "-1"])
def test_a_reserved_port_that_is_none_is_refused(reserved: str) -> None:
    router = Router(AddAnyPortMapping=lambda values: done("AddAnyPortMapping", NewReservedPort=reserved))
    with pytest.raises(UpnpFailed, match="granted-port-0"):
        talk(client().map([V2], 50000, 7200), router.answer)


@pytest.mark.parametrize("code", [402, 725])
def test_a_router_that_only_knows_permanent_leases_gets_one(code: int) -> None:
    router = Router(
        AddPortMapping=lambda values: fault(code) if values["NewLeaseDuration"] != "0" else done("AddPortMapping")
    )
    grant = talk(client().map([V1], 50000, 7200), router.answer).grant
    assert grant.lifetime == 7200  # renewed all the same
    assert [values["NewLeaseDuration"] for _, values in router.asked[:2]] == ["7200", "0"]


def test_a_taken_port_is_replaced_but_not_for_ever() -> None:
    router = Router(
        AddPortMapping=lambda values: fault(718) if values["NewExternalPort"] == "50000" else done("AddPortMapping")
    )
    assert talk(client().map([V1], 50000, 7200), router.answer).grant.external.port == 1024 + 7
    stubborn = Router(AddPortMapping=lambda values: fault(718))
    with pytest.raises(UpnpFailed, match="fault-718"):
        talk(client().map([V1], 50000, 7200), stubborn.answer)
    assert len(stubborn.asked) == 3


def test_a_low_port_is_never_wanted() -> None:
    router = Router()
    assert talk(client().map([V1], 80, 7200), router.answer).grant.external.port == 1031


def test_a_router_that_needs_equal_ports_gets_them() -> None:
    router = Router(
        AddPortMapping=lambda values: fault(724) if values["NewExternalPort"] != "41641" else done("AddPortMapping")
    )
    assert talk(client().map([V1], 50000, 7200), router.answer).grant.external.port == 41641


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "", "nonsense", "2001:db8::1"])
def test_a_useless_outside_address_gives_the_mapping_back(address: str) -> None:
    router = Router(GetExternalIPAddress=address_is(address))
    with pytest.raises(UpnpFailed, match="granted-"):
        talk(client().map([V1], 50000, 7200), router.answer)
    assert router.actions()[-1] == "DeletePortMapping"


def test_a_private_outside_address_is_taken() -> None:
    router = Router(GetExternalIPAddress=address_is("10.0.0.7"))
    assert talk(client().map([V1], 50000, 7200), router.answer).grant.external.host == "10.0.0.7"


def test_of_several_services_the_connected_one_is_asked_first() -> None:
    up = Service(PPP_1, Target(5000, "/ppp"))
    first, second = (
        Router(),
        Router(GetStatusInfo=lambda values: done("GetStatusInfo", NewConnectionStatus="Connected")),
    )

    def answer(request: Request) -> Response | None:
        return (second if request.target.path == "/ppp" else first).answer(request)

    assert talk(client().map([V1, up], 50000, 7200), answer).service == up
    assert "AddPortMapping" not in first.actions()


def test_silence_and_nonsense_have_their_words() -> None:
    for response, word in ((None, "no-answer"), (Response(200, b"x"), "bad-answer"), (fault(606), "fault-606")):
        with pytest.raises(UpnpFailed, match=word):
            talk(client().map([V1], 50000, 7200), lambda request, response=response: response)  # type: ignore[misc]
    with pytest.raises(UpnpFailed, match="no-service"):
        talk(client().map([], 50000, 7200), lambda request: None)


def test_deleting_names_the_outside_port() -> None:
    router = Router()
    talk(client().delete(V1, 50000), router.answer)
    assert router.asked == [
        ("DeletePortMapping", {"NewRemoteHost": "", "NewExternalPort": "50000", "NewProtocol": "UDP"})
    ]
