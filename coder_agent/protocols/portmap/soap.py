"""Calling a UPnP service: SOAP envelopes, answers and faults. Source: UPnP Device Architecture 1.1 §3."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import RemoteProtocolError
from . import safe_xml
from .igd import Service

_ENVELOPE = (
    '<?xml version="1.0"?>\r\n'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
    '<s:Body><u:{action} xmlns:u="{kind}">{arguments}</u:{action}></s:Body></s:Envelope>\r\n'
)


class SoapFault(RemoteProtocolError):
    """The device refused. `code` is UPnP's error code, 0 if it gave none."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"UPnP error {code}: {description[:80]}")
        self.code = code


def encode_call(service: Service, action: str, arguments: Sequence[tuple[str, str]]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the POST that calls `action`; arguments in the order of the service's description."""
    from xml.sax.saxutils import escape

    body = _ENVELOPE.format(
        action=action,
        kind=service.kind,
        arguments="".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments),
    )
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{service.kind}#{action}"'}
    return headers, body.encode()


def parse_answer(status: int, document: bytes, action: str) -> dict[str, str]:
    """The values that `action` returned. Raises SoapFault, or RemoteProtocolError for anything but an answer."""
    if status not in (200, 500):
        raise RemoteProtocolError(f"{action}: HTTP status {status}")
    elements = list(safe_xml.parse(document).walk())
    if status == 500 or any(element.name == "Fault" for element in elements):
        error = next((element for element in elements if element.name == "UPnPError"), None)
        code = error.text_of("errorCode") if error is not None else ""
        number = int(code) if code.isascii() and code.isdecimal() and len(code) < 6 else 0
        raise SoapFault(number, error.text_of("errorDescription") if error is not None else "no details")
    answer = next((element for element in elements if element.name == f"{action}Response"), None)
    if answer is None:
        raise RemoteProtocolError(f"{action}: the answer has no {action}Response")
    return {child.name: child.text for child in answer.children}
