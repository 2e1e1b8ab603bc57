"""Where records of what happened are kept: a store per device, an archive at the SIEM, and a way to read them.

A store has a size and does something when it is full or cannot write; what it holds can be changed by whoever is on
the machine, unless controls fill its seams. It is told of events by the device's audit and asks nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from devices.syslog import Message
from testbed.network import Host

#: What a store does when it has no room left: drop the oldest record, record no more, or halt its device, as an
#: operating system does that is told to shut down when it cannot audit.
WhenFull: TypeAlias = Literal["overwrite", "stop", "halt"]
#: Whose hands somebody on the machine acts with: an account with rights to the machine, or the audit role's own.
Right: TypeAlias = Literal["machine", "audit"]
#: Bytes of a record beside its data: number, time, names, framing (as in an RFC 5424 message of this project).
OVERHEAD = 72
#: Events whose ``user`` has proved to be that person, so that the record may be bound to them.
PERSONAL = frozenset(
    {
        "login",
        "notice.acknowledged",
        "operator.write",
        "remote.login",
        "remote.opened",
        "remote.session",
        "session.locked",
        "session.opened",
        "write.accepted",
        "write.denied",
    }
)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record. ``time`` is what the device's clock showed (s since 1970), None without a time stamp.

    ``received`` is the collector's clock on arrival, in an archive; ``link`` chains a record to the one before it.
    """

    seq: int
    time: float | None
    source: str
    kind: str
    data: Mapping[str, Any]
    size: int
    signature: bytes = b""
    link: bytes = b""
    received: float | None = None

    def content(self) -> bytes:
        """What a signature covers."""
        return content(self.source, self.kind, self.data, self.time)


def content(source: str, kind: str, data: Mapping[str, Any], time: float | None) -> bytes:
    """An event as bytes, the same before and after its way through syslog: values as text, times in milliseconds."""
    items = sorted((name, str(value)) for name, value in data.items() if value is not None and name != "sig")
    stamp = "-" if time is None else str(round(time * 1000))
    return json.dumps([source, kind, stamp, items], ensure_ascii=False, separators=(",", ":")).encode()


