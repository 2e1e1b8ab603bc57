"""Syslog over UDP as RFC 5424 and RFC 5426 have it: how devices tell a SIEM what happened to them.

Structure is bytes and only values are text, as the RFC has it: what follows the structured data is nobody's business
here and may be in any encoding.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from devices.events import Shape, from_json, to_json
from testbed.network import Host

PORT = 514
#: facility "log audit" (13) times eight, RFC 5424 table 1
FACILITY = 13 * 8
#: event kinds that are more than informational; RFC 5424 table 2 (3 error, 4 warning, 5 notice, 6 informational)
SEVERITY = {
    "access.denied": 4,
    "audit.failed": 3,
    "audit.nearly_full": 4,
    "audit.refused": 3,
    "audit.silent": 3,
    "time.refused": 3,
    "auth.dropped": 4,
    "auth.forged": 4,
    "auth.unreachable": 3,
    "boundary.denied": 4,
    "boundary.failed": 3,
    "boundary.set": 4,
    "control.failed": 3,
    "handshake.dropped": 4,
    "breakglass.failed": 4,
    "breakglass.used": 3,
    "connection.refused": 4,
    "device.unknown": 4,
    "dock.refused": 4,
    "execution.refused": 4,
    "file.refused": 4,
    "ids.alert": 4,
    "integrity.violated": 3,
    "login.failed": 4,
    "login.locked": 3,
    "login.spared": 3,
    "mail.refused": 5,
    "malware.found": 3,
    "media.refused": 4,
    "mode.request": 5,
    "mode.refused": 4,
    "modbus.diagnostics": 4,
    "modbus.malformed": 4,
    "peer.bad": 4,
    "plc.fault": 3,
    "process.alert": 4,
    "plc.mode": 5,
    "program.loaded": 4,
    "override.granted": 5,
    "program.refused": 3,
    "radio.unknown": 4,
    "remote.denied": 4,
    "remote.refused": 4,
    "certificate.refused": 4,
    "certificate.tolerated": 4,
    "portal.session_refused": 4,
    "session.refused": 4,
    "signatures.behind": 4,
    "settings.changed": 4,
    "settings.refused": 4,
    "value.refused": 4,
    "wireless.denied": 4,
    "wireless.refused": 4,
    "write.denied": 4,
}
INFORMATIONAL = 6
#: says nothing but that its sender still can send
MARK = "audit.mark"
#: our own enterprise id in structured data is the documentation one of RFC 5612
SD_ID = "otlab@32473"

# RFC 5424, 6: each pattern is the rule of that name there. A value's "]" and quotes are escaped; a backslash before
# anything else is only a backslash (6.3.3).
_SD_NAME = rb"[!#-<>-\\^-~]{1,32}"
_PARAM_VALUE = rb'(?:[^"\\\]]|\\.)*'
_SD_PARAM = rb" (" + _SD_NAME + rb')="(' + _PARAM_VALUE + rb')"'
_SD_ELEMENT = rb"\[" + _SD_NAME + rb"(?: " + _SD_NAME + rb'="' + _PARAM_VALUE + rb'")*\]'
_TIMESTAMP = (
    rb"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    rb"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
)
_MESSAGE = re.compile(
    rb"<(0|[1-9]\d{0,2})>1 (-|" + _TIMESTAMP + rb") ([!-~]{1,255}) [!-~]{1,48} [!-~]{1,128} ([!-~]{1,32})"
    rb" (-|(?:" + _SD_ELEMENT + rb")+)(?: (.*))?",
    re.DOTALL,
)
_PARAMS = re.compile(_SD_PARAM, re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')


@dataclass(frozen=True, slots=True)
class Message:
    """One parsed message; ``kind`` is its MSGID, ``data`` its structured data."""

    severity: int
    timestamp: str
    source: str
    kind: str
    data: dict[str, str]


def encode(
    source: str, kind: str, data: dict[str, Any], timestamp: datetime | None, shape: Shape | None = None
) -> bytes:
    """One RFC 5424 message; a value of None is left out. With ``shape``, JSON in its text takes the data's place.

    ``source``, ``kind`` and the names in ``data`` are of this project and fit the RFC as they are (ASCII without
    spaces, a kind and a name of at most 32 characters); values may be any text. ``timestamp`` is aware, None where
    the device has no time to give.
    """
    severity = SEVERITY.get(kind, INFORMATIONAL)
    priority = FACILITY + severity
    params = "".join(f' {name}="{_escape(str(value))}"' for name, value in data.items() if value is not None)
    stamp = "-"
    if timestamp is not None:
        stamp = timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if shape is not None:
        text = f"<{priority}>1 {stamp} {source} otlab - {kind} - "
        told = to_json(shape, source, kind, data, stamp if timestamp is not None else None, severity)
        return text.encode() + told
    text = f"<{priority}>1 {stamp} {source} otlab - {kind} [{SD_ID}{params}]"
    return text.encode("utf-8", "replace")


def decode(raw: bytes) -> Message | None:
    """Parse a message; None for anything that is not RFC 5424."""
    found = _MESSAGE.fullmatch(raw)
    if found is None or int(found[1]) > 191:
        return None
    try:
        data = {
            name.decode("ascii"): _ESCAPED.sub(r"\1", value.decode())
            for name, value in _PARAMS.findall(found[5])
        }
    except UnicodeDecodeError:
        return None
    if found[5] == b"-" and found[6] is not None and (told := from_json(found[6])) is not None:
        if told[0].encode("utf-8", "replace") != found[4]:
            return None  # header and text tell different events
        data = told[1]
    header = (found[2], found[3], found[4])
    timestamp, source, kind = (field.decode("ascii") for field in header)
    return Message(int(found[1]) % 8, timestamp, source, kind, data)


def to_datetime(seconds: float) -> datetime:
    """A time in s since 1970 as a message states it, to the millisecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=round(seconds * 1000))


