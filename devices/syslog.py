"""Syslog over UDP as RFC 5424 and RFC 5426 have it: how devices tell a SIEM what happened to them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from testbed.network import Host

PORT = 514
#: facility "log audit" (13) times eight, RFC 5424 table 1
FACILITY = 13 * 8
#: event kinds that are more than informational; RFC 5424 table 2 (3 error, 4 warning, 5 notice, 6 informational)
SEVERITY = {
    "access.denied": 4,
    "connection.refused": 4,
    "login.failed": 4,
    "login.locked": 3,
    "mode.request": 5,
    "mode.refused": 4,
    "modbus.malformed": 4,
    "peer.bad": 4,
    "plc.fault": 3,
    "plc.mode": 5,
    "program.loaded": 4,
    "program.refused": 3,
    "value.refused": 4,
    "write.denied": 4,
}
INFORMATIONAL = 6
#: our own enterprise id in structured data is the documentation one of RFC 5612
SD_ID = "otlab@32473"

_LINE = re.compile(r"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) (-|\[.*?(?<!\\)\])(?: (.*))?", re.DOTALL)
_PARAM = re.compile(r'([^\s="\]]+)="((?:\\.|[^"\\\]])*)"')


@dataclass(frozen=True, slots=True)
class Message:
    """One parsed message; ``kind`` is its MSGID, ``data`` its structured data."""

    severity: int
    timestamp: str
    source: str
    kind: str
    data: dict[str, str]


def encode(source: str, kind: str, data: dict[str, Any], timestamp: datetime) -> bytes:
    """One RFC 5424 message."""
    priority = FACILITY + SEVERITY.get(kind, INFORMATIONAL)
    params = "".join(f' {name}="{_escape(str(value))}"' for name, value in data.items() if value is not None)
    stamp = timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"<{priority}>1 {stamp} {source} otlab - {kind} [{SD_ID}{params}]".encode()


def decode(raw: bytes) -> Message | None:
    """Parse a message; None for anything that is not RFC 5424."""
    found = _LINE.fullmatch(raw.decode("utf-8", "replace"))
    if found is None or int(found[1]) > 191:
        return None
    data = {name: re.sub(r"\\(.)", r"\1", value) for name, value in _PARAM.findall(found[7])}
    return Message(int(found[1]) % 8, found[2], found[3], found[6], data)


def _escape(text: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", text)


class SyslogSender:
    """An audit sink that sends each event from ``host`` to a collector; UDP, so a lost one is lost."""

    def __init__(self, host: Host, collector: str, epoch: datetime) -> None:
        self.host, self.collector, self.epoch = host, collector, epoch
        self._transport: asyncio.DatagramTransport | None = None
        self._early: list[bytes] = []

    def start(self) -> None:
        """Open the socket."""
        self.host.spawn(self._open(), "syslog")

    async def _open(self) -> None:
        loop = self.host.network.loop
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(self.collector, PORT)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport
        for raw in self._early:
            transport.sendto(raw)
        self._early.clear()

    def __call__(self, source: str, kind: str, data: dict[str, Any]) -> None:
        now = self.host.network.loop.time()
        raw = encode(source, kind, data, self.epoch + timedelta(seconds=now))
        if self._transport is None:
            self._early.append(raw)
        else:
            self._transport.sendto(raw)