class Keyring:
    """Signing keys by owner, a person or a device. A person's key is on a card that signs only while they are there."""

    def __init__(self, secret: Callable[[str], bytes]) -> None:
        """``secret`` gives the 32 bytes of an owner's private key."""
        self._secret = secret
        self._keys: dict[str, Ed25519PrivateKey] = {}

    def _key(self, owner: str) -> Ed25519PrivateKey:
        if owner not in self._keys:
            self._keys[owner] = Ed25519PrivateKey.from_private_bytes(self._secret(owner))
        return self._keys[owner]

    def sign(self, owner: str, text: bytes) -> bytes:
        """Signature of ``owner`` under ``text``, 64 bytes."""
        return self._key(owner).sign(text)

    def verify(self, owner: str, text: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is ``owner``'s under ``text``."""
        try:
            self._key(owner).public_key().verify(signature, text)
        except InvalidSignature:
            return False
        return True


def signed_by(keys: Keyring, owner: str, message: Message) -> bool:
    """Whether a message carries ``owner``'s signature under what it says."""
    text = content(message.source, message.kind, message.data, _stamp(message))
    return keys.verify(owner, text, _signature(message))


def _stamp(message: Message) -> float | None:
    return None if message.timestamp == "-" else datetime.fromisoformat(message.timestamp).timestamp()


def _signature(message: Message) -> bytes:
    try:
        return bytes.fromhex(message.data.get("sig", ""))
    except ValueError:
        return b""


@dataclass(slots=True)
class LogSeams:
    """What controls may fill in."""

    #: records are kept at all
    keeps: bool = False
    #: events that are no audit matter: (kind, data) -> left out
    routine: list[Callable[[str, Mapping[str, Any]], bool]] = field(default_factory=list)
    #: records carry the device's time
    stamps: bool = False
    #: bytes reserved for records where that is more than the device has by itself
    reserved: float = 0.0
    #: fill level at which a warning goes out, None: no warning
    warn_at: float | None = None
    #: when records cannot be kept, say so and go on; otherwise the device does what it was made to do
    reports_failure: bool = False
    #: signs a record's content for the person it names, or for the device: (kind, data, content) -> signature
    sign: Callable[[str, Mapping[str, Any], bytes], bytes] | None = None
    #: only the audit role changes records, and each is chained to the one before under this key
    chain_key: bytes | None = None
    #: the medium takes each record once and gives nobody a way to change it
    write_once: bool = False


class AuditLog:
    """The audit store of ``source``, with ``capacity`` bytes and the time that ``clock`` shows.

    ``say`` is the device's audit, for what the store itself has to tell; ``halt`` stops the device.
    """

    def __init__(
        self,
        source: str,
        clock: Callable[[], float],
        capacity: float,
        when_full: WhenFull = "overwrite",
        *,
        say: Callable[..., None] | None = None,
        halt: Callable[[], None] | None = None,
    ) -> None:
        self.source, self.clock, self.capacity, self.when_full = source, clock, capacity, when_full
        self.say, self.halt = say, halt
        self.seams = LogSeams()
        self.records: deque[AuditRecord] = deque()
        self.used = 0
        self.overwritten = self.lost = 0
        #: why nothing can be written now, None while all is well
        self.failed: str | None = None
        #: told of each failure
        self.on_failure: list[Callable[[str], None]] = []
        #: whether somebody was let change records, and whether somebody got false ones in among the true by sending
        #: them; what investigators cannot know and this testbed does
        self.tampered = self.contested = False
        self._seq = 0
        self._warned = False
        self._last_link = b""
        self._saying = False

    @property
    def room(self) -> float:
        """Bytes for records."""
        return max(self.capacity, self.seams.reserved)

    # -- keeping -----------------------------------------------------------------------------------------------

    def __call__(self, source: str, kind: str, data: dict[str, Any]) -> None:
        """Be an audit sink."""
        if self.seams.keeps and not any(routine(kind, data) for routine in self.seams.routine):
            self.keep(source, kind, data, time=self.clock() if self.seams.stamps else None)

    def keep(
        self,
        source: str,
        kind: str,
        data: Mapping[str, Any],
        *,
        time: float | None,
        received: float | None = None,
        signature: bytes = b"",
    ) -> None:
        """Write one record, or do what this device does when it cannot."""
        if self.failed is not None:
            self.lost += 1
            self._cannot(self.failed)
            return
        size = OVERHEAD + sum(len(name) + len(str(value)) for name, value in data.items())
        while self.used + size > self.room:
            if self.when_full != "overwrite" or not self.records:
                self.lost += 1
                self._cannot("no room left")
                return
            self.used -= self.records.popleft().size
            self.overwritten += 1
        self._seq += 1
        record = AuditRecord(self._seq, time, source, kind, data, size, signature, b"", received)
        if self.seams.sign is not None and not signature:
            record = replace(record, signature=self.seams.sign(kind, data, record.content()))
        if self.seams.chain_key is not None:
            record = replace(record, link=self._link(self._last_link, record))
            self._last_link = record.link
        self.records.append(record)
        self.used += size
        if self.seams.warn_at is not None and not self._warned and self.used > self.seams.warn_at * self.room:
            self._warned = True
            self._tell("audit.nearly_full", filled=round(self.used / self.room, 3))

    def take(self, message: Message) -> None:
        """Be an archive: keep what a collector received, under the sender's time stamp and that of arrival."""
        data = {name: value for name, value in message.data.items() if name != "sig"}
        if any(routine(message.kind, data) for routine in self.seams.routine):
            return
        received = self.clock() if self.seams.stamps else None
        self.keep(
            message.source,
            message.kind,
            data,
            time=_stamp(message),
            received=received,
            signature=_signature(message),
        )

    def _link(self, before: bytes, record: AuditRecord) -> bytes:
        key = self.seams.chain_key
        assert key is not None
        text = before + record.seq.to_bytes(8, "big") + record.content() + record.signature
        return hmac.digest(key, text, hashlib.sha256)

    def _tell(self, kind: str, **data: Any) -> None:
        # What the store says comes back to it as an event to keep, which must not make it say more.
        if self.say is not None and not self._saying:
            self._saying = True
            self.say(kind, store=self.source, **data)
            self._saying = False

    def _cannot(self, reason: str) -> None:
        if not self.seams.reports_failure and self.when_full == "halt" and self.halt is not None:
            self.halt()

    def fail(self, reason: str) -> None:
        """From now on nothing can be written: the disk is full, or the log service is gone."""
        if self.failed is not None:
            return
        self.failed = reason
        if self.seams.reports_failure:
            self._tell("audit.failed", reason=reason)
            for told in self.on_failure:
                told(reason)
        elif self.seams.keeps:
            # That it stops is the first thing that the service cannot write any more.
            self.lost += 1
            self._cannot(reason)

    def mend(self) -> None:
        """Write again."""
        self.failed = None

    # -- changing what is there --------------------------------------------------------------------------------

    def _refusal(self, right: Right, by: str) -> str | None:
        if self.seams.write_once:
            reason = "write-once medium"
        elif self.seams.chain_key is not None and right != "audit":
            reason = "audit role only"
        else:
            self.tampered = True
            return None
        self._tell("audit.refused", user=by, reason=reason)
        return reason

    def erase(self, matches: Callable[[AuditRecord], bool], by: str, right: Right = "machine") -> int | str:
        """Delete records; how many, or why not. ``by`` is the account or machine that does it, as far as known here."""
        refusal = self._refusal(right, by)
        if refusal is not None:
            return refusal
        kept = [record for record in self.records if not matches(record)]
        gone = len(self.records) - len(kept)
        self.records = deque(kept)
        self.used = sum(record.size for record in kept)
        return gone

    def alter(
        self,
        matches: Callable[[AuditRecord], bool],
        change: Callable[[AuditRecord], AuditRecord],
        by: str,
        right: Right = "machine",
    ) -> int | str:
        """Rewrite records in place; how many, or why not."""
        refusal = self._refusal(right, by)
        if refusal is not None:
            return refusal
        changed = 0
        for index, record in enumerate(self.records):
            if matches(record):
                self.records[index] = change(record)
                changed += 1
        return changed

    def plant(
        self, kind: str, data: Mapping[str, Any], time: float | None, by: str, right: Right = "machine"
    ) -> str | None:
        """Write a record of something that did not happen; why not, or None."""
        refusal = self._refusal(right, by)
        if refusal is not None:
            return refusal
        self._seq += 1
        size = OVERHEAD + sum(len(name) + len(str(value)) for name, value in data.items())
        self.records.append(AuditRecord(self._seq, time, self.source, kind, data, size))
        self.used += size
        return None

    # -- judging what is there ---------------------------------------------------------------------------------

    def intact(self) -> list[AuditRecord]:
        """Records that nobody can have made or changed unnoticed, leaving signatures aside.

        In a store that nobody got at these are all; in one that somebody did, those before the first broken link of
        the chain, none without a chain; in one that false records were sent to, none.
        """
        if self.contested:
            return []
        if not self.tampered:
            return list(self.records)
        if self.seams.chain_key is None:
            return []
        sound: list[AuditRecord] = []
        # The oldest record's link rests on one that may have been overwritten in good order.
        for record in self.records:
            if sound and (
                record.seq != sound[-1].seq + 1
                or not hmac.compare_digest(record.link, self._link(sound[-1].link, record))
            ):
                break
            sound.append(record)
        return sound


# -- when it does not work ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class LogMender:
    """Whoever looks after the stores: hears of a failure and mends it ``seconds()`` later.

    ``later`` calls something after so many seconds; ``mended`` is told of the store and of how long it took.
    """

    later: Callable[[float, Callable[[], None]], None]
    seconds: Callable[[], float]
    mended: Callable[[str, float], None]

    def look_after(self, log: AuditLog) -> None:
        """Be called when ``log`` fails."""

        def hear(_reason: str) -> None:
            took = self.seconds()

            def mend() -> None:
                log.mend()
                self.mended(log.source, took)

            self.later(took, mend)

        log.on_failure.append(hear)


# -- reading over the network ------------------------------------------------------------------------------------

#: TCP port of the log service. None is registered for such a service: an assumption beside syslog's 514 and 6514.
PORT = 5514
#: The longest line that a service takes (bytes), and the most records that one answer carries.
LONGEST, MOST = 4096, 200
#: Seconds that a reader waits for an answer (assumption).
PATIENCE = 10.0


class LogService:
    """Hands out the records of ``log`` on TCP ``PORT`` of ``host``, one JSON object a line; nothing can be changed.

    ``{"do": "read", "before": seq}`` pages back from the newest; ``{"do": "query", "kind": ..., "match": {...},
    "from": s, "to": s}`` picks, where queries are offered. Anything else is refused and reported.
    """

    def __init__(self, host: Host, log: AuditLog, readers: frozenset[str], *, queries: bool = False) -> None:
        """``readers`` are the addresses of the stations where those sit who may read."""
        self.host, self.log, self.readers, self.queries = host, log, readers, queries
        self.answered = 0

    def start(self) -> None:
        """Begin to answer."""
        self.host.spawn(self._listen(), "log service")

    async def _listen(self) -> None:
        await self.host.network.loop.create_server(lambda: _Line(self), None, PORT)

    def answer(self, peer: str, line: bytes) -> dict[str, Any]:
        """The answer to one line from ``peer``."""
        if peer not in self.readers:
            return self._refuse(peer, "not a reader")
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "not JSON"}
        if not isinstance(asked, dict):
            return {"error": "not a request"}
        what = asked.get("do")
        if what == "read":
            before = asked.get("before", math.inf)
            if isinstance(before, bool) or not isinstance(before, int | float):
                return {"error": "before is a number"}
            found = [record for record in self.log.records if record.seq < before][-MOST:]
        elif what == "query":
            wanted = Query.of(asked)
            if not self.queries:
                return {"error": "no queries here"}
            if wanted is None:
                return {"error": "not a query"}
            found = [record for record in self.log.records if wanted.fits(record)][-MOST:]
        else:
            return self._refuse(peer, "read-only")
        self.answered += 1
        return {"records": [as_json(record) for record in found]}

    def _refuse(self, peer: str, reason: str) -> dict[str, Any]:
        if self.log.say is not None:
            self.log.say("audit.refused", peer=peer, store=self.log.source, reason=reason)
        return {"error": reason}


