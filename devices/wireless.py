"""Radio on the site: an access point, stations that join it, and the air between them that anyone can listen to.

Joining is real bytes: a key handshake in the frames of IEEE 802.11i (EAPOL-Key), with its nonces, key derivation and
message integrity codes, so that a captured handshake can be attacked as outside and a wrong key fails by arithmetic.
Who may join is a seam; the permissive default is an open network. Of radio itself only one thing is modeled: a
receiver is in range or it is not. Once a station has joined, its packets cross the zone like any other's.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from devices.audit import Audit
from testbed.clock import SimLoop
from testbed.network import Host, Packet, Verdict, Zone

#: IEEE 802.11i asks for 4,096 rounds. Deliberately fewer: a run must not spend its time hashing, and an attack's cost
#: is charged in virtual time by the rate at which passphrases are tried.
ITERATIONS: Final = 32
#: Time that one short frame takes, medium access included (s; assumption).
FRAME_TIME: Final = 0.002
#: Seconds that a station waits for each answer, and that an access point keeps a half-done handshake (assumption).
PATIENCE: Final = 1.0

#: Passphrases as people choose them for a network that many share: what it is about, and a year or a number. Also the
#: first ones that anybody tries (assumption).
USUAL_PASSPHRASES: Final = tuple(
    word + tail
    for word in (
        "waterworks",
        "pumphall",
        "pumpstation",
        "operators",
        "maintenance",
        "password",
        "drinkwater",
        "plant",
    )
    for tail in ("", "1", "123", "1234", "2019", "2020", "2021", "2022", "2023", "2024", "2025", "!")
    if len(word + tail) >= 8  # the least that WPA2 takes
)


class Kind(IntEnum):
    """What a frame is, reduced to what joining takes: its first byte."""

    ASSOCIATE = 0  # the network's name follows
    ACCEPTED = 1
    REJECTED = 2  # the reason as text follows
    EAP = 3  # an EAP packet follows, RFC 3748
    KEY = 4  # an EAPOL-Key frame follows, IEEE 802.11i
    LEAVE = 5


# ------------------------------------------------------------------------------------------------------ messages

#: EAPOL-Key of IEEE 802.11i: version, type 3, length; descriptor 2, key information, key length, replay counter,
#: nonce, IV, RSC, reserved, MIC, length of key data.
_KEY = struct.Struct(">BBH BHH Q 32s 16s 8s 8s 16s H")
_EAP = struct.Struct(">BBHB")
#: Bits of the key information: pairwise, install, acknowledge, MIC present, secure; descriptor version 2 (HMAC-SHA1).
PAIRWISE, INSTALL, ACK, MIC, SECURE, VERSION = 0x0008, 0x0040, 0x0080, 0x0100, 0x0200, 0x0002
MESSAGE_1: Final = PAIRWISE | ACK | VERSION
MESSAGE_2: Final = PAIRWISE | MIC | VERSION
MESSAGE_3: Final = PAIRWISE | INSTALL | ACK | MIC | SECURE | VERSION
MESSAGE_4: Final = PAIRWISE | MIC | SECURE | VERSION
EAP_REQUEST, EAP_RESPONSE, EAP_IDENTITY = 1, 2, 1


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """One message of the four-way handshake."""

    information: int
    counter: int
    nonce: bytes = bytes(32)
    mic: bytes = bytes(16)

    def encode(self) -> bytes:
        """The frame's bytes."""
        return _KEY.pack(
            2, 3, _KEY.size - 4, 2, self.information, 16, self.counter, self.nonce, bytes(16), bytes(8),
            bytes(8), self.mic, 0,
        )  # fmt: skip

    def signed(self, kck: bytes) -> KeyFrame:
        """The same message with its integrity code under ``kck``."""
        return KeyFrame(self.information, self.counter, self.nonce, self._code(kck))

    def verified(self, kck: bytes) -> bool:
        """Whether the integrity code is that of ``kck``."""
        return hmac.compare_digest(self.mic, self._code(kck))

    def _code(self, kck: bytes) -> bytes:
        bare = KeyFrame(self.information, self.counter, self.nonce)
        return hmac.digest(kck, bare.encode(), "sha1")[:16]


