"""What can be read of an OPC UA conversation by somebody who only sees its bytes.

OPC UA over TCP (OPC 10000-6, 7.1) is a row of chunks. On a channel without security every service can be read; on a
signed one too; on an encrypted one only that there is a conversation, with which policy and of what size. Nothing here
knows the state of client or server.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

#: Numeric ids of the binary encodings of requests (OPC 10000-6, annex A; opcfoundation.org NodeIds.csv).
REQUESTS: Final[Mapping[int, str]] = {
    422: "FindServers",
    428: "GetEndpoints",
    446: "OpenSecureChannel",
    452: "CloseSecureChannel",
    461: "CreateSession",
    467: "ActivateSession",
    473: "CloseSession",
    488: "AddNodes",
    494: "AddReferences",
    500: "DeleteNodes",
    506: "DeleteReferences",
    527: "Browse",
    533: "BrowseNext",
    554: "TranslateBrowsePaths",
    560: "RegisterNodes",
    631: "Read",
    664: "HistoryRead",
    673: "Write",
    700: "HistoryUpdate",
    712: "Call",
    751: "CreateMonitoredItems",
    763: "ModifyMonitoredItems",
    769: "SetMonitoringMode",
    781: "DeleteMonitoredItems",
    787: "CreateSubscription",
    793: "ModifySubscription",
    799: "SetPublishingMode",
    826: "Publish",
    832: "Republish",
    841: "TransferSubscriptions",
    847: "DeleteSubscriptions",
}

#: Services that change something at the server.
CHANGES: Final = frozenset(
    {"AddNodes", "AddReferences", "Call", "DeleteNodes", "DeleteReferences", "HistoryUpdate", "Write"}
)

#: Numeric ids of the binary encodings of identity tokens.
_TOKENS: Final[Mapping[int, str]] = {
    321: "anonymous",
    324: "user name",
    327: "certificate",
    940: "issued token",
}

_VALUE: Final = 13  # the attribute id of a variable's value
#: Largest chunk and largest message that are looked into (bytes); asyncua's own limits are 65,535 and 100 MiB.
CHUNK_MOST: Final = 1 << 20
MESSAGE_MOST: Final = 1 << 22
#: Encoding of a built-in scalar type -> how struct reads it (OPC 10000-6, 5.1.2).
_NUMBERS: Final[Mapping[int, str]] = {
    1: "<?",
    2: "<b",
    3: "<B",
    4: "<h",
    5: "<H",
    6: "<i",
    7: "<I",
    8: "<q",
    9: "<Q",
    10: "<f",
    11: "<d",
}


@dataclass(frozen=True, slots=True)
class UaSeen:
    """One message of a client as it can be read.

    ``service`` is a name of ``REQUESTS``, "Hello", "SecureChannel", "unreadable" (encrypted) or "unknown". ``about``
    has what the message says of itself: endpoint, policy, application, identity ("anonymous", "user name ..."), nodes
    that are written (identifier -> number, None if it is no number).
    """

    service: str
    about: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, float | None] = field(default_factory=dict)


class UaReader:
    """Reads the bytes of one client as they pass; ``feed`` raises ValueError at what is not OPC UA."""

    def __init__(self) -> None:
        self.policy = ""
        self._buffer = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> list[UaSeen]:
        """Take the next bytes of the stream; returns the messages that they complete."""
        self._buffer += data
        found: list[UaSeen] = []
        while len(self._buffer) >= 8:
            kind, final = bytes(self._buffer[:3]), bytes(self._buffer[3:4])
            size = int.from_bytes(self._buffer[4:8], "little")
            if kind not in _KINDS or final not in (b"F", b"C", b"A") or not 8 <= size <= CHUNK_MOST:
                raise ValueError("not OPC UA over TCP")
            if len(self._buffer) < size:
                break
            chunk = bytes(self._buffer[8:size])
            del self._buffer[:size]
            seen = self._chunk(kind, final, chunk)
            if seen is not None:
                found.append(seen)
        return found

    def _chunk(self, kind: bytes, final: bytes, chunk: bytes) -> UaSeen | None:
        if kind == b"HEL":
            return UaSeen("Hello", {"endpoint": _Reader(chunk, 20).text()})
        if kind == b"OPN":
            self.policy = _Reader(chunk, 4).text().rpartition("#")[2]
            return UaSeen("SecureChannel", {"policy": self.policy})
        if kind != b"MSG":
            return None
        if final == b"A":  # the sender gives the message up
            self._message.clear()
            return None
        if len(chunk) < 16:
            raise ValueError("a chunk without its headers")
        self._message += chunk[16:]
        if len(self._message) > MESSAGE_MOST:
            raise ValueError("a message without end")
        if final == b"C":
            return None
        message = bytes(self._message)
        self._message.clear()
        return self._service(message)

    def _service(self, message: bytes) -> UaSeen:
        known = message[:2] == b"\1\0" and REQUESTS.get(int.from_bytes(message[2:4], "little"))
        if self.policy not in ("", "None"):
            if not known:
                return UaSeen("unreadable")
        elif not known:
            return UaSeen("unknown")
        assert known
        read = _DETAILS.get(known)
        if read is None:
            return UaSeen(known)
        try:
            about = _Reader(message, 4)
            about.request_header()
            return read(about)
        except ValueError:
            if self.policy not in ("", "None"):
                return UaSeen("unreadable")
            raise


_KINDS: Final = frozenset({b"HEL", b"ACK", b"ERR", b"RHE", b"OPN", b"CLO", b"MSG"})


class _Reader:
    """Reads built-in types from ``data`` (OPC 10000-6, 5.2); ValueError where there is too little."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if size < 0 or len(piece) != size:
            raise ValueError("a message that ends too early")
        self.at += size
        return piece

    def number(self, form: str) -> float:
        value: float = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def length(self) -> int:
        """An array's or a string's length; null counts as none."""
        size = int.from_bytes(self.take(4), "little", signed=True)
        if size > len(self.data):
            raise ValueError("a length beyond the message")
        return max(0, size)

    def octets(self) -> bytes:
        return self.take(self.length())

    def text(self) -> str:
        return self.octets().decode("utf-8", "replace")

    def localized(self) -> str:
        mask = self.take(1)[0]
        if mask & 1:
            self.text()
        return self.text() if mask & 2 else ""

    def node(self) -> str:
        """A NodeId, as its identifier alone."""
        match self.take(1)[0] & 0x3F:
            case 0:
                return str(self.take(1)[0])
            case 1:
                return str(int.from_bytes(self.take(3)[1:], "little"))
            case 2:
                return str(int.from_bytes(self.take(6)[2:], "little"))
            case 3:
                self.take(2)
                return self.text()
            case 4:
                return self.take(18)[2:].hex()
            case 5:
                self.take(2)
                return self.octets().hex()
        raise ValueError("a node id of no known form")

    def extension(self) -> tuple[str, bytes]:
        """An ExtensionObject: the id of its encoding, and its body."""
        kind = self.node()
        return kind, self.octets() if self.take(1)[0] else b""

    def request_header(self) -> None:
        self.node()  # the session's token
        self.take(16)  # timestamp, handle, diagnostics
        self.text()  # audit entry
        self.take(4)  # timeout
        self.extension()

    def data_value(self) -> float | None:
        """A DataValue: its number; None if it holds none or no single one."""
        mask = self.take(1)[0]
        value = self._variant() if mask & 1 else None
        for bit, size in ((2, 4), (4, 8), (16, 2), (8, 8), (32, 2)):
            if mask & bit:
                self.take(size)
        return value

    def _variant(self) -> float | None:
        kind = self.take(1)[0]
        form = _NUMBERS.get(kind & 0x3F)
        if form is None:
            if kind & 0x3F in (12, 15, 16) and not kind & 0xC0:
                self.octets()
                return None
            raise _NotFollowed
        if not kind & 0x80:
            return float(self.number(form))
        for _ in range(self.length()):
            self.number(form)
        if kind & 0x40:
            self.take(4 * self.length())
        return None