@dataclass(frozen=True, slots=True)
class Query:
    """Which records are wanted: of a kind, with data that match as text, in a time."""

    kind: str | None = None
    match: Mapping[str, str] = field(default_factory=dict)
    start: float = -math.inf
    end: float = math.inf

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Query | None:
        """The query of a request; None for what is none."""
        kind, match = asked.get("kind"), asked.get("match", {})
        span = [asked.get("from", -math.inf), asked.get("to", math.inf)]
        if not (kind is None or isinstance(kind, str)) or not isinstance(match, dict):
            return None
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in span):
            return None
        if any(isinstance(end, int) and abs(end) > 1 << 53 for end in span):
            return None
        return cls(kind, {str(name): str(value) for name, value in match.items()}, *map(float, span))

    def fits(self, record: AuditRecord) -> bool:
        """Whether ``record`` is wanted; one without a time stamp is in any time."""
        if self.kind is not None and record.kind != self.kind:
            return False
        if record.time is not None and not self.start <= record.time <= self.end:
            return False
        return all(str(record.data.get(name)) == value for name, value in self.match.items())


def as_json(record: AuditRecord) -> dict[str, Any]:
    """A record as a service hands it out."""
    stamp = None if record.time is None else datetime.fromtimestamp(record.time, UTC).isoformat()
    return {
        "seq": record.seq,
        "time": stamp,
        "source": record.source,
        "kind": record.kind,
        "data": {name: str(value) for name, value in record.data.items() if value is not None},
    }


