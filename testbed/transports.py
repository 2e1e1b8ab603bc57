"""The two ends of a TCP connection, and UDP endpoints: what a program sees, and what its operating system does."""

from __future__ import annotations

import asyncio
import contextvars
import errno
from asyncio import sslproto
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from testbed.errors import NetworkError
from testbed.hosts import Host
from testbed.links import QUEUE_TIME, Hop
from testbed.packets import (
    ACK,
    DATAGRAM_FRAME,
    DATAGRAM_MOST,
    FIN,
    PSH,
    RST,
    SEGMENT,
    SEQUENCE,
    TCP_OVERHEAD,
    UDP_OVERHEAD,
    Flow,
    Packet,
    Verdict,
)

#: Bytes a sender may have under way before the receiver has taken them (a receive window without scaling).
WINDOW = 65_535
#: Bytes that the operating system takes from a program before the program's own buffer fills. Assumption: Linux lets
#: it grow between 16 kB and 4 MB (tcp_wmem).
SEND_BUFFER = 65_536
#: Linux's defaults of retransmission (tcp_retries2 = 15): they start at 200 ms and double up to 120 s.
RETRANSMIT_FIRST = 0.2
RETRANSMIT_MOST = 120.0
RETRANSMIT_TRIES = 15


class Transport(asyncio.Transport):
    """One end of a TCP connection: what the program sees of it, and what the operating system does with it.

    ``_closing`` and ``_lost`` are the program's side (it closed; it has been told that it is over). ``_dead`` is the
    operating system's: nothing is sent or received any more. After ``close`` a connection lives on until what was
    written, and the FIN, have been delivered.
    """

    _start_tls_compatible = True  # as asyncio's own socket transport says of itself

    def __init__(
        self,
        host: Host,
        flow: Flow,
        reply: bool,
        hops: tuple[Hop, ...],
        context: contextvars.Context,
        isn: int,
    ) -> None:
        address = (flow.target, flow.target_port) if reply else (flow.source, flow.source_port)
        far = (flow.source, flow.source_port) if reply else (flow.target, flow.target_port)
        super().__init__({"sockname": address, "peername": far, "socket": None})
        self._host = host
        self._network = host.network
        self._loop = host.network.loop
        self._flow = flow
        self._reply = reply
        self._hops = hops
        self._lanes = tuple(hop.lane for hop in hops)
        self._context = context
        self._protocol = asyncio.BaseProtocol()
        self._receive: Callable[[bytes], None] = _ignore
        self._peer: Transport
        self._plain = False  # nothing on the way decides, shows or loses; as of network version _version
        self._watched = False
        self._version = -1
        self._seq = isn  # of the next byte to send
        self._arrived = 0.0  # when the latest segment this side sent reaches the peer: segments stay in order
        self._in_flight = 0
        self._backlog: deque[bytes | memoryview] = deque()
        self._backlog_size = 0
        self._high, self._low = 65_536, 16_384
        self._writing_paused = False
        self._reading_paused = False
        #: arrived while reading was paused; None is the end of stream
        self._waiting: deque[bytes | None] = deque()
        self._waiting_size = 0
        self._stalled = False  # the oldest segment was lost: everything waits for its retransmission
        self._attempts = 0
        self._bounced = 0  # segments at the head of the backlog that have been on their way already
        self._eof = False
        self._fin_sent = False
        self._fin_arrived = False
        self._closing = False
        self._ending = False
        self._lost = False
        self._doomed = False  # a guard's reset is on its way here: nothing more leaves
        self._dead = False

    # -- asyncio.Transport -------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._receive = self._receive_buffered
        else:
            self._receive = cast(asyncio.Protocol, protocol).data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _receive_buffered(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._closing:
            # Asked anew for each piece: the protocol may have handed over to another one (as start_tls does).
            protocol = cast(asyncio.BufferedProtocol, self._protocol)
            buffer = cast(Any, protocol.get_buffer(len(view)))
            n = min(len(buffer), len(view))
            if not n:
                raise RuntimeError("get_buffer() returned an empty buffer")
            buffer[:n] = view[:n]
            protocol.buffer_updated(n)
            view = view[n:]

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self._waiting:
                self._loop.call_soon(self._take_waiting, context=self._context)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 65_536 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low
        self._maybe_pause()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes that the operating system has not taken yet."""
        return max(0, self._backlog_size - SEND_BUFFER)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if type(data) is not bytes:
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            data = bytes(data)
        if self._eof:
            if self._closing:
                return  # as asyncio does: writes after close are discarded
            raise RuntimeError("cannot write after write_eof()")
        size = len(data)
        if not size:
            return
        if self._stalled or self._backlog or self._in_flight + size > WINDOW:
            self._backlog.append(data)
            self._backlog_size += size
            self._flush()
            self._maybe_pause()
        else:
            self._send(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof:
            self._eof = True
            self._flush()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = self._eof = True
        if self._waiting_size:
            # Linux answers unread data with a reset: the peer must not believe that it was taken.
            self._die(None, tell_peer=True)
            return
        self._waiting.clear()
        self._flush()

    def abort(self) -> None:
        if not self._dead:
            self._die(None, tell_peer=True)

    def _force_close(self, error: Exception | None) -> None:
        """Close at once with ``error``; ``asyncio.sslproto`` asks its transport for this."""
        if self._lost or self._dead:
            return
        self._closing = self._eof = True
        self._waiting.clear()
        self._backlog.clear()
        self._backlog_size = 0
        self._end_soon(error)
        self._flush()

    # -- the program's side ------------------------------------------------------------------------------------

    def _maybe_pause(self) -> None:
        # Called by whoever writes, which runs in this host's context already.
        if not self._writing_paused and self._backlog_size - SEND_BUFFER > self._high and not self._closing:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _resume_writing(self) -> None:
        if self._writing_paused and self.get_write_buffer_size() <= self._low and not self._lost:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _end_soon(self, error: Exception | None) -> None:
        if not self._ending:
            self._ending = True
            self._loop.call_soon(self._end, error, context=self._context)

    def _end(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is over; runs in this host's context."""
        if self._lost:
            return
        self._lost = self._closing = self._eof = True
        self._waiting.clear()
        if self._fin_sent or self._dead:
            self._leave()
        self._protocol.connection_lost(error)

    def _leave(self) -> None:
        if self._host.connections.pop(self, 0) is None and not self._reply:
            self._host.ports.pop(self._flow.source_port, None)

    def _vanish(self) -> None:
        """The machine lost power: its programs are not told anything any more."""
        self._dead = self._lost = self._closing = self._eof = True
        self._backlog.clear()
        self._waiting.clear()
        self._host.connections.pop(self, None)
        secure = self._protocol
        if isinstance(secure, sslproto.SSLProtocol) and secure._app_transport is not None:
            secure._app_transport._closed = True  # or it would complain that nobody closed it

    def _die(self, error: Exception | None, *, tell_peer: bool = False) -> None:
        """End both sides' state at once; the program is told with ``error``, the peer by a reset."""
        if self._dead:
            return
        if tell_peer:
            when = self._control(RST | ACK)
            if when is not None:
                self._loop.wake(when, self._peer._arrive_reset)
        self._dead = self._closing = self._eof = True
        self._backlog.clear()
        self._backlog_size = 0
        self._waiting.clear()
        if self._lost:
            self._leave()
        self._end_soon(error)

    # -- sending -----------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        network = self._network
        self._version = network.version
        self._plain = not network.interposers and all(hop.link.plain for hop in self._hops)
        self._watched = any(hop.link.taps for hop in self._hops)

    def _packet(self, flags: int, payload: bytes = b"", *, received: int = 0) -> Packet:
        """A packet of this end; ``received`` are bytes that have arrived but still count as under way."""
        peer = self._peer
        expected = peer._seq - peer._in_flight + self._waiting_size + received
        if peer._fin_sent and not self._fin_arrived:
            expected -= 1
        return Packet(
            self._loop.env._now,
            self._flow,
            self._reply,
            flags,
            payload,
            self._seq & SEQUENCE,
            expected & SEQUENCE if flags & ACK else 0,
            self._hops[0].macs if self._hops else (self._host.mac, self._host.mac),
        )

    def _send(self, data: bytes) -> None:
        """Put one write on its way; whether it will arrive is decided now."""
        size = len(data)
        frame = size + TCP_OVERHEAD * (1 + (size - 1) // SEGMENT)
        if self._version != self._network.version:
            self._refresh()
        sent = data
        time: float | None
        if self._plain:
            time = self._loop.env._now
            for lane in self._lanes:
                # Lane.carry, written out: this loop is the hottest of the network.
                begin = lane.free
                if begin < time:
                    begin = time
                elif begin - time > QUEUE_TIME:
                    lane.link.dropped += 1
                    time = None
                    break
                lane.packets += 1
                lane.bytes += frame
                lane.free = time = begin + frame * lane.byte_time
                time += lane.latency
        else:
            time, sent = self._pass(self._packet(ACK | PSH, data), frame)
        if time is None:
            if not self._doomed:
                self._stall(data)
            return
        self._in_flight += size
        self._seq += size
        if time < self._arrived:
            time = self._arrived
        else:
            self._arrived = time
        self._loop.wake(time, self._peer._arrive, sent)

    def _pass(self, packet: Packet, size: int) -> tuple[float | None, bytes]:
        """When the packet arrives (None: it does not) and what; a guard that rejects it resets both ends."""
        verdict, time, place, arrived = self._network.carry(packet, self._hops, size)
        if verdict is Verdict.REJECT:
            self._network.reject(packet, self._hops, time, place, self, self._peer)
        if verdict is not Verdict.ACCEPT:
            return None, b""
        if len(arrived.payload) != len(packet.payload):
            raise NetworkError(
                "an interposed host changed a TCP payload"
                f" from {len(packet.payload)} to {len(arrived.payload)} bytes"
            )
        return time, arrived.payload

    def _control(self, flags: int) -> float | None:
        """Send a segment without payload; returns when it arrives, or None if it does not."""
        if self._version != self._network.version:
            self._refresh()
        if self._plain:
            time: float | None = self._loop.env._now
            for lane in self._lanes:
                time = lane.carry(cast(float, time), TCP_OVERHEAD)
                if time is None:
                    return None
        else:
            time, _ = self._pass(self._packet(flags), TCP_OVERHEAD)
            if time is None:
                return None
        self._arrived = max(cast(float, time), self._arrived)
        return self._arrived

    def _flush(self) -> None:
        """Send what may be sent, then what follows from having sent it."""
        backlog = self._backlog
        while backlog and not self._stalled and not self._dead:
            room = WINDOW - self._in_flight
            if room <= 0:
                break
            data = backlog.popleft()
            if len(data) > room:
                view = memoryview(data)  # slices of a large write share its memory
                backlog.appendleft(view[room:])
                data = view[:room]
            self._backlog_size -= len(data)
            self._send(bytes(data))
        if self._writing_paused and self._backlog_size - SEND_BUFFER <= self._low:
            self._loop.call_soon(self._resume_writing, context=self._context)
        if self._eof:
            if not (backlog or self._fin_sent or self._stalled or self._dead):
                self._send_fin()
            if self._closing and self._backlog_size <= SEND_BUFFER:
                self._end_soon(None)

    def _send_fin(self) -> None:
        when = self._control(FIN | ACK)
        if when is not None:
            self._fin_sent = True
            self._seq += 1
            self._loop.wake(when, self._peer._arrive_fin)
            if self._lost:
                self._leave()
        elif not self._doomed:
            self._retry_later()

    def _stall(self, data: bytes) -> None:
        """Keep a lost segment, and all that follows it, for later."""
        self._backlog.appendleft(data)
        self._backlog_size += len(data)
        self._bounced = 1
        self._retry_later()

    def _bounce(self, data: bytes | None) -> None:
        """A segment (None: the FIN) reached a machine without power: it stays unacknowledged and is sent again."""
        if self._dead:
            return
        if data is None:
            self._fin_sent = False
            self._seq -= 1
        else:
            self._in_flight -= len(data)
            self._seq -= len(data)
            self._backlog.insert(self._bounced, data)
            self._backlog_size += len(data)
            self._bounced += 1
        if not self._stalled:
            self._retry_later()

    def _retry_later(self) -> None:
        """Wait for the retransmission timer, which doubles each time, as TCP does."""
        self._stalled = True
        wait = min(RETRANSMIT_FIRST * 2**self._attempts, RETRANSMIT_MOST)
        self._attempts += 1
        self._loop.wake(self._loop.env._now + wait, self._retry)

    def _retry(self, _: object) -> None:
        if self._dead:
            return
        self._stalled = False
        self._bounced = 0
        if self._attempts > RETRANSMIT_TRIES:
            self._die(TimeoutError(errno.ETIMEDOUT, "the peer acknowledges nothing"))
        else:
            self._flush()

    # -- arriving ----------------------------------------------------------------------------------------------

    def _arrive(self, data: bytes) -> None:
        sender = self._peer
        if self._closing:
            self._refuse(data)
            return
        if self._network.watchers:
            self._acknowledge(len(data))
        if self._reading_paused or self._waiting:
            sender._attempts = 0
            self._waiting.append(data)
            self._waiting_size += len(data)
            return
        sender._in_flight -= len(data)
        sender._attempts = 0
        self._context.run(self._receive, data)
        if sender._backlog or sender._eof:
            sender._flush()

    def _refuse(self, data: bytes | None) -> None:
        """Nobody here takes this segment (None: the FIN): without power it is lost, else answered with a reset."""
        sender = self._peer
        if not self._host._up:
            sender._bounce(data)
        elif not sender._dead:
            when = self._control(RST)
            if when is not None:
                self._loop.wake(when, sender._arrive_reset)
            if not self._dead:
                self._die(None)

    def _take_waiting(self) -> None:
        while self._waiting and not self._reading_paused and not self._closing:
            data = self._waiting.popleft()
            if data is None:
                self._take_fin()
                return
            self._waiting_size -= len(data)
            self._peer._in_flight -= len(data)
            self._receive(data)
        self._peer._flush()

    def _acknowledge(self, received: int) -> None:
        if self._version != self._network.version:
            self._refresh()
        if self._watched:
            self._network.show(self._packet(ACK, received=received), self._hops)

    def _arrive_fin(self, _: object) -> None:
        if self._dead:
            self._refuse(None)
            return
        self._fin_arrived = True
        if self._network.watchers:
            self._acknowledge(0)
        if self._closing:
            return
        if self._waiting or self._reading_paused:
            self._waiting.append(None)
        else:
            self._context.run(self._take_fin)

    def _take_fin(self) -> None:
        if not cast(asyncio.Protocol, self._protocol).eof_received():
            self.close()

    def _arrive_reset(self, _: object) -> None:
        if not self._dead:
            self._die(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def __repr__(self) -> str:
        name, port = self.get_extra_info("peername")
        return f"<transport {self._host.name} to {name}:{port}{' closed' if self._lost else ''}>"


class DatagramTransport(asyncio.DatagramTransport):
    """A UDP endpoint."""

    def __init__(
        self,
        host: Host,
        port: int,
        protocol: asyncio.DatagramProtocol,
        remote: tuple[str, int] | None,
        context: contextvars.Context,
    ) -> None:
        super().__init__({"sockname": (host.address, port), "peername": remote, "socket": None})
        self._host = host
        self._port = port
        self._protocol = protocol
        self._remote = remote
        self._context = context
        self._closing = False
        #: by the other end: the flow and whether what is sent from here answers it
        self._flows: dict[tuple[str, int], tuple[Flow, bool]] = {}

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        to: tuple[str, int] | None = addr or self._remote
        if to is None:
            raise ValueError("no address to send to")
        if self._closing:
            return
        network = self._host.network
        payload = bytes(data)
        if len(payload) > DATAGRAM_MOST:
            self._protocol.error_received(OSError(errno.EMSGSIZE, f"{len(payload)} bytes in one datagram"))
            return
        address, port = network.resolve(to[0]), to[1]
        target = network.by_address.get(address)
        flow, reply = self._flows.get((address, port), (None, False))
        try:
            hops = network.hops(self._host, address, reply)
        except OSError as error:
            self._protocol.error_received(error)
            return
        if flow is None:
            flow = network.flow("udp", self._host, self._port, address, port)
            self._flows[address, port] = (flow, False)
        macs = hops[0].macs if hops else (self._host.mac, self._host.mac)
        packet = Packet(network.loop.time(), flow, reply, 0, payload, 0, 0, macs)
        size = len(payload) + UDP_OVERHEAD * (1 + max(0, len(payload) - 1) // DATAGRAM_FRAME)
        verdict, time, place, packet = network.carry(packet, hops, size)
        if verdict is Verdict.ACCEPT:
            network.loop.wake(time, self._deliver, (target, packet))
        elif verdict is Verdict.REJECT:
            time += sum(hop.lane.latency for hop in hops[:place])
            network.loop.wake(time, self._unreachable, packet)

    def _deliver(self, arrival: tuple[Host | None, Packet]) -> None:
        """Hand a datagram to whoever has its port; a closed port says so, a machine that is off nothing."""
        target, packet = arrival
        if target is None or not target._up:
            return
        endpoint = target.datagrams.get(packet.target_port)
        if endpoint is not None:
            endpoint._arrive(packet)
        else:
            network = self._host.network
            back = sum(hop.lane.latency for hop in network.hops(target, packet.source, not packet.reply))
            network.loop.wake(network.loop.time() + back, self._unreachable, packet)

    def _unreachable(self, packet: Packet) -> None:
        # As with sockets, only an endpoint with one fixed peer is told of ICMP's "port unreachable".
        if self._remote == (packet.target, packet.target_port) and not self._closing:
            error = ConnectionRefusedError(errno.ECONNREFUSED, f"UDP port {packet.target_port} is closed")
            self._context.run(self._protocol.error_received, error)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._host.datagrams.pop(self._port, None)
            self._host.network.loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    def abort(self) -> None:
        self.close()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _arrive(self, packet: Packet) -> None:
        source = (packet.source, packet.source_port)
        if self._remote is None or self._remote == source:
            self._flows.setdefault(source, (packet.flow, not packet.reply))
            self._context.run(self._protocol.datagram_received, packet.payload, source)


def _ignore(_: object) -> None:
    """What a transport without a protocol does with data."""