class _NotFollowed(Exception):
    """A value whose end this reader cannot find."""


def _create_session(message: _Reader) -> UaSeen:
    uri, _product = message.text(), message.text()
    return UaSeen("CreateSession", {"application": message.localized() or uri})


def _activate_session(message: _Reader) -> UaSeen:
    message.text(), message.octets()  # the client's signature
    for _ in range(message.length()):
        message.octets(), message.octets()
    for _ in range(message.length()):
        message.text()
    kind, body = message.extension()
    identity = _TOKENS.get(int(kind) if kind.isdecimal() else 0, "unknown")
    if identity == "user name":
        token = _Reader(body)
        token.text()
        identity = f"user name {token.text()}"
    return UaSeen("ActivateSession", {"identity": identity})


def _write(message: _Reader) -> UaSeen:
    written: dict[str, float | None] = {}
    for _ in range(message.length()):
        node, attribute, _range = message.node(), message.number("<I"), message.text()
        try:
            value = message.data_value()
        except _NotFollowed:
            written[node] = None
            break
        written[node] = value if attribute == _VALUE else None
    return UaSeen("Write", written=written)


_DETAILS: Final[Mapping[str, Callable[[_Reader], UaSeen]]] = {
    "CreateSession": _create_session,
    "ActivateSession": _activate_session,
    "Write": _write,
}