class _Line(asyncio.Protocol):
    """One connection to a log service."""

    def __init__(self, service: LogService) -> None:
        self.service = service
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = str(transport.get_extra_info("peername")[0])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\n")) >= 0:
            line = bytes(self.buffer[:end])
            del self.buffer[: end + 1]
            answer = self.service.answer(self.peer, line)
            self.transport.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        if len(self.buffer) > LONGEST:
            self.transport.abort()


async def ask(address: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the log service at ``address`` one thing; its answer. OSError if it does not answer in ``PATIENCE`` s."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(address, PORT, limit=1 << 22)
        try:
            writer.write(json.dumps(asked).encode() + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
    if not line:
        raise ConnectionResetError("the log service hung up")
    answer: dict[str, Any] = json.loads(line)
    return answer


async def search(addresses: Iterable[str], wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ask every log service the same query; what they answer, in order of time, those that do not answer left out."""

    async def one(address: str) -> list[dict[str, Any]]:
        try:
            answer = await ask(address, {**wanted, "do": "query"})
        except OSError:
            return []
        found: list[dict[str, Any]] = answer.get("records", [])
        return found

    lists = await asyncio.gather(*(one(address) for address in addresses))
    return sorted(
        (record for found in lists for record in found),
        key=lambda record: (record["time"] or "", record["source"], record["seq"]),
    )