def decode_key(raw: bytes) -> KeyFrame | None:
    """Read an EAPOL-Key frame; None for anything else."""
    if len(raw) != _KEY.size:
        return None
    version, kind, length, descriptor, information, _, counter, nonce, _, _, _, mic, data = _KEY.unpack(raw)
    if (version, kind, length, descriptor, data) != (2, 3, _KEY.size - 4, 2, 0):
        return None
    return KeyFrame(information, counter, nonce, mic)


def encode_identity(code: int, identity: str = "") -> bytes:
    """An EAP request (1) for an identity, or the response (2) that gives it."""
    text = identity.encode()
    return _EAP.pack(code, 1, _EAP.size + len(text), EAP_IDENTITY) + text


def decode_identity(raw: bytes) -> tuple[int, str] | None:
    """Code and identity of an EAP identity packet; None for anything else."""
    if len(raw) < _EAP.size:
        return None
    code, _, length, kind = _EAP.unpack_from(raw)
    if length != len(raw) or kind != EAP_IDENTITY or code not in (EAP_REQUEST, EAP_RESPONSE):
        return None
    try:
        return code, raw[_EAP.size :].decode()
    except UnicodeDecodeError:
        return None


def passphrase_key(passphrase: str, network: str) -> bytes:
    """Pairwise master key of a passphrase (WPA2-Personal, fewer rounds)."""
    return hashlib.pbkdf2_hmac("sha1", passphrase.encode(), network.encode(), ITERATIONS, 32)


def confirmation_key(master: bytes, first: str, second: str, one: bytes, other: bytes) -> bytes:
    """KCK, the first 16 bytes of the pairwise transient key, from both MACs and both nonces (IEEE 802.11i PRF)."""
    macs = sorted(bytes.fromhex(mac.replace(":", "")) for mac in (first, second))
    data = b"".join((*macs, *sorted((one, other))))
    return hmac.digest(master, b"Pairwise key expansion\0" + data + b"\0", "sha1")[:16]


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a listener needs to try passphrases on: message 1's nonce and message 2 whole, with both MACs."""

    access_point: str
    station: str
    nonce: bytes
    answer: KeyFrame

    def opens(self, passphrase: str, network: str) -> bool:
        """Whether the station that was heard knew this passphrase."""
        master = passphrase_key(passphrase, network)
        kck = confirmation_key(master, self.access_point, self.station, self.nonce, self.answer.nonce)
        return self.answer.verified(kck)


# ----------------------------------------------------------------------------------------------------------- air


@dataclass(frozen=True, slots=True)
class Frame:
    """What is transmitted: who to whom (MACs), what, and its content."""

    sender: str
    receiver: str
    kind: Kind
    body: bytes = b""


Receiver = Callable[[Frame], None]


