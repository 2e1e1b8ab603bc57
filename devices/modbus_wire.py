"""What can be read of a Modbus/TCP conversation by somebody who only sees its bytes, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from testbed.firewall import ModbusRequest, frames, parse_frame

#: Function codes of the public catalogue (Modbus Application Protocol 1.1b3, section 5).
PUBLIC = frozenset({*range(1, 9), 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43})
#: Requests that may wait for their answers before the oldest is forgotten.
_WAITING = 64
_MODULUS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ModbusAnswer:
    """One answer: the ``request`` it is for (None if nobody asked), and its function and data as they stand."""

    request: ModbusRequest | None
    function: int
    data: bytes

    @property
    def refused(self) -> bool:
        return self.function >= 0x80


class Stream:
    """One direction of a connection: puts whole frames together, whatever the segments."""

    __slots__ = ("_buffer", "_follows")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._follows = -1

    def frames(self, seq: int, payload: bytes) -> Iterator[bytes]:
        """The frames that a segment completes; ValueError where the bytes cannot be Modbus/TCP.

        A segment that was sent again counts once.
        """
        follows, buffer = self._follows, self._buffer
        if follows == -1 or follows == seq:
            self._follows = (seq + len(payload)) & _MODULUS
        else:
            back = (follows - seq) & _MODULUS
            if back <= len(payload) and back < 1 << 31:
                payload = payload[back:]  # what of it was there before is known
                self._follows = (follows + len(payload)) & _MODULUS
            elif back < 1 << 31:
                return
            else:  # something was missed: this segment may begin anywhere, most likely at a frame
                buffer.clear()
                self._follows = (seq + len(payload)) & _MODULUS
        size = len(payload)
        if (
            not buffer
            and 8 <= size <= 260
            and payload[2:4] == b"\0\0"
            and size - 6 == payload[4] << 8 | payload[5]
        ):
            yield payload
            return
        buffer += payload
        yield from frames(buffer)


@dataclass(slots=True)
class Conversation:
    """Both directions of one connection, and which requests wait for an answer."""

    requests: Stream = field(default_factory=Stream)
    answers: Stream = field(default_factory=Stream)
    waiting: dict[int, ModbusRequest] = field(default_factory=dict)

    def asked(self, seq: int, payload: bytes) -> Iterator[tuple[ModbusRequest, bytes]]:
        """The requests that a segment of the client completes, each with its frame; ValueError as ``frames``."""
        for frame in self.requests.frames(seq, payload):
            request = parse_frame(frame)
            if len(self.waiting) >= _WAITING:
                del self.waiting[next(iter(self.waiting))]
            self.waiting[request.transaction] = request
            yield request, frame

    def answered(self, seq: int, payload: bytes) -> Iterator[ModbusAnswer]:
        """The answers that a segment of the server completes; ValueError as ``frames``."""
        for frame in self.answers.frames(seq, payload):
            request = self.waiting.pop(frame[0] << 8 | frame[1], None)
            if request is not None and request.function != frame[7] & 0x7F:
                request = None
            yield ModbusAnswer(request, frame[7], frame[8:])


def values_of(answer: ModbusAnswer) -> Iterator[tuple[int, int]]:
    """(address, value) of what an answer to a read of bits or registers holds; nothing for others."""
    request = answer.request
    if request is None or answer.refused or request.address is None or request.count is None:
        return
    data = answer.data[1:]
    if answer.function in (3, 4):
        if len(data) >= 2 * request.count:
            for at in range(request.count):
                yield request.address + at, data[2 * at] << 8 | data[2 * at + 1]
    elif answer.function in (1, 2) and len(data) * 8 >= request.count:
        for at in range(request.count):
            yield request.address + at, data[at // 8] >> at % 8 & 1


def identity_of(answer: ModbusAnswer) -> dict[int, str]:
    """Object id -> text of an answer to Read Device Identification (function 43, MEI type 14); {} for others."""
    data = answer.data
    if answer.function != 43 or len(data) < 6 or data[0] != 14:
        return {}
    found: dict[int, str] = {}
    at = 6
    for _ in range(data[5]):
        if at + 2 > len(data):
            break
        size = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + size].decode("latin-1")
        at += 2 + size
    return found
