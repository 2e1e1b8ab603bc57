"""What crosses the network: packets as policies and taps see them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Largest TCP payload of one Ethernet frame, and what Ethernet, IP and TCP (UDP) headers add to each (bytes).
SEGMENT = 1460
TCP_OVERHEAD = 54
UDP_OVERHEAD = 42
#: Largest UDP payload of one frame, and of one datagram (65,535 less the IPv4 and UDP headers).
DATAGRAM_FRAME = 1472
DATAGRAM_MOST = 65_507

SYN, ACK, PSH, FIN, RST = 0x02, 0x10, 0x08, 0x01, 0x04
#: TCP's sequence numbers count modulo 2**32.
SEQUENCE = 0xFFFFFFFF


class Verdict(Enum):
    """What a policy does with a packet."""

    ACCEPT = "accept"
    DROP = "drop"  # silently: the sender waits and retries
    REJECT = "reject"  # with a reset to both sides


@dataclass(frozen=True, slots=True)
class Flow:
    """Who opened a connection to whom; the same for packets of both directions.

    ``target_name`` is empty if no host has the target address: scans knock at such doors. The zones are those of
    the two addresses.
    """

    protocol: str  # "tcp" or "udp"
    source: str
    target: str
    source_port: int
    target_port: int
    source_name: str
    target_name: str
    source_zone: str = ""
    target_zone: str = ""


class Packet:
    """What policies and taps see of a write: addresses, flags and payload, nothing about who means well.

    ``source`` and ``target`` are those of this packet; ``flow`` is the connection's, seen from its initiator;
    ``reply`` is true for packets towards the initiator. ``time`` is when it was sent. ``sender_mac`` and
    ``target_mac`` are those of the link where it is being looked at: beyond the first zone the sender's is a
    gateway's, and an interposed host shows by its own. All else stays as it is once the packet is made.
    """

    __slots__ = ("ack", "flags", "flow", "payload", "reply", "sender_mac", "seq", "target_mac", "time")

    def __init__(
        self,
        time: float,
        flow: Flow,
        reply: bool,
        flags: int,
        payload: bytes,
        seq: int,
        ack: int,
        macs: tuple[str, str],
    ) -> None:
        self.time = time
        self.flow = flow
        self.reply = reply
        self.flags = flags
        self.payload = payload
        self.seq = seq
        self.ack = ack
        self.sender_mac, self.target_mac = macs

    @property
    def protocol(self) -> str:
        return self.flow.protocol

    @property
    def source(self) -> str:
        return self.flow.target if self.reply else self.flow.source

    @property
    def source_port(self) -> int:
        return self.flow.target_port if self.reply else self.flow.source_port

    @property
    def target(self) -> str:
        return self.flow.source if self.reply else self.flow.target

    @property
    def target_port(self) -> int:
        return self.flow.source_port if self.reply else self.flow.target_port

    @property
    def opening(self) -> bool:
        """True for the packet that asks for a new TCP connection."""
        return self.flags & (SYN | ACK) == SYN and self.protocol == "tcp"

    def __repr__(self) -> str:
        return (
            f"<{self.protocol} {self.source}:{self.source_port} > {self.target}:{self.target_port}"
            f" flags={self.flags:#04x} {len(self.payload)} bytes>"
        )


@dataclass(frozen=True, slots=True)
class ArpReply:
    """'``address`` is at ``mac``', as sent to ``target``: also the way to insert oneself between two hosts."""

    time: float
    address: str
    mac: str
    target: str
    target_mac: str
    sender: str