class Air:
    """The radio channel of the site: frames reach every receiver in range, addressed to it or not."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        #: MAC -> network name, of everything that announces a network or has been heard to join one
        self.transmitters: dict[str, str] = {}
        #: MACs that cannot be heard on the site, and cannot hear it
        self.out_of_range: set[str] = set()
        self._receivers: dict[str, Receiver] = {}
        self._listeners: list[tuple[str, Receiver]] = []

    def tune(self, mac: str, receiver: Receiver) -> None:
        """Give the frames addressed to ``mac`` to ``receiver``."""
        self._receivers[mac] = receiver

    def listen(self, mac: str, receiver: Receiver) -> None:
        """Give every frame in the air to ``receiver``, whoever it is for: a sniffer in range of ``mac``."""
        self._listeners.append((mac, receiver))

    def announce(self, mac: str, network: str) -> None:
        """``mac`` transmits under the name ``network`` from now on (beacons, or a station's traffic)."""
        self.transmitters[mac] = network

    def silence(self, mac: str) -> None:
        """``mac`` transmits no more."""
        self.transmitters.pop(mac, None)

    def heard(self) -> list[tuple[str, str]]:
        """(MAC, network) of all that a receiver on the site hears now, in the order of their appearance."""
        return [(mac, name) for mac, name in self.transmitters.items() if mac not in self.out_of_range]

    def send(self, frame: Frame) -> None:
        """Transmit; a frame that nobody in range is tuned to is lost."""
        if frame.sender not in self.out_of_range:
            self.loop.wake(self.loop.time() + FRAME_TIME, self._deliver, frame)

    def _deliver(self, frame: Frame) -> None:
        for mac, listener in self._listeners:
            if mac not in self.out_of_range:
                listener(frame)
        receiver = self._receivers.get(frame.receiver)
        if receiver is not None and frame.receiver not in self.out_of_range:
            receiver(frame)


# -------------------------------------------------------------------------------------------------- access point


@dataclass(slots=True)
class Identity:
    """One user or device of the wireless network, with a key of its own; ``enabled`` False once revoked."""

    name: str
    key: bytes
    enabled: bool = True


@dataclass(slots=True)
class WirelessSeams:
    """What controls may decide for an access point; the default is an open network without a watch."""

    #: the common passphrase of WPA2-Personal
    passphrase: str | None = None
    #: individual identities (in place of the passphrase), by name
    identities: dict[str, Identity] | None = None
    #: seconds between scans for transmitters that are not in ``known`` (MACs)
    scan_every: float | None = None
    known: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Handshaking:
    """A station that has asked to join and has not finished."""

    begun: float
    nonce: bytes
    master: bytes | None = None
    kck: bytes | None = None
    identity: str | None = None
    counter: int = 1


@dataclass(frozen=True, slots=True)
class Member:
    """A station that has joined; ``identity`` None where the network does not tell stations apart."""

    mac: str
    identity: str | None
    since: float


class AccessPoint:
    """Access point of wireless ``zone`` on ``host``: packets of stations that have not joined do not pass.

    Audits ``wireless.joined`` and ``wireless.refused`` (peer, user, reason), ``wireless.denied`` for packets that the
    zone's policies stop, and ``radio.unknown`` (mac, network) for what a scan finds.
    """

    def __init__(self, host: Host, name: str, network: str, air: Air, stream: random.Random) -> None:
        self.host, self.name, self.network, self.air, self.stream = host, name, network, air, stream
        self.loop = host.network.loop
        self.audit = Audit(name)
        self.seams = WirelessSeams()
        #: address -> the station there that has joined
        self.members: dict[str, Member] = {}
        self._joining: dict[str, _Handshaking] = {}
        self._reported: set[str] = set()
        self.zone: Zone = host.zone
        self.zone.add_policy("association", self.judge)

    def start(self) -> None:
        """Switch the radio on."""
        self.air.tune(self.host.mac, self._receive)
        self.air.announce(self.host.mac, self.network)
        if self.seams.scan_every is not None:
            self.host.spawn(self._scan(self.seams.scan_every), "radio scan")

    # -- packets -----------------------------------------------------------------------------------------------

    def judge(self, packet: Packet) -> Verdict:
        """Let a packet pass if its ends in this zone are stations that have joined, or the access point."""
        flow, here = packet.flow, self.zone.name
        if not self.host.up:
            return Verdict.DROP
        for zone, address in ((flow.source_zone, flow.source), (flow.target_zone, flow.target)):
            if zone == here and address not in self.members and address != self.host.address:
                return Verdict.DROP
        return Verdict.ACCEPT

    # -- joining -----------------------------------------------------------------------------------------------

    def revoke(self, identity: str) -> None:
        """End an identity: it joins no more, and stations that joined by it are out at once."""
        if self.seams.identities is not None and identity in self.seams.identities:
            self.seams.identities[identity].enabled = False
        for address, member in list(self.members.items()):
            if member.identity == identity:
                self._drop(address, member.mac)

    def _drop(self, address: str, mac: str) -> None:
        del self.members[address]
        self.air.silence(mac)

    def _answer(self, mac: str, kind: Kind, body: bytes = b"") -> None:
        self.air.send(Frame(self.host.mac, mac, kind, body))

    def _receive(self, frame: Frame) -> None:
        if not self.host.up:
            return
        self._joining = {
            mac: one for mac, one in self._joining.items() if self.loop.time() - one.begun < 4 * PATIENCE
        }
        match frame.kind:
            case Kind.ASSOCIATE if frame.body.decode(errors="replace") == self.network:
                self._begin(frame.sender)
            case Kind.EAP:
                self._identify(frame.sender, decode_identity(frame.body))
            case Kind.KEY:
                self._confirm(frame.sender, decode_key(frame.body))
            case Kind.LEAVE:
                address = self._address(frame.sender)
                if address in self.members:
                    self._drop(address, frame.sender)

    def _begin(self, mac: str) -> None:
        self.air.announce(mac, self.network)
        seams = self.seams
        joining = self._joining[mac] = _Handshaking(self.loop.time(), self.stream.randbytes(32))
        if seams.identities is not None:
            self._answer(mac, Kind.EAP, encode_identity(EAP_REQUEST))
        elif seams.passphrase is not None:
            joining.master = passphrase_key(seams.passphrase, self.network)
            self._first(mac, joining)
        else:
            self._admit(mac, joining)

    def _identify(self, mac: str, said: tuple[int, str] | None) -> None:
        joining, known = self._joining.get(mac), self.seams.identities
        if joining is None or known is None or said is None or said[0] != EAP_RESPONSE:
            return
        identity = known.get(said[1])
        if identity is None or not identity.enabled:
            self._refuse(mac, "identity unknown" if identity is None else "identity revoked", said[1])
            return
        joining.identity, joining.master = identity.name, identity.key
        self._first(mac, joining)

    def _first(self, mac: str, joining: _Handshaking) -> None:
        self._answer(mac, Kind.KEY, KeyFrame(MESSAGE_1, joining.counter, joining.nonce).encode())

    def _confirm(self, mac: str, key: KeyFrame | None) -> None:
        joining = self._joining.get(mac)
        if joining is None or joining.master is None or key is None or key.counter != joining.counter:
            return
        if key.information == MESSAGE_2 and joining.kck is None:
            kck = confirmation_key(joining.master, self.host.mac, mac, joining.nonce, key.nonce)
            if not key.verified(kck):
                self._refuse(mac, "wrong key", joining.identity)
                return
            joining.kck, joining.counter = kck, joining.counter + 1
            third = KeyFrame(MESSAGE_3, joining.counter, joining.nonce).signed(kck)
            self._answer(mac, Kind.KEY, third.encode())
        elif key.information == MESSAGE_4 and joining.kck is not None and key.verified(joining.kck):
            self._admit(mac, joining)

    def _address(self, mac: str) -> str:
        return next((host.address for host in self.zone.hosts if host.mac == mac), "")

    def _admit(self, mac: str, joining: _Handshaking) -> None:
        self._joining.pop(mac, None)
        address = self._address(mac)
        if not address:  # no station of this zone has that MAC: there is nobody to pass packets for
            self._answer(mac, Kind.REJECTED, b"unknown station")
            return
        self.members[address] = Member(mac, joining.identity, self.loop.time())
        self._answer(mac, Kind.ACCEPTED)
        self.audit("wireless.joined", peer=address, user=joining.identity, mac=mac)

    def _refuse(self, mac: str, reason: str, identity: str | None) -> None:
        self._joining.pop(mac, None)
        self.air.silence(mac)
        self._answer(mac, Kind.REJECTED, reason.encode())
        self.audit("wireless.refused", peer=self._address(mac) or mac, user=identity, mac=mac, reason=reason)

    # -- watching ----------------------------------------------------------------------------------------------

    async def _scan(self, every: float) -> None:
        # Nobody knows when in its round an access point is, which is when somebody else begins to transmit.
        await asyncio.sleep(self.stream.uniform(0, every))
        while True:
            await asyncio.sleep(every)
            for mac, network in self.air.heard():
                if mac not in self.seams.known and mac not in self._reported:
                    self._reported.add(mac)
                    self.audit("radio.unknown", mac=mac, network=network)


# ------------------------------------------------------------------------------------------------------- station


@dataclass(slots=True)
class Station:
    """The radio of ``host``: it joins a network with what it has, a passphrase or an identity's key."""

    host: Host
    air: Air
    stream: random.Random
    passphrase: str | None = None
    identity: Identity | None = None
    _inbox: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)

    async def join(self, access_point: str, network: str) -> str | None:
        """Join ``network`` of the access point with that MAC: None, or why not."""
        self._inbox = asyncio.Queue()
        self.air.tune(self.host.mac, self._inbox.put_nowait)
        self._send(access_point, Kind.ASSOCIATE, network.encode())
        master = passphrase_key(self.passphrase, network) if self.passphrase is not None else None
        mine, kck = self.stream.randbytes(32), b""
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    frame = await self._inbox.get()
            except TimeoutError:
                return "no answer"
            if frame.sender != access_point:
                continue
            key = decode_key(frame.body) if frame.kind is Kind.KEY else None
            if frame.kind is Kind.ACCEPTED:
                return None
            if frame.kind is Kind.REJECTED:
                return frame.body.decode(errors="replace")
            if frame.kind is Kind.EAP:
                if self.identity is None:
                    return "an identity is asked for"
                master = self.identity.key
                self._send(access_point, Kind.EAP, encode_identity(EAP_RESPONSE, self.identity.name))
            elif key is not None and key.information == MESSAGE_1:
                if master is None:
                    return "a key is asked for"
                kck = confirmation_key(master, access_point, self.host.mac, key.nonce, mine)
                second = KeyFrame(MESSAGE_2, key.counter, mine).signed(kck)
                self._send(access_point, Kind.KEY, second.encode())
            elif key is not None and key.information == MESSAGE_3:
                if not key.verified(kck):
                    return "the access point does not know the key"
                fourth = KeyFrame(MESSAGE_4, key.counter).signed(kck)
                self._send(access_point, Kind.KEY, fourth.encode())

    def leave(self, access_point: str) -> None:
        """Say good-bye."""
        self._send(access_point, Kind.LEAVE)

    def _send(self, receiver: str, kind: Kind, body: bytes = b"") -> None:
        self.air.send(Frame(self.host.mac, receiver, kind, body))


class Sniffer:
    """A receiver that keeps what it needs of the handshakes that it hears."""

    def __init__(self, mac: str, air: Air) -> None:
        self.handshakes: list[Handshake] = []
        self._nonces: dict[tuple[str, str], bytes] = {}
        air.listen(mac, self._hear)

    def _hear(self, frame: Frame) -> None:
        key = decode_key(frame.body) if frame.kind is Kind.KEY else None
        if key is None:
            return
        if key.information == MESSAGE_1:
            self._nonces[frame.sender, frame.receiver] = key.nonce
        elif key.information == MESSAGE_2:
            nonce = self._nonces.get((frame.receiver, frame.sender))
            if nonce is not None:
                self.handshakes.append(Handshake(frame.receiver, frame.sender, nonce, key))


def crack(handshake: Handshake, network: str, words: Iterable[str]) -> tuple[str | None, int]:
    """Try passphrases on a captured handshake: the one that fits, or None, and how many were tried."""
    tried = 0
    for word in words:
        tried += 1
        if handshake.opens(word, network):
            return word, tried
    return None, tried