def _escape(text: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", text)


class SyslogSender:
    """An audit sink that sends each event from ``host`` to UDP ``port`` of a collector; a lost one is lost.

    ``delay`` (s) is what log forwarders wait to send several at once; the message keeps the time of its event.
    """

    def __init__(
        self, host: Host, collector: str, epoch: datetime, port: int = PORT, *, delay: float = 0.0
    ) -> None:
        self.host, self.collector, self.epoch, self.port = host, collector, epoch, port
        self.delay = delay
        #: the device's clock (s since 1970); None: the run's own time, which no device has
        self.clock: Callable[[], float] | None = None
        #: messages carry a time stamp
        self.stamps = True
        #: how the data of a message is written: structured data, or JSON in its text
        self.shape: Shape | None = None
        #: what goes with a message to show whose it is: (source, kind, data, time stamp) -> more data
        self.mark: Callable[[str, str, dict[str, Any], float | None], dict[str, Any]] | None = None
        #: events that need not be sent: (kind, data) -> left out
        self.routine: list[Callable[[str, dict[str, Any]], bool]] = []
        #: what a message is wrapped in on its way, None to send it readable
        self.seal: Callable[[bytes], bytes] | None = None
        #: seconds between two messages that only say that the device still can send, None: there are none
        self.mark_every: float | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._marking = False
        self._early: list[bytes] = []

    def start(self) -> None:
        """Open the socket, and begin to send marks if there are to be any."""
        self.host.spawn(self._open(), "syslog")
        if self.mark_every is not None and not self._marking:
            self._marking = True
            due = self.host.network.loop.time() + self.mark_every
            self.host.network.loop.wake(due, self._send_mark, due)

    def _send_mark(self, due: float) -> None:
        assert self.mark_every is not None
        if self.host.up:
            self(self.host.name, MARK, {})
        self.host.network.loop.wake(due + self.mark_every, self._send_mark, due + self.mark_every)

    async def _open(self) -> None:
        loop = self.host.network.loop
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(self.collector, self.port)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport
        for raw in self._early:
            transport.sendto(raw)
        self._early.clear()

    def __call__(self, source: str, kind: str, data: dict[str, Any]) -> None:
        if any(routine(kind, data) for routine in self.routine):
            return
        loop = self.host.network.loop
        time = self.epoch.timestamp() + loop.time() if self.clock is None else self.clock()
        stamp = to_datetime(time) if self.stamps else None
        if self.mark is not None:
            data = {**data, **self.mark(source, kind, data, time if self.stamps else None)}
        raw = encode(source, kind, data, stamp, self.shape)
        if self.seal is not None:
            raw = self.seal(raw)
        if self.delay > 0:
            loop.wake(loop.time() + self.delay, self._send, raw)
        else:
            self._send(raw)

    def _send(self, raw: bytes) -> None:
        if not self.host.up:
            return
        if self._transport is not None and self._transport.is_closing():
            # The host has been off since: its sockets went with it.
            self._transport = None
            self.start()
        if self._transport is None:
            self._early.append(raw)
        else:
            self._transport.sendto(raw)
